//! HTTP/1 connections: used by one exchange at a time, idle on a stack in between.
//!
//! This side of HTTP/1 is our own. hyper's client is made for one that others share: each of its
//! connections is a task with a queue of requests before it (about 25 kB, and two wake-ups per
//! request), while here exactly one exchange uses a connection, and can read and write it itself.

mod decoder;
mod download;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod head;
mod upload;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, sleep};

pub(super) use self::download::Download;
use self::download::{HeadLimits, HeadReader};
use self::head::Head;
use self::upload::Upload;
use super::stream::Stream;
use super::{Patience, Upstream, UpstreamBody, dial};
use crate::body::Body;
use crate::forward::ForwardError;

/// Sweeps per idle timeout.
const SWEEPS: u32 = 3;
/// How long connections beyond the limit may idle. Without it a destination with more requests at a
/// time than that would be dialled anew whenever many of them ended together.
const EXCESS_KEPT: Duration = Duration::from_secs(1);

/// A connection in use.
#[derive(Debug)]
pub(super) struct Connection {
    /// Shared with the rest of a request that is still being sent.
    stream: Rc<RefCell<Stream>>,
    /// Set while the rest of a request is being sent.
    sending: Option<Rc<Cell<bool>>>,
    /// Whether the peer's silence is limited at present, where the options say so.
    limited: Cell<bool>,
}

/// A connection that waits for a request.
#[derive(Debug)]
pub(super) struct Idle {
    connection: Connection,
    since: Instant,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection ended before the first byte of an answer.
    #[error("EOF")]
    Eof,
    /// It ended later.
    #[error("unexpected EOF")]
    UnexpectedEof,
    #[error("net/http: server response headers exceeded the limit; aborted")]
    TooLarge,
    #[error("net/http: HTTP/1.x transport connection broken: {0}")]
    Malformed(String),
    #[error("read tcp: {}", crate::forward::io_words(error))]
    Read { error: io::Error, answered: bool },
    #[error("write tcp: {}", crate::forward::io_words(.0))]
    Write(io::Error),
    /// The request's own body broke.
    #[error("{0}")]
    Request(String),
}

// === impl Broken ===

impl Broken {
    /// Nothing came back: as far as can be known, nobody has looked at the request.
    fn is_unanswered(&self) -> bool {
        match self {
            Self::Eof | Self::Write(_) => true,
            Self::Read { answered, .. } => !answered,
            Self::UnexpectedEof | Self::TooLarge | Self::Malformed(_) | Self::Request(_) => false,
        }
    }

    /// The connection ended; the app said nothing wrong, and neither did the client.
    fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Eof | Self::UnexpectedEof | Self::Read { .. } | Self::Write(_)
        )
    }

    /// The peer's kernel was silent for too long.
    fn is_silence(&self) -> bool {
        let (Self::Read { error, .. } | Self::Write(error)) = self else {
            return false;
        };
        matches!(
            error.kind(),
            io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
        )
    }
}

pub(super) async fn send(
    upstream: &Rc<Upstream>,
    request: Box<Request<Body>>,
    patience: Patience,
) -> Result<Response<UpstreamBody>, ForwardError> {
    let mut upload = Upload::new(request);
    while let Some((connection, taken)) = upstream.take_idle() {
        match exchange(upstream, &connection, &mut upload).await {
            Ok(answer) => return Ok(upstream.lend(connection, answer, upload)),
            Err(broken) if broken.is_silence() => {
                upstream.idle.borrow_mut().clear();
                return Err(ForwardError::broken(&broken, true));
            }
            Err(broken) if upload.start_over(&broken) => {}
            Err(broken) => {
                let is_lost = broken.is_end() && upstream.end_means_loss(Some(taken));
                return Err(ForwardError::broken(&broken, is_lost));
            }
        }
    }
    let failed = match Box::pin(connect(upstream, patience)).await {
        Ok(connection) => match exchange(upstream, &connection, &mut upload).await {
            Ok(answer) => return Ok(upstream.lend(connection, answer, upload)),
            Err(broken) => {
                let is_lost = broken.is_end() && upstream.end_means_loss(None);
                ForwardError::broken(&broken, is_lost)
            }
        },
        Err(error) => error,
    };
    Err(match upload.into_request() {
        Some(request) => failed.with_request(request),
        None => failed,
    })
}

