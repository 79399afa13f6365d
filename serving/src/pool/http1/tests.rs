use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::pool::{Protocol, UpstreamOptions};
use crate::server::testing::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn app_and_upstream(options: UpstreamOptions) -> (TcpListener, Rc<Upstream>) {
    let app = listen().await;
    let upstream = Upstream::new(app.local_addr().expect("bound"), options);
    (app, upstream)
}

fn request(method: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri("/path?query");
    request.header("host", "a").body(body).expect("a request")
}

/// What becomes of a request that is answered with `answer` at once.
async fn answered(
    method: &str,
    answer: &str,
    options: UpstreamOptions,
) -> (Result<Response<UpstreamBody>, String>, Rc<Upstream>) {
    let (app, upstream) = app_and_upstream(options).await;
    let play = async {
        let mut stream = accept(&app).await;
        read_head(&mut stream).await;
        write(&mut stream, answer).await;
        stream
    };
    let sent = upstream.send(request(method, Body::empty(())), Protocol::Http1);
    let (response, stream) = tokio::join!(sent, play);
    drop(stream);
    (response.map_err(|error| error.to_string()), upstream)
}

async fn text(response: Response<UpstreamBody>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// Every byte of a request, written to a connection that takes a few at a time.
async fn written(request: Request<Body>) -> String {
    let (mut ours, mut theirs) = tokio::io::duplex(3);
    let mut upload = Upload::new(Box::new(request));
    let write = async {
        poll_fn(|cx| upload.poll(cx, &mut ours))
            .await
            .expect("written");
        drop(ours);
    };
    let mut bytes = String::new();
    let (read, ()) = tokio::join!(theirs.read_to_string(&mut bytes), write);
    read.expect("read");
    bytes
}

/// A body as it comes from a client over HTTP/1: its connection has to be kept.
async fn incoming(head: &'static str, frames: Vec<Frame<Bytes>>) -> Body {
    let (client, server) = tokio::io::duplex(64 << 10);
    let service = hyper::service::service_fn(move |_| {
        let frames = frames.iter().map(|frame| {
            Ok::<_, Infallible>(match frame.trailers_ref() {
                Some(trailers) => Frame::trailers(trailers.clone()),
                None => Frame::data(frame.data_ref().expect("data").clone()),
            })
        });
        let frames: Vec<_> = frames.collect();
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let response = Response::builder().header("trailer", head).body(body);
        async move { response }
    });
    let server = hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(server), service);
    tokio::task::spawn_local(server);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(client))
            .await
            .expect("a handshake");
    tokio::task::spawn_local(connection);
    let request = Request::builder()
        .header("host", "a")
        .header("te", "trailers")
        .body(Body::<()>::empty(()));
    let response = sender.send_request(request.expect("a request")).await;
    Body::from(response.expect("a response").into_body())
}

