//! The body of every response (and of every request to an app): bytes at hand or an app's stream,
//! with a guard that learns how it ended.
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::deadline::{Deadline, Expired};
use crate::pool::UpstreamBody;

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
    pub outcome: Outcome,
    /// Data bytes handed to the connection.
    pub bytes: u64,
}

/// Lives in a response body until the body has ended: permits, in-flight accounting, request logs.
/// `ended` is called exactly once, just before the drop.
pub trait Guard: 'static {
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

/// See the module.
#[derive(Debug)]
pub struct Body<G: Guard = ()> {
    guard: Option<G>,
}

impl<G: Guard> Unpin for Body<G> {}

impl<G: Guard> Body<G> {
    pub fn empty(_guard: G) -> Self {
        todo!()
    }
    pub fn full(_bytes: impl Into<Bytes>, _guard: G) -> Self {
        todo!()
    }
    /// An app's response.
    pub fn upstream(_body: UpstreamBody, _guard: G) -> Self {
        todo!()
    }
    /// A received body, as it is.
    pub fn incoming(_body: Incoming, _guard: G) -> Self {
        todo!()
    }
    /// Enforces total and idle deadline while the body is on its way.
    #[must_use]
    pub fn with_deadline(self, _deadline: Deadline) -> Self {
        todo!()
    }
    /// The same body with another guard; the old one is handed to `wrap` without `ended`.
    pub fn map_guard<H: Guard>(self, _wrap: impl FnOnce(G) -> H) -> Body<H> {
        todo!()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Body::incoming(body, ())
    }
}

/// Why a body was aborted.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("upstream stream failed")]
    Upstream(#[from] hyper::Error),
    #[error("deadline exceeded")]
    Expired(Expired),
}

impl<G: Guard> http_body::Body for Body<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        todo!()
    }
    fn is_end_stream(&self) -> bool {
        self.guard.is_none()
    }
    fn size_hint(&self) -> SizeHint {
        todo!()
    }
}
