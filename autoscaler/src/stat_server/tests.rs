//! The server over real sockets.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Error;

use super::*;

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Server {
    address: std::net::SocketAddr,
    frames: mpsc::Receiver<Bytes>,
    handovers: mpsc::Receiver<Bytes>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(capacity: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, frames) = mpsc::channel(capacity);
    let (handover_sender, handovers) = mpsc::channel(1);
    let options = Options {
        frames: sender,
        bucket_owner: None,
        handovers: Some(handover_sender),
    };
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, options, shutdown.clone()));
    Server {
        address,
        frames,
        handovers,
        shutdown,
        task,
    }
}

impl Server {
    async fn connect(&self) -> Client {
        let url = format!("ws://{}/", self.address);
        tokio_tungstenite::connect_async(url).await.unwrap().0
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("within ten seconds")
}

/// Covers upstream's `TestServerLifecycle` and `TestStatsReceived`.
#[tokio::test]
async fn binary_frames_are_passed_on_and_text_is_dropped() {
    let mut server = start(8).await;
    let mut client = server.connect().await;
    client.send(Message::text("no stat")).await.unwrap();
    client.send(Message::binary(&b"one"[..])).await.unwrap();
    let mut other = server.connect().await;
    assert_eq!(soon(server.frames.recv()).await.unwrap(), "one");
    other.send(Message::binary(&b"two"[..])).await.unwrap();
    assert_eq!(soon(server.frames.recv()).await.unwrap(), "two");
}

#[tokio::test]
async fn pings_are_answered() {
    let server = start(1).await;
    let mut client = server.connect().await;
    client.send(Message::Ping("hello".into())).await.unwrap();
    let answer = soon(client.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong("hello".into()));
}

/// Covers upstream's `TestServerShutdown`.
#[tokio::test]
async fn a_shutdown_tells_every_client_to_reconnect() {
    let server = start(1).await;
    let mut clients = [server.connect().await, server.connect().await];
    server.shutdown.cancel();
    for client in &mut clients {
        match soon(client.next()).await.unwrap().unwrap() {
            Message::Close(Some(frame)) => {
                assert_eq!(u16::from(frame.code), 1012);
                assert_eq!(frame.reason.as_str(), "Restarting");
            }
            other => panic!("{other:?}"),
        }
    }
    soon(server.task).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_full_queue_slows_its_senders_down_and_does_not_stop_the_shutdown() {
    let mut server = start(1).await;
    let mut client = server.connect().await;
    let payload = Bytes::from(vec![7; 1 << 20]);
    // One fits the queue, one waits for room in it, one the sockets' buffers.
    for _ in 0..3 {
        soon(client.send(Message::Binary(payload.clone())))
            .await
            .unwrap();
    }
    let mut sent = 3;
    // Reading has stopped when the sockets' buffers are full.
    while tokio::time::timeout(
        Duration::from_millis(300),
        client.send(Message::Binary(payload.clone())),
    )
    .await
    .is_ok()
    {
        sent += 1;
        assert!(sent < 200, "nothing slows the sender down");
    }
    assert_eq!(soon(server.frames.recv()).await.unwrap(), payload);
    server.shutdown.cancel();
    soon(server.task).await.unwrap();
}

#[tokio::test]
async fn a_frame_beyond_the_limit_ends_its_connection() {
    let mut server = start(4).await;
    let mut client = server.connect().await;
    let largest = Bytes::from(vec![1; MAX_FRAME_BYTES]);
    client.send(Message::Binary(largest.clone())).await.unwrap();
    assert_eq!(soon(server.frames.recv()).await.unwrap(), largest);
    let larger = Bytes::from(vec![1; MAX_FRAME_BYTES + 1]);
    // The server may hang up before everything has been written.
    let _ = client.send(Message::Binary(larger)).await;
    match soon(client.next()).await {
        None | Some(Err(Error::ConnectionClosed | Error::Io(_) | Error::Protocol(_))) => {}
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn kubelet_probes_and_plain_requests_are_answered() {
    let server = start(1).await;
    let probe = "GET / HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: kube-probe/1.34\r\nConnection: close\r\n\r\n";
    let answer = soon(server.raw(probe)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let plain = "GET / HTTP/1.1\r\nHost: autoscaler\r\nConnection: close\r\n\r\n";
    let answer = soon(server.raw(plain)).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nBad Request\n"), "{answer}");
}

/// A replica of Go's answers 400 to such a request; so does one of ours to a version it cannot read.
#[tokio::test]
async fn windows_are_taken_in_their_version_and_up_to_their_length() {
    let mut server = start(1).await;
    let post = |version: &str, length: usize, body: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nPilotlight-Handover: {version}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let answer = soon(server.raw(&post("1", 5, "hello"))).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let answer = soon(server.raw(&post("1", 5, "again"))).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(server.handovers.try_recv().unwrap(), "hello");
    let answer = soon(server.raw(&post("2", 5, "hello"))).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("version 1"), "{answer}");
    let length = handover::MAX_MESSAGE_BYTES + 1;
    let answer = soon(server.raw(&post("1", length, ""))).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(server.handovers.try_recv().is_err());
}
