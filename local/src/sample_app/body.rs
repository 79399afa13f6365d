//! The app's response bodies: all at once, in slow pieces, or the request's own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

/// See the module.
#[derive(Debug)]
pub struct SampleBody {
    content: Content,
    /// Memory that a request asked to be held until its answer is complete.
    _held: Vec<u8>,
}

#[derive(Debug)]
enum Content {
    Full(Option<Bytes>),
    Echo(Incoming),
    Pieces(Pieces),
}

/// Pieces with pauses between them.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) left: u64,
    pub(super) interval: Duration,
    pub(super) make: PieceMaker,
    /// Breaks off in place of the last piece.
    pub(super) breaks: bool,
    sent: u64,
    pause: Option<Pin<Box<Sleep>>>,
}

/// What a piece consists of.
#[derive(Debug)]
pub(super) enum PieceMaker {
    /// The same bytes each time.
    Same(Bytes),
    /// A server-sent event with a number.
    Event,
}

/// Ends a body in the middle.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// It was asked for.
    #[error("broken off as asked")]
    BrokenOff,
    /// The request's own body failed.
    #[error("the request body failed")]
    Request(#[from] hyper::Error),
}

impl SampleBody {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::new(Content::Full(Some(bytes.into())))
    }

    pub(super) fn echo(body: Incoming) -> Self {
        Self::new(Content::Echo(body))
    }

    pub(super) fn pieces(pieces: Pieces) -> Self {
        Self::new(Content::Pieces(pieces))
    }

    pub(super) fn holding(mut self, held: Vec<u8>) -> Self {
        self._held = held;
        self
    }

    fn new(content: Content) -> Self {
        Self {
            content,
            _held: Vec::new(),
        }
    }
}

impl Pieces {
    pub(super) fn new(left: u64, interval: Duration, make: PieceMaker) -> Self {
        Self {
            left,
            interval,
            make,
            breaks: false,
            sent: 0,
            pause: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, SampleError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.sent > 0 && !self.interval.is_zero() {
            let interval = self.interval;
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(interval)));
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        self.left -= 1;
        self.sent += 1;
        if self.breaks && self.left == 0 {
            return Poll::Ready(Some(Err(SampleError::BrokenOff)));
        }
        let piece = match &self.make {
            PieceMaker::Same(bytes) => bytes.clone(),
            PieceMaker::Event => {
                let number = self.sent;
                Bytes::from(format!("id: {number}\ndata: event {number}\n\n"))
            }
        };
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Body for SampleBody {
    type Data = Bytes;
    type Error = SampleError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SampleError>>> {
        match &mut self.content {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Echo(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Content::Pieces(pieces) => pieces
                .poll(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_none(),
            Content::Echo(body) => body.is_end_stream(),
            Content::Pieces(pieces) => pieces.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Echo(body) => body.size_hint(),
            Content::Pieces(_) => SizeHint::default(),
        }
    }
}
