//! What passes through the hop, and how.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::app::{App, Broken, read_head, stream, text, write};
use crate::client::{connect, get, h2c, h2c_get, open, read_to_end, send};
use crate::instance::{Sidecar, bind, eventually, run};

/// An app that answers every connection's first request with `response` and closes.
async fn canned(response: &'static str) -> std::net::SocketAddr {
    App::raw(move |mut stream| async move {
        read_head(&mut stream).await;
        write(&mut stream, response).await;
    })
    .await
}

#[test]
fn row_1_an_informational_response_does_not_hide_the_final_status() {
    run(async {
        for informational in ["103 Early Hints", "100 Continue"] {
            let app = App::raw(move |mut stream| async move {
                read_head(&mut stream).await;
                write(
                    &mut stream,
                    &format!(
                        "HTTP/1.1 {informational}\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone"
                    ),
                )
                .await;
            })
            .await;
            let sidecar = Sidecar::start(app, &[]).await;
            let answer = get(sidecar.data, "/", "").await;
            assert_eq!((answer.status, answer.body.as_str()), (404, "gone"));
        }
    });
}

/// The app's backlog is full, so that the kernel drops what the sidecar sends to connect.
#[test]
fn row_27_a_black_hole_is_tried_again() {
    run(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let app = socket.listen(1).expect("listens");
        let address = app.local_addr().expect("bound");
        let mut fillers = Vec::new();
        while let Ok(filler) =
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            fillers.push(filler.expect("accepted by the kernel"));
        }
        let sidecar = Sidecar::start(address, &[]).await;
        let data = sidecar.data;
        let mut request = tokio::task::spawn_local(async move { get(data, "/", "").await });
        // Longer than the first attempts together.
        let early = timeout(Duration::from_millis(500), &mut request).await;
        assert!(early.is_err(), "{early:?}");
        for _ in &fillers {
            app.accept().await.expect("a filler");
        }
        loop {
            let (mut stream, _) = app.accept().await.expect("the sidecar");
            let mut first = [0];
            // Attempts that were given up, and left-overs of the fillers, are closed.
            if !matches!(stream.peek(&mut first).await, Ok(1)) {
                continue;
            }
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
            break;
        }
        assert_eq!(request.await.expect("no panic").body, "ok");
    });
}

#[test]
fn row_22_a_client_that_has_finished_writing_still_gets_the_apps_last_bytes() {
    run(async {
        let app = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            )
            .await;
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.expect("readable");
            write(&mut stream, "late:").await;
            stream.write_all(&received).await.expect("writable");
        })
        .await;
        let sidecar = Sidecar::start(app, &[]).await;
        let mut client = connect(sidecar.data).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            .await
            .expect("writable");
        read_head(&mut client).await;
        client.write_all(b"last words").await.expect("writable");
        client.shutdown().await.expect("half closed");
        let mut received = String::new();
        client
            .read_to_string(&mut received)
            .await
            .expect("readable");
        assert_eq!(received, "late:last words");
    });
}

#[test]
fn row_23_an_h2_client_of_an_http1_app_gets_a_502() {
    run(async {
        let app = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
        })
        .await;
        let sidecar = Sidecar::start(app, &[]).await;
        let mut client = h2c(sidecar.data).await;
        let answer = h2c_get(&mut client, "/").await.expect("an answer");
        assert_eq!(answer.status(), 502);
    });
}

#[test]
fn h2c_requests_reach_the_app_as_h2c() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let mut client = h2c(sidecar.data).await;
        let answer = h2c_get(&mut client, "/x?y=1").await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "ok");
        let seen = app.last();
        assert_eq!(seen.version, http::Version::HTTP_2);
        assert_eq!(
            (seen.target.as_str(), seen.method.as_str()),
            ("/x?y=1", "GET")
        );
        assert_eq!(seen.host, "hello.example.com");
    });
}

#[test]
fn row_24_an_upgrade_to_h2c_is_answered_over_http1() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let answer = send(
            sidecar.data,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        )
        .await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        assert_eq!(app.last().version, http::Version::HTTP_11);
    });
}

#[test]
fn row_26_an_app_that_does_not_listen_is_a_502_at_once() {
    run(async {
        let closed = bind().await;
        let nobody = closed.local_addr().expect("bound");
        drop(closed);
        let sidecar = Sidecar::start(nobody, &[]).await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(answer.status, 502);
        assert_eq!(
            answer.body,
            format!("dial tcp {nobody}: connect: connection refused\n")
        );
    });
}

