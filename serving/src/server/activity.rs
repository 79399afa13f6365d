//! A stream that remembers whether anything was read, and hands out a second handle of its socket
//! to whoever has to know that the client hung up.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::gate::{Edge, REFUSAL};
use super::{Socket, socket};

/// Up to this many bytes in several pieces are written as one.
const GATHERED: usize = 1024;

/// Whether bytes arrived since somebody last asked. Atomic only because hyper wants upgradable
/// streams to be `Send`; nothing is ordered by it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    read: AtomicBool,
    /// Somebody waits for a second handle; looked at whenever hyper flushes.
    wanted: AtomicBool,
    handle: Mutex<Handle>,
    edge: Edge,
}

/// A second handle on its way from the stream to who asked for it.
#[derive(Debug, Default)]
struct Handle {
    waker: Option<Waker>,
    socket: Option<io::Result<OwnedFd>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Observed<I> {
    io: I,
    activity: Activity,
}

// === impl Activity ===

impl Activity {
    pub(crate) fn is_set(&self) -> bool {
        self.0.read.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        self.0.read.store(false, Ordering::Relaxed);
    }

    /// Where requests begin on this connection.
    pub(super) fn edge(&self) -> &Edge {
        &self.0.edge
    }

    fn set(&self) {
        self.0.read.store(true, Ordering::Relaxed);
    }

    /// Ends when the peer has closed its side or the connection broke, although nobody reads.
    pub(crate) async fn hung_up(&self) {
        socket::hung_up(self.second_handle().await).await;
    }

    async fn second_handle(&self) -> io::Result<OwnedFd> {
        self.0.wanted.store(true, Ordering::Relaxed);
        poll_fn(|cx| {
            let mut handle = self.0.handle.lock();
            match handle.socket.take() {
                Some(socket) => Poll::Ready(socket),
                None => {
                    handle.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Makes a second handle if somebody wants one.
    fn offer<I: 'static>(&self, io: &I) {
        if !self.0.wanted.load(Ordering::Relaxed) {
            return;
        }
        self.0.wanted.store(false, Ordering::Relaxed);
        let mut handle = self.0.handle.lock();
        handle.socket = Some(duplicate(io));
        if let Some(waker) = handle.waker.take() {
            waker.wake();
        }
    }
}

/// A second descriptor of the socket under a stream.
fn duplicate(io: &dyn Any) -> io::Result<OwnedFd> {
    let socket = if let Some(tls) = io.downcast_ref::<TlsStream<TcpStream>>() {
        tls.get_ref().0.as_fd()
    } else if let Some(socket) = io.downcast_ref::<Socket>() {
        socket.as_fd()
    } else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    socket.try_clone_to_owned()
}

/// How much of `bytes` the kernel took, to send it in its own time; only connections in the clear
/// have a gate.
fn write_later(io: &dyn Any, bytes: &[u8]) -> io::Result<usize> {
    match io.downcast_ref::<Socket>() {
        Some(socket) => socket.try_write_later(bytes),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

// === impl Observed ===

impl<I> Observed<I> {
    pub(crate) fn new(io: I, activity: Activity) -> Self {
        Self { io, activity }
    }

    pub(crate) fn into_inner(self) -> I {
        self.io
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>, length: usize) {
        let written = match result {
            Poll::Ready(Ok(written)) => *written,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.activity.edge().wrote(written, length);
    }
}

impl<I: AsyncWrite + Unpin + 'static> Observed<I> {
    /// Writes one piece. A small answer that is complete is left to the kernel where the gate says
    /// so.
    fn write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.len() <= GATHERED && self.activity.edge().may_send_later() {
            match write_later(&self.io, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
}

impl<I: AsyncRead + Unpin + 'static> AsyncRead for Observed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let result = Pin::new(&mut self.io).poll_read(cx, buf);
            if buf.filled().len() == before {
                return result;
            }
            if !self.activity.edge().read(&buf.filled()[before..]) {
                self.activity.set();
                return result;
            }
            if write_later(&self.io, REFUSAL)? != REFUSAL.len() {
                // A client that does not read its answers.
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.activity.edge().refused();
            buf.set_filled(before);
        }
    }
}

impl<I: AsyncWrite + Unpin + 'static> AsyncWrite for Observed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = self.write(cx, buf);
        self.wrote(&result, buf.len());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head with a small body: copying is cheaper than having the kernel gather.
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let result = match bufs {
            [only] => self.write(cx, only),
            several if length <= GATHERED => {
                let mut gathered = SmallVec::<[u8; GATHERED]>::new();
                several
                    .iter()
                    .for_each(|buf| gathered.extend_from_slice(buf));
                self.write(cx, &gathered)
            }
            many => Pin::new(&mut self.io).poll_write_vectored(cx, many),
        };
        self.wrote(&result, length);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes after each poll of a handler.
        self.activity.offer(&self.io);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    /// The watch sees the end behind unread bytes, and takes none of them.
    #[tokio::test]
    async fn sees_a_hang_up_behind_unread_bytes() {
        for reset in [false, true] {
            let (mut client, accepted) = pair().await;
            let activity = Activity::default();
            let mut observed = Observed::new(Socket::new(accepted), activity.clone());
            client.write_all(b"unread").await.unwrap();
            let mut hung_up = std::pin::pin!(activity.hung_up());
            let mut poll = async || {
                poll_fn(|cx| {
                    let _ = Pin::new(&mut observed).poll_flush(cx);
                    Poll::Ready(hung_up.as_mut().poll(cx))
                })
                .await
            };
            for _ in 0..100 {
                assert!(poll().await.is_pending());
                tokio::task::yield_now().await;
            }
            client.write_all(b" more").await.unwrap();
            if reset {
                client.set_zero_linger().unwrap();
            }
            drop(client);
            while poll().await.is_pending() {
                tokio::task::yield_now().await;
            }
            if !reset {
                let mut text = String::new();
                let read = tokio::io::AsyncReadExt::read_to_string(&mut observed, &mut text);
                assert_eq!(read.await.unwrap(), "unread more".len());
            }
        }
    }

    /// What is no socket cannot be watched, and nothing ends.
    #[tokio::test]
    async fn other_streams_are_not_watched() {
        let (_client, server) = tokio::io::duplex(64);
        let activity = Activity::default();
        let mut observed = Observed::new(server, activity.clone());
        let mut hung_up = std::pin::pin!(activity.hung_up());
        for _ in 0..10 {
            let ended = poll_fn(|cx| {
                let _ = Pin::new(&mut observed).poll_flush(cx);
                Poll::Ready(hung_up.as_mut().poll(cx).is_ready())
            });
            assert!(!ended.await);
        }
    }
}
