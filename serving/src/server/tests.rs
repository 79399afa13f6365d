//! The hop over real sockets. Rows are those of the edge-case table, section 12 of the reference.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::testing::*;
use super::*;
use crate::body::Outcome;
use crate::breaker::Breaker;
use crate::deadline::{Expired, Timeouts};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const SHORT: Timeouts = Timeouts {
    total: Duration::from_millis(100),
    response_start: None,
    idle: None,
};

/// Rows 32 to 35: canonical names, `Te`, names listed in `Connection`, the peer.
#[test]
fn rewrites_a_request() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "GET //a/../b?x=%zz;y HTTP/1.1\r\nhost: a.example\r\nconnection: close, x-drop\r\n\
            x-drop: 1\r\nzz-lower: v\r\nte: trailers, gzip\r\nkeep-alive: 5\r\nx-forwarded-for: 1.1.1.1\r\n\
            X-Forwarded-For: 2.2.2.2\r\nproxy-authorization: secret\r\nproxy-connection: close\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        let head = read_head(&mut app).await;
        assert!(
            head.starts_with("GET //a/../b?x=%zz;y HTTP/1.1\r\n"),
            "{head}"
        );
        for line in [
            "Host: a.example\r\n",
            "Zz-Lower: v\r\n",
            "Te: trailers\r\n",
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 127.0.0.1\r\n",
        ] {
            assert!(head.contains(line), "{line:?} missing in {head}");
        }
        for name in [
            "X-Drop",
            "Connection",
            "Keep-Alive",
            "Proxy-",
            "User-Agent",
            "gzip",
        ] {
            assert!(!head.contains(name), "{name} in {head}");
        }
        write(
            &mut app,
            "HTTP/1.1 299 Odd\r\nconnection: x-gone\r\nx-gone: 1\r\nkeep-alive: 3\r\nx-low: v\r\n\
             content-length: 2\r\n\r\nhi",
        )
        .await;
        let answer = read_rest(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 299 status code 299\r\n"),
            "{answer}"
        );
        assert!(answer.contains("X-Low: v\r\n") && answer.contains("Content-Length: 2\r\n"));
        assert!(
            answer.contains("\r\nDate: ") && answer.ends_with("\r\n\r\nhi"),
            "{answer}"
        );
        assert!(
            !answer.contains("X-Gone") && !answer.contains("Keep-Alive"),
            "{answer}"
        );
    });
}

/// Section 7.2: HTTP/1.0 becomes 1.1; without a host, or with an empty one, the app sees its own
/// address.
#[test]
fn a_missing_host_is_the_destination() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop).await;
        for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n"] {
            let _client = send(proxy.address, request).await;
            let head = read_head(&mut accept(&app).await).await;
            let host = format!("\r\nHost: {}\r\n", hop.upstream.address());
            assert!(
                head.starts_with("GET / HTTP/1.1\r\n") && head.contains(&host),
                "{head}"
            );
        }
    });
}

/// Section 7.2: absolute form gives way to origin form, odd characters of the path are escaped.
#[test]
fn targets_are_made_plain() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "GET http://b.example:81/p%2F{x}|?q={y} HTTP/1.1\r\nHost: a\r\n\r\n";
        let _client = send(proxy.address, request).await;
        let head = read_head(&mut accept(&app).await).await;
        assert!(
            head.starts_with("GET /p%2F%7Bx%7D%7C?q={y} HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nHost: b.example:81\r\n"), "{head}");
        assert_eq!(head.matches("Host: ").count(), 1, "{head}");
    });
}

/// Section 7.2: agents are never invented, empty ones dropped, of two the first is sent.
#[test]
fn the_first_agent_counts() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        for (agents, expected) in [
            (
                "User-Agent: a\r\nUser-Agent: b\r\n",
                Some("\r\nUser-Agent: a\r\n"),
            ),
            ("User-Agent:\r\n", None),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{agents}\r\n");
            let _client = send(proxy.address, &request).await;
            let head = read_head(&mut accept(&app).await).await;
            assert_eq!(
                head.matches("User-Agent").count(),
                usize::from(expected.is_some())
            );
            assert!(expected.is_none_or(|line| head.contains(line)), "{head}");
        }
    });
}

