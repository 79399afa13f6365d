//! The body of every response, and of every request to an app: bytes at hand or a stream from a
//! connection, with a guard that learns how it ended.
//!
//! There is no boxing and no buffering: frames pass as hyper read them, and length and end of the
//! stream are passed through, so that a `Content-Length` message stays one. A stream that breaks
//! is never ended cleanly: the error makes HTTP/1 end without the final chunk and HTTP/2 with a
//! reset. A deadline that fires before anything of a body has come, whose length is not known, is no
//! break: nothing of the app's is damaged, and the text of upstream's `pkg/http/handler/timeout.go`
//! takes its place.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::deadline::{Deadline, Expired};
use crate::pool::{UpstreamBody, UpstreamError};
use crate::server::Busy;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte was handed to the connection.
    Complete,
    /// The app's stream broke; the client's was aborted.
    Failed,
    /// A deadline cut the stream.
    Expired(Expired),
    /// Dropped before its end: the client has left.
    Abandoned,
}

/// What a guard learns at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How the body ended.
    pub outcome: Outcome,
    /// Data bytes handed to the connection.
    pub bytes: u64,
}

/// Lives in a body until the body has ended: permits, accounting, logs. [`Guard::ended`] is called
/// exactly once, just before the drop.
pub trait Guard: 'static {
    /// The body has ended.
    fn ended(&mut self, end: End) {
        let _ = end;
    }
}

impl Guard for () {}

impl Guard for crate::breaker::Permit {}

impl<G: Guard> Guard for Option<G> {
    fn ended(&mut self, end: End) {
        if let Some(guard) = self {
            guard.ended(end);
        }
    }
}

impl<A: Guard, B: Guard> Guard for (A, B) {
    fn ended(&mut self, end: End) {
        self.0.ended(end);
        self.1.ended(end);
    }
}

/// See the [module](self).
pub struct Body<G: Guard = ()> {
    source: Source,
    bytes: u64,
    deadline: Option<Deadline>,
    /// What stands for the body when the deadline fires before its first frame.
    late: &'static str,
    /// Taken at the end.
    guard: Option<G>,
    /// Until the drop: bytes read in the meantime belong to this exchange.
    busy: Option<Busy>,
    /// Something was handed out, the head at first, that the connection has not had time to write.
    is_fresh: bool,
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Full(Bytes),
    Upstream(UpstreamBody),
    Incoming(Incoming),
    /// Bytes that were taken and put back, and what follows them.
    Again(Box<(Bytes, Source)>),
    /// Trailers that were.
    Trailers(Box<HeaderMap>),
    /// An error that has not been handed out, or has: there is no end after it.
    Broken(Box<Option<BodyError>>),
}

/// Why a body was aborted.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's connection broke.
    #[error("stream failed")]
    Stream(#[from] hyper::Error),
    /// The app's connection broke.
    #[error("stream failed")]
    Upstream(#[from] UpstreamError),
    /// A deadline fired.
    #[error("deadline exceeded")]
    Expired(Expired),
}

// === impl Body ===

impl<G: Guard> Body<G> {
    /// No bytes.
    pub fn empty(guard: G) -> Self {
        Self::new(Source::Empty, Some(guard))
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>, guard: G) -> Self {
        Self::new(Source::full(bytes.into()), Some(guard))
    }

    /// An app's response.
    pub fn upstream(body: UpstreamBody, guard: G) -> Self {
        Self::new(Source::Upstream(body), Some(guard))
    }

    /// A received body as it is.
    pub fn incoming(body: Incoming, guard: G) -> Self {
        Self::new(Source::Incoming(body), Some(guard))
    }

    /// Bytes at hand and nobody who waits for their end.
    pub(crate) fn unguarded(bytes: impl Into<Bytes>) -> Self {
        Self::new(Source::full(bytes.into()), None)
    }

    fn new(source: Source, guard: Option<G>) -> Self {
        Self {
            source,
            bytes: 0,
            deadline: None,
            late: "",
            guard,
            busy: None,
            is_fresh: true,
        }
    }

    /// The next frame will be `bytes`, which was taken from this body.
    pub fn put_back(&mut self, bytes: Bytes) {
        let rest = std::mem::take(&mut self.source);
        self.source = Source::Again(Box::new((bytes, rest)));
    }

    /// The next frame will be `trailers`, which were taken from this body and are its last frame.
    pub fn put_back_trailers(&mut self, trailers: HeaderMap) {
        self.source = Source::Trailers(Box::new(trailers));
    }

    /// Lets the client's connection count as busy while this body lives.
    pub(crate) fn keep_busy(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }

    /// Marks the response as started and enforces total and idle deadline on the body; `late` is its
    /// whole text if one fires before anything of it has come and its length is not known.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Deadline, late: &'static str) -> Self {
        self.set_deadline(deadline, late);
        self
    }

    /// [`Body::with_deadline`] in place: `Response::map` moves head and body twice.
    pub fn set_deadline(&mut self, deadline: Deadline, late: &'static str) {
        let takes_text = self.source.size_hint().exact().is_none();
        self.late = if takes_text { late } else { "" };
        deadline.started(takes_text);
        self.deadline = Some(deadline);
    }

    /// The same body with another guard, made from the old one.
    pub fn map_guard<H: Guard>(mut self, wrap: impl FnOnce(Option<G>) -> H) -> Body<H> {
        Body {
            source: std::mem::replace(&mut self.source, Source::Empty),
            bytes: self.bytes,
            deadline: self.deadline.take(),
            late: self.late,
            guard: Some(wrap(self.guard.take())),
            busy: self.busy.take(),
            is_fresh: self.is_fresh,
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.deadline = None;
        if let Some(mut guard) = self.guard.take() {
            guard.ended(End {
                outcome,
                bytes: self.bytes,
            });
        }
    }

    /// The next frame. An error waits until the connection has had a turn, because hyper drops what
    /// it has not written when a body fails: the client shall get what the app sent.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.source.poll_frame(cx) {
            Poll::Ready(Some(Err(error))) if self.is_fresh => {
                self.is_fresh = false;
                self.source = Source::Broken(Box::new(Some(error)));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => {
                self.is_fresh = polled.is_ready();
                polled
            }
        }
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Body::incoming(body, ())
    }
}

