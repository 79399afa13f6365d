//! HTTP/2 by prior knowledge.

use futures_util::stream::Pending;

use super::*;

type H2 = hyper::client::conn::http2::SendRequest<BoxBody<Bytes, Infallible>>;

async fn connect_h2(address: std::net::SocketAddr) -> (H2, JoinHandle<hyper::Result<()>>) {
    connect_h2_with_window(address, None).await
}

/// `window` is how much of a response the client takes; hyper's own without.
async fn connect_h2_with_window(
    address: std::net::SocketAddr,
    window: impl Into<Option<u32>>,
) -> (H2, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (requests, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(window)
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
pub(super) async fn h2_app() -> std::net::SocketAddr {
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

/// Cookies that a client sends apart arrive in one line (RFC 9113 section 8.2.3), whatever the
/// request goes on in.
#[test]
fn cookies_are_joined() {
    struct Tell;

    impl Handler for Tell {
        type Guard = ();

        async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
            let headers = request.headers();
            let lines = headers.get_all("cookie").iter();
            let lines: Vec<_> = lines.map(|it| it.to_str().expect("text")).collect();
            Response::new(Body::full(lines.join("|"), ()))
        }
    }

    local(async {
        let proxy = start(Rc::new(Tell), ServerOptions::default()).await;
        let (mut requests, _connection) = connect_h2(proxy.address).await;
        let mut request = h2_request("/");
        for crumb in ["a=1", "b=2", "c=3"] {
            let crumb = http::HeaderValue::from_static(crumb);
            request.headers_mut().append("cookie", crumb);
        }
        let answer = requests.send_request(request).await.expect("a response");
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "a=1; b=2; c=3");
        // Over HTTP/1 lines stay as they are, as in Go.
        let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n";
        let answer = read_rest(&mut send(proxy.address, request).await).await;
        assert!(answer.ends_with("\r\n\r\na=1|b=2"), "{answer}");
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

/// Row 18 over HTTP/2; from a client that takes no byte its slot is taken as well.
#[test]
fn an_http2_body_that_does_not_begin_in_time() {
    local(async {
        let socket = listen().await;
        let address = socket.local_addr().expect("bound");
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let service = hyper::service::service_fn(|_| async {
                    let frames = futures_util::stream::pending();
                    let body: StreamBody<Pending<Result<http_body::Frame<Bytes>, Infallible>>> =
                        StreamBody::new(frames);
                    Ok::<_, Infallible>(Response::new(body))
                });
                let builder =
                    hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                tokio::task::spawn_local(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        let hop = Hop::to(address).with_limit(2).with_timeouts(SHORT);
        let hop = Rc::new(hop);
        let proxy = start(Rc::clone(&hop), ServerOptions::default()).await;
        let (mut requests, _connection) = connect_h2(proxy.address).await;
        let answer = requests.send_request(h2_request("/")).await;
        let answer = answer.expect("a response");
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "request timeout");
        let (mut requests, _connection) = connect_h2_with_window(proxy.address, 0).await;
        let _answer = requests.send_request(h2_request("/")).await;
        let ends = hop.ends.wait(2).await;
        assert!(
            ends.iter()
                .all(|end| end.outcome == Outcome::Expired(Expired::Total)),
            "{ends:?}"
        );
        assert_eq!(hop.breaker.as_ref().map(Breaker::in_flight), Some(0));
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
