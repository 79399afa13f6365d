//! A proxy and a scripted app over real sockets, for the tests of the hop.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Connection, Handler, Listener, ServerOptions, Shutdown, serve};
use crate::body::{Body, End, Guard};
use crate::breaker::{Breaker, BreakerParams, Permit};
use crate::deadline::{Deadline, Timeouts};
use crate::forward::{self, ForwardError, error_response, text_response};
use crate::pool::{Upstream, UpstreamOptions};
use crate::upgrade::Tunnels;

/// Nothing in these tests takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on the kind of runtime that the data planes use.
pub(crate) fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("the test hangs") })
}

/// Timeouts that no test reaches.
pub(crate) const LONG: Timeouts = Timeouts {
    total: Duration::from_secs(300),
    response_start: None,
    idle: None,
};

/// The ends of requests, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    seen: Rc<RefCell<Vec<End>>>,
    changed: Rc<Notify>,
}

impl Ends {
    /// Waits for that many.
    pub(crate) async fn wait(&self, count: usize) -> Vec<End> {
        while self.seen.borrow().len() < count {
            self.changed.notified().await;
        }
        self.seen.borrow().clone()
    }
}

/// Tells the end and holds the permit.
#[derive(Debug)]
pub(crate) struct Watcher {
    ends: Ends,
    _permit: Option<Permit>,
}

impl Guard for Watcher {
    fn ended(&mut self, end: End) {
        self.ends.seen.borrow_mut().push(end);
        self.ends.changed.notify_one();
    }
}

/// A proxy in front of one destination.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) timeouts: Timeouts,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) tunnels: Tunnels,
    pub(crate) ends: Ends,
    /// Handler futures that are alive.
    pub(crate) handling: Cell<usize>,
    pub(crate) left: Notify,
}

struct Handling<'a>(&'a Hop);

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        self.0.handling.set(self.0.handling.get() - 1);
        self.0.left.notify_one();
    }
}

impl Hop {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self {
            upstream: Upstream::new(address, UpstreamOptions::default()),
            timeouts: LONG,
            breaker: None,
            tunnels: Tunnels::new(),
            ends: Ends::default(),
            handling: Cell::new(0),
            left: Notify::new(),
        }
    }

    pub(crate) fn with_limit(mut self, limit: i64) -> Self {
        self.breaker = Breaker::new(BreakerParams {
            queue_depth: 10 * limit,
            max_concurrency: limit,
            initial_capacity: limit,
        })
        .ok();
        self
    }

    pub(crate) fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        deadline: &Deadline,
    ) -> Result<Response<Body<Option<Watcher>>>, ForwardError> {
        let permit = match &self.breaker {
            None => None,
            Some(breaker) => match breaker.enter().await {
                Ok(permit) => Some(permit),
                Err(full) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(error_response(status, &full.to_string(), None));
                }
            },
        };
        assert_ne!(request.uri().path(), "/panic", "as the test wants it");
        let forwarded = forward::forward(&self.upstream, request, connection).await?;
        let watcher = Watcher {
            ends: self.ends.clone(),
            _permit: permit,
        };
        let mut guard = Some(watcher);
        if let Some(upgrade) = forwarded.upgrade {
            self.tunnels
                .spawn(upgrade, deadline.lifetime(), guard.take());
        }
        Ok(forwarded.response.map(|body| Body::upstream(body, guard)))
    }
}

impl Handler for Hop {
    type Guard = Option<Watcher>;

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Body<Self::Guard>> {
        self.handling.set(self.handling.get() + 1);
        let _handling = Handling(self);
        let deadline = connection.deadline(&self.timeouts);
        match deadline
            .limit(self.answer(request, connection, &deadline))
            .await
        {
            Ok(Ok(response)) => {
                response.map(|body| body.with_deadline(deadline, "request timeout"))
            }
            Ok(Err(error)) => error.response(None),
            Err(_) => text_response(StatusCode::GATEWAY_TIMEOUT, "request timeout", None),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<()>,
}

/// Serves on a free port of the loopback.
pub(crate) async fn start<H: Handler>(handler: Rc<H>, options: ServerOptions) -> Running {
    let socket = listen().await;
    let address = socket.local_addr().expect("bound");
    let shutdown = Shutdown::new();
    let listeners = vec![Listener::plain(socket)];
    let task = tokio::task::spawn_local(serve(listeners, handler, options, shutdown.clone()));
    Running {
        address,
        shutdown,
        task,
    }
}

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

/// An app that a test plays by hand, and the proxy in front of it.
pub(crate) async fn app_and_hop(
    adjust: impl FnOnce(Hop) -> Hop,
) -> (TcpListener, Rc<Hop>, Running) {
    let app = listen().await;
    let hop = Hop::to(app.local_addr().expect("bound"));
    let hop = Rc::new(adjust(hop));
    let running = start(Rc::clone(&hop), ServerOptions::default()).await;
    (app, hop, running)
}

pub(crate) async fn accept(app: &TcpListener) -> TcpStream {
    app.accept().await.expect("a connection").0
}

/// Connects and sends.
pub(crate) async fn send(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    write(&mut stream, bytes).await;
    stream
}

pub(crate) async fn write(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).await.expect("written");
}

/// Reads until the text ends so; fails when the stream ends first.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let byte = stream.read_u8().await;
        read.push(byte.unwrap_or_else(|error| panic!("{error} after {}", text(&read))));
    }
    text(&read)
}

/// A head with its blank line.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    read_until(stream, "\r\n\r\n").await
}

/// Whatever comes until the peer closes or resets.
pub(crate) async fn read_rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    text(&read)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
