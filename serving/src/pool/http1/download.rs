//! Reading one response: its head, and its body as it is asked for.
//!
//! What is read goes through a buffer on the stack and is kept in just the memory that it needs;
//! only a body that fills that buffer is read into larger pieces. An idle connection holds none.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::decoder::Decoder;
use super::head::{self, Head};
use super::{Broken, Connection};
use crate::pool::Upstream;

/// Bytes read at once: enough for most responses.
const USUAL: usize = 8 << 10;
/// Bytes read at once of a body that comes faster.
const LARGE: usize = 64 << 10;

/// The start of a response.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// What has been read of an incomplete head.
    partial: BytesMut,
    /// Bytes of interim responses.
    skipped: usize,
}

/// What heads may be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes: usize,
    pub(super) lines: Option<usize>,
    /// The request was for a head alone.
    pub(super) is_head: bool,
}

/// A response's body on its connection.
#[derive(Debug)]
pub(in crate::pool) struct Download {
    /// Taken when it goes back, or to be closed.
    connection: Option<Connection>,
    upstream: Rc<Upstream>,
    decoder: Decoder,
    /// Read and not understood yet.
    buffered: Bytes,
    keep_alive: bool,
    /// The last read left nothing behind in its buffer.
    is_fast: bool,
}

// === impl HeadReader ===

impl HeadReader {
    /// Whether any byte of a response has been read.
    fn has_begun(&self) -> bool {
        !self.partial.is_empty() || self.skipped > 0
    }

    /// The final head, and what was read of the body. Interim responses are left out.
    pub(super) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        limits: HeadLimits,
    ) -> Poll<Result<(Head, Bytes), Broken>> {
        let mut space = [const { MaybeUninit::uninit() }; USUAL];
        loop {
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))
                .map_err(|error| self.lost(error))?;
            let read = read.filled();
            if read.is_empty() {
                let broken = if self.has_begun() {
                    Broken::UnexpectedEof
                } else {
                    Broken::Eof
                };
                return Poll::Ready(Err(broken));
            }
            let seen = self.partial.len();
            let mut received = if seen == 0 {
                Bytes::copy_from_slice(read)
            } else {
                self.partial.extend_from_slice(read);
                if !head::may_be_whole(&self.partial, seen) {
                    self.check(self.partial.len(), limits)?;
                    continue;
                }
                self.partial.split().freeze()
            };
            match self.understand(&mut received, limits)? {
                Some(head) => return Poll::Ready(Ok((head, received))),
                None => self.partial = BytesMut::from(received),
            }
        }
    }

    /// Takes heads from the front of `received` up to the final one.
    fn understand(
        &mut self,
        received: &mut Bytes,
        limits: HeadLimits,
    ) -> Result<Option<Head>, Broken> {
        while !received.is_empty() {
            let Some(head) = head::parse(received, limits.is_head, limits.lines)? else {
                break;
            };
            self.check(head.length, limits)?;
            let _ = received.split_to(head.length);
            let status = head.response.status();
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(head));
            }
            self.skipped += head.length;
        }
        self.check(received.len(), limits)?;
        Ok(None)
    }

    /// Interim responses count as well, or there could be any number of them.
    fn check(&self, length: usize, limits: HeadLimits) -> Result<(), Broken> {
        if self.skipped + length > limits.bytes {
            return Err(Broken::TooLarge);
        }
        Ok(())
    }

    fn lost(&self, error: io::Error) -> Broken {
        Broken::Read {
            error,
            answered: self.has_begun(),
        }
    }
}

// === impl Download ===

impl Download {
    pub(super) fn new(
        upstream: &Rc<Upstream>,
        connection: Connection,
        head: Head,
        buffered: Bytes,
    ) -> Self {
        Self {
            connection: Some(connection),
            upstream: Rc::clone(upstream),
            decoder: head.body,
            buffered,
            keep_alive: head.keep_alive,
            is_fast: false,
        }
    }

    /// Whether the body has been handed out.
    pub(in crate::pool) fn is_end_stream(&self) -> bool {
        self.decoder.is_ended()
    }

    /// How many bytes are to come.
    pub(in crate::pool) fn size_hint(&self) -> SizeHint {
        match &self.decoder {
            Decoder::Length(left) => SizeHint::with_exact(*left),
            Decoder::Ended => SizeHint::with_exact(0),
            Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
        }
    }

    /// The next frame. The last one frees the connection.
    pub(in crate::pool) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.decoder.decode(&mut self.buffered) {
                Err(broken) => return Poll::Ready(Some(Err(self.fail(broken)))),
                Ok(frame) => {
                    if self.decoder.is_ended() {
                        self.finish();
                    }
                    if let Some(frame) = frame {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
            if self.decoder.is_ended() {
                return Poll::Ready(None);
            }
            if let Err(broken) = ready!(self.poll_read(cx)) {
                return Poll::Ready(Some(Err(self.fail(broken))));
            }
        }
    }

    /// Reads once; the end of the connection ends the body or is an error.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(connection) = &self.connection else {
            return Poll::Ready(Err(Broken::UnexpectedEof));
        };
        let mut stream = connection.stream.borrow_mut();
        let read = match self.expected() {
            Some(expected) => {
                let mut space = BytesMut::with_capacity(expected);
                poll_read_buf(Pin::new(&mut *stream), cx, &mut space).map_ok(|_| space.freeze())
            }
            None => poll_usual(cx, &mut *stream),
        };
        let read = ready!(read).map_err(|error| Broken::Read {
            error,
            answered: true,
        })?;
        if read.is_empty() {
            return Poll::Ready(self.decoder.close());
        }
        self.is_fast = read.len() >= USUAL;
        self.buffered = read;
        Poll::Ready(Ok(()))
    }

    /// The size of the next piece, where the usual one is too small.
    fn expected(&self) -> Option<usize> {
        match self.decoder {
            // One byte more than the rest, so that a read that ends the body is not a full one.
            Decoder::Length(left) if left >= USUAL as u64 => {
                Some(usize::try_from(left).map_or(LARGE, |left| LARGE.min(left + 1)))
            }
            Decoder::Length(_) | Decoder::Ended => None,
            Decoder::Chunked(_) | Decoder::UntilClose => self.is_fast.then_some(LARGE),
        }
    }

    /// The body has ended: its connection is of use again if nothing is left over on either side.
    fn finish(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.keep_alive && self.buffered.is_empty() && connection.is_at_rest() {
            self.upstream.put_idle(connection);
        }
    }

    fn fail(&mut self, broken: Broken) -> Broken {
        // The body has not ended for all that: nobody must take it for whole.
        self.connection = None;
        broken
    }
}

/// Reads what there is, up to [`USUAL`] bytes, into memory of its size.
fn poll_usual<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
) -> Poll<io::Result<Bytes>> {
    let mut space = [const { MaybeUninit::uninit() }; USUAL];
    let mut read = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
}
