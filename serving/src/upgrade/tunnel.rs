//! Two directions of bytes between two connections.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::websocket::{CLOSE_TO_CLIENT, CLOSE_TO_SERVER, Position};
use super::{CHUNK, Traffic};
use crate::pool::Stream;
use crate::server::{Observed, Socket};

/// One end of a tunnel.
#[derive(Debug)]
pub(super) struct Side {
    io: Io,
    /// Bytes that hyper had read before the upgrade.
    early: Bytes,
}

#[derive(Debug)]
enum Io {
    Client(Socket),
    App(Stream),
    /// A client's TLS, or whatever else lies below.
    Other(TokioIo<Upgraded>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tunnel {
    client: Side,
    app: Side,
    to_app: Direction,
    to_client: Direction,
}

/// What is underway in one direction.
#[derive(Debug)]
struct Direction {
    /// Read and not yet written.
    held: BytesMut,
    ending: Ending,
    /// For WebSockets.
    position: Option<Position>,
    close_frame: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Not yet.
    No,
    /// As soon as a frame ends.
    AtBoundary,
    /// When what is held has been written.
    Flush,
    Done,
}

// === impl Side ===

impl Side {
    pub(super) fn app((stream, early): (Stream, Bytes)) -> Self {
        Self {
            io: Io::App(stream),
            early,
        }
    }

    pub(super) fn client(upgraded: Upgraded) -> Self {
        match upgraded.downcast::<TokioIo<Observed<Socket>>>() {
            Ok(parts) => Self {
                io: Io::Client(parts.io.into_inner().into_inner()),
                early: parts.read_buf,
            },
            Err(upgraded) => Self {
                io: Io::Other(TokioIo::new(upgraded)),
                early: Bytes::new(),
            },
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Client(io) => Pin::new(io).poll_read(cx, buf),
            Io::App(io) => Pin::new(io).poll_read(cx, buf),
            Io::Other(io) => Pin::new(io).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.io {
            Io::Client(io) => Pin::new(io).poll_write(cx, bytes),
            Io::App(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Other(io) => Pin::new(io).poll_write(cx, bytes),
        };
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            other => other,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Client(io) => Pin::new(io).poll_flush(cx),
            Io::App(io) => Pin::new(io).poll_flush(cx),
            Io::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    /// Until the peer has closed or broken the connection.
    fn poll_discard(&mut self, cx: &mut Context<'_>, chunk: &mut [u8]) -> Poll<()> {
        loop {
            let mut buf = ReadBuf::new(chunk);
            match ready!(self.poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Client(io) => Pin::new(io).poll_shutdown(cx),
            Io::App(io) => Pin::new(io).poll_shutdown(cx),
            Io::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

// === impl Tunnel ===

impl Tunnel {
    pub(super) fn new(client: Side, app: Side, is_websocket: bool) -> Self {
        Self {
            client,
            app,
            to_app: Direction::new(is_websocket, &CLOSE_TO_SERVER),
            to_client: Direction::new(is_websocket, &CLOSE_TO_CLIENT),
        }
    }

    /// Makes [`Tunnel::relay`] end soon.
    pub(super) fn begin_close(&mut self) {
        self.to_app.begin_close();
        self.to_client.begin_close();
    }

    /// After [`Tunnel::begin_close`]: relays until both directions have ended and both peers have
    /// closed as well. A socket closed with unread bytes would take the close frame with it.
    pub(super) async fn close(
        &mut self,
        chunk: &RefCell<Vec<u8>>,
        to_client: &mut u64,
    ) -> io::Result<()> {
        self.relay(chunk, to_client, None).await?;
        poll_fn(|cx| {
            let mut chunk = chunk.borrow_mut();
            let client = self.client.poll_discard(cx, &mut chunk);
            let app = self.app.poll_discard(cx, &mut chunk);
            ready!(client);
            app
        })
        .await;
        Ok(())
    }

    /// Until both directions have ended, or one broke. Cancel-safe: nothing read is lost, and
    /// calling it again goes on. `to_client` counts what the client got; `traffic` is told whenever
    /// something passed.
    pub(super) async fn relay(
        &mut self,
        chunk: &RefCell<Vec<u8>>,
        to_client: &mut u64,
        traffic: Option<&Traffic>,
    ) -> io::Result<()> {
        poll_fn(|cx| {
            let mut chunk = chunk.borrow_mut();
            chunk.resize(CHUNK, 0);
            let before = *to_client;
            let mut to_app = 0;
            let up = self
                .to_app
                .poll(&mut self.client, &mut self.app, cx, &mut chunk, &mut to_app);
            let down =
                self.to_client
                    .poll(&mut self.app, &mut self.client, cx, &mut chunk, to_client);
            if let Some(traffic) = traffic {
                traffic.passed(to_app > 0, *to_client > before);
            }
            match (up, down) {
                (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                    Poll::Ready(Err(error))
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        })
        .await
    }
}

// === impl Direction ===

impl Direction {
    fn new(is_websocket: bool, close_frame: &'static [u8]) -> Self {
        Self {
            held: BytesMut::new(),
            ending: Ending::No,
            position: is_websocket.then(Position::default),
            close_frame,
        }
    }

    fn begin_close(&mut self) {
        if self.ending != Ending::No {
            return;
        }
        match self.position {
            None => self.ending = Ending::Flush,
            Some(position) if position.is_boundary() => self.close_now(),
            Some(_) => self.ending = Ending::AtBoundary,
        }
    }

    /// A frame has just ended.
    fn close_now(&mut self) {
        self.held.extend_from_slice(self.close_frame);
        self.ending = Ending::Flush;
    }

    fn poll(
        &mut self,
        from: &mut Side,
        to: &mut Side,
        cx: &mut Context<'_>,
        chunk: &mut [u8],
        passed: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.held.is_empty() {
                let written = ready!(to.poll_write(cx, &self.held))?;
                self.held.advance(written);
                *passed += written as u64;
            }
            match self.ending {
                Ending::Done => return Poll::Ready(Ok(())),
                Ending::Flush => {
                    ready!(to.poll_shutdown(cx))?;
                    self.ending = Ending::Done;
                    return Poll::Ready(Ok(()));
                }
                Ending::No | Ending::AtBoundary => {}
            }
            let mut buf = ReadBuf::new(chunk);
            if from.poll_read(cx, &mut buf)?.is_pending() {
                ready!(to.poll_flush(cx))?;
                return Poll::Pending;
            }
            let read = buf.filled().len();
            if read == 0 {
                self.ending = Ending::Flush;
                continue;
            }
            self.pass(to, cx, &chunk[..read], passed)?;
        }
    }

    /// Writes what the other side takes and holds the rest back.
    fn pass(
        &mut self,
        to: &mut Side,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
        passed: &mut u64,
    ) -> io::Result<()> {
        let mut is_last = false;
        if let Some(position) = &mut self.position {
            if self.ending == Ending::AtBoundary {
                bytes = &bytes[..position.pass_to_boundary(bytes)];
                is_last = position.is_boundary();
            } else {
                position.pass(bytes);
            }
        }
        while !bytes.is_empty() {
            let Poll::Ready(written) = to.poll_write(cx, bytes)? else {
                self.held.extend_from_slice(bytes);
                break;
            };
            *passed += written as u64;
            bytes = &bytes[written..];
        }
        if is_last {
            self.close_now();
        }
        Ok(())
    }
}
