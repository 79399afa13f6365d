//! A WebSocket echo app, and closed-loop load of short messages. No library stands between: the
//! app shares the machine with what is measured, and both sides know every byte in advance.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::load::Done;
use crate::peers::loopback;

/// Bytes of a message: the length fits into a frame's second byte.
const MESSAGE: u8 = 32;
/// The example of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Its answer.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A final frame with binary data.
const BINARY: u8 = 0x82;
/// The bit of the second byte that says that the payload is masked.
const MASKED: u8 = 0x80;
/// The longest head of a handshake.
const HEAD_LIMIT: usize = 16 << 10;

/// An app on a thread of its own, until this is dropped.
#[derive(Debug)]
pub struct Echo {
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Echo {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start() -> anyhow::Result<Self> {
        let socket = std::net::TcpListener::bind(loopback(0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        _ = accept(socket) => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            _stop: stop,
        })
    }
}

async fn accept(socket: std::net::TcpListener) -> anyhow::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = socket.accept().await?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    read_head(&mut stream).await?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut frame = [0; 2 + 4 + MESSAGE as usize];
    loop {
        stream.read_exact(&mut frame).await?;
        if frame[..2] != [BINARY, MASKED | MESSAGE] {
            bail!("not a message of the load generator's");
        }
        let (head, payload) = frame.split_at_mut(6);
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= head[2 + index % 4];
        }
        // The unmasked frame begins where the mask's second half was.
        frame[4..6].copy_from_slice(&[BINARY, MESSAGE]);
        stream.write_all(&frame[4..]).await?;
    }
}

/// Sends `messages` messages over `connections` connections, each when the last one came back.
///
/// # Errors
/// When a handshake fails, an echo is wrong, or the run takes longer than `bound`.
pub async fn closed_loop(
    address: SocketAddr,
    connections: usize,
    messages: u64,
    bound: Duration,
) -> anyhow::Result<Done> {
    let each = messages / connections as u64;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(converse(address, each));
    }
    let all = async {
        let mut sum = Done::default();
        while let Some(done) = tasks.join_next().await {
            sum.ok += done??;
        }
        anyhow::Ok(sum)
    };
    match tokio::time::timeout(bound, all).await {
        Ok(sum) => sum,
        Err(_) => bail!("{messages} messages took more than {bound:?}"),
    }
}

async fn converse(address: SocketAddr, messages: u64) -> anyhow::Result<u64> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 101 ") {
        bail!("no upgrade: {}", head.lines().next().unwrap_or_default());
    }
    let mut message = vec![BINARY, MASKED | MESSAGE];
    message.extend(MASK);
    message.extend((0..MESSAGE).map(|byte| byte ^ MASK[usize::from(byte) % 4]));
    let mut expected = vec![BINARY, MESSAGE];
    expected.extend(0..MESSAGE);
    let mut answer = vec![0; expected.len()];
    for _ in 0..messages {
        stream.write_all(&message).await?;
        stream
            .read_exact(&mut answer)
            .await
            .context("the connection ended within an echo")?;
        if answer != expected {
            bail!("the echo is not what was sent");
        }
    }
    Ok(messages)
}

/// Reads a handshake to the empty line. Nothing follows it before the other side has spoken.
async fn read_head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > HEAD_LIMIT {
            bail!("no handshake");
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_message_comes_back() {
        let echo = Echo::start().unwrap();
        let bound = Duration::from_secs(30);
        let done = closed_loop(echo.address, 4, 40, bound).await.unwrap();
        assert_eq!(done.ok, 40);
    }
}
