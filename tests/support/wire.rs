//! HTTP/1 byte by byte, for requests that no client would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a connection that will not end is read.
const QUIET: Duration = Duration::from_secs(10);

/// What came back on one connection.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The statuses of all final answers, in order.
    pub statuses: Vec<u16>,
    /// Every byte.
    pub text: String,
    /// The other side closed the connection.
    pub closed: bool,
}

/// Sends `bytes` and reads until the connection ends, or `answers` answers came.
pub async fn exchange(address: SocketAddr, bytes: &[u8], answers: usize) -> Reply {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the sidecar listens");
    // It may refuse before everything is written.
    let _ = stream.write_all(bytes).await;
    read(&mut stream, answers).await
}

/// Reads until the connection ends, or `answers` answers came.
pub async fn read(stream: &mut TcpStream, answers: usize) -> Reply {
    let until = Instant::now() + QUIET;
    let mut bytes = Vec::new();
    let mut closed = false;
    while !closed && statuses(&bytes).len() < answers {
        match timeout_at(until, stream.read_buf(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => closed = true,
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    Reply {
        statuses: statuses(&bytes),
        text: String::from_utf8_lossy(&bytes).into_owned(),
        closed,
    }
}

/// The status lines, of which there are none in the bodies of these tests.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.")
        .skip(1)
        .filter_map(|rest| rest.get(2..5)?.parse().ok())
        .filter(|status| *status >= 200)
        .collect()
}
