//! Long streams while everything around them changes: a WebSocket, server-sent events, and a stream
//! of HTTP/2 in both directions with trailers. Every message is seen before the next one is sent.

use std::cell::RefCell;
use std::fmt::Debug;

use futures_util::{SinkExt, StreamExt};
use http_body::Frame;
use hyper::service::service_fn;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::request_path::read_head;
use super::*;

const KINDS: [Kind; 3] = [Kind::WebSocket, Kind::Events, Kind::Grpc];

#[derive(Clone, Copy, Debug)]
enum Kind {
    WebSocket,
    Events,
    Grpc,
}

/// A pod that serves streams, one connection each.
struct StreamPod {
    address: SocketAddr,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    streams: Cell<usize>,
    /// Requests that are no streams.
    others: Cell<usize>,
    /// Feeds the events; dropping it ends them.
    events: RefCell<Option<mpsc::Sender<Bytes>>>,
}

// === impl StreamPod ===

impl StreamPod {
    async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let state = Rc::<State>::default();
        let served = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                tokio::task::spawn_local(serve(stream, Rc::clone(&served)));
            }
        });
        Self { address, state }
    }
}

async fn serve(mut stream: TcpStream, state: Rc<State>) {
    const CLOSING: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n";
    let head = peek_head(&stream).await;
    if head.starts_with("PRI ") {
        return serve_http2(stream, state).await;
    }
    if head.contains("Upgrade: websocket") {
        state.streams.set(state.streams.get() + 1);
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
        return;
    }
    read_head(&mut stream).await;
    if head.contains("K-Network-Probe") {
        stream.write_all(CLOSING.as_bytes()).await.unwrap();
        stream.write_all(b"queue").await.unwrap();
    } else if head.starts_with("GET /events") {
        state.streams.set(state.streams.get() + 1);
        let (sender, mut events) = mpsc::channel::<Bytes>(1);
        *state.events.borrow_mut() = Some(sender);
        let begun = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                     Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(begun.as_bytes()).await.unwrap();
        while let Some(event) = events.recv().await {
            let size = format!("{:x}\r\n", event.len());
            let chunk = [size.as_bytes(), &event, b"\r\n"].concat();
            stream.write_all(&chunk).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    } else if !head.is_empty() {
        state.others.set(state.others.get() + 1);
        stream.write_all(CLOSING.as_bytes()).await.unwrap();
        stream.write_all(b"other").await.unwrap();
    }
}

/// The head of what comes, or of HTTP/2's preface; nothing is taken.
async fn peek_head(stream: &TcpStream) -> String {
    let mut bytes = [0; 4096];
    loop {
        let count = stream.peek(&mut bytes).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if count == 0 || head.contains("\r\n\r\n") {
            return head;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Gives back every message, and says in trailers how many there were.
async fn serve_http2(stream: TcpStream, state: Rc<State>) {
    let service = service_fn(move |request: Request<Incoming>| {
        state.streams.set(state.streams.get() + 1);
        let (frames, answers) = mpsc::channel(1);
        tokio::task::spawn_local(async move {
            let (mut body, mut count) = (request.into_body(), 0);
            while let Some(Ok(frame)) = body.frame().await {
                // The end may come with a frame of its own.
                if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                    count += 1;
                    let _ = frames.send(frame).await;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            trailers.insert("messages", count.into());
            let _ = frames.send(Frame::trailers(trailers)).await;
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(Frames(answers))))
    });
    let builder = hyper::server::conn::http2::Builder::new(Local);
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A response body fed by a channel.
struct Frames(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Spawns hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// A client's end of a stream.
struct Stream {
    end: End,
    said: usize,
}

enum End {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Events(Incoming),
    Grpc(mpsc::Sender<Bytes>, Incoming),
}

// === impl Stream ===

impl Stream {
    /// Opens a stream; it is open when its head has come.
    async fn open(kind: Kind, address: SocketAddr) -> Self {
        let end = match kind {
            Kind::WebSocket => {
                let uri = "ws://hello.example.com/";
                let mut request = uri.into_client_request().unwrap();
                let headers = request.headers_mut();
                headers.insert("knative-serving-namespace", "default".parse().unwrap());
                headers.insert("knative-serving-revision", "hello-00001".parse().unwrap());
                let stream = TcpStream::connect(address).await.unwrap();
                let opened = tokio_tungstenite::client_async(request, stream).await;
                End::WebSocket(Box::new(opened.unwrap().0))
            }
            Kind::Events => {
                let response = respond(address, request("/events")).await;
                assert_eq!(response.status(), 200);
                End::Events(response.into_body())
            }
            Kind::Grpc => {
                let stream = TcpStream::connect(address).await.unwrap();
                let io = TokioIo::new(stream);
                let (mut sender, connection) = hyper::client::conn::http2::handshake(Local, io)
                    .await
                    .unwrap();
                tokio::task::spawn_local(connection);
                let (messages, body) = mpsc::channel(1);
                let request = to_revision("http://hello.example.com/").method("POST");
                let request = request.body(ChannelBody(body)).unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                End::Grpc(messages, response.into_body())
            }
        };
        Self { end, said: 0 }
    }

    /// So many messages, each of which arrives before the next.
    async fn goes_on(&mut self, pod: &StreamPod, count: usize) {
        for _ in 0..count {
            self.said += 1;
            let text = format!("message {}\n\n", self.said);
            match &mut self.end {
                End::WebSocket(socket) => {
                    socket.send(Message::text(text.clone())).await.unwrap();
                    let answer = socket.next().await.unwrap().unwrap();
                    assert_eq!(answer.into_text().unwrap().as_str(), text);
                }
                End::Events(events) => {
                    let sender = pod.state.events.borrow().clone().unwrap();
                    sender.send(text.clone().into()).await.unwrap();
                    assert_eq!(next(events).await.into_data().unwrap(), text);
                }
                End::Grpc(messages, answers) => {
                    messages.send(text.clone().into()).await.unwrap();
                    assert_eq!(next(answers).await.into_data().unwrap(), text);
                }
            }
        }
    }

    /// Ends it, as its kind is ended; nothing is left over.
    async fn end(self, pod: &StreamPod) {
        match self.end {
            End::WebSocket(mut socket) => {
                socket.as_mut().close(None).await.unwrap();
                let closed = socket.next().await.unwrap().unwrap();
                assert!(closed.is_close(), "{closed}");
                assert!(socket.next().await.is_none());
            }
            End::Events(mut events) => {
                pod.state.events.take();
                assert!(events.frame().await.is_none());
            }
            End::Grpc(messages, mut answers) => {
                drop(messages);
                let trailers = next(&mut answers).await.into_trailers().unwrap();
                assert_eq!(trailers["grpc-status"], "0");
                assert_eq!(trailers["messages"], self.said.to_string());
                assert!(answers.frame().await.is_none());
            }
        }
    }
}

async fn next(body: &mut Incoming) -> Frame<Bytes> {
    body.frame().await.unwrap().unwrap()
}

/// One slot per pod, so that a stream and another request never share one.
async fn world() -> World {
    World::with(revision(1)).await
}

async fn nothing_runs(world: &World) {
    eventually("the slot is free", || world.snapshot().in_flight == 0).await;
}

/// A stream to a revision at zero waits for a pod and begins there.
#[test]
fn streams_begin_at_zero() {
    run(async {
        for kind in KINDS {
            let world = world().await;
            let (opening, opened) = background(Stream::open(kind, world.address));
            eventually("it waits", || world.snapshot().queued == 1).await;
            assert!(!opened.get());
            let pod = StreamPod::start().await;
            world.list(&[pod.address]).await;
            let mut stream = opening.await.unwrap();
            stream.goes_on(&pod, 5).await;
            assert_eq!(world.snapshot().in_flight, 1, "{kind:?}");
            stream.end(&pod).await;
            nothing_runs(&world).await;
        }
    });
}

/// Pods that come take what comes, and nothing of what runs.
#[test]
fn streams_stay_while_pods_come() {
    run(async {
        for kind in KINDS {
            let world = world().await;
            let pod = StreamPod::start().await;
            world.list_and_wait(&[pod.address]).await;
            let mut stream = Stream::open(kind, world.address).await;
            stream.goes_on(&pod, 2).await;
            let mut listed = vec![pod.address];
            let mut new = Vec::new();
            for _ in 0..3 {
                new.push(StreamPod::start().await);
                listed.push(new[new.len() - 1].address);
                world.list_and_wait(&listed).await;
                stream.goes_on(&pod, 2).await;
                assert_eq!(world.get("/").await.body, "other");
            }
            assert_eq!(pod.state.others.get(), 0, "{kind:?}");
            let others: usize = new.iter().map(|it| it.state.others.get()).sum();
            assert_eq!(others, 3);
            stream.end(&pod).await;
            nothing_runs(&world).await;
        }
    });
}

/// A pod that leaves gets nothing new and keeps its stream, down to zero.
#[test]
fn streams_stay_while_their_pod_leaves() {
    run(async {
        for kind in KINDS {
            let world = world().await;
            let (old, new) = (StreamPod::start().await, StreamPod::start().await);
            world.list_and_wait(&[old.address]).await;
            let mut stream = Stream::open(kind, world.address).await;
            stream.goes_on(&old, 2).await;
            world.list(&[new.address]).await;
            for _ in 0..3 {
                assert_eq!(world.get("/").await.body, "other");
                stream.goes_on(&old, 1).await;
            }
            let mut second = Stream::open(kind, world.address).await;
            second.goes_on(&new, 2).await;
            world.list(&[]).await;
            eventually("all have left", || world.snapshot().destinations.is_empty()).await;
            stream.goes_on(&old, 2).await;
            second.goes_on(&new, 2).await;
            stream.end(&old).await;
            second.end(&new).await;
            let of = |pod: &StreamPod| (pod.state.streams.get(), pod.state.others.get());
            assert_eq!((of(&old), of(&new)), ((1, 0), (1, 3)), "{kind:?}");
            nothing_runs(&world).await;
        }
    });
}

/// An activator that is told to stop refuses connections once it has drained, and ends when its
/// streams have; upstream forgets tunnels and h2c.
#[cfg(feature = "kubernetes")]
#[test]
fn streams_stay_while_the_activator_drains() {
    run(async {
        for kind in KINDS {
            let world = world().await;
            let pod = StreamPod::start().await;
            world.list_and_wait(&[pod.address]).await;
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let activator = world.activator.clone();
            let (process, ended) = background(async move {
                let stopped = async { stopped.await.unwrap() };
                let listeners = vec![Listener::plain(socket)];
                let drain = Duration::ZERO;
                crate::kubernetes::process::serve(
                    &activator,
                    listeners,
                    Vec::new(),
                    drain,
                    stopped,
                )
                .await;
            });
            let mut stream = Stream::open(kind, address).await;
            stream.goes_on(&pod, 2).await;
            stop.send(()).unwrap();
            eventually("nobody new is let in", || {
                std::net::TcpStream::connect(address).is_err()
            })
            .await;
            stream.goes_on(&pod, 5).await;
            assert!(!ended.get(), "{kind:?}");
            stream.end(&pod).await;
            process.await.unwrap();
            nothing_runs(&world).await;
        }
    });
}
