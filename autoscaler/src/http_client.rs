//! A small HTTP/1.1 client for scrapes and probes, bounded in head and body.
//!
//! An idle connection is a socket and nothing else: no buffer, no task. With ten thousand pods that
//! are scraped each second this is most of what scraping costs in memory, and the reason not to use
//! hyper here, whose connections keep some 20 KiB each. That the peer closed a kept connection is
//! noticed at its next use. Timeouts are the caller's.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bound on the head of an answer. The head of a queue-proxy has 150 bytes; a mesh adds some
/// hundreds.
const MAX_HEAD_BYTES: usize = 8192;
const MAX_HEADERS: usize = 64;
/// First allocation for an answer; the usual one fits.
const USUAL_BYTES: usize = 512;
/// Bound on what surrounds the data of a chunked body: sizes, extensions, trailers.
const MAX_CHUNK_OVERHEAD: usize = 2048;

/// A connection that serves one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
}

/// The first part of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<Vec<u8>>,
    /// The body, or a little more than was asked for of a longer one.
    pub(crate) body: Vec<u8>,
    /// Whether the connection can serve another request.
    pub(crate) reusable: bool,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection broke.
    #[error("connection broke: {0}")]
    Io(#[from] io::Error),
    /// What arrived is not HTTP/1, or its head is too long.
    #[error("malformed answer")]
    Malformed,
    /// The peer closed the connection.
    #[error("connection closed before an answer arrived")]
    Closed,
}

/// What the head of an answer says.
struct Head {
    status: StatusCode,
    content_type: Option<Vec<u8>>,
    framing: Framing,
    keep_alive: bool,
    /// Where the body begins.
    length: usize,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    /// With the connection.
    Close,
}

/// How far a chunked body has been understood.
struct Chunks {
    body: Vec<u8>,
    complete: bool,
    /// How many raw bytes belong to it when it is complete.
    consumed: usize,
}

/// Dials without Nagle's delay.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The head of a GET request. Refuses what would be more than one line.
pub(crate) fn get(path: &str, host: &str, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
    request("GET", path, host, headers)
}

/// The head of a POST request with a body of `length` bytes, which is to follow.
#[cfg(feature = "kubernetes")]
pub(crate) fn post(
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> io::Result<Vec<u8>> {
    let length = length.to_string();
    let headers: Vec<_> = headers
        .iter()
        .copied()
        .chain([("Content-Length", &*length)])
        .collect();
    request("POST", path, host, &headers)
}

fn request(method: &str, path: &str, host: &str, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
    let printable = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let values = headers.iter().map(|(_, value)| *value);
    if !values.chain([path, host]).all(printable) || host.contains(' ') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    Ok(head.into_bytes())
}

// === impl Connection ===

impl Connection {
    /// Wraps a connected stream.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// Sends a request and reads its answer, of the body at least `body_limit` bytes and one more.
    /// Dropping the future leaves the connection unusable.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        body_limit: usize,
    ) -> Result<Answer, ExchangeError> {
        self.stream.write_all(request).await?;
        let mut received = Vec::with_capacity(USUAL_BYTES);
        self.fill(&mut received).await?;
        let head = loop {
            match parse_head(&received)? {
                // An interim answer precedes the real one.
                Some(head) if head.status.is_informational() => {
                    received.drain(..head.length);
                }
                Some(head) => break head,
                None if received.len() > MAX_HEAD_BYTES => return Err(ExchangeError::Malformed),
                None => self.fill(&mut received).await?,
            }
        };
        received.drain(..head.length);
        let (body, whole) = match head.framing {
            Framing::Length(length) => self.read_length(received, length, body_limit).await?,
            Framing::Chunked => self.read_chunks(received, body_limit).await?,
            Framing::Close => self.read_to_end(received, body_limit).await?,
        };
        Ok(Answer {
            status: head.status,
            content_type: head.content_type,
            body,
            reusable: whole && head.keep_alive,
        })
    }

    /// Reads some bytes; the end of the connection is an error.
    async fn fill(&mut self, received: &mut Vec<u8>) -> Result<(), ExchangeError> {
        match self.stream.read_buf(received).await? {
            0 => Err(ExchangeError::Closed),
            _ => Ok(()),
        }
    }

    async fn read_length(
        &mut self,
        mut body: Vec<u8>,
        length: usize,
        limit: usize,
    ) -> Result<(Vec<u8>, bool), ExchangeError> {
        while body.len() < length && body.len() <= limit {
            self.fill(&mut body).await?;
        }
        // More than the body is no answer to anything that was asked.
        let whole = body.len() == length;
        body.truncate(length);
        Ok((body, whole))
    }

    async fn read_chunks(
        &mut self,
        mut raw: Vec<u8>,
        limit: usize,
    ) -> Result<(Vec<u8>, bool), ExchangeError> {
        loop {
            let chunks = parse_chunks(&raw)?;
            if chunks.complete {
                let whole = chunks.consumed == raw.len();
                return Ok((chunks.body, whole));
            }
            if chunks.body.len() > limit || raw.len() > limit + MAX_CHUNK_OVERHEAD {
                return Ok((chunks.body, false));
            }
            self.fill(&mut raw).await?;
        }
    }

    async fn read_to_end(
        &mut self,
        mut body: Vec<u8>,
        limit: usize,
    ) -> Result<(Vec<u8>, bool), ExchangeError> {
        while body.len() <= limit {
            match self.fill(&mut body).await {
                Ok(()) => {}
                Err(ExchangeError::Closed) => break,
                Err(error) => return Err(error),
            }
        }
        Ok((body, false))
    }
}

