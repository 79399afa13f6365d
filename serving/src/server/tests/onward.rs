//! Requests that go on in another protocol than they came in.

use http::header::HOST;

use super::http2::h2_app;
use super::*;
use crate::body::Body;
use crate::forward;
use crate::pool::{Protocol, Upstream, UpstreamOptions};

fn upstream(address: SocketAddr) -> Rc<Upstream> {
    Upstream::new(address, UpstreamOptions::default())
}

/// Sends to an address where nobody is, and then the same request to `app`.
async fn send_twice(app: SocketAddr, request: Request<Body>) -> (http::StatusCode, String) {
    let nobody = listen().await.local_addr().expect("bound");
    let (version, uri) = (request.version(), request.uri().clone());
    let failed = forward::exchange(&upstream(nobody), request).await;
    let failed = failed.expect_err("nobody is there");
    let mut request = failed.into_request().expect("nothing was written");
    // Whoever had it meanwhile finds it as it came.
    assert_eq!(request.version(), version);
    assert_eq!(request.uri().path_and_query(), uri.path_and_query());
    forward::set_host(&mut request, http::HeaderValue::from_static("b.example"));
    let sent = forward::exchange(&upstream(app), request).await;
    let (head, body) = sent.expect("an answer").response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (
        head.status,
        String::from_utf8(body.to_vec()).expect("a text"),
    )
}

#[test]
fn http1_goes_on_as_http2() {
    local(async {
        let mut request = Request::post("/p?q")
            .header(HOST, "a.example")
            .header("x-forwarded-for", "1.1.1.1")
            .header("transfer-encoding", "chunked")
            .body(Body::full("hi", ()))
            .expect("a request");
        assert_eq!(forward::version(&request), Version::HTTP_11);
        forward::set_protocol(&mut request, Protocol::Http1);
        assert!(request.extensions().is_empty());
        forward::set_protocol(&mut request, Protocol::Http2);
        assert_eq!(forward::version(&request), Version::HTTP_2);
        assert_eq!(request.version(), Version::HTTP_11);
        let (status, text) = send_twice(h2_app().await, request).await;
        assert_eq!(
            (status.as_u16(), &*text),
            (200, "HTTP/2.0 http://b.example/p?q 1.1.1.1")
        );
    });
}

#[test]
fn http2_goes_on_as_http1() {
    local(async {
        let mut request = Request::post("http://a.example/p?q")
            .version(Version::HTTP_2)
            .body(Body::full("hi", ()))
            .expect("a request");
        forward::set_protocol(&mut request, Protocol::Http1);
        assert_eq!(forward::version(&request), Version::HTTP_11);
        let app = listen().await;
        let address = app.local_addr().expect("bound");
        let play = async {
            let mut app = accept(&app).await;
            let head = read_head(&mut app).await;
            read_until(&mut app, "hi").await;
            write(&mut app, OK).await;
            head
        };
        let ((status, text), head) = tokio::join!(send_twice(address, request), play);
        assert_eq!((status.as_u16(), &*text), (200, "ok"));
        assert!(head.starts_with("POST /p?q HTTP/1.1\r\n"), "{head}");
        assert_eq!(head.matches("Host: b.example\r\n").count(), 1, "{head}");
        assert!(head.contains("Content-Length: 2\r\n"), "{head}");
    });
}

#[test]
fn only_upgrades_that_go_on_are_upgrades() {
    for (connection, protocol, expected) in [
        ("upgrade", Some("websocket"), true),
        ("keep-alive, Upgrade", Some("websocket"), true),
        ("keep-alive", Some("websocket"), false),
        ("upgrade", None, false),
        ("upgrade, http2-settings", Some("h2c"), false),
    ] {
        let mut request = Request::get("/").header("connection", connection);
        if let Some(protocol) = protocol {
            request = request.header("upgrade", protocol);
        }
        let request = request.body(()).expect("a request");
        assert_eq!(
            forward::asks_upgrade(request.headers()),
            expected,
            "{connection}"
        );
    }
}
