//! Streams are passed on message by message: nobody waits for a buffer to fill or for the other
//! direction to end (knative/serving#3188).

use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::app::{App, AppBody, Broken, read_head, stream};
use crate::client::{LocalExecutor, connect};
use crate::instance::{Sidecar, run};

type Sender = mpsc::Sender<Result<&'static str, Broken>>;

/// gRPC's frames: five bytes before each message.
const MESSAGES: [&str; 4] = [
    "\0\0\0\0\x03one",
    "\0\0\0\0\0",
    "\0\0\0\0\x05three",
    "\0\0\0\0\x04four",
];

/// An app that gives the test both directions of each call.
async fn app() -> (App, mpsc::Receiver<(Incoming, Sender)>) {
    let (calls, called) = mpsc::channel(1);
    let app = App::start(move |request| {
        let calls = calls.clone();
        async move {
            let (sender, mut response) = stream();
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            let call = (request.into_body(), sender);
            calls.send(call).await.expect("room");
            response
        }
    })
    .await;
    (app, called)
}

/// Sends one message and waits for it at the other end.
async fn pass(sender: &Sender, receiver: &mut Incoming, message: &'static str) {
    sender.send(Ok(message)).await.expect("room");
    let mut received = Vec::new();
    while received.len() < message.len() {
        let frame = receiver.frame().await.expect("no end").expect("no error");
        received.extend_from_slice(frame.data_ref().expect("no trailers"));
    }
    assert_eq!(received, message.as_bytes());
}

/// Waits for a clean end, before which there may be frames without a byte.
async fn ended(receiver: &mut Incoming) {
    let collected = receiver.collect().await.expect("a clean end");
    assert!(collected.to_bytes().is_empty());
}

#[test]
fn grpc_messages_pass_one_by_one_in_both_directions() {
    run(async {
        let (app, mut called) = app().await;
        let limit = ("CONTAINER_CONCURRENCY", "1");
        let sidecar = Sidecar::start(app.address, &[limit]).await;
        let socket = TokioIo::new(connect(sidecar.data).await);
        let (mut client, connection) = http2::handshake::<_, _, AppBody>(LocalExecutor, socket)
            .await
            .expect("HTTP/2");
        tokio::task::spawn_local(connection);
        let (up, body) = stream();
        let request = Request::post("http://hello.example.com/hello.Greeter/Greet")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body.into_body())
            .expect("valid");
        // The answer begins before the request has sent anything.
        let answer = client.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let mut at_client = answer.into_body();
        let (mut at_app, down) = called.recv().await.expect("a call");
        for message in MESSAGES {
            pass(&up, &mut at_app, message).await;
        }
        for message in MESSAGES {
            pass(&down, &mut at_client, message).await;
        }
        for message in MESSAGES {
            pass(&up, &mut at_app, message).await;
            pass(&down, &mut at_client, message).await;
        }
        // One direction ends and the other goes on.
        drop(up);
        ended(&mut at_app).await;
        for message in MESSAGES {
            pass(&down, &mut at_client, message).await;
        }
        drop(down);
        ended(&mut at_client).await;
        assert_eq!(app.last().headers["te"], "trailers");
    });
}

#[test]
fn chunks_pass_one_by_one_in_both_directions() {
    run(async {
        let (app, mut called) = app().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let mut client = connect(sidecar.data).await;
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .expect("writable");
        let (mut at_app, down) = called.recv().await.expect("a call");
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        for part in ["one", "two", "six"] {
            let chunk = format!("3\r\n{part}\r\n");
            client.write_all(chunk.as_bytes()).await.expect("writable");
            let frame = at_app.frame().await.expect("no end").expect("no error");
            assert_eq!(frame.into_data().expect("no trailers"), part);
            down.send(Ok(part)).await.expect("room");
            let mut received = [0; 8];
            client.read_exact(&mut received).await.expect("the part");
            assert_eq!(received, chunk.as_bytes());
        }
        client.write_all(b"0\r\n\r\n").await.expect("writable");
        ended(&mut at_app).await;
        drop(down);
        let mut received = [0; 5];
        client.read_exact(&mut received).await.expect("the end");
        assert_eq!(&received, b"0\r\n\r\n");
    });
}
