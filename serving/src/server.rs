//! Accept loop and connections of one server: HTTP/1 and h2c with prior knowledge on one port,
//! optionally behind TLS.
//!
//! One local task per connection; HTTP/2 adds one per stream. Each task's outermost future watches
//! the deadlines of its request and the server's shutdown. A panic ends the task of its connection
//! (HTTP/1) or stream (HTTP/2) and nothing else.
//!
//! What the handler of upstream's Go server would have refused is refused here as well, before the
//! handler: see `vet`.

mod activity;
mod connection;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod gate;
mod http1;
mod http2;
mod shutdown;
mod sniff;
mod socket;
mod vet;

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

pub(crate) use self::activity::{Activity, Observed};
pub(crate) use self::connection::Busy;
pub use self::connection::Connection;
pub use self::gate::Gate;
pub use self::shutdown::Shutdown;
use self::sniff::Sniffed;
pub(crate) use self::socket::Socket;
use crate::body::{Body, Guard};
use crate::deadline::{Timers, Watch};
use crate::header::join_cookies;

/// Pauses after an accept that failed for want of resources, doubled from the first to the second.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// HTTP/2 streams per connection.
const MAX_STREAMS: u32 = 250;
/// The HTTP/2 receive window of a connection, and of a stream where the options say no other.
const WINDOW: u32 = 1 << 20;
/// The largest HTTP/2 frame that is accepted.
const MAX_FRAME: u32 = 1 << 20;
/// Streams that a client opened and reset before they were looked at (Rapid Reset).
const MAX_PENDING_RESETS: usize = 50;
/// Streams that were reset because of the client's own errors (MadeYouReset).
const MAX_ERROR_RESETS: usize = 1024;
/// Response bytes buffered per HTTP/2 stream: what a client that opens its windows and does not
/// read can make us hold, times [`MAX_STREAMS`].
const MAX_SEND_BUFFER: usize = 64 << 10;
/// What a head may exceed the configured limit by, as in Go.
const HEAD_SLACK: usize = 4 << 10;

/// Answers requests.
pub trait Handler: 'static {
    /// Lives as long as a response's body.
    type Guard: Guard;

    /// Answers one request. The future is dropped when the client leaves, when the server is
    /// stopped, or when the connection breaks.
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<Body<Self::Guard>>>;
}

/// How a server serves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Whether HTTP/2 is spoken, by prior knowledge or ALPN. Off for admin ports. Default: on.
    pub http2: bool,
    /// From accept to the end of the first request's head, and from the first byte of a later
    /// request to the end of its head. An idle connection is not limited. Default: 60 s.
    pub header_read_timeout: Duration,
    /// Connections open at once; further ones wait in the kernel's backlog. Default: 65,536.
    pub max_connections: usize,
    /// Bytes of a request's head. Default: 1 MiB.
    pub max_header_bytes: usize,
    /// Header lines of a request's head. `None` is hyper's 100, which need no memory of their own;
    /// any other number costs two allocations per request. On HTTP/2 it is 512. Default: `None`.
    pub max_headers: Option<usize>,
    /// Bytes of an HTTP/2 stream's body that its client may send before they are read; those of all
    /// streams of a connection may be 1 MiB. Default: as many, as in Go.
    pub stream_window: u32,
    /// Refuses plain HTTP/1 requests in the clear while the process lacks CPU time. Default: `None`.
    pub gate: Option<Arc<Gate>>,
}

/// A bound socket, with TLS or without.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// A [`Listener`] on its way to another thread.
pub struct DetachedListener {
    socket: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
}

/// What the connections of one server share.
struct Server<H> {
    handler: Rc<H>,
    options: ServerOptions,
    shutdown: Shutdown,
    timers: Rc<Timers>,
    open: Cell<usize>,
    /// A connection has ended.
    ended: Notify,
}

/// One open connection in the count.
struct Open<H>(Rc<Server<H>>);

/// Serves until `shutdown` drains and every connection has ended. Tunnels have left the server by
/// then; see [`crate::upgrade::Tunnels`].
///
/// Dropping the future stops accepting; connections go on until `shutdown` ends them. Must run
/// within a tokio `LocalRuntime` or `LocalSet`.
pub async fn serve<H: Handler>(
    listeners: Vec<Listener>,
    handler: Rc<H>,
    options: ServerOptions,
    shutdown: Shutdown,
) {
    let server = Rc::new(Server {
        handler,
        options,
        shutdown,
        timers: Rc::default(),
        open: Cell::new(0),
        ended: Notify::new(),
    });
    join_all(listeners.into_iter().map(|it| server.accept_from(it))).await;
    while server.open.get() > 0 {
        server.ended.notified().await;
    }
}

// === impl ServerOptions ===

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            http2: true,
            header_read_timeout: Duration::from_secs(60),
            max_connections: 65_536,
            max_header_bytes: 1 << 20,
            max_headers: None,
            stream_window: WINDOW,
            gate: None,
        }
    }
}

// === impl Listener ===

impl Listener {
    /// Cleartext.
    pub fn plain(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }

    /// TLS; `acceptor` decides what ALPN offers.
    pub fn tls(socket: TcpListener, acceptor: TlsAcceptor) -> Self {
        Self {
            socket,
            tls: Some(acceptor),
        }
    }

