//! Sending one request: its head, and its body as it comes.
//!
//! The request stays as it is until its first byte has been written, so that it can be handed back,
//! and what was written of a request that may be repeated is kept until its answer begins.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, Uri};
use http_body::{Body as _, Frame};
use hyper::upgrade::OnUpgrade;
use tokio::io::AsyncWrite;

use super::Broken;
use super::head::{self, Framing};
use crate::body::Body;

/// Up to this many bytes of a body's frame are written together with what comes before them.
const COPIED: usize = 4 << 10;
/// Up to this many bytes of a body fit into the smallest receive buffer that an app may have, with
/// the head.
const SMALL: u64 = 16 << 10;

/// A request on its way.
#[derive(Debug)]
pub(super) struct Upload {
    /// Bytes to be written, and how many have been.
    out: Vec<u8>,
    written: usize,
    /// A large frame, to be written after `out`, and what ends it.
    data: Bytes,
    is_chunk: bool,
    framing: Framing,
    /// Whole until its first byte has been written, then what is left of it.
    request: Option<Box<Request<Body>>>,
    /// The one frame that was taken from the body before the first byte was written.
    taken: Option<Box<Bytes>>,
    has_begun: bool,
    may_repeat: bool,
    is_head: bool,
    is_small: bool,
}

// === impl Upload ===

impl Upload {
    pub(super) fn new(request: Box<Request<Body>>) -> Self {
        let mut out = Vec::with_capacity(512);
        let framing = head::encode(&request, &mut out);
        Self {
            out,
            written: 0,
            data: Bytes::new(),
            is_chunk: false,
            may_repeat: framing == Framing::None && may_repeat(&request),
            is_small: match framing {
                Framing::None => true,
                Framing::Length(length) => length <= SMALL,
                Framing::Chunked(_) => false,
            },
            framing,
            is_head: *request.method() == Method::HEAD,
            request: Some(request),
            taken: None,
            has_begun: false,
        }
    }

    /// The answer has no body, whatever it says.
    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }

    /// Whether the peer's kernel has room for the whole body, read or unread.
    pub(super) fn is_small(&self) -> bool {
        self.is_small
    }

    /// Prepares for another connection, if that is safe: when nothing has been written, or when the
    /// request may be repeated and its connection ended without an answer. Whether it was.
    pub(super) fn start_over(&mut self, broken: &Broken) -> bool {
        if self.has_begun && !(self.may_repeat && broken.is_unanswered()) {
            return false;
        }
        self.written = 0;
        true
    }

    /// The request, if nothing of it has been written.
    pub(super) fn into_request(self) -> Option<Box<Request<Body>>> {
        if self.has_begun {
            return None;
        }
        let mut request = self.request?;
        if let Some(taken) = self.taken {
            request.body_mut().put_back(*taken);
        }
        Some(request)
    }

    /// Writes as much as the connection and the body allow. Ends when all has been written.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let more = self.gather(cx)?;
            if self.has_unwritten() {
                ready!(self.write(cx, stream)).map_err(Broken::Write)?;
                continue;
            }
            ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(Broken::Write)?;
            return more.map(Ok);
        }
    }

    /// As if the body had announced this.
    #[cfg(test)]
    pub(super) fn set_length(&mut self, length: u64) {
        self.framing = Framing::Length(length);
    }

    fn has_unwritten(&self) -> bool {
        self.written < self.out.len() || !self.data.is_empty()
    }

    /// Takes frames from the body while there is room. Ends at the body's end; pending also when
    /// there is no room.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        while self.framing != Framing::None {
            let is_full = !self.data.is_empty() || self.out.len() - self.written > COPIED;
            if is_full || (self.taken.is_some() && !self.has_begun) {
                return Ok(Poll::Pending);
            }
            let Some(request) = &mut self.request else {
                break;
            };
            let frame = match Pin::new(request.body_mut()).poll_frame(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(frame) => frame,
            };
            match frame {
                Some(Ok(frame)) => self.take(frame)?,
                Some(Err(error)) => return Err(Broken::Request(error.to_string())),
                None => self.end(None)?,
            }
        }
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Broken> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok().as_ref()),
        };
        if data.is_empty() {
            return Ok(());
        }
        if !self.has_begun {
            self.taken = Some(Box::new(data.clone()));
        }
        let length = data.len() as u64;
        let mut is_last = false;
        let is_chunk = match &mut self.framing {
            Framing::Length(left) if length <= *left => {
                *left -= length;
                is_last = *left == 0;
                false
            }
            Framing::Length(_) => {
                return Err(Broken::Request("body is longer than its length".to_owned()));
            }
            Framing::Chunked(_) | Framing::None => true,
        };
        if is_chunk {
            self.out
                .extend_from_slice(format!("{length:x}\r\n").as_bytes());
        }
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            if is_chunk {
                self.out.extend_from_slice(b"\r\n");
            }
        } else {
            self.data = data;
            self.is_chunk = is_chunk;
        }
        if is_last {
            self.framing = Framing::None;
        }
        Ok(())
    }

    /// The body has ended.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        match std::mem::replace(&mut self.framing, Framing::None) {
            Framing::Length(_) => Err(Broken::Request(
                "body is shorter than its length".to_owned(),
            )),
            Framing::None => Ok(()),
            Framing::Chunked(announced) => {
                self.out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if announced.contains(name) {
                        head::put(&mut self.out, name.as_str(), value.as_bytes());
                    }
                }
                self.out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    fn write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(stream);
        let count = ready!(if self.data.is_empty() {
            stream.poll_write(cx, &self.out[self.written..])
        } else {
            let pieces = [
                IoSlice::new(&self.out[self.written..]),
                IoSlice::new(&self.data),
            ];
            stream.poll_write_vectored(cx, &pieces)
        })?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.begin();
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        self.data.advance(count - of_out);
        if self.written == self.out.len() && !self.may_repeat {
            self.out.clear();
            self.written = 0;
            if self.data.is_empty() && std::mem::take(&mut self.is_chunk) {
                self.out.extend_from_slice(b"\r\n");
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The first byte has been written: nobody can have the request back, and its headers hold the
    /// buffer in which the client's next request is read.
    fn begin(&mut self) {
        if self.has_begun {
            return;
        }
        self.has_begun = true;
        self.taken = None;
        if self.framing == Framing::None {
            self.request = None;
        } else if let Some(request) = &mut self.request {
            *request.headers_mut() = HeaderMap::new();
            *request.uri_mut() = Uri::default();
        }
    }
}

/// Whether a request without a body may be sent twice: Go's rule.
fn may_repeat(request: &Request<Body>) -> bool {
    let (method, headers) = (request.method(), request.headers());
    let is_repeatable = matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    ) || headers.contains_key("idempotency-key")
        || headers.contains_key("x-idempotency-key");
    // The client's side of an upgrade can be given away once.
    is_repeatable && request.extensions().get::<OnUpgrade>().is_none()
}
