//! Closed-loop load over keep-alive connections: each connection sends its next request when the
//! last one is answered. The generator does as little as it can, since it shares the machine.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The longest answer head that is read.
const HEAD_LIMIT: usize = 16 * 1024;

/// What a run of load did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Answers with status 200.
    pub ok: u64,
    /// Answers with any other status.
    pub other: u64,
}

/// One keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the last answer's body begins.
    body: usize,
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    /// When the connection is refused.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(1024),
            body: 0,
        })
    }

    /// Sends `request` and reads the whole answer; its status is returned.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not one that this reader understands.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some(head) = head(&self.buffer)? {
                while self.buffer.len() < head.body + head.length {
                    self.fill().await?;
                }
                self.body = head.body;
                return Ok(head.status);
            }
            if self.buffer.len() > HEAD_LIMIT {
                bail!("the answer's head is longer than {HEAD_LIMIT} bytes");
            }
            self.fill().await?;
        }
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body..]
    }

    /// Whether the last answer's head has a field `name`, given in lower case.
    pub fn has_header(&self, name: &str) -> bool {
        let head = String::from_utf8_lossy(&self.buffer[..self.body]).to_ascii_lowercase();
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .any(|(field, _)| field == name)
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection ended within an answer");
        }
        Ok(())
    }
}

/// What the reader must know of an answer's head.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    /// Where the body begins.
    body: usize,
    /// Bytes of the body.
    length: usize,
}

/// The head at the start of `buffer`, once it is complete.
fn head(buffer: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&buffer[..end]).context("the answer's head is not text")?;
    let status = text
        .get(9..12)
        .and_then(|digits| digits.parse().ok())
        .context("no status")?;
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("the answer has no Content-Length")?;
    Ok(Some(Head {
        status,
        body: end + 4,
        length,
    }))
}

/// A plain GET as load generators send it.
pub fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    get_host(&address.to_string(), path)
}

/// The same for a host.
pub fn get_host(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// A POST with a short body.
pub fn post(address: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: bench\r\nAccept: */*\r\n\
         Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends `requests` requests over `connections` connections and waits for all answers.
///
/// # Errors
/// When a connection breaks or the run takes longer than `bound`.
pub async fn closed_loop(
    address: SocketAddr,
    connections: usize,
    requests: u64,
    bound: Duration,
) -> anyhow::Result<Done> {
    closed_loop_of(get(address, "/"), address, connections, requests, bound).await
}

/// The same with any `request`.
///
/// # Errors
/// As [`closed_loop`].
pub async fn closed_loop_of(
    request: Vec<u8>,
    address: SocketAddr,
    connections: usize,
    requests: u64,
    bound: Duration,
) -> anyhow::Result<Done> {
    let request: std::sync::Arc<[u8]> = request.into();
    let each = requests / connections as u64;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut done = Done::default();
            let mut connection = Connection::open(address).await?;
            for _ in 0..each {
                match connection.exchange(&request).await? {
                    200 => done.ok += 1,
                    _ => done.other += 1,
                }
            }
            anyhow::Ok(done)
        });
    }
    let all = async {
        let mut sum = Done::default();
        while let Some(done) = tasks.join_next().await {
            let done = done??;
            sum.ok += done.ok;
            sum.other += done.other;
        }
        anyhow::Ok(sum)
    };
    match tokio::time::timeout(bound, all).await {
        Ok(sum) => sum,
        Err(_) => {
            bail!("{requests} requests over {connections} connections took more than {bound:?}")
        }
    }
}

/// Sends requests over `connections` connections for `duration`: the answers with status 200.
///
/// # Errors
/// When a connection breaks.
pub async fn closed_loop_for(
    address: SocketAddr,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<u64> {
    let request: std::sync::Arc<[u8]> = get(address, "/").into();
    let end = tokio::time::Instant::now() + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut ok = 0;
            let mut connection = Connection::open(address).await?;
            while tokio::time::Instant::now() < end {
                ok += u64::from(connection.exchange(&request).await? == 200);
            }
            anyhow::Ok(ok)
        });
    }
    let mut sum = 0;
    while let Some(ok) = tasks.join_next().await {
        sum += ok??;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_understood_once_complete() {
        assert!(head(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap().is_none());
        let answer = b"HTTP/1.1 503 X\r\ncontent-length: 3\r\n\r\nabc";
        let expected = Head {
            status: 503,
            body: answer.len() - 3,
            length: 3,
        };
        assert_eq!(head(answer).unwrap(), Some(expected));
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
