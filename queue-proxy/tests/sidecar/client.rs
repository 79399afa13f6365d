//! Clients that show exactly what arrived.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP/1 response as it was on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    /// Without chunk framing.
    pub(crate) body: String,
    /// The body ended as its framing promised.
    pub(crate) complete: bool,
}

impl Raw {
    /// The first value of a header, its name in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let mut raw = Self {
            status,
            head: head.to_owned(),
            body: rest.to_owned(),
            complete: true,
        };
        if raw.header("transfer-encoding") == Some("chunked") {
            (raw.body, raw.complete) = unchunk(rest);
        } else if let Some(length) = raw.header("content-length") {
            raw.complete = length.parse() == Ok(raw.body.len());
        }
        raw
    }
}

/// The data of a chunked body, and whether the last chunk came.
fn unchunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            return (body, false);
        };
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..size) else {
            body.push_str(after);
            return (body, false);
        };
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or("");
    }
    (body, false)
}

/// A GET with the given header lines on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &str) -> Raw {
    send(
        address,
        &format!(
            "GET {path} HTTP/1.1\r\nHost: hello.example.com\r\nConnection: close\r\n{headers}\r\n"
        ),
    )
    .await
}

/// Sends `request` as it is and reads until the connection ends.
pub(crate) async fn send(address: SocketAddr, request: &str) -> Raw {
    let mut stream = connect(address).await;
    stream
        .write_all(request.as_bytes())
        .await
        .expect("writable");
    read_to_end(&mut stream).await
}

/// What comes until the connection ends.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Raw {
    let mut bytes = Vec::new();
    // A reset connection has delivered what it has delivered.
    let _ = stream.read_to_end(&mut bytes).await;
    Raw::parse(&bytes)
}

/// A GET whose answer nobody waits for yet.
pub(crate) async fn open(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = connect(address).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("writable");
    stream
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("listening")
}

/// Runs a connection's tasks on this thread.
#[derive(Clone, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// An h2c connection with prior knowledge.
pub(crate) async fn h2c(address: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = connect(address).await;
    let (sender, connection) = http2::handshake(LocalExecutor, TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::task::spawn_local(connection);
    sender
}

/// A GET over HTTP/2.
pub(crate) async fn h2c_get(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    path: &str,
) -> hyper::Result<Response<Incoming>> {
    let request = Request::builder()
        .uri(format!("http://hello.example.com{path}"))
        .body(Full::default())
        .expect("valid");
    sender.send_request(request).await
}
