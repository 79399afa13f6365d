//! Edge cases of single exchanges: interim responses, trailers, streams, slow dials.

use std::convert::Infallible;

use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::request_path::read_head;
use super::*;
use crate::MeshMode;

/// Serves one connection at a time by hand: probes as a queue-proxy, then `answer`.
async fn by_hand(world: &World, answer: &'static [u8]) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                loop {
                    let head = read_head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    let answer = if head.contains("K-Network-Probe") {
                        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue"
                    } else {
                        answer
                    };
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    world.list_and_wait(&[address]).await;
}

/// Edge case 50: after interim responses the final one is intact. That they are not relayed is
/// listed as a difference.
#[test]
fn edge_case_50_interim_responses() {
    run(async {
        let world = World::with(revision(0)).await;
        by_hand(
            &world,
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
              HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let answer = world.get("/").await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (418, "ok"));
        assert!(!answer.headers.contains_key("link"));
    });
}

/// Edge case 55: each chunk of a stream arrives before the next one is there.
#[test]
fn edge_case_55_streams_are_flushed() {
    run(async {
        let world = World::with(revision(0)).await;
        by_hand(
            &world,
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
              Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
        )
        .await;
        let mut answer = respond(world.address, request("/")).await;
        let first = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "data: 1\n\n");
    });
}

/// Edge case 54: over HTTP/2, where gRPC needs them, trailers need no announcement.
#[test]
fn edge_case_54_trailers() {
    run(async {
        let world = World::with(revision(0)).await;
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let service = service_fn(|request: Request<Incoming>| async move {
                    let probe = request.headers().contains_key("k-network-probe");
                    let data = Bytes::from_static(if probe { b"queue" } else { b"message" });
                    let mut frames = vec![Ok::<_, Infallible>(Frame::data(data))];
                    if !probe {
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        frames.push(Ok(Frame::trailers(trailers)));
                    }
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    Ok::<_, Infallible>(Response::new(body))
                });
                tokio::spawn(async move {
                    let mut first = [0];
                    let _ = stream.peek(&mut first).await;
                    let io = TokioIo::new(stream);
                    // Probes are HTTP/1.1, whatever the pod speaks.
                    if first == *b"P" {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(io, service).await;
                    } else {
                        let builder = http1::Builder::new();
                        let _ = builder.serve_connection(io, service).await;
                    }
                });
            }
        });
        world.list_and_wait(&[address]).await;
        let mut sender = http2(world.address).await;
        let request = to_revision("http://hello.example.com/");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let whole = answer.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(whole.to_bytes(), "message");
    });
}

/// Edge case 56: a client that waits for 100 gets it, and its body goes on.
#[test]
fn edge_case_56_expect_continue() {
    run(async {
        let world = World::with(revision(0)).await;
        let pod = super::pods::Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let mut client = TcpStream::connect(world.address).await.unwrap();
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                    Knative-Serving-Namespace: default\r\n\
                    Knative-Serving-Revision: hello-00001\r\n\
                    Expect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.write_all(b"body").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("body"), "{answer}");
    });
}

/// Edge case 57: `Upgrade: h2c` ends here; it is answered over HTTP/1.1, which is listed as a
/// difference.
#[test]
fn edge_case_57_upgrade_to_h2c() {
    run(async {
        let world = World::with(revision(0)).await;
        let pod = super::pods::Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let request = to_revision("/")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAAP__");
        let answer = world.send(request.body(Empty::new()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
        assert!(!pod.seen().headers.contains_key("upgrade"));
        assert!(!pod.seen().headers.contains_key("http2-settings"));
    });
}

/// Edge case 14: while a pod does not take the connection the request keeps its slot and the dial is
/// tried again, until it does.
#[test]
fn edge_case_14_slow_dials() {
    run(async {
        let mut options = Options::new("activator-0", "10.1.0.1");
        // Without a probe the pod is in rotation although nobody answers there.
        options.probe.mesh_mode = MeshMode::Disabled;
        let world = World::start_with(options).await;
        world.revision(revision(1)).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap();
        // Fill the backlog: further connections are not answered at all.
        let mut filling = Vec::new();
        let short = Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(short, TcpStream::connect(address)).await {
            filling.push(stream.unwrap());
        }
        world.list_and_wait(&[address]).await;
        let (request, done) = background(send(world.address, request("/")));
        eventually("it has its slot", || world.snapshot().in_flight == 1).await;
        for _ in 0..filling.len() {
            assert!(!done.get());
            socket.accept().await.unwrap();
        }
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            // Attempts that were given up may have made it into the backlog.
            if !read_head(&mut stream).await.is_empty() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                break;
            }
        }
        assert_eq!(request.await.unwrap().body, "ok");
    });
}