impl<G: Guard> Unpin for Body<G> {}

impl<G: Guard> http_body::Body for Body<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match this.poll_source(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.late = "";
                if let Some(data) = frame.data_ref() {
                    this.bytes += data.len() as u64;
                    if let Some(deadline) = &this.deadline {
                        deadline.wrote();
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.end(Outcome::Failed);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.end(Outcome::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let expired = this.deadline.as_ref().and_then(|it| it.poll_detached(cx));
                let Some(expired) = expired else {
                    return Poll::Pending;
                };
                let late = std::mem::take(&mut this.late);
                if late.is_empty() {
                    this.end(Outcome::Expired(expired));
                    return Poll::Ready(Some(Err(BodyError::Expired(expired))));
                }
                this.source = Source::Empty;
                this.bytes = late.len() as u64;
                this.end(Outcome::Expired(expired));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(late.as_bytes())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl<G: Guard> Drop for Body<G> {
    fn drop(&mut self) {
        if self.guard.is_none() {
            return;
        }
        let expired = self.deadline.as_ref().and_then(Deadline::expired);
        // hyper drops a body as soon as it says that it ends, without asking for the end itself.
        let outcome = match expired {
            _ if http_body::Body::is_end_stream(self) => Outcome::Complete,
            Some(expired) => Outcome::Expired(expired),
            None => Outcome::Abandoned,
        };
        self.end(outcome);
    }
}

impl<G: Guard> fmt::Debug for Body<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Empty => "empty",
            Source::Full(_) => "full",
            Source::Upstream(_) => "upstream",
            Source::Incoming(_) => "incoming",
            Source::Again(_) => "again",
            Source::Trailers(_) => "trailers",
            Source::Broken(_) => "broken",
        };
        f.debug_struct("Body")
            .field("source", &source)
            .field("bytes", &self.bytes)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

// === impl Source ===

impl Source {
    fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match self {
            Source::Empty => None,
            Source::Full(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = Source::Empty;
                Some(Ok(frame))
            }
            Source::Again(again) => {
                let (bytes, rest) = std::mem::take(&mut **again);
                *self = rest;
                Some(Ok(Frame::data(bytes)))
            }
            Source::Trailers(trailers) => {
                let frame = Frame::trailers(std::mem::take(trailers));
                *self = Source::Empty;
                Some(Ok(frame))
            }
            Source::Broken(error) => error.take().map(Err),
            Source::Upstream(body) => ready!(Pin::new(body).poll_frame(cx)?).map(Ok),
            Source::Incoming(body) => {
                ready!(http_body::Body::poll_frame(Pin::new(body), cx)?).map(Ok)
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) | Self::Again(_) | Self::Trailers(_) | Self::Broken(_) => false,
            Self::Upstream(body) => body.is_end_stream(),
            Self::Incoming(body) => http_body::Body::is_end_stream(body),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(body) => body.size_hint(),
            Self::Incoming(body) => http_body::Body::size_hint(body),
            Self::Trailers(_) | Self::Broken(_) => SizeHint::default(),
            Self::Again(again) => match again.1.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(rest + again.0.len() as u64),
                None => SizeHint::default(),
            },
        }
    }
}
