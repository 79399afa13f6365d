//! Connections to one destination: a stack of idle ones for HTTP/1, shared ones for h2c.
//!
//! The most recently used HTTP/1 connection is used first. A connection returns to the stack as
//! soon as all of a response has been read, which for a small one is when its head arrives. Nothing
//! is armed per connection: one sweep per destination runs while anything idles.
//!
//! A request is sent again by itself only when that is safe: always when nothing of it has been
//! written; otherwise once a *reused* connection ended before the first byte of a response, for
//! requests without a body whose method (or `Idempotency-Key`) allows it. That covers apps that
//! close idle connections just as they are used again. After a silence nothing is sent again here:
//! every idle connection would take as long to fail.

mod dial;
mod http1;
mod http2;
mod stream;
mod tls;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use self::http1::Broken;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use self::http1::fuzz;
use self::http1::{Download, Idle};
pub(crate) use self::stream::Stream;
pub use self::tls::UpstreamTls;
use crate::body::Body;
use crate::forward::ForwardError;

/// The protocol towards a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// h2c with prior knowledge, no fallback.
    Http2,
}

/// How long a connection may take to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Short attempts at first, longer ones later, 20 s in all: a lost packet costs little.
    Upstreams,
    /// One attempt, until the caller gives up: no round trip is too long.
    Callers,
}

/// Within this after a request was sent over a connection that had idled, its end may mean no more
/// than that the peer closed it at that moment: a few round trips.
const CLOSES_IDLE: Duration = Duration::from_secs(1);

/// Limits of one destination.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// HTTP/1 connections kept while idle, those aside that were used within the last second: as
    /// many requests may begin as have just ended. Default: 1,000.
    pub max_idle: usize,
    /// How long one is kept. Default: 90 s.
    pub idle_timeout: Duration,
    /// Dials at the same time; further ones wait. Default: 1,024.
    pub max_dials: usize,
    /// Bytes of a response's head. Default: 1 MiB.
    pub max_header_bytes: usize,
    /// Header lines of a response's head, as in `ServerOptions`. Default: `None`.
    pub max_headers: Option<usize>,
    /// How connections are encrypted. Default: not at all.
    pub tls: Option<UpstreamTls>,
    /// How long the peer's kernel may leave bytes unacknowledged, or go without a sign of life on a
    /// connection where nothing is sent, before the connection counts as broken. It does not hold
    /// for a tunnel, nor while a body of more than 16 KiB is sent over HTTP/1: the kernel would
    /// take an app that does not read on for a silent one. Default: `None`, as the kernel does it.
    pub max_silence: Option<Duration>,
}

/// One destination. Not `Send`; requests keep it alive. Dropping it closes what idles.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    /// The address as a `Host`.
    host: HeaderValue,
    options: UpstreamOptions,
    closed: Cell<bool>,
    /// A connection that had idled ended without an answer, and there was none since.
    has_closed_idle: Cell<bool>,
    dials: Semaphore,
    idle: RefCell<Vec<Idle>>,
    sweep: RefCell<Option<AbortHandle>>,
    /// Whether more idle than may for long.
    trimming: Cell<bool>,
    shared: RefCell<Vec<Rc<http2::Shared>>>,
    /// Held while an HTTP/2 connection is made, so that a burst shares one.
    sharing: Mutex<()>,
}

/// An app's response body. Gives its connection back at its end.
#[derive(Debug)]
pub struct UpstreamBody(Source);

#[derive(Debug)]
enum Source {
    /// All of it has been read; empty at its end.
    Whole(Bytes),
    Http1(Box<Download>),
    /// With the count of its stream.
    Http2(Box<(Incoming, http2::Stream)>),
    /// None, after a protocol switch: the connection and what was read of what comes next.
    Switched(Box<(Stream, Bytes)>),
}