/// Reads a head; `None` while it is incomplete.
fn parse_head(received: &[u8]) -> Result<Option<Head>, ExchangeError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        received,
        &mut headers,
    );
    let length = match parsed.map_err(|_| ExchangeError::Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(ExchangeError::Malformed)?;
    let mut head = Head {
        status,
        content_type: None,
        framing: Framing::Close,
        keep_alive: response.version == Some(1),
        length,
    };
    if status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
    {
        head.framing = Framing::Length(0);
        return Ok(Some(head));
    }
    for header in response.headers {
        head.take(header.name, header.value)?;
    }
    Ok(Some(head))
}

/// Understands as much of a chunked body as there is.
fn parse_chunks(raw: &[u8]) -> Result<Chunks, ExchangeError> {
    let mut chunks = Chunks {
        body: Vec::new(),
        complete: false,
        consumed: 0,
    };
    let mut at = 0;
    loop {
        let (used, size) = match httparse::parse_chunk_size(&raw[at..]) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) => return Ok(chunks),
            Err(_) => return Err(ExchangeError::Malformed),
        };
        let size = usize::try_from(size).map_err(|_| ExchangeError::Malformed)?;
        at += used;
        if size == 0 {
            // Trailers, and the empty line that ends them.
            let mut trailers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let parsed = httparse::parse_headers(&raw[at..], &mut trailers);
            if let httparse::Status::Complete((used, _)) =
                parsed.map_err(|_| ExchangeError::Malformed)?
            {
                chunks.complete = true;
                chunks.consumed = at + used;
            }
            return Ok(chunks);
        }
        let present = &raw[at..];
        chunks
            .body
            .extend_from_slice(&present[..size.min(present.len())]);
        if present.len() < size.saturating_add(2) {
            return Ok(chunks);
        }
        if &present[size..size + 2] != b"\r\n" {
            return Err(ExchangeError::Malformed);
        }
        at += size + 2;
    }
}

// === impl Head ===