/// Row 31, improved: request trailers arrive; response trailers are relayed.
#[test]
fn trailers_pass_in_both_directions() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
            Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        let head = read_head(&mut app).await;
        assert!(head.contains("Trailer: X-Sum\r\n"), "{head}");
        let body = read_until(&mut app, "0\r\nX-Sum: 7\r\n\r\n").await;
        assert_eq!(body, "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n");
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\nX-End: 9\r\n\r\n",
        )
        .await;
        let answer = read_until(&mut client, "X-End: 9\r\n\r\n").await;
        assert!(answer.contains("\r\n\r\n1\r\na\r\n0\r\n"), "{answer}");
    });
}

/// A GET with a body, in chunks, keeps it.
#[test]
fn a_get_keeps_its_chunked_body() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request =
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let _client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        assert!(
            read_head(&mut app)
                .await
                .contains("Transfer-Encoding: chunked\r\n")
        );
        assert_eq!(
            read_until(&mut app, "0\r\n\r\n").await,
            "3\r\nabc\r\n0\r\n\r\n"
        );
    });
}

/// Row 17: the text has no newline.
#[test]
fn a_late_app_is_answered_with_504() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        let answer = read_until(&mut client, "request timeout").await;
        assert!(
            answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("Content-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n")
        );
        // The app's connection is gone, the client's is not.
        read_rest(&mut app).await;
        write(&mut client, GET).await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 504"));
    });
}

/// Rows 18 and 51: a stream that has begun is cut, never ended cleanly.
#[test]
fn a_deadline_cuts_a_stream() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        )
        .await;
        let answer = read_rest(&mut client).await;
        assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n"), "{answer}");
        let end = hop.ends.wait(1).await[0];
        assert_eq!(
            (end.outcome, end.bytes),
            (Outcome::Expired(Expired::Total), 3)
        );
    });
}

/// The idle deadline between two writes, while the client waits.
#[test]
fn an_idle_stream_is_cut() {
    local(async {
        let timeouts = Timeouts {
            idle: Some(Duration::from_millis(100)),
            ..LONG
        };
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(timeouts)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        assert!(read_rest(&mut client).await.ends_with("\r\n\r\nabc"));
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::Idle));
    });
}

/// A client that stops reading does not keep its slot beyond the deadline.
#[test]
fn a_deadline_cuts_a_client_that_does_not_read() {
    local(async {
        let timeouts = Timeouts {
            total: Duration::from_millis(300),
            ..LONG
        };
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(timeouts).with_limit(1)).await;
        let _client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        )
        .await;
        let flood = vec![b'x'; 1 << 20];
        while app.write_all(&flood).await.is_ok() {}
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::Total));
        assert_eq!(hop.breaker.as_ref().map(Breaker::in_flight), Some(0));
    });
}

/// Row 51: an app that dies takes the client's stream with it.
#[test]
fn a_broken_stream_breaks() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop).await;
        for framing in [
            "Transfer-Encoding: chunked\r\n\r\n3\r\n",
            "Content-Length: 9\r\n\r\n",
        ] {
            let mut client = send(proxy.address, GET).await;
            let mut app = accept(&app).await;
            read_head(&mut app).await;
            write(&mut app, &format!("HTTP/1.1 200 OK\r\n{framing}abc")).await;
            read_until(&mut client, "abc").await;
            drop(app);
            assert!(!read_rest(&mut client).await.contains("0\r\n"));
        }
        let ends = hop.ends.wait(2).await;
        assert!(
            ends.iter().all(|end| end.outcome == Outcome::Failed),
            "{ends:?}"
        );
    });
}

