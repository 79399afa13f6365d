//! Pods that pass every probe and tell when they were asked what. They listen on one port of every
//! loopback address, on a thread of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// What came to a pod, and when: a probe counts from when its answer has left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    Probe(Instant),
    Request(Instant),
}

/// Running pods; they end when this is dropped.
#[derive(Debug)]
pub struct QueuePods {
    pub port: u16,
    /// In the order in which it happened.
    pub seen: mpsc::Receiver<Seen>,
    _stop: oneshot::Sender<()>,
}

/// Events that nobody has looked at yet; further ones are of no interest.
const SEEN_CAPACITY: usize = 10_000;

const QUEUE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
/// The longest head that is read.
const HEAD_LIMIT: usize = 16 << 10;

// === impl QueuePods ===

impl QueuePods {
    /// Starts them; a request takes `service_time`.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start(service_time: Duration) -> anyhow::Result<Self> {
        let socket = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        let (events, seen) = mpsc::channel(SEEN_CAPACITY);
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("pods".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        _ = accept(socket, service_time, events) => {}
                    }
                });
            })?;
        Ok(Self {
            port,
            seen,
            _stop: stop,
        })
    }

    /// The pod at a position.
    pub fn pod(&self, index: usize) -> SocketAddr {
        SocketAddr::from((crate::pods::address(index), self.port))
    }
}

async fn accept(
    socket: std::net::TcpListener,
    service_time: Duration,
    events: mpsc::Sender<Seen>,
) -> anyhow::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = socket.accept().await?;
        let events = events.clone();
        tokio::spawn(async move {
            // An activator that gives an exchange up breaks the connection.
            let _ = serve(stream, service_time, events).await;
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    service_time: Duration,
    events: mpsc::Sender<Seen>,
) -> anyhow::Result<()> {
    const PROBE: &[u8] = b"k-network-probe";
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 || head.len() > HEAD_LIMIT {
            return Ok(());
        }
        let now = Instant::now();
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let is_probe = head
            .windows(PROBE.len())
            .any(|window| window.eq_ignore_ascii_case(PROBE));
        head.clear();
        if is_probe {
            stream.write_all(QUEUE).await?;
            let _ = events.try_send(Seen::Probe(Instant::now()));
        } else {
            let _ = events.try_send(Seen::Request(now));
            tokio::time::sleep(service_time).await;
            stream.write_all(OK).await?;
        }
    }
}