#[test]
fn row_29_a_trickling_response_arrives_as_it_is_written() {
    run(async {
        let (bodies, mut opened) = tokio::sync::mpsc::channel(1);
        let app = App::start(move |_| {
            let bodies = bodies.clone();
            async move {
                let (sender, mut response) = stream();
                let length = http::HeaderValue::from_static("6");
                response.headers_mut().insert("content-length", length);
                bodies.send(sender).await.expect("room");
                response
            }
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let mut client = open(sidecar.data, "/").await;
        let body = opened.recv().await.expect("a body");
        read_head(&mut client).await;
        for part in ["one", "two"] {
            body.send(Ok(part)).await.expect("room");
            let mut received = [0; 3];
            client.read_exact(&mut received).await.expect("the part");
            assert_eq!(received, part.as_bytes());
        }
    });
}

#[test]
fn row_30_no_content_type_is_invented() {
    run(async {
        let app = canned("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>").await;
        let sidecar = Sidecar::start(app, &[]).await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(answer.header("content-type"), None);
        assert_eq!(answer.body, "<html>");
    });
}

#[test]
fn row_31_request_trailers_reach_the_app() {
    run(async {
        let (trailers, mut seen) = tokio::sync::mpsc::channel(1);
        let app = App::start(move |request| {
            let trailers = trailers.clone();
            async move {
                let collected = request.into_body().collect().await.expect("a body");
                let received = collected.trailers().cloned().unwrap_or_default();
                trailers.send(received).await.expect("room");
                text("ok")
            }
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let answer = send(
            sidecar.data,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n",
        )
        .await;
        assert_eq!(answer.status, 200);
        let received = seen.recv().await.expect("trailers");
        assert_eq!(received["x-sum"], "42");
    });
}

#[test]
fn row_32_header_names_are_in_canonical_case_both_ways() {
    run(async {
        let (heads, mut seen) = tokio::sync::mpsc::channel(1);
        let app = App::raw(move |mut stream| {
            let heads = heads.clone();
            async move {
                let head = read_head(&mut stream).await;
                heads.send(head).await.expect("room");
                write(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nzz-lower: 1\r\nX-SHOUT: 2\r\n\r\nok",
                )
                .await;
            }
        })
        .await;
        let sidecar = Sidecar::start(app, &[]).await;
        let answer = get(sidecar.data, "/", "x-b3-TRACEID: 7\r\n").await;
        let received = seen.recv().await.expect("a request");
        for line in [
            "\r\nX-B3-Traceid: 7\r\n",
            "\r\nHost: hello.example.com\r\n",
            "\r\nX-Forwarded-For: ",
        ] {
            assert!(received.contains(line), "{line} in {received}");
        }
        for line in [
            "\r\nContent-Length: 2",
            "\r\nZz-Lower: 1",
            "\r\nX-Shout: 2",
            "\r\nDate: ",
        ] {
            assert!(answer.head.contains(line), "{line} in {}", answer.head);
        }
    });
}

#[test]
fn row_33_to_36_what_the_app_sees_of_the_headers() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let answer = get(
            sidecar.data,
            "/a%2Fb//c?q=1;x",
            "Connection: X-Hop\r\nX-Hop: gone\r\nTE: trailers, deflate\r\nKeep-Alive: 5\r\n\
             X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded:\r\n\
             K-Proxy-Request: activator\r\nK-Original-Host: real.example.com\r\n\
             Knative-Serving-Tag: blue\r\nKnative-Serving-Revision: r\r\nKnative-Serving-Namespace: n\r\n",
        )
        .await;
        assert_eq!(answer.status, 200);
        let seen = app.last();
        assert_eq!(seen.target, "/a%2Fb//c?q=1;x");
        assert_eq!(seen.host, "real.example.com");
        let headers = &seen.headers;
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["forwarded"], "for=1.2.3.4;proto=https");
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 127.0.0.1");
        assert_eq!(headers["k-proxy-request"], "activator");
        assert_eq!(headers["knative-serving-tag"], "blue");
        for gone in [
            "x-hop",
            "keep-alive",
            "k-original-host",
            "knative-serving-revision",
            "knative-serving-namespace",
            "user-agent",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    });
}

#[test]
fn an_original_host_replaces_the_authority_of_an_h2c_request() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let mut client = h2c(sidecar.data).await;
        let request = http::Request::builder()
            .uri("http://10.0.0.1:8012/x")
            .header("k-original-host", "real.example.com")
            .body(http_body_util::Full::default())
            .expect("valid");
        let answer = client.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(app.last().host, "real.example.com");
        assert!(!app.last().headers.contains_key("k-original-host"));
    });
}

#[test]
fn row_37_an_early_answer_to_an_upload_is_passed_on_at_once() {
    run(async {
        let app = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            )
            .await;
            // Holds the connection, as an app does that still reads.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        })
        .await;
        let sidecar = Sidecar::start(app, &[]).await;
        let mut client = connect(sidecar.data).await;
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome")
            .await
            .expect("writable");
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    });
}

#[test]
fn row_51_a_body_that_breaks_off_never_ends_cleanly() {
    run(async {
        let app = App::start(|_| async {
            let (sender, response) = stream();
            sender.send(Ok("part")).await.expect("room");
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                sender.send(Err(Broken)).await.expect("room");
            });
            response
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "part"));
        assert!(!answer.complete);
        let mut client = h2c(sidecar.data).await;
        let answer = h2c_get(&mut client, "/").await.expect("a head");
        assert!(answer.into_body().collect().await.is_err());
        let handle = sidecar.handle.clone();
        eventually("both are over", || handle.in_flight() == 0).await;
    });
}

#[test]
fn a_client_that_leaves_aborts_the_apps_request() {
    run(async {
        let app = App::start(|_| async {
            std::future::pending::<()>().await;
            text("never")
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let client = open(sidecar.data, "/").await;
        let running = app.running.clone();
        eventually("the app runs", || running.get() == 1).await;
        drop(client);
        eventually("the app's request is aborted", || running.get() == 0).await;
        let handle = sidecar.handle.clone();
        eventually("nothing is left", || handle.in_flight() == 0).await;
    });
}

#[test]
fn a_connection_serves_many_requests() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        let mut client = connect(sidecar.data).await;
        for _ in 0..50 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .expect("writable");
            read_head(&mut client).await;
            let mut body = [0; 2];
            client.read_exact(&mut body).await.expect("a body");
            assert_eq!(&body, b"ok");
        }
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .expect("writable");
        assert_eq!(read_to_end(&mut client).await.body, "ok");
        assert_eq!(app.requests(), 51);
    });
}
