//! The whole activator over real sockets: small pods that answer probes as a queue-proxy does, an
//! activator in front of them, clients and an autoscaler around it.

mod affinity;
mod change;
mod edges;
mod fairness;
mod hostile;
mod ingress;
mod limits;
mod lost_pods;
mod pods;
#[cfg(feature = "kubernetes")]
mod process;
mod replays;
mod request_path;
mod routing;
mod scrape;
mod sharing;
mod stats;
mod streams;
mod threads;
mod tls;
mod traces;
#[cfg(feature = "kubernetes")]
mod workers;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use serving::RevisionId;
use serving::http_metrics::HTTP_SCOPE;
use serving::server::{self, Listener, ServerOptions, Shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::metrics::OWN_SCOPE;
use crate::{Activator, Backends, Options, Revision, RevisionSnapshot, UPDATES_CAPACITY, Update};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on a runtime of its own.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(3 * PATIENCE, test)
            .await
            .expect("the test ends in time");
    });
}

/// Waits until a condition holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A connection over HTTP/2 by prior knowledge.
async fn http2<B>(address: SocketAddr) -> SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

/// An activator that serves on a port of its own.
struct World {
    activator: Activator,
    updates: mpsc::Sender<Update>,
    address: SocketAddr,
    registry: Registry,
}

fn id() -> RevisionId {
    RevisionId::new("default", "hello-00001")
}

fn revision(container_concurrency: u32) -> Revision {
    Revision {
        container_concurrency,
        service: "hello".to_owned(),
        ..Revision::new(id())
    }
}

impl World {
    async fn start() -> Self {
        Self::start_with(Options::new("activator-0", "10.1.0.1")).await
    }

    async fn start_with(options: Options) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(socket, options)
    }

    fn start_on(socket: TcpListener, mut options: Options) -> Self {
        let address = socket.local_addr().unwrap();
        options.probe.frequency = Duration::from_millis(5);
        let mut registry = Registry::default();
        let (updates, received) = mpsc::channel(UPDATES_CAPACITY);
        let (activator, driver) = crate::new(options, received, &mut registry);
        tokio::task::spawn_local(driver.run());
        tokio::task::spawn_local(server::serve(
            vec![Listener::plain(socket)],
            Rc::new(activator.clone()),
            crate::server_options(),
            Shutdown::new(),
        ));
        Self {
            activator,
            updates,
            address,
            registry,
        }
    }

    /// A world with one revision at zero.
    async fn with(revision: Revision) -> Self {
        let world = Self::start().await;
        world.revision(revision).await;
        world
    }

    async fn revision(&self, revision: Revision) {
        let id = revision.id.clone();
        self.update(Update::Revision(revision)).await;
        eventually("the revision is known", || {
            self.activator.snapshot().iter().any(|it| it.id == *id)
        })
        .await;
    }

    async fn update(&self, update: Update) {
        self.updates.send(update).await.unwrap();
    }

    /// Lists pods as ready.
    async fn list(&self, ready: &[SocketAddr]) {
        let backends = Backends {
            ready: ready.to_vec(),
            ..Backends::default()
        };
        self.update(Update::Backends(id(), backends)).await;
    }

    /// Lists pods and waits until they are in rotation.
    async fn list_and_wait(&self, ready: &[SocketAddr]) {
        self.list(ready).await;
        eventually("all pods are in rotation", || {
            self.snapshot().destinations.len() == ready.len()
        })
        .await;
    }

    fn snapshot(&self) -> RevisionSnapshot {
        let all = self.activator.snapshot();
        all.into_iter().find(|it| it.id == id()).unwrap()
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, request: Request<Empty<Bytes>>) -> Answer {
        send(self.address, request).await
    }

    /// `GET /` for the revision.
    async fn get(&self, path: &str) -> Answer {
        self.send(request(path)).await
    }

    /// Without the labels of scopes, which are the same for all series of a part.
    fn scrape(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        for scope in [OWN_SCOPE, HTTP_SCOPE] {
            let (name, version) = (scope.name, scope.version);
            text = text.replace(
                &format!(
                    "otel_scope_name=\"{name}\",otel_scope_schema_url=\"\",\
                     otel_scope_version=\"{version}\","
                ),
                "",
            );
        }
        text
    }
}

/// A complete response.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    to_revision(path).body(Empty::new()).unwrap()
}

fn to_revision(path: &str) -> http::request::Builder {
    Request::get(path)
        .header("host", "hello.example.com")
        .header("knative-serving-namespace", "default")
        .header("knative-serving-revision", "hello-00001")
}

async fn send(address: SocketAddr, request: Request<Empty<Bytes>>) -> Answer {
    let response = respond(address, request).await;
    collect(response).await
}

async fn collect(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// The head of a response; the connection lives until its body ends.
async fn respond<B>(address: SocketAddr, request: Request<B>) -> Response<Incoming>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await.unwrap()
}

/// Runs a future in the background; a flag tells when it is done.
fn background<T: 'static>(
    future: impl Future<Output = T> + 'static,
) -> (tokio::task::JoinHandle<T>, Rc<Cell<bool>>) {
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    let task = tokio::task::spawn_local(async move {
        let output = future.await;
        flag.set(true);
        output
    });
    (task, done)
}

/// A request body fed by a channel.
struct ChannelBody(mpsc::Receiver<Bytes>);

impl http_body::Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

/// What this thread logs, as `message key=value`; nothing after the guard is dropped.
fn events() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let guard = tracing::subscriber::set_default(Events(lines.clone()));
    (lines, guard)
}

struct Events(Lines);

impl tracing::Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("activator")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = format!("{}", event.metadata().level());
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                text.push_str(&format!(" {}={value:?}", field.name()));
            },
        );
        text.push('\n');
        self.0.0.lock().extend_from_slice(text.as_bytes());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