    /// A second listener of the same socket for a server on another thread: each connection is
    /// accepted by whichever comes first.
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn detached(&self) -> io::Result<DetachedListener> {
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        Ok(DetachedListener {
            socket: socket.into(),
            tls: self.tls.clone(),
        })
    }
}

impl fmt::Debug for DetachedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedListener")
            .field("socket", &self.socket)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("socket", &self.socket)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

// === impl DetachedListener ===

impl DetachedListener {
    /// The listener of this thread, which must run a tokio runtime with I/O.
    ///
    /// # Errors
    /// The runtime cannot take the socket.
    pub fn attach(self) -> io::Result<Listener> {
        Ok(Listener {
            socket: TcpListener::from_std(self.socket)?,
            tls: self.tls,
        })
    }
}

// === impl Server ===

impl<H: Handler> Server<H> {
    async fn accept_from(self: &Rc<Self>, listener: Listener) {
        let mut pause = ACCEPT_PAUSES.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.draining() => return,
                accepted = self.accept(&listener.socket) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause = ACCEPT_PAUSES.0;
                    let task = Rc::clone(self).connection(stream, peer, listener.tls.clone());
                    tokio::task::spawn_local(task);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::select! {
                        () = self.shutdown.draining() => return,
                        () = sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSES.1),
                    }
                }
            }
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(&self, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        while self.open.get() >= self.options.max_connections {
            self.ended.notified().await;
        }
        socket.accept().await
    }

    /// Counts from the call on, so that a burst of accepts cannot exceed the limit.
    fn connection(
        self: Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> impl Future<Output = ()> {
        self.open.set(self.open.get() + 1);
        let open = Open(self);
        async move {
            let server = &open.0;
            // Without it small responses would wait for the client's acknowledgement.
            let _ = stream.set_nodelay(true);
            let watch = Watch::supervised(Rc::clone(&server.timers));
            watch.expect_head(Some(Instant::now() + server.options.header_read_timeout));
            let connection = Connection::new(peer, tls.is_some(), watch);
            match tls {
                None => server.serve_plain(stream, connection).await,
                Some(acceptor) => Box::pin(server.serve_tls(stream, acceptor, connection)).await,
            }
        }
    }

    async fn serve_plain(self: &Rc<Self>, stream: TcpStream, connection: Rc<Connection>) {
        if let Some(gate) = &self.options.gate {
            connection.activity().edge().guard_with(gate);
        }
        if !self.options.http2 {
            return http1::serve_socket(self, stream, connection).await;
        }
        let preface = sniff::preface(&stream);
        match sniff::in_time(preface, &connection, &self.shutdown).await {
            Some(Sniffed::Http1) => http1::serve_socket(self, stream, connection).await,
            Some(Sniffed::Http2) => Box::pin(http2::serve(self, stream, connection)).await,
            None => {}
        }
    }

    async fn serve_tls(
        self: &Rc<Self>,
        mut stream: TcpStream,
        acceptor: TlsAcceptor,
        connection: Rc<Connection>,
    ) {
        let handshake = async {
            if sniff::is_cleartext(&stream).await {
                sniff::refuse_cleartext(&mut stream).await;
                return None;
            }
            let mut stream = acceptor.accept(stream).await.ok()?;
            let http2 = match stream.get_ref().1.alpn_protocol() {
                Some(protocol) => protocol == b"h2",
                None => sniff::is_preface(&mut stream).await,
            };
            Some((stream, http2 && self.options.http2))
        };
        let handshake = sniff::in_time(handshake, &connection, &self.shutdown).await;
        let Some((stream, http2)) = handshake else {
            return;
        };
        if http2 {
            http2::serve(self, stream, connection).await;
        } else {
            http1::serve(self, stream, connection).await;
        }
    }

    /// One request, on whichever protocol.
    fn answer(
        self: &Rc<Self>,
        mut request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Result<Response<Body<H::Guard>>, Infallible>> + use<H> {
        let handler = Rc::clone(&self.handler);
        // Boxed, as nearly no request has one: its room would be in every request's future.
        let refusal = vet::refusal(&request, self.options.max_headers).map(Box::new);
        // After their number was looked at.
        if request.version() == Version::HTTP_2 {
            join_cookies(request.headers_mut());
        }
        connection.activity().edge().begin(&request);
        let busy = connection.begin();
        // Boxed as well, and the box emptied by a call: a future keeps the room of what it was made
        // with until its end, and there is one for every request that waits.
        let request = Box::new(request);
        async move {
            let mut response = match refusal {
                Some(refusal) => *refusal,
                None => handler.handle(unbox(request), busy.connection()).await,
            };
            response.body_mut().keep_busy(busy);
            Ok(response)
        }
    }
}

impl<H> Drop for Open<H> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        // Both the accept loops and the end of `serve` wait for this.
        self.0.ended.notify_waiters();
    }
}

/// Frees the box at once: in an async block it would stay until the block's end.
#[expect(
    clippy::boxed_local,
    reason = "to take it out of the box is the purpose"
)]
fn unbox<T>(boxed: Box<T>) -> T {
    *boxed
}

/// Whether only the connection that was to be accepted is affected.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
