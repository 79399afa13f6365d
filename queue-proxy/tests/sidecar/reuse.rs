//! Connections to the app that are used again, and that the app has closed by then (row 28).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::app::{App, read_head, write};
use crate::client::connect;
use crate::instance::{Sidecar, run};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request and reads its answer: status and body.
async fn ask(client: &mut TcpStream, request: &str) -> (String, String) {
    client
        .write_all(request.as_bytes())
        .await
        .expect("writable");
    let head = read_head(client).await;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .and_then(|length| length.parse().ok())
        .expect("a length");
    let mut body = vec![0; length];
    client.read_exact(&mut body).await.expect("a body");
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// `extra` is header lines.
fn request(method: &str, extra: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} / HTTP/1.1\r\nHost: a\r\n{extra}{length}\r\n{body}")
}

/// Reads a request; `None` if there is none.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let head = read_head(stream).await;
    if head.is_empty() {
        return None;
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    Some(head + &String::from_utf8_lossy(&body))
}

/// An app whose connections answer one request, read another one and close, and what it reads.
async fn closing_on_the_second() -> (SocketAddr, mpsc::Receiver<String>) {
    let (requests, read) = mpsc::channel(16);
    let app = App::raw(move |mut stream| {
        let requests = requests.clone();
        async move {
            for answer in [Some(OK), None] {
                let Some(request) = read_request(&mut stream).await else {
                    return;
                };
                requests.send(request).await.expect("room");
                if let Some(answer) = answer {
                    write(&mut stream, answer).await;
                }
            }
        }
    })
    .await;
    (app, read)
}

/// The app got the request and may have acted on it, so that only a request without a body whose
/// method or header says that twice is as good as once is sent again. The others get upstream's
/// answer (knative/serving#12414).
#[test]
fn row_28_only_what_may_be_repeated_is_sent_twice() {
    const KEY: &str = "Idempotency-Key: 1\r\n";
    const X_KEY: &str = "X-Idempotency-Key: 1\r\n";
    run(async {
        for (method, extra, body, again) in [
            ("GET", "", "", true),
            ("OPTIONS", "", "", true),
            ("DELETE", "", "", false),
            ("DELETE", KEY, "", true),
            ("POST", "", "body", false),
            ("POST", KEY, "body", false),
            ("POST", X_KEY, "", true),
            ("PUT", "", "", false),
            ("GET", "", "body", false),
        ] {
            let case = format!("{method} {extra}{body}");
            let (app, mut read) = closing_on_the_second().await;
            let sidecar = Sidecar::start(app, &[]).await;
            let mut client = connect(sidecar.data).await;
            let warm = ask(&mut client, &request("GET", "Warm: 1\r\n", "")).await;
            assert_eq!(warm.0, "200", "{case}");
            assert!(read.recv().await.expect("a request").contains("Warm"));

            let (status, text) = ask(&mut client, &request(method, extra, body)).await;
            let expected = if again {
                ("200", "ok")
            } else {
                ("502", "EOF\n")
            };
            assert_eq!((status.as_str(), text.as_str()), expected, "{case}");
            for _ in 0..if again { 2 } else { 1 } {
                let request = read.recv().await.expect("a request");
                assert!(request.starts_with(&format!("{method} / ")), "{case}");
                assert!(request.ends_with(body), "{case}");
            }
            assert!(read.try_recv().is_err(), "{case}: once too often");
        }
    });
}

/// Nothing was written to such a connection: the next one takes whatever it is.
#[test]
fn row_28_a_connection_that_was_closed_while_idle_is_no_502_for_anybody() {
    run(async {
        let (ended, mut closed) = mpsc::channel(1);
        let app = App::raw(move |mut stream| {
            let ended = ended.clone();
            async move {
                let request = read_request(&mut stream).await.expect("a request");
                write(&mut stream, OK).await;
                drop(stream);
                ended.send(request).await.expect("room");
            }
        })
        .await;
        let sidecar = Sidecar::start(app, &[]).await;
        let mut client = connect(sidecar.data).await;
        for round in 0..10 {
            for (method, body) in [("GET", ""), ("DELETE", ""), ("POST", "body")] {
                let answer = ask(&mut client, &request(method, "", body)).await;
                assert_eq!(answer.0, "200", "{method}, round {round}: {}", answer.1);
                let request = closed.recv().await.expect("it was read");
                assert!(request.starts_with(method) && request.ends_with(body));
            }
        }
    });
}