#[test]
fn requests_on_the_wire() {
    local(async {
        let bytes = written(request("GET", Body::empty(()))).await;
        assert_eq!(bytes, "GET /path?query HTTP/1.1\r\nHost: a\r\n\r\n");

        let mut with_names = request("POST", Body::full("body", ()));
        let headers = with_names.headers_mut();
        headers.insert("x-some--name-", HeaderValue::from_static("v"));
        let bytes = written(with_names).await;
        let head = "POST /path?query HTTP/1.1\r\nHost: a\r\nX-Some--Name-: v\r\n";
        assert_eq!(bytes, format!("{head}Content-Length: 4\r\n\r\nbody"));

        // Larger than what is copied.
        let large = "x".repeat(10_000);
        let bytes = written(request("PUT", Body::full(large.clone(), ()))).await;
        assert!(bytes.ends_with(&format!("Content-Length: 10000\r\n\r\n{large}")));

        // Chunks of both kinds, and the trailers that were announced.
        let trailers =
            HeaderMap::from_iter([("x-sum", "1"), ("x-secret", "2")].map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            }));
        let frames = vec![
            Frame::data(Bytes::from_static(b"small")),
            Frame::data(Bytes::from(large.clone())),
            Frame::trailers(trailers),
        ];
        let mut chunked = request("POST", incoming("x-sum, x-secret", frames).await);
        let headers = chunked.headers_mut();
        headers.insert("trailer", HeaderValue::from_static("X-Sum"));
        headers.insert("content-length", HeaderValue::from_static("5"));
        let bytes = written(chunked).await;
        let (head, body) = bytes.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.ends_with("Trailer: X-Sum\r\nTransfer-Encoding: chunked"),
            "{head}"
        );
        let mut decoder = decoder::Decoder::Chunked(decoder::Chunked::default());
        let (mut rest, mut data) = (Bytes::copy_from_slice(body.as_bytes()), Vec::new());
        let mut got = None;
        while let Some(frame) = decoder.decode(&mut rest).expect("chunks") {
            match frame.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => got = frame.into_trailers().ok(),
            }
        }
        assert_eq!(data, format!("small{large}").into_bytes());
        let got = got.expect("trailers");
        assert_eq!((got.len(), got["x-sum"].as_bytes()), (1, &b"1"[..]));
    });
}

/// Nothing was written: the request is whole again, and so is a repeated attempt.
#[test]
fn a_request_of_which_nothing_was_written_is_given_back() {
    local(async {
        let mut upload = Upload::new(Box::new(request("POST", Body::full("body", ()))));
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let mut stream = tokio_test::io::Builder::new().write_error(reset()).build();
        let broken = poll_fn(|cx| upload.poll(cx, &mut stream))
            .await
            .expect_err("reset");
        assert!(matches!(broken, Broken::Write(_)));
        assert!(upload.start_over(&broken));
        let request = upload.into_request().expect("untouched");
        assert_eq!(request.headers()["host"], "a");
        let body = request.into_body();
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(4));
        assert_eq!(body.collect().await.expect("a body").to_bytes(), "body");

        // One byte is enough for it to be gone.
        let mut upload = Upload::new(Box::new(self::request("POST", Body::full("body", ()))));
        let mut stream = tokio_test::io::Builder::new()
            .write(b"P")
            .write_error(reset())
            .build();
        let broken = poll_fn(|cx| upload.poll(cx, &mut stream))
            .await
            .expect_err("reset");
        assert!(!upload.start_over(&broken));
        assert!(upload.into_request().is_none());
    });
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_breaks_the_request() {
    local(async move {
        for length in [3, 5] {
            let mut upload = Upload::new(Box::new(request("POST", Body::full("body", ()))));
            upload.set_length(length);
            let (mut ours, _theirs) = tokio::io::duplex(1024);
            let broken = poll_fn(|cx| upload.poll(cx, &mut ours)).await;
            assert!(
                matches!(broken, Err(Broken::Request(_))),
                "{length}: {broken:?}"
            );
        }
    });
}

/// Interim responses are left out, and count towards the limit of a head.
#[test]
fn interim_responses_and_the_limit_of_heads() {
    local(async {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3);
        let (response, upstream) =
            answered("GET", &format!("{early}{OK}"), UpstreamOptions::default()).await;
        assert_eq!(text(response.expect("a response")).await, "ok");
        assert_eq!(upstream.idle(), 1);

        let head = |length: usize| {
            let start = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: ";
            format!("{start}{}\r\n\r\nok", "a".repeat(length - start.len() - 4))
        };
        let limited = || UpstreamOptions {
            max_header_bytes: 20_000,
            ..UpstreamOptions::default()
        };
        let (response, _) = answered("GET", &head(20_000), limited()).await;
        assert_eq!(text(response.expect("at the limit")).await, "ok");
        let exceeded = "net/http: server response headers exceeded the limit; aborted";
        for answer in [head(20_001), early.repeat(400)] {
            let (response, _) = answered("GET", &answer, limited()).await;
            assert_eq!(response.expect_err("beyond the limit"), exceeded);
        }
    });
}