/// A response's body broke.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UpstreamError(#[from] Reason);

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Http1(#[from] Broken),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// Spawns hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
struct Local;

// === impl Protocol ===

impl Protocol {
    /// That of a request of this version.
    pub fn of(version: Version) -> Self {
        if version == Version::HTTP_2 {
            Self::Http2
        } else {
            Self::Http1
        }
    }

    /// The version that requests have in it.
    pub fn version(self) -> Version {
        match self {
            Self::Http1 => Version::HTTP_11,
            Self::Http2 => Version::HTTP_2,
        }
    }
}

// === impl UpstreamOptions ===

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            max_idle: 1000,
            idle_timeout: Duration::from_secs(90),
            max_dials: 1024,
            max_header_bytes: 1 << 20,
            max_headers: None,
            tls: None,
            max_silence: None,
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// A destination; nothing is dialled yet.
    pub fn new(address: SocketAddr, options: UpstreamOptions) -> Rc<Self> {
        Rc::new(Self {
            address,
            host: HeaderValue::try_from(address.to_string())
                .expect("an address is made of visible characters"),
            closed: Cell::new(false),
            has_closed_idle: Cell::new(false),
            dials: Semaphore::new(options.max_dials.min(Semaphore::MAX_PERMITS)),
            idle: RefCell::default(),
            sweep: RefCell::default(),
            trimming: Cell::new(false),
            shared: RefCell::default(),
            sharing: Mutex::new(()),
            options,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// [`Upstream::address`] as the value of a `Host` header.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// HTTP/1 connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Sends one request as it is; nothing is rewritten. Dropping the future, or later the body,
    /// aborts the exchange.
    ///
    /// # Errors
    /// When no response came. The request is part of the error if nothing of it was written.
    pub async fn send(
        self: &Rc<Self>,
        request: Request<Body>,
        protocol: Protocol,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        self.send_boxed(Box::new(request), protocol).await
    }

    /// As [`Upstream::send`] over HTTP/1.1, for callers with a deadline of their own that may be
    /// only a few round trips away: if a connection has to be made, that is tried once, for as long
    /// as the future is polled.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub async fn send_dialling_once(
        self: &Rc<Self>,
        request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        http1::send(self, Box::new(request), Patience::Callers).await
    }

    pub(crate) async fn send_boxed(
        self: &Rc<Self>,
        request: Box<Request<Body>>,
        protocol: Protocol,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        match protocol {
            Protocol::Http1 => http1::send(self, request, Patience::Upstreams).await,
            Protocol::Http2 => Box::pin(http2::send(self, request)).await,
        }
    }

    /// A connection ended, or went silent, before the head of an answer: whether that says that the
    /// destination is lost. `idle_until` is when the request was sent, if its connection had idled.
    fn end_means_loss(&self, idle_until: Option<Instant>) -> bool {
        match idle_until {
            Some(sent) if Instant::now() < sent + CLOSES_IDLE => self.has_closed_idle.replace(true),
            _ => true,
        }
    }

    /// The head of an answer has come.
    fn has_answered(&self) {
        self.has_closed_idle.set(false);
    }

    /// The destination is gone: closes what idles and keeps no connection from now on. Running
    /// exchanges are not touched.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(sweep) = self.sweep.take() {
            sweep.abort();
        }
    }
}

// === impl UpstreamBody ===

impl UpstreamBody {
    fn whole(bytes: Bytes) -> Self {
        Self(Source::Whole(bytes))
    }

    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    fn http1(body: Download) -> Self {
        Self(Source::Http1(Box::new(body)))
    }

    fn http2(incoming: Incoming, stream: http2::Stream) -> Self {
        Self(Source::Http2(Box::new((incoming, stream))))
    }

    fn switched(stream: Option<Stream>, rest: Bytes) -> Self {
        match stream {
            Some(stream) => Self(Source::Switched(Box::new((stream, rest)))),
            None => Self::empty(),
        }
    }

    /// The connection that a 101 left behind, and what was read after the response.
    pub(crate) fn into_switched(self) -> Option<(Stream, Bytes)> {
        match self.0 {
            Source::Switched(switched) => Some(*switched),
            _ => None,
        }
    }

    /// The next frame; the end gives the connection back.
    pub fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut self.get_mut().0 {
            Source::Switched(_) => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Http1(body) => body
                .poll_frame(cx)
                .map_err(|broken| Reason::from(broken).into()),
            Source::Http2(body) => http_body::Body::poll_frame(Pin::new(&mut body.0), cx)
                .map_err(|error| Reason::from(error).into()),
        }
    }

    /// Whether the end has been seen.
    pub fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Switched(_) => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Http1(body) => body.is_end_stream(),
            Source::Http2(body) => http_body::Body::is_end_stream(&body.0),
        }
    }

    /// How many bytes are to come.
    pub fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Switched(_) => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Http1(body) => body.size_hint(),
            Source::Http2(body) => http_body::Body::size_hint(&body.0),
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        UpstreamBody::poll_frame(self, cx)
    }

    fn is_end_stream(&self) -> bool {
        UpstreamBody::is_end_stream(self)
    }

    fn size_hint(&self) -> SizeHint {
        UpstreamBody::size_hint(self)
    }
}

// === impl Local ===

impl<F> Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

#[cfg(test)]
mod tests;