/// Row 26: no retry, the text of Go's dialler.
#[test]
fn nobody_listens() {
    local(async {
        let free = listen().await;
        let address = free.local_addr().expect("bound");
        drop(free);
        let proxy = start(Rc::new(Hop::to(address)), ServerOptions::default()).await;
        let mut client = send(proxy.address, GET).await;
        let text = format!("dial tcp {address}: connect: connection refused\n");
        let answer = read_until(&mut client, &text).await;
        assert!(
            answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("X-Content-Type-Options: nosniff\r\n"),
            "{answer}"
        );
    });
}

/// Rows 13 and 16: a client that leaves frees its place, executing or waiting.
#[test]
fn a_client_that_leaves_is_forgotten() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_limit(1)).await;
        let executing = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        let waiting = send(proxy.address, GET).await;
        let breaker = hop.breaker.clone().expect("a limit is set");
        while breaker.queued() < 1 {
            tokio::task::yield_now().await;
        }
        drop(waiting);
        hop.left.notified().await;
        assert_eq!((breaker.active(), breaker.queued()), (1, 0));
        drop(executing);
        hop.left.notified().await;
        assert_eq!(breaker.in_flight(), 0);
        // The exchange was aborted as well.
        assert_eq!(read_rest(&mut app).await, "");
    });
}

/// Section 3.1 and 2.2: answers that need no handler.
#[test]
fn some_requests_are_answered_by_the_server() {
    local(async {
        let (_app, _hop, proxy) = app_and_hop(|hop| hop).await;
        for (request, status) in [
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                "400 Bad Request",
            ),
            ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                "501 Not Implemented",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "400 Bad Request",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nbad header: 1\r\n\r\n",
                "400 Bad Request",
            ),
        ] {
            let mut client = send(proxy.address, request).await;
            let head = read_head(&mut client).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{request}: {head}"
            );
            // A 5xx that is nobody's but the proxy's says why.
            let reason = "pilotlight-reason: unsupported transfer encoding\r\n";
            let has_reason = head.to_ascii_lowercase().contains(reason);
            assert_eq!(has_reason, status.starts_with('5'), "{head}");
        }
    });
}

/// A length beside chunks is dropped, and the connection not reused: nothing to smuggle with.
#[test]
fn chunks_win_over_a_length() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\
            Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        let head = read_head(&mut app).await;
        assert!(!head.contains("Content-Length"), "{head}");
        read_until(&mut app, "0\r\n\r\n").await;
        write(&mut app, OK).await;
        let answer = read_rest(&mut client).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    });
}

/// Section 2.2: 1 MiB of head passes, 8 KiB more do not.
#[test]
fn the_head_is_limited() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = |size: usize| {
            let filler = "x".repeat(size);
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Big: {filler}\r\n\r\n")
        };
        let mut client = send(proxy.address, &request((1 << 20) - 100)).await;
        let mut app = accept(&app).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            app.read_buf(&mut head).await.expect("more of the head");
        }
        write(&mut app, OK).await;
        assert!(
            read_until(&mut client, "ok")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let mut client = TcpStream::connect(proxy.address).await.expect("connected");
        let _ = client
            .write_all(request((1 << 20) + (8 << 10)).as_bytes())
            .await;
        let answer = read_rest(&mut client).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    });
}

#[test]
fn many_header_lines_are_limited() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = |count: usize| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "X-A: 1\r\n".repeat(count)
            )
        };
        let _client = send(proxy.address, &request(90)).await;
        assert_eq!(
            read_head(&mut accept(&app).await)
                .await
                .matches("X-A: 1")
                .count(),
            90
        );
        let mut client = send(proxy.address, &request(110)).await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 431 "));
    });
}

