//! Accept loop and connections of one server: HTTP/1 and h2c on one port, optionally behind TLS.
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::body::{Body, Guard};
use crate::deadline::{Deadline, Timeouts};

/// Answers requests. Dropping the future (client gone, hard stop) cancels the request.
pub trait Handler: 'static {
    type Guard: Guard;
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<Body<Self::Guard>>>;
}

/// What a handler may ask about the connection of a request.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    tls: bool,
}

impl Connection {
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
    pub fn is_tls(&self) -> bool {
        self.tls
    }
    /// Starts the clocks of the request being handled.
    pub fn deadline(&self, _timeouts: &Timeouts) -> Deadline {
        todo!()
    }
}

#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Off for admin ports. Default on.
    pub http2: bool,
    /// From accept, or from the first byte of a later request, to the last header byte; default 60 s.
    pub header_read_timeout: Duration,
    /// Open at once; more wait in the kernel's backlog. Default 65536.
    pub max_connections: usize,
    /// Bytes of a request head; default 1 MiB.
    pub max_header_bytes: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            http2: true,
            header_read_timeout: Duration::from_secs(60),
            max_connections: 65536,
            max_header_bytes: 1 << 20,
        }
    }
}

/// A bound socket, with TLS or without.
#[derive(Debug)]
pub struct Listener {
    _socket: TcpListener,
}

impl Listener {
    pub fn plain(_socket: TcpListener) -> Self {
        todo!()
    }
    pub fn tls(_socket: TcpListener, _acceptor: TlsAcceptor) -> Self {
        todo!()
    }
}

/// Ends a server; clones share. `!Send`.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    _state: Rc<()>,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }
    /// Stops accepting; GOAWAY and `Connection: close`; running requests finish.
    pub fn drain(&self) {
        todo!()
    }
    /// Drops every connection now.
    pub fn stop(&self) {
        todo!()
    }
}

/// Serves until `shutdown` has been told to drain and every connection has ended. Tunnels are not
/// connections any more; see `upgrade::Tunnels`.
pub async fn serve<H: Handler>(
    _listeners: Vec<Listener>,
    _handler: Rc<H>,
    _options: ServerOptions,
    _shutdown: Shutdown,
) {
    todo!()
}