#[test]
fn what_a_response_says_of_its_body() {
    local(async {
        // Without a body, whatever is announced.
        for (method, status) in [
            ("HEAD", "200 OK"),
            ("GET", "204 No Content"),
            ("GET", "304 Not Modified"),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            let (response, upstream) = answered(method, &answer, UpstreamOptions::default()).await;
            let response = response.expect("a response");
            assert_eq!(response.headers()["content-length"], "5");
            assert_eq!((text(response).await.as_str(), upstream.idle()), ("", 1));
        }
        // A length beside chunks is dropped, and what ends with the connection is read to there.
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let open = "HTTP/1.1 200 OK\r\n\r\nok";
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let more = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more";
        for (answer, kept) in [(both, 1), (open, 0), (old, 0), (more, 0)] {
            let (response, upstream) = answered("GET", answer, UpstreamOptions::default()).await;
            let response = response.expect("a response");
            assert!(
                answer == old
                    || answer == more
                    || !response.headers().contains_key("content-length")
            );
            assert_eq!(
                (text(response).await.as_str(), upstream.idle()),
                ("ok", kept),
                "{answer}"
            );
        }
        let broken = "net/http: HTTP/1.x transport connection broken: ";
        for (lines, why) in [
            (
                "Transfer-Encoding: gzip",
                "unsupported transfer encoding: \"gzip\"",
            ),
            ("Content-Length: +2", "bad Content-Length \"+2\""),
            (
                "Content-Length: 2\r\nContent-Length: 3",
                "http: message cannot contain multiple Content-Length headers; got \"3\"",
            ),
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nok");
            let (response, _) = answered("GET", &answer, UpstreamOptions::default()).await;
            assert_eq!(response.expect_err("unusable"), format!("{broken}{why}"));
        }
    });
}

/// An app that answers before it reads: the client gets the answer, the app the rest.
#[test]
fn the_rest_of_a_request_follows_an_early_answer() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let length = 16 << 20;
        let body = Body::full(vec![b'x'; length], ());
        let (read_on, wait) = tokio::sync::oneshot::channel();
        let play = async {
            let mut stream = accept(&app).await;
            read_head(&mut stream).await;
            write(&mut stream, OK).await;
            wait.await.expect("told");
            let mut rest = vec![0; length];
            stream.read_exact(&mut rest).await.expect("the rest");
            stream
        };
        let sending = async {
            let sent = upstream.send(request("POST", body), Protocol::Http1).await;
            assert_eq!(text(sent.expect("an answer")).await, "ok");
            // Its connection carries what was not answered yet.
            assert_eq!(upstream.idle(), 0);
            read_on.send(()).expect("somebody waits");
        };
        tokio::join!(play, sending);
    });
}

/// An app that refuses a request and closes: its answer counts, not the failure to write on.
#[test]
fn an_answer_is_read_although_the_request_cannot_be_written() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let play = async {
            let mut stream = accept(&app).await;
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
            stream.shutdown().await.expect("closed");
            stream
        };
        let body = Body::full(vec![b'x'; 16 << 20], ());
        let sent = upstream.send(request("POST", body), Protocol::Http1);
        let (response, _stream) = tokio::join!(sent, play);
        assert_eq!(response.expect("an answer").status(), 413);
        assert_eq!(upstream.idle(), 0);
    });
}

/// What an app says right after its 101 belongs to the tunnel.
#[test]
fn a_switched_connection_keeps_its_early_bytes() {
    local(async {
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nearly";
        let (response, upstream) = answered("GET", answer, UpstreamOptions::default()).await;
        let (mut stream, early) = response
            .expect("a response")
            .into_body()
            .into_switched()
            .expect("switched");
        assert_eq!((early.as_ref(), upstream.idle()), (&b"early"[..], 0));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("closed");
        assert!(rest.is_empty());
    });
}