/// A head that does not end is cut off; a connection without one is not.
#[test]
fn slow_heads_are_cut_off() {
    local(async {
        let app = listen().await;
        let hop = Rc::new(Hop::to(app.local_addr().expect("bound")));
        let options = ServerOptions {
            header_read_timeout: Duration::from_millis(100),
            ..ServerOptions::default()
        };
        let proxy = start(hop, options).await;
        // Before the first byte, in a preface, and within a head.
        for start in ["", "PR", "GET / HT"] {
            let mut client = send(proxy.address, start).await;
            assert_eq!(read_rest(&mut client).await, "");
        }
        // Between two requests, idle for longer than that.
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, OK).await;
        read_until(&mut client, "ok").await;
        let idle = tokio::time::timeout(Duration::from_millis(300), client.read_u8()).await;
        assert!(idle.is_err(), "an idle connection was closed");
        write(&mut client, "GET / HTTP/1.1\r\nHo").await;
        assert_eq!(read_rest(&mut client).await, "");
    });
}

/// A panic in one request ends its connection only.
#[test]
fn a_panic_stays_in_its_connection() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_limit(1)).await;
        let mut broken = send(proxy.address, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(read_rest(&mut broken).await, "");
        assert_eq!(hop.breaker.as_ref().map(Breaker::in_flight), Some(0));
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, OK).await;
        read_until(&mut client, "ok").await;
    });
}

#[test]
fn connections_are_bounded() {
    local(async {
        let app = listen().await;
        let hop = Rc::new(Hop::to(app.local_addr().expect("bound")));
        let options = ServerOptions {
            max_connections: 1,
            ..ServerOptions::default()
        };
        let proxy = start(Rc::clone(&hop), options).await;
        let first = send(proxy.address, GET).await;
        let mut at_app = accept(&app).await;
        read_head(&mut at_app).await;
        let mut second = send(proxy.address, GET).await;
        let early = tokio::time::timeout(Duration::from_millis(100), app.accept()).await;
        assert!(early.is_err(), "a second connection was served");
        drop(first);
        let mut at_app = accept(&app).await;
        read_head(&mut at_app).await;
        write(&mut at_app, OK).await;
        read_until(&mut second, "ok").await;
    });
}

/// Idle connections close, running requests end first, and the server with them.
#[test]
fn a_drain_waits_for_requests() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let mut idle = send(proxy.address, GET).await;
        let mut at_app = accept(&app).await;
        read_head(&mut at_app).await;
        write(&mut at_app, OK).await;
        read_until(&mut idle, "ok").await;
        let mut running = send(proxy.address, GET).await;
        read_head(&mut at_app).await;
        let mut silent = TcpStream::connect(proxy.address).await.expect("connected");
        proxy.shutdown.drain();
        assert_eq!(read_rest(&mut idle).await, "");
        assert_eq!(read_rest(&mut silent).await, "");
        assert!(!proxy.task.is_finished());
        write(&mut at_app, OK).await;
        let answer = read_rest(&mut running).await;
        assert!(
            answer.ends_with("ok") && answer.contains("Connection: close\r\n"),
            "{answer}"
        );
        proxy.task.await.expect("served");
        assert!(TcpStream::connect(proxy.address).await.is_err());
    });
}

#[test]
fn a_stop_does_not_wait() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        proxy.shutdown.stop();
        assert_eq!(read_rest(&mut client).await, "");
        proxy.task.await.expect("served");
        assert_eq!(hop.handling.get(), 0);
    });
}

type H2 = hyper::client::conn::http2::SendRequest<BoxBody<Bytes, Infallible>>;

async fn connect_h2(address: std::net::SocketAddr) -> (H2, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (requests, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .expect("a handshake");
    (requests, tokio::task::spawn_local(connection))
}

fn h2_request(path: &str) -> Request<BoxBody<Bytes, Infallible>> {
    Request::get(format!("http://a.example{path}"))
        .body(Empty::new().boxed())
        .expect("a request")
}

/// An h2c app that echoes bodies with trailers and tells what it saw.
async fn h2_app() -> std::net::SocketAddr {
    let socket = listen().await;
    let address = socket.local_addr().expect("bound");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let saw = format!(
                    "{:?} {} {}",
                    request.version(),
                    request.uri(),
                    request.headers()["x-forwarded-for"].to_str().expect("text")
                );
                let trailers = request.into_body().collect().await?.trailers().cloned();
                let data = http_body::Frame::data(Bytes::from(saw));
                let end = http_body::Frame::trailers(trailers.unwrap_or_default());
                let frames = futures_util::stream::iter([Ok::<_, hyper::Error>(data), Ok(end)]);
                Ok::<_, hyper::Error>(Response::new(StreamBody::new(frames)))
            });
            let builder =
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(connection);
        }
    });
    address
}

