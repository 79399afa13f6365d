//! An app that speaks h2c and does what the path says.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Bytes of each frame of an endless answer.
const PIECE: usize = 16 << 10;

/// A running app. Ends with the test.
#[derive(Clone, Debug)]
pub struct App {
    pub address: SocketAddr,
    counts: Rc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: Cell<usize>,
    running: Cell<usize>,
    most: Cell<usize>,
    /// Bytes of request bodies.
    received: Cell<u64>,
}

/// Spawns on the test's own thread.
#[derive(Clone, Copy, Debug)]
pub struct Local;

/// A request that is being answered.
struct Running(Rc<Counts>);

/// A body of text, or one without end.
enum Answer {
    Text(Option<&'static str>),
    Endless(Bytes),
}

// === impl App ===

impl App {
    /// `/hold` is never answered, `/endless` has an endless answer, everything else is answered
    /// with `ok` once the body was read.
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let this = Self {
            address: socket.local_addr().expect("bound"),
            counts: Rc::default(),
        };
        let app = this.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let counts = Rc::clone(&app.counts);
                let service = service_fn(move |request| answer(Rc::clone(&counts), request));
                let served = http2::Builder::new(Local)
                    .max_concurrent_streams(10_000)
                    .max_header_list_size(16 << 20)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::task::spawn_local(async move {
                    // A sidecar that leaves is no failure of the app.
                    let _ = served.await;
                });
            }
        });
        this
    }

    /// Requests that arrived.
    pub fn requests(&self) -> usize {
        self.counts.requests.get()
    }

    /// Requests that are being answered.
    pub fn running(&self) -> usize {
        self.counts.running.get()
    }

    /// The most that ever were answered at once.
    pub fn most(&self) -> usize {
        self.counts.most.get()
    }

    /// Bytes of all request bodies.
    pub fn received(&self) -> u64 {
        self.counts.received.get()
    }
}

async fn answer(
    counts: Rc<Counts>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    counts.requests.set(counts.requests.get() + 1);
    counts.running.set(counts.running.get() + 1);
    counts.most.set(counts.most.get().max(counts.running.get()));
    let running = Running(counts);
    let body = match request.uri().path() {
        "/hold" => std::future::pending().await,
        "/endless" => Answer::Endless(Bytes::from_static(&[b'x'; PIECE])),
        _ => {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                running.0.received.set(running.0.received.get() + length);
            }
            Answer::Text(Some("ok"))
        }
    };
    Ok(Response::new(body))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Text(text) => text.take().map(Bytes::from),
            Self::Endless(piece) => Some(piece.clone()),
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}

// === impl Local ===

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
