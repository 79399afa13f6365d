//! A client's socket, shared between hyper, which reads and writes it, and a watch for the client's
//! leaving.
//!
//! hyper can look out for that itself, but does so by reading ahead, into a second buffer of 8 KiB
//! for every request in progress.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A handle on the socket. An `Arc` only because hyper wants upgradable streams to be `Send`.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<TcpStream>);

/// What a look at a socket found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    End,
    Bytes,
}

/// Looks out for a client's leaving.
#[derive(Default)]
pub(super) struct HangUp {
    /// Boxed: few clients send anything before their answer.
    behind: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Whether the client has closed its side or the connection broke. Once bytes wait to be read, it
    /// is not woken any more: [`HangUp`] sees the end behind them.
    pub(super) fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<Seen> {
        loop {
            if ready!(self.0.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Seen::End);
            }
            let mut byte = [0; 1];
            let peeked = self.0.try_io(Interest::READABLE, || {
                recv(&*self.0, &mut byte, RecvFlags::PEEK).map_err(io::Error::from)
            });
            match peeked {
                Ok((0, _)) => return Poll::Ready(Seen::End),
                Ok(_) => return Poll::Ready(Seen::Bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Seen::End),
            }
        }
    }
}

// === impl HangUp ===

impl HangUp {
    /// Ends when the client of a request in progress has left. While the request `waits`, also behind
    /// bytes that nobody reads yet, which takes a file descriptor.
    pub(super) fn poll(&mut self, socket: &Socket, cx: &mut Context<'_>, waits: bool) -> Poll<()> {
        if !waits {
            self.behind = None;
        }
        if let Some(behind) = &mut self.behind {
            return behind.as_mut().poll(cx);
        }
        match ready!(socket.poll_hung_up(cx)) {
            Seen::End => Poll::Ready(()),
            Seen::Bytes if waits => {
                let socket = socket.as_fd().try_clone_to_owned();
                let behind = self.behind.insert(Box::pin(hung_up(socket)));
                behind.as_mut().poll(cx)
            }
            Seen::Bytes => Poll::Pending,
        }
    }
}

/// Ends when the peer of a socket has closed its side or the connection broke, whatever is unread.
/// Never without a descriptor: as if nobody had asked.
///
/// The kernel reports that only to who watches the socket, and hyper's own watch must not be
/// disturbed; hence a descriptor of one's own.
pub(super) async fn hung_up(socket: io::Result<OwnedFd>) {
    let Ok(socket) = socket.and_then(|socket| TcpStream::from_std(socket.into())) else {
        return std::future::pending().await;
    };
    while let Ok(ready) = socket.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return;
        }
        // Bytes that nobody reads yet. Pretending to have read them makes the next edge count,
        // which brings more of them or the end.
        let unread = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::READABLE, unread);
    }
}

impl Socket {
    /// Leaves `bytes` to the kernel, which sends them with the next write, or else in about 200 ms
    /// from a timer of its own. How many it took, which may be fewer; `WouldBlock` when none.
    ///
    /// Sending is most of what a short answer costs. The kernel's timer does it outside this
    /// process, so that a CPU quota is left for what can be served.
    pub(super) fn try_write_later(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.0.try_io(Interest::WRITABLE, || {
            send(&*self.0, bytes, flags).map_err(io::Error::from)
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let room = buf.remaining_mut();
            match self.0.try_read_buf(buf) {
                Ok(read) => {
                    if 0 < read && read < room {
                        // A read that did not fill its buffer emptied the socket: asking again
                        // would be a system call for nothing. tokio's own `poll_read` knows it too.
                        let emptied = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = self.0.try_io(Interest::READABLE, emptied);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |socket| socket.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |socket| socket.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write);
        // As in tokio: there is nothing left to shut down.
        Poll::Ready(ended.or_else(|error| match error {
            rustix::io::Errno::NOTCONN => Ok(()),
            error => Err(error.into()),
        }))
    }
}

impl Socket {
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), Socket::new(accepted.unwrap().0))
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_seen_and_one_that_sends_is_not_disturbed() {
        let (mut client, mut socket) = pair().await;
        client.write_all(b"first").await.unwrap();
        let mut read = [0; 5];
        socket.read_exact(&mut read).await.unwrap();
        // More than was asked for stays in the socket.
        client.write_all(b"next").await.unwrap();
        socket.0.readable().await.unwrap();
        let watch = socket.clone();
        assert_eq!(poll_fn(|cx| watch.poll_hung_up(cx)).await, Seen::Bytes);
        let mut rest = Vec::new();
        drop(client);
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"next");

        let (client, socket) = pair().await;
        drop(client);
        assert_eq!(poll_fn(|cx| socket.poll_hung_up(cx)).await, Seen::End);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_written_later() {
        let (mut client, mut socket) = pair().await;
        let sent = vec![7; 8 << 20];
        let write = async {
            socket.write_all(&sent).await.unwrap();
            socket.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(client.read_to_end(&mut got), write);
        assert_eq!(read.unwrap(), sent.len());
    }
}
