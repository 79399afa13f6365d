//! Apps behind the sidecar: a handler over hyper, or a script over a bare socket.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::client::LocalExecutor;

pub(crate) type AppBody = UnsyncBoxBody<Bytes, Broken>;

/// Why an app's body breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the app broke off")]
pub(crate) struct Broken;

/// One request as the app saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) host: String,
}

/// A running app.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<RefCell<Vec<Seen>>>,
    /// Requests whose handler runs now, and the most there ever were.
    pub(crate) running: Rc<Cell<usize>>,
    pub(crate) most: Rc<Cell<usize>>,
}

struct Running(Rc<Cell<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl App {
    /// Answers every request with `ok`.
    pub(crate) async fn ok() -> Self {
        Self::start(|_| async { text("ok") }).await
    }

    /// Serves HTTP/1 and h2c with `handler`.
    pub(crate) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + 'static,
        F: Future<Output = Response<AppBody>> + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let app = Self {
            address: socket.local_addr().expect("bound"),
            seen: Rc::default(),
            running: Rc::default(),
            most: Rc::default(),
        };
        let handler: Rc<dyn Fn(Request<Incoming>) -> LocalBoxFuture<'static, Response<AppBody>>> =
            Rc::new(move |request| Box::pin(handler(request)));
        let serving = app.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::task::spawn_local(connection(stream, serving.clone(), Rc::clone(&handler)));
            }
        });
        app
    }

    /// Runs `script` on every connection.
    pub(crate) async fn raw<H, F>(script: H) -> SocketAddr
    where
        H: Fn(TcpStream) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::task::spawn_local(script(stream));
            }
        });
        address
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.borrow().len()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.borrow().last().cloned().expect("a request")
    }
}

async fn connection(
    stream: TcpStream,
    app: App,
    handler: Rc<dyn Fn(Request<Incoming>) -> LocalBoxFuture<'static, Response<AppBody>>>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        app.seen.borrow_mut().push(Seen {
            method: request.method().to_string(),
            target: request
                .uri()
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            version: request.version(),
            headers: request.headers().clone(),
            host: request
                .uri()
                .authority()
                .map(ToString::to_string)
                .or_else(|| {
                    let host = request.headers().get("host")?;
                    host.to_str().ok().map(str::to_owned)
                })
                .unwrap_or_default(),
        });
        app.running.set(app.running.get() + 1);
        app.most.set(app.most.get().max(app.running.get()));
        let running = Running(Rc::clone(&app.running));
        let response = handler(request);
        async move {
            let response = response.await;
            drop(running);
            Ok::<_, Infallible>(response)
        }
    });
    // A client that leaves is no failure of the app.
    let _ = auto::Builder::new(LocalExecutor)
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

/// A complete body.
pub(crate) fn text(text: impl Into<Bytes>) -> Response<AppBody> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

/// A body that is fed as the test goes; dropping the sender ends it, an error breaks it.
pub(crate) fn stream() -> (
    mpsc::Sender<Result<&'static str, Broken>>,
    Response<AppBody>,
) {
    let (sender, mut receiver) = mpsc::channel::<Result<&'static str, Broken>>(16);
    let frames = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|item| {
            item.map(|chunk| chunk.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))))
        })
    });
    let body: Pin<Box<dyn http_body::Body<Data = Bytes, Error = Broken> + Send>> =
        Box::pin(StreamBody::new(frames));
    (sender, Response::new(body.boxed_unsync()))
}

/// Reads a request head, up to and including the empty line.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await.expect("readable") == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Writes all of `text`.
pub(crate) async fn write(stream: &mut TcpStream, text: &str) {
    // The other side may have left, which is what some tests are about.
    let _ = stream.write_all(text.as_bytes()).await;
}
