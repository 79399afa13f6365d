//! A small HTTP/1.1 client for scrapes and probes, bounded in head and body.
//!
//! A connection is polled by the request that uses it and by nobody while it is idle, so ten
//! thousand kept connections are ten thousand sockets and no tasks. That its peer closed one is
//! noticed at its next use. Timeouts are the caller's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Body;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bound on the head of an answer, and what a kept connection has allocated. The head of a
/// queue-proxy has 150 bytes; a mesh adds some hundreds.
const READ_BUFFER_BYTES: usize = 4096;

/// A connection that serves one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
}

/// The first part of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, or a little more than was asked for of a longer one.
    pub(crate) body: Bytes,
    /// Whether the connection can serve another request.
    pub(crate) reusable: bool,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection broke, or what arrived is not HTTP.
    #[error("failed to exchange a request")]
    Http(#[from] hyper::Error),
    /// The peer closed the connection.
    #[error("connection closed before an answer arrived")]
    Closed,
}

// === impl Connection ===

impl Connection {
    /// Wraps a connected stream.
    pub(crate) async fn over(stream: TcpStream) -> hyper::Result<Box<Self>> {
        let (sender, driver) = http1::Builder::new()
            .read_buf_exact_size(Some(READ_BUFFER_BYTES))
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Box::new(Self { sender, driver }))
    }

    /// Sends a request and reads its answer, of the body at least `body_limit` bytes and one more.
    /// Dropping the future leaves the connection unusable.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Empty<Bytes>>,
        body_limit: usize,
    ) -> Result<Answer, ExchangeError> {
        let Self { sender, driver } = self;
        let exchange = async {
            sender.ready().await?;
            let (head, mut incoming) = sender.send_request(request).await?.into_parts();
            let (body, whole) = read(&mut incoming, body_limit).await?;
            Ok::<_, hyper::Error>((head, body, whole))
        };
        let (head, body, whole) = drive(exchange, driver)
            .await
            .ok_or(ExchangeError::Closed)??;
        // Ready again only if the peer keeps the connection open.
        let reusable = whole && matches!(drive(sender.ready(), driver).await, Some(Ok(())));
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            reusable,
        })
    }
}

/// Dials without Nagle's delay.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Polls `exchange` and, whenever it has to wait, the connection below it. `None` when the
/// connection has ended without an answer: the sender hears of that only when it is dropped.
async fn drive<T>(
    exchange: impl Future<Output = T>,
    driver: &mut http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
) -> Option<T> {
    let mut exchange = pin!(exchange);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = exchange.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let ended = Pin::new(&mut *driver).poll(cx).is_ready();
        match exchange.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if ended => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The bytes up to a little past the limit, and whether the body ended there.
async fn read(body: &mut Incoming, limit: usize) -> hyper::Result<(Bytes, bool)> {
    let mut bytes = Bytes::new();
    while bytes.len() <= limit {
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok((bytes, true)),
            Some(frame) => match frame?.into_data() {
                // One piece is the rule, and costs no copy.
                Ok(data) if bytes.is_empty() => bytes = data,
                Ok(data) => bytes = [bytes, data].concat().into(),
                Err(_trailers) => {}
            },
        }
    }
    Ok((bytes, false))
}