impl Head {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), ExchangeError> {
        if name.eq_ignore_ascii_case("content-type") {
            self.content_type.get_or_insert_with(|| value.to_vec());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(ExchangeError::Malformed);
            }
            self.framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(value).ok();
            let length = length
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok())
                .ok_or(ExchangeError::Malformed)?;
            match self.framing {
                Framing::Length(other) if other != length => return Err(ExchangeError::Malformed),
                Framing::Chunked => {}
                _ => self.framing = Framing::Length(length),
            }
        } else if name.eq_ignore_ascii_case("connection") {
            let mut tokens = value.split(|byte| *byte == b',');
            if tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close")) {
                self.keep_alive = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n";

    /// What becomes of an answer that arrives in pieces of `step` bytes, with a body limit of 8.
    async fn exchange(answer: &str, step: usize) -> Result<Answer, ExchangeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let answer = answer.to_owned();
        let writer = tokio::spawn(async move {
            peer.set_nodelay(true).unwrap();
            let mut request = [0; 18];
            peer.read_exact(&mut request).await.unwrap();
            for piece in answer.as_bytes().chunks(step) {
                peer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            peer
        });
        let mut connection = Connection::over(stream);
        let result = connection.exchange(b"GET / HTTP/1.1\r\n\r\n", 8);
        // The peer closes once everything is written and, where that is waited for, not before.
        let closes = async { drop(writer.await.unwrap()) };
        let (result, ()) = tokio::join!(result, closes);
        result
    }

    async fn check(answer: &str, body: &str, reusable: bool) {
        for step in [1, 7, usize::MAX] {
            let got = exchange(answer, step).await.unwrap();
            assert_eq!(got.body, body.as_bytes(), "{answer}");
            assert_eq!(got.reusable, reusable, "{answer}");
            assert_eq!(got.content_type.as_deref(), Some(&b"a/b"[..]));
        }
    }

    #[tokio::test]
    async fn bodies_end_where_their_framing_says() {
        check(&format!("{HEAD}Content-Length: 3\r\n\r\nabc"), "abc", true).await;
        check(&format!("{HEAD}content-length: 0\r\n\r\n"), "", true).await;
        let closing = format!("{HEAD}Content-Length: 3\r\nConnection: x, Close\r\n\r\nabc");
        check(&closing, "abc", false).await;
        check(&format!("{HEAD}\r\nabc"), "abc", false).await;
        let chunked =
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n");
        check(&format!("{chunked}\r\n"), "abc", true).await;
        check(&format!("{chunked}T: v\r\n\r\n"), "abc", true).await;
        let interim = format!("HTTP/1.1 103 Early\r\nA: b\r\n\r\n{HEAD}Content-Length: 1\r\n\r\na");
        check(&interim, "a", true).await;
    }

    #[tokio::test]
    async fn longer_bodies_are_left_and_their_connections_given_up() {
        let long = "x".repeat(100);
        for answer in [
            format!("{HEAD}Content-Length: 100\r\n\r\n{long}"),
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n64\r\n{long}\r\n0\r\n\r\n"),
            format!("{HEAD}\r\n{long}"),
        ] {
            let got = exchange(&answer, 5).await.unwrap();
            assert!(got.body.len() > 8, "{answer}");
            assert!(!got.reusable, "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_not_http_is_refused() {
        for answer in [
            "not HTTP\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ] {
            let got = exchange(answer, usize::MAX).await;
            assert!(
                matches!(got, Err(ExchangeError::Malformed)),
                "{answer}: {got:?}"
            );
        }
        let endless = format!("{HEAD}{}", "A: b\r\n".repeat(2000));
        let got = exchange(&endless, usize::MAX).await;
        assert!(matches!(got, Err(ExchangeError::Malformed)), "{got:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_none() {
        for answer in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        ] {
            let got = exchange(answer, usize::MAX).await;
            let closed = matches!(got, Err(ExchangeError::Closed | ExchangeError::Io(_)));
            assert!(closed, "{answer}: {got:?}");
        }
    }

    #[test]
    fn a_request_is_one_head() {
        let head = get("//healthz", "h:80", &[("User-Agent", "x y")]).unwrap();
        assert_eq!(
            head,
            b"GET //healthz HTTP/1.1\r\nHost: h:80\r\nUser-Agent: x y\r\n\r\n"
        );
        assert!(get("/", "h\r\nX: y", &[]).is_err());
        assert!(get("/", "h", &[("A", "b\nc")]).is_err());
    }
}
