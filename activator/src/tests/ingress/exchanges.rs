//! Protocols from end to end: HTTP/1, HTTP/2, gRPC, WebSockets and TLS, without retries or timeouts.

use std::collections::HashMap;

use futures_util::{SinkExt, StreamExt};
use http::Version;
use http_body_util::Full;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::super::*;
use super::cluster::{Cluster, rule, split, to};
use super::{ask, get, status};

#[test]
fn conformance_basics() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        cluster
            .serve(&json!({"rules": [rule(&["a.example.com"], &json!([{"splits": to("app")}]))]}));
        let answer = ask(cluster.external, get("a.example.com", "/")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "app"));
        let seen = app.last();
        assert_eq!(seen.headers["host"], "a.example.com");
        assert_eq!(seen.headers["x-forwarded-proto"], "http");
        assert!(!seen.headers.contains_key("k-proxy-request"));
    });
}

#[test]
fn conformance_basics_http2() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster
            .backend_on("app", "http2", "kubernetes.io/h2c")
            .await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        assert_eq!(status(cluster.external, "a", "/x?y").await, 200);
        let seen = app.last();
        assert_eq!(seen.version, Version::HTTP_2);
        assert_eq!(seen.uri.authority().unwrap(), "a");
        assert_eq!(seen.uri.path_and_query().unwrap(), "/x?y");
        // And the other way round: an HTTP/2 client of a backend that speaks HTTP/1.
        let app = cluster.backend("plain").await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("plain")}]))]}));
        let mut client = cluster.http2().await;
        let request = Request::get("http://a/x?y").body(Full::default()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.body, "plain");
        let seen = app.last();
        assert_eq!(
            (seen.version, &*seen.uri.to_string()),
            (Version::HTTP_11, "/x?y")
        );
        assert_eq!(seen.headers["host"], "a");
    });
}

/// Bidirectional streams of 100 round trips; on one connection they reach both backends, each stream
/// one of them (edge case 66).
#[test]
fn conformance_grpc_and_grpc_split() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _one = cluster.backend_on("one", "h2c", "").await;
        let _two = cluster.backend_on("two", "h2c", "").await;
        let splits = json!([split("one", 50), split("two", 50)]);
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": splits}]))]}));
        let client = cluster.http2_streams().await;
        let mut seen = HashMap::<String, usize>::new();
        while seen.len() < 2 {
            assert!(seen.values().sum::<usize>() < 100, "{seen:?}");
            let (messages, body) = mpsc::channel::<Bytes>(1);
            let request = Request::post("http://a/echo")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(ChannelBody(body))
                .unwrap();
            let mut client = client.clone();
            let mut answer = client.send_request(request).await.unwrap();
            for round in 0..100 {
                let message = Bytes::from(format!("message {round:03}"));
                messages.send(message.clone()).await.unwrap();
                let mut echo = Vec::new();
                while echo.len() < message.len() {
                    let frame = answer.body_mut().frame().await.unwrap().unwrap();
                    echo.extend_from_slice(&frame.into_data().unwrap());
                }
                assert_eq!(echo, message);
            }
            drop(messages);
            let name = answer.headers()["x-backend"].to_str().unwrap().to_owned();
            *seen.entry(name).or_default() += 1;
        }
    });
}

/// Edge case 72: a backend's 503 is passed on, nothing is sent twice.
#[test]
fn conformance_retry_and_edge_case_72() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        app.fail(1);
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        assert_eq!(status(cluster.external, "a", "/").await, 503);
        assert_eq!(app.requests(), 1);
        assert_eq!(status(cluster.external, "a", "/").await, 200);
        assert_eq!(app.requests(), 2);
    });
}

/// Neither before the head nor within the body does a pause end an exchange.
#[test]
fn conformance_timeout() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        let request = get("a", "/held").body(Empty::new()).unwrap();
        let (held, done) = background(send(cluster.external, request));
        eventually("it is held", || app.requests() == 1).await;
        assert!(!done.get());
        app.release();
        assert_eq!(held.await.unwrap().status, 200);
        let (messages, body) = mpsc::channel::<Bytes>(1);
        let request = Request::post("/echo").header("host", "a");
        let request = request.body(ChannelBody(body)).unwrap();
        messages.send(Bytes::from_static(b"first")).await.unwrap();
        let mut answer = respond(cluster.external, request).await;
        assert_eq!(answer.status(), 200);
        let first = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        messages.send(Bytes::from_static(b"second")).await.unwrap();
        let second = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(second.into_data().unwrap(), "second");
    });
}

/// The same host with and without TLS, and redirects for one of two Ingresses at once.
#[test]
fn conformance_tls_and_httpoption() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _app = cluster.backend("app").await;
        cluster.certificate("secret");
        let spec = |host: &str, option: &str| {
            json!({
                "tls": [{"hosts": [host], "secretName": "secret", "secretNamespace": "ns"}],
                "rules": [rule(&[host], &json!([{"splits": to("app")}]))],
                "httpOption": option,
            })
        };
        cluster.serve_as("on", &spec("kn-user-default", "Enabled"));
        cluster.serve_as("off", &spec("data-plane.knative.dev", "Redirected"));
        assert_eq!(status(cluster.external, "kn-user-default", "/").await, 200);
        let answer = ask(cluster.external, get("data-plane.knative.dev:80", "/a?b")).await;
        assert_eq!(answer.status, 301);
        assert_eq!(
            answer.headers["location"],
            "https://data-plane.knative.dev/a?b"
        );
        for host in ["kn-user-default", "data-plane.knative.dev"] {
            let answer = cluster.get_tls(host, "/").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert!(cluster.get_tls("other.example.com", "/").await.is_err());
    });
}

/// The port goes, an address in brackets stays.
#[test]
fn redirects_know_addresses() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _app = cluster.backend("app").await;
        cluster.serve(&json!({
            "rules": [rule(&[], &json!([{"splits": to("app")}]))],
            "httpOption": "Redirected",
        }));
        for (host, location) in [
            ("[2001:db8::1]:8080", "https://[2001:db8::1]/a?b"),
            ("[2001:db8::1]", "https://[2001:db8::1]/a?b"),
            ("10.0.0.1:8080", "https://10.0.0.1/a?b"),
        ] {
            let answer = ask(cluster.external, get(host, "/a?b")).await;
            assert_eq!(answer.headers["location"], location);
        }
    });
}

/// 100 round trips on one socket; sockets reach both backends, and each stays at its own.
#[test]
fn conformance_websocket_and_websocket_split() {
    run(async {
        let mut cluster = Cluster::start().await;
        cluster.websocket_backend("one").await;
        cluster.websocket_backend("two").await;
        let splits = json!([split("one", 50), split("two", 50)]);
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": splits}]))]}));
        let mut seen = HashMap::<String, usize>::new();
        while seen.len() < 2 {
            assert!(seen.values().sum::<usize>() < 100, "{seen:?}");
            let stream = TcpStream::connect(cluster.external).await.unwrap();
            let (mut socket, _) = tokio_tungstenite::client_async("ws://a/", stream)
                .await
                .unwrap();
            let mut who = None;
            for round in 0..100 {
                socket.send(Message::text(round.to_string())).await.unwrap();
                let echo = socket.next().await.unwrap().unwrap().into_text().unwrap();
                let (name, text) = echo.split_once(' ').unwrap();
                assert_eq!(text, round.to_string());
                assert_eq!(who.get_or_insert(name.to_owned()), name);
            }
            *seen.entry(who.unwrap()).or_default() += 1;
        }
    });
}
