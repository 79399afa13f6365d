//! What apps speak besides plain HTTP/1.1.

use futures_util::{SinkExt, StreamExt};
use tests::client::Protocol;
use tests::manifest::Service;
use tests::pilotlight::Pilotlight;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::scaling::at_zero;

#[tokio::test]
async fn h2c_reaches_an_app_that_names_its_port_h2c() {
    let service = Service::new("two").container("ports: [{name: h2c, containerPort: 8080}]");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let call = pilotlight
        .call("two.localhost", "/headers")
        .protocol(Protocol::H2c);
    let answer = call.send().await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("HTTP/2"), "{}", answer.text());
}

#[tokio::test]
async fn a_websocket_opened_at_zero_echoes() {
    let pilotlight = Pilotlight::run(&Service::new("socket").yaml()).await;
    at_zero(&pilotlight, "socket-00001").await;
    let stream = TcpStream::connect(pilotlight.address()).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://socket.localhost/ws", stream)
        .await
        .unwrap();
    for index in 0..100 {
        let text = format!("message {index}");
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().to_text().unwrap(),
            text
        );
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn server_sent_events_arrive() {
    let pilotlight = Pilotlight::run(&Service::new("events").yaml()).await;
    let answer = pilotlight
        .get("events.localhost", "/events?count=3&interval=10ms")
        .await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(
        answer.text().matches("data:").count(),
        3,
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn bodies_pass_both_ways_unchanged() {
    let pilotlight = Pilotlight::run(&Service::new("echo").yaml()).await;
    let body: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| (n % 251).to_le_bytes())
        .take(3_000_000)
        .collect();
    let answer = pilotlight
        .call("echo.localhost", "/echo")
        .post(body.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
}

#[tokio::test]
async fn the_app_sees_the_runtime_contract() {
    let service = Service::new("contract").variable("COLOUR", "blue");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let answer = pilotlight.get("contract.localhost", "/env").await;
    let env: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(env["K_SERVICE"], "contract", "{env}");
    assert_eq!(env["K_CONFIGURATION"], "contract", "{env}");
    assert_eq!(env["K_REVISION"], "contract-00001", "{env}");
    assert!(
        env["PORT"]
            .as_str()
            .is_some_and(|port| port.parse::<u16>().is_ok()),
        "{env}"
    );
    let headers = pilotlight
        .get("contract.localhost", "/headers")
        .await
        .text();
    assert!(
        headers.contains("contract.localhost"),
        "the app sees the client's Host: {headers}"
    );
    assert!(
        headers.to_lowercase().contains("x-forwarded-for"),
        "{headers}"
    );
    assert!(
        !headers.to_lowercase().contains("knative-serving-revision"),
        "{headers}"
    );
    assert!(
        !headers.to_lowercase().contains("pilotlight-capability"),
        "{headers}"
    );
}