/// Prior knowledge in, prior knowledge out; many streams share a connection; trailers both ways.
#[test]
fn http2_is_passed_on_as_http2() {
    local(async {
        let hop = Rc::new(Hop::to(h2_app().await).with_limit(10));
        let proxy = start(Rc::clone(&hop), ServerOptions::default()).await;
        let (mut requests, _connection) = connect_h2(proxy.address).await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", http::HeaderValue::from_static("7"));
            let body =
                Full::new(Bytes::from("hi")).with_trailers(async move { Some(Ok(trailers)) });
            let mut request = h2_request("/p?q").map(|_| body.boxed());
            *request.method_mut() = Method::POST;
            answers.push(requests.send_request(request));
        }
        for answer in answers {
            let answer = answer.await.expect("a response");
            assert_eq!(answer.version(), Version::HTTP_2);
            let body = answer.into_body().collect().await.expect("a body");
            assert_eq!(body.trailers().expect("trailers")["x-sum"], "7");
            assert_eq!(body.to_bytes(), "HTTP/2.0 http://a.example/p?q 127.0.0.1");
        }
        hop.ends.wait(5).await;
        assert_eq!(hop.breaker.as_ref().map(Breaker::in_flight), Some(0));
    });
}

/// Row 23: no downgrade for an app that does not speak it.
#[test]
fn an_http1_app_cannot_answer_http2() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let (mut requests, _connection) = connect_h2(proxy.address).await;
        let answer = requests.send_request(h2_request("/"));
        let play = async {
            let mut app = accept(&app).await;
            write(
                &mut app,
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
            app
        };
        let (answer, _app) = tokio::join!(answer, play);
        let answer = answer.expect("a response");
        assert_eq!(answer.status(), 502);
        let text = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert!(
            text.starts_with(b"http2: failed reading the frame payload"),
            "{text:?}"
        );
    });
}

/// Rows 17 and 51 over HTTP/2, where every stream has its own clocks.
#[test]
fn http2_streams_have_their_own_deadlines() {
    local(async {
        let (_app, _hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let (mut requests, _connection) = connect_h2(proxy.address).await;
        let answers = [
            requests.send_request(h2_request("/")),
            requests.send_request(h2_request("/")),
        ];
        for answer in answers {
            let answer = answer.await.expect("a response");
            assert_eq!(answer.status(), 504);
            let body = answer
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes();
            assert_eq!(body, "request timeout");
        }
    });
}

/// Row 25: GOAWAY at the drain, and what was begun is finished.
#[test]
fn a_drained_http2_connection_finishes_its_streams() {
    local(async {
        let (_app, hop, proxy) = app_and_hop(|hop| {
            hop.with_timeouts(Timeouts {
                total: Duration::from_millis(300),
                ..LONG
            })
        })
        .await;
        let (mut requests, connection) = connect_h2(proxy.address).await;
        let answer = requests.send_request(h2_request("/"));
        while hop.handling.get() == 0 {
            tokio::task::yield_now().await;
        }
        proxy.shutdown.drain();
        let answer = answer.await.expect("a response");
        assert_eq!(answer.status(), 504);
        answer.into_body().collect().await.expect("a body");
        connection.await.expect("joined").expect("a clean end");
        proxy.task.await.expect("served");
    });
}

/// An admin port speaks HTTP/1 only.
#[test]
fn http2_can_be_left_out() {
    local(async {
        let app = listen().await;
        let options = ServerOptions {
            http2: false,
            ..ServerOptions::default()
        };
        let hop = Rc::new(Hop::to(app.local_addr().expect("bound")));
        let proxy = start(hop, options).await;
        let mut client = send(proxy.address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let answer = read_rest(&mut client).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    });
}