/// The head of an answer, what was read after it, and whether all of the request has been sent.
struct Answer {
    head: Head,
    rest: Bytes,
    sent: bool,
}

/// Sends a request and reads the head of its answer, which may come before all has been sent.
async fn exchange(
    upstream: &Upstream,
    connection: &Connection,
    upload: &mut Upload,
) -> Result<Answer, Broken> {
    connection.limit_silence(upstream, upload.is_small());
    let mut reader = HeadReader::default();
    let mut sent = false;
    let mut unwritable = None;
    poll_fn(|cx| {
        let stream = &mut *connection.stream.borrow_mut();
        if !sent && unwritable.is_none() {
            match upload.poll(cx, stream) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => sent = true,
                // An app that refuses a request early closes, and its answer may be there.
                Poll::Ready(Err(Broken::Write(error))) => unwritable = Some(error),
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
            }
        }
        let limits = HeadLimits {
            bytes: upstream.options.max_header_bytes,
            lines: upstream.options.max_headers,
            is_head: upload.is_head(),
        };
        match reader.poll(cx, stream, limits) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok((head, rest))) => Poll::Ready(Ok(Answer { head, rest, sent })),
            Poll::Ready(Err(broken)) => Poll::Ready(Err(match unwritable.take() {
                Some(error) if broken.is_unanswered() => Broken::Write(error),
                _ => broken,
            })),
        }
    })
    .await
}

async fn connect(upstream: &Upstream, patience: Patience) -> Result<Connection, ForwardError> {
    let stream = dial::dial(upstream, patience).await?;
    let stream = match &upstream.options.tls {
        None => Stream::Tcp(stream),
        Some(tls) => {
            let tls = tls.connect(stream, upstream.address, b"http/1.1").await?;
            Stream::Tls(Box::new(tls))
        }
    };
    Ok(Connection {
        stream: Rc::new(RefCell::new(stream)),
        sending: None,
        limited: Cell::new(true),
    })
}

// === impl Connection ===

impl Connection {
    fn is_fresh(&self) -> bool {
        self.stream.borrow().is_fresh()
    }

    /// Limits the peer's silence, or ceases to. Costs nothing unless that is a change.
    fn limit_silence(&self, upstream: &Upstream, limited: bool) {
        let Some(silence) = upstream.options.max_silence else {
            return;
        };
        if self.limited.replace(limited) != limited {
            dial::limit_silence(self.stream.borrow().socket(), limited.then_some(silence));
        }
    }

    /// Whether no request is being sent any more.
    fn is_at_rest(&self) -> bool {
        self.sending.as_ref().is_none_or(|sending| !sending.get())
    }

    /// Sends the rest of a request whose answer has begun: an app may answer in full before it reads
    /// on, and a client may send in full before it reads.
    fn send_on(&mut self, mut upload: Upload) {
        let sending = Rc::new(Cell::new(true));
        self.sending = Some(Rc::clone(&sending));
        let stream = Rc::clone(&self.stream);
        tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| upload.poll(cx, &mut *stream.borrow_mut())).await;
            match sent {
                Ok(()) => sending.set(false),
                // Who reads the answer learns whatever there is to learn.
                Err(broken) => tracing::debug!(%broken, "the rest of a request was not sent"),
            }
        });
    }

    /// The bare connection, after a protocol switch.
    fn into_stream(self) -> Option<Stream> {
        Rc::into_inner(self.stream).map(RefCell::into_inner)
    }
}

// === impl Idle ===

