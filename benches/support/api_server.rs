//! An API server of memory alone: list, watch, create, replace and `/scale`, enough for an
//! autoscaler of any make. It runs on a thread of its own, and its objects are kept as the text
//! that is sent.
//!
//! It is also the controller of ServerlessServices: whatever is written is observed at once. It does
//! not make pods, validate, default, or know any resource beyond its path.

mod store;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use self::store::Object;
use self::store::Store;

/// Scale patches that nobody has looked at yet.
const SCALED_CAPACITY: usize = 200_000;

/// A patch of a scale target's replicas.
#[derive(Clone, Debug)]
pub struct Scaled {
    /// The target.
    pub name: String,
    pub replicas: i64,
    /// When the request had been read.
    pub at: Instant,
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    pub address: SocketAddr,
    /// Every patch of `/scale`.
    pub scaled: mpsc::Receiver<Scaled>,
    writes: Arc<AtomicU64>,
    _stop: oneshot::Sender<()>,
}

type ReplyBody = Either<Full<Bytes>, WatchBody>;

/// The events of one watch, for ever.
struct WatchBody(mpsc::Receiver<Bytes>);

struct Server {
    store: RefCell<Store>,
    scaled: mpsc::Sender<Scaled>,
    writes: Arc<AtomicU64>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Serves `objects` on a port of loopback.
    ///
    /// # Errors
    /// When no thread or port is to be had.
    pub fn start(objects: Vec<Object>) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (sender, scaled) = mpsc::channel(SCALED_CAPACITY);
        let writes = Arc::new(AtomicU64::new(0));
        let counted = writes.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("api-server".to_owned())
            .spawn(move || {
                let server = Rc::new(Server {
                    store: RefCell::new(Store::new(objects)),
                    scaled: sender,
                    writes: counted,
                });
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    tokio::select! {
                        result = accept(listener, server) => drop(result),
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            scaled,
            writes,
            _stop: stop,
        })
    }

    /// Requests so far that changed something, Leases aside.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
             clusters: [{{name: bench, cluster: {{server: 'http://{}'}}}}]\n\
             users: [{{name: bench, user: {{}}}}]\n\
             contexts: [{{name: bench, context: {{cluster: bench, user: bench}}}}]\n",
            self.address
        )
    }
}

async fn accept(listener: std::net::TcpListener, server: Rc<Server>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = server.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        tokio::task::spawn_local(async move {
            // A client that is killed breaks its connections.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

// === impl Server ===

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return refusal(StatusCode::BAD_REQUEST);
        };
        let at = Instant::now();
        let path = head.uri.path();
        if path == "/version" {
            let version = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0"});
            return reply(StatusCode::OK, version.to_string().into());
        }
        let Some(place) = Place::parse(path) else {
            return refusal(StatusCode::NOT_FOUND);
        };
        let body = body.to_bytes();
        let changes = head.method != Method::GET && place.resource != "leases";
        self.writes.fetch_add(u64::from(changes), Ordering::Relaxed);
        match (head.method, place.name) {
            (Method::GET, Some(name)) => self.found(place.namespace, name, place.resource),
            (Method::GET, None) => self.collection(&place, head.uri.query().unwrap_or("")),
            (Method::PATCH, Some(name)) => self.scale(&place, name, &body, at),
            (Method::POST, None) => {
                let created = parsed(&body).and_then(|object| {
                    let mut store = self.store.borrow_mut();
                    store.create(place.resource, place.namespace, object)
                });
                written(created, StatusCode::CREATED)
            }
            (Method::PUT, Some(name)) => {
                let replaced = parsed(&body).and_then(|object| {
                    let mut store = self.store.borrow_mut();
                    store.replace(place.resource, place.namespace, name, place.part, object)
                });
                written(replaced, StatusCode::OK)
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn found(&self, namespace: &str, name: &str, resource: &str) -> Response<ReplyBody> {
        match self.store.borrow().get(resource, namespace, name) {
            Some(text) => reply(StatusCode::OK, text),
            None => refusal(StatusCode::NOT_FOUND),
        }
    }

    fn collection(&self, place: &Place<'_>, query: &str) -> Response<ReplyBody> {
        let value = |wanted: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(name, value)| (name == wanted).then_some(value))
        };
        let mut store = self.store.borrow_mut();
        if matches!(value("watch"), Some("true" | "1")) {
            let from = value("resourceVersion").and_then(|it| it.parse().ok());
            let events = store.watch(place.resource, place.namespace, from.unwrap_or(0));
            return Response::new(Either::Right(WatchBody(events)));
        }
        let limit = value("limit").and_then(|it| it.parse().ok());
        let after = value("continue").and_then(|it| it.parse().ok());
        let text = store.list(
            place.resource,
            place.namespace,
            after.unwrap_or(0),
            limit.unwrap_or(usize::MAX),
        );
        reply(StatusCode::OK, text)
    }

    /// `[{"op":"add","path":"/spec/replicas","value":N}]`
    fn scale(
        &self,
        place: &Place<'_>,
        name: &str,
        body: &[u8],
        at: Instant,
    ) -> Response<ReplyBody> {
        let replicas = parsed(body)
            .ok()
            .and_then(|patch| patch[0]["value"].as_i64())
            .filter(|_| place.part == Some("scale"));
        let Some(replicas) = replicas else {
            return refusal(StatusCode::BAD_REQUEST);
        };
        let scaled = Scaled {
            name: name.to_owned(),
            replicas,
            at,
        };
        // What does not fit is missed by whoever waits for it, who says so.
        let _ = self.scaled.try_send(scaled);
        let mut store = self.store.borrow_mut();
        let done = store.scale(place.resource, place.namespace, name, replicas);
        written(done, StatusCode::OK)
    }
}

/// What a path names: `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/PART`.
struct Place<'a> {
    /// The plural, group and version aside.
    resource: &'a str,
    namespace: &'a str,
    name: Option<&'a str>,
    part: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let version = match *parts.first()? {
            "api" => 2,
            "apis" => 3,
            _ => return None,
        };
        let (namespace, at) = match parts.get(version) {
            Some(&"namespaces") if parts.len() > version + 2 => {
                (*parts.get(version + 1)?, version + 2)
            }
            _ => ("", version),
        };
        Some(Self {
            resource: parts.get(at)?,
            namespace,
            name: parts.get(at + 1).copied(),
            part: parts.get(at + 2).copied(),
        })
    }
}

fn parsed(body: &[u8]) -> Result<Value, StatusCode> {
    serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)
}

fn written(result: Result<Bytes, StatusCode>, status: StatusCode) -> Response<ReplyBody> {
    match result {
        Ok(text) => reply(status, text),
        Err(status) => refusal(status),
    }
}

fn reply(status: StatusCode, text: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(Either::Left(Full::new(text)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn refusal(status: StatusCode) -> Response<ReplyBody> {
    let reason = match status {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        _ => "BadRequest",
    };
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": status.as_u16()
    });
    reply(status, text.to_string().into())
}

// === impl WatchBody ===

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
