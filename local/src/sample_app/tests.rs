use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use futures_util::{SinkExt, StreamExt};

fn times() -> Times {
    let now = AnchoredClock::new().now();
    Times {
        started: now,
        listening: now,
    }
}

type Answer = (StatusCode, String);

/// Runs `client` against a served app and then stops it.
fn served<F: Future<Output = ()>>(client: impl FnOnce(std::net::SocketAddr) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let identity = vec![("K_REVISION", "hello-00001".to_owned())];
        let server =
            tokio::task::spawn_local(serve(listener, times(), String::new(), identity, async {
                let _ = stopped.await;
            }));
        client(address).await;
        let _ = stop.send(());
        let code = server.await.expect("no panic").expect("served");
        assert_eq!(code, 0);
    });
}

async fn get(address: std::net::SocketAddr, target: &str) -> Answer {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/1");
    tokio::task::spawn_local(connection);
    let request = Request::post(target)
        .header("host", "hello.localhost")
        .body(Full::new(Bytes::from("a body")))
        .expect("valid");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

use bytes::Bytes;

#[test]
fn answers_what_is_asked_for() {
    served(|address| async move {
        assert_eq!(
            get(address, "/").await,
            (StatusCode::OK, "Hello from hello-00001!\n".into())
        );
        assert_eq!(get(address, "/echo?sleep=1").await.1, "a body");
        assert_eq!(
            get(address, "/?stream=3&size=2&interval=1ms").await.1,
            "xxxxxx"
        );
        assert_eq!(
            get(address, "/?status=503&burn=1ms&memory=1Mi").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            get(address, "/?sleep=soon").await.0,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            get(address, "/events?count=2&interval=0").await.1,
            "id: 1\ndata: event 1\n\nid: 2\ndata: event 2\n\n"
        );
        let headers: serde_json::Value =
            serde_json::from_str(&get(address, "/headers").await.1).expect("JSON");
        assert_eq!(headers["headers"]["host"][0], "hello.localhost");
        let environment: serde_json::Value =
            serde_json::from_str(&get(address, "/env").await.1).expect("JSON");
        assert_eq!(environment["K_REVISION"], "hello-00001");
        assert_eq!(environment["PORT"], address.port().to_string());
        assert_eq!(get(address, "/ws").await.0, StatusCode::UPGRADE_REQUIRED);
    });
}

#[test]
fn speaks_http_2_on_the_same_port() {
    served(|address| async move {
        let stream = TcpStream::connect(address).await.expect("connected");
        let (mut sender, connection) = conn::http2::handshake(LocalExecutor, TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        let connection = tokio::task::spawn_local(connection);
        let request = Request::get(format!("http://{address}/"))
            .body(Full::<Bytes>::default())
            .expect("valid");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.version(), http::Version::HTTP_2);
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(body, "Hello from hello-00001!\n");
        drop(sender);
        let _ = connection.await;
    });
}

#[test]
fn echoes_websocket_messages() {
    served(|address| async move {
        let stream = TcpStream::connect(address).await.expect("connected");
        let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/ws"), stream)
            .await
            .expect("a WebSocket");
        socket.send(Message::text("hello")).await.expect("sent");
        let echoed = socket.next().await.expect("a message").expect("read");
        assert_eq!(echoed, Message::text("hello"));
        socket.close(None).await.expect("closed");
        while socket.next().await.is_some() {}
    });
}

#[test]
fn stopping_waits_for_answers_in_progress() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            tokio::task::spawn_local(serve(listener, times(), String::new(), Vec::new(), async {
                let _ = stopped.await;
            }));
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let (mut sender, connection) = conn::http1::handshake(TokioIo::new(&mut stream))
            .await
            .expect("HTTP/1");
        let request = Request::get("/?stream=3&interval=20ms&size=1")
            .body(Full::<Bytes>::default())
            .expect("valid");
        let exchange = async {
            let response = sender.send_request(request).await.expect("an answer");
            // The answer has begun; what follows must still come.
            let _ = stop.send(());
            response
                .into_body()
                .collect()
                .await
                .expect("the whole body")
                .to_bytes()
        };
        let (body, _) = tokio::join!(exchange, connection);
        assert_eq!(body, "xxx");
        assert_eq!(server.await.expect("no panic").expect("served"), 0);
    });
}