impl Idle {
    /// As far as the kernel has told.
    pub(super) fn is_alive(&self) -> bool {
        self.connection.is_fresh()
    }

    /// What the kernel was told of the peer's silence, in milliseconds; 0 is nothing.
    #[cfg(test)]
    pub(super) fn silence(&self) -> io::Result<u32> {
        let stream = self.connection.stream.borrow();
        Ok(rustix::net::sockopt::tcp_user_timeout(stream.socket())?)
    }
}

// === impl Upstream ===

impl Upstream {
    /// The connection used last, of those that are alive and not too old, and when that was.
    fn take_idle(&self) -> Option<(Connection, Instant)> {
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            if last.is_alive() {
                // Everything below is older still, but a sweep will see to it.
                let now = Instant::now();
                let is_young = last.since + self.options.idle_timeout > now;
                return is_young.then_some((last.connection, now));
            }
        }
        None
    }

    /// Hands out a response; its connection returns at once if nothing more is to be read from it.
    fn lend(
        self: &Rc<Self>,
        mut connection: Connection,
        answer: Answer,
        upload: Upload,
    ) -> Response<UpstreamBody> {
        let Answer {
            mut head,
            rest,
            sent,
        } = answer;
        self.has_answered();
        let (parts, ()) = std::mem::take(&mut head.response).into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            connection.limit_silence(self, false);
            let body = UpstreamBody::switched(connection.into_stream(), rest);
            return Response::from_parts(parts, body);
        }
        if !sent {
            connection.send_on(upload);
        } else if head.keep_alive && head.body.is_length(rest.len()) {
            self.put_idle(connection);
            return Response::from_parts(parts, UpstreamBody::whole(rest));
        }
        let body = Download::new(self, connection, head, rest);
        Response::from_parts(parts, UpstreamBody::http1(body))
    }

    fn put_idle(self: &Rc<Self>, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if self.closed.get() || self.options.max_idle == 0 {
            return;
        }
        idle.push(Idle {
            connection,
            since: Instant::now(),
        });
        if idle.len() == 1 {
            self.ensure_sweep();
        }
        if idle.len() > self.options.max_idle && !self.trimming.replace(true) {
            tokio::task::spawn_local(trim_idle(Rc::downgrade(self)));
        }
    }

    /// Closes what was not used lately of those that are too many; whether too many are left.
    fn trim(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        // The one that was used first is the first.
        let excess = idle.len().saturating_sub(self.options.max_idle);
        let unused = idle.iter().take(excess);
        let unused = unused
            .take_while(|it| it.since + EXCESS_KEPT <= now)
            .count();
        idle.drain(..unused);
        let goes_on = unused < excess;
        self.trimming.set(goes_on);
        goes_on
    }

    fn ensure_sweep(self: &Rc<Self>) {
        let mut sweep = self.sweep.borrow_mut();
        if sweep.as_ref().is_none_or(|running| running.is_finished()) {
            let task = tokio::task::spawn_local(sweep_idle(Rc::downgrade(self)));
            *sweep = Some(task.abort_handle());
        }
    }

    /// Closes what has idled too long or was closed by the peer; whether anything is left.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|it| it.since + self.options.idle_timeout > now && it.is_alive());
        let kept = idle.len();
        idle.shrink_to(kept * 2);
        !idle.is_empty()
    }
}

/// Runs while anything idles.
async fn sweep_idle(upstream: Weak<Upstream>) {
    loop {
        let Some(period) = upstream
            .upgrade()
            .map(|upstream| upstream.options.idle_timeout / SWEEPS)
        else {
            return;
        };
        sleep(period).await;
        if !upstream.upgrade().is_some_and(|upstream| upstream.sweep()) {
            return;
        }
    }
}

/// Runs while more idle than may for long.
async fn trim_idle(upstream: Weak<Upstream>) {
    loop {
        sleep(EXCESS_KEPT).await;
        if !upstream.upgrade().is_some_and(|upstream| upstream.trim()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
