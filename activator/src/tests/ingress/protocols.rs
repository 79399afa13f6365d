//! The protocol in which requests go on, to pods that speak one protocol and no other.

use std::cell::{Ref, RefCell};

use futures_util::{SinkExt, StreamExt};
use http::Version;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http_body_util::{Full, StreamBody};
use serde_json::json;
use serving::header;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::*;
use super::cluster::{BrowserBody, Cluster, rule, split, to};
use super::get;

const HOST: &str = "kn-user-default";
const INNER: &str = "hello.default.svc.cluster.local";

/// A pod of one protocol. Probes come over HTTP/1.1 and are answered, as the queue-proxy does it;
/// nothing else is, unless it is the pod's protocol.
struct StrictPod {
    address: SocketAddr,
    seen: Rc<RefCell<Vec<Seen>>>,
    life: Rc<Life>,
}

#[derive(Default)]
struct Life {
    /// Whether it ends with the next request.
    is_short: Cell<bool>,
    end: Notify,
}

struct Seen {
    version: Version,
    headers: HeaderMap,
    uri: http::Uri,
    body: Bytes,
}

impl StrictPod {
    async fn start(speaks: Version) -> Self {
        Self::on("127.0.0.1:0", speaks).await
    }

    async fn on(address: &str, speaks: Version) -> Self {
        let socket = TcpListener::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let life = Rc::new(Life::default());
        let (all, lives) = (Rc::clone(&seen), Rc::clone(&life));
        until_end(&life, async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                until_end(
                    &lives,
                    serve(stream, speaks, Rc::clone(&all), Rc::clone(&lives)),
                );
            }
        });
        Self {
            address,
            seen,
            life,
        }
    }

    /// Closes the socket and all connections.
    fn die(&self) {
        self.life.end.notify_waiters();
    }

    fn last(&self) -> Ref<'_, Seen> {
        Ref::map(self.seen.borrow(), |all| {
            all.last().expect("a request came")
        })
    }
}

fn until_end(life: &Rc<Life>, task: impl Future<Output = ()> + 'static) {
    let life = Rc::clone(life);
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = task => {}
            () = life.end.notified() => {}
        }
    });
}

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

async fn serve(stream: TcpStream, speaks: Version, seen: Rc<RefCell<Vec<Seen>>>, life: Rc<Life>) {
    let mut first = [0; 3];
    while stream.peek(&mut first).await.unwrap() < first.len() {
        tokio::task::yield_now().await;
    }
    let is_http2 = first == *b"PRI";
    let service = hyper::service::service_fn(move |request| {
        let (seen, life) = (Rc::clone(&seen), Rc::clone(&life));
        async move { Ok::<_, Infallible>(answer(request, speaks, &seen, &life).await) }
    });
    let io = TokioIo::new(stream);
    if is_http2 && speaks == Version::HTTP_2 {
        let builder = hyper::server::conn::http2::Builder::new(Local);
        let _ = builder.serve_connection(io, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let served = builder.serve_connection(io, service);
        let _ = served.with_upgrades().await;
    }
}

async fn answer(
    mut request: Request<Incoming>,
    speaks: Version,
    seen: &RefCell<Vec<Seen>>,
    life: &Life,
) -> Response<Full<Bytes>> {
    if !header::probe_value(request.headers()).is_empty() {
        return Response::new(Full::from("queue"));
    }
    if request.version() != speaks {
        let mut response = Response::new(Full::from("wrong protocol"));
        *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
        return response;
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let key = head.headers.get(SEC_WEBSOCKET_KEY).cloned();
    let body = body.collect().await.unwrap().to_bytes();
    seen.borrow_mut().push(Seen {
        version: head.version,
        headers: head.headers,
        uri: head.uri,
        body,
    });
    if life.is_short.get() {
        life.end.notify_waiters();
        return std::future::pending().await;
    }
    let mut response = Response::new(Full::from("hello"));
    if let Some(key) = key {
        tokio::task::spawn_local(async move {
            let io = TokioIo::new(upgraded.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                let _ = socket.send(message).await;
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
        let accept = derive_accept_key(key.as_bytes());
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept.try_into().unwrap());
    }
    response
}

/// A revision whose Service has a port of this name, and pods of one protocol.
async fn cluster(port: &str, pods: &[&StrictPod]) -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.world.revision(revision(1)).await;
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
    cluster.world.list_and_wait(&addresses).await;
    cluster.revision_service_on("hello-00001", port);
    cluster.certificate("secret");
    cluster
}

fn with_tls(rules: &serde_json::Value) -> serde_json::Value {
    json!({
        "tls": [{"hosts": [HOST], "secretName": "secret", "secretNamespace": "ns"}],
        "rules": rules,
    })
}

/// A DomainMapping: the host leads to the private entry, by a name whose port is `http2`, as the
/// placeholder of a Route has it, and from there to the revision.
fn map_domain(cluster: &mut Cluster) {
    let mut local = rule(&[INNER], &json!([{"splits": to("hello-00001")}]));
    local["visibility"] = json!("ClusterLocal");
    cluster.serve_as("route", &json!({"rules": [local]}));
    // `localhost` stands for the private entry's Service.
    cluster.external_name("placeholder", "localhost", cluster.local.port());
    let mut split = split("placeholder", 100);
    split["servicePort"] = json!(cluster.local.port());
    split["appendHeaders"] = json!({"K-Original-Host": HOST});
    let paths = json!([{"rewriteHost": INNER, "splits": [split]}]);
    cluster.serve_as("mapping", &with_tls(&json!([rule(&[HOST], &paths)])));
}

/// A body in two pieces, of which nobody says how long it is.
fn pieces() -> BrowserBody {
    let pieces = ["first ", "second"].map(|it| Ok(http_body::Frame::data(Bytes::from(it))));
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
}

fn post() -> Request<BrowserBody> {
    Request::post(format!("https://{HOST}/x?y"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(pieces())
        .unwrap()
}

async fn browses(cluster: &Cluster, pod: &StrictPod) {
    let mut browser = cluster.browse(HOST).await;
    let request = Request::get(format!("https://{HOST}/"))
        .body(Empty::new().boxed())
        .unwrap();
    let answer = collect(browser.send_request(request).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
    assert!(!pod.last().headers.contains_key("transfer-encoding"));
    let answer = collect(browser.send_request(post()).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
    let seen = pod.last();
    assert_eq!(seen.version, Version::HTTP_11);
    assert_eq!(seen.uri, "/x?y");
    assert_eq!(seen.body, "first second");
    assert_eq!(seen.headers["k-original-host"], HOST);
    assert_eq!(seen.headers["host"], pod.address.to_string());
    let cookies: Vec<_> = seen.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

/// A browser speaks HTTP/2 and the app does not.
#[test]
fn a_browser_reaches_a_revision_of_http1() {
    run(async {
        let pod = StrictPod::start(Version::HTTP_11).await;
        let mut cluster = cluster("http", &[&pod]).await;
        let rules = json!([rule(&[HOST], &json!([{"splits": to("hello-00001")}]))]);
        cluster.serve(&with_tls(&rules));
        browses(&cluster, &pod).await;
        assert_eq!(pod.last().headers["x-forwarded-proto"], "https");
        // Each side is measured in its own protocol.
        let scraped = cluster.world.scrape();
        let count = |kind: &str, version: &str| {
            let name = format!("http_{kind}_request_duration_seconds_count");
            let version = format!("network_protocol_version=\"{version}\"");
            let mut lines = scraped.lines();
            lines.any(|line| line.starts_with(&name) && line.contains(&version))
        };
        assert!(
            count("server", "2.0") && !count("server", "1.1"),
            "{scraped}"
        );
        assert!(
            count("client", "1.1") && !count("client", "2.0"),
            "{scraped}"
        );
    });
}

/// The second leg is HTTP/2 whatever the client speaks, and the third is the revision's.
#[test]
fn a_browser_reaches_a_mapped_revision_of_http1() {
    run(async {
        let pod = StrictPod::start(Version::HTTP_11).await;
        let mut cluster = cluster("http", &[&pod]).await;
        map_domain(&mut cluster);
        browses(&cluster, &pod).await;
    });
}

/// The app speaks HTTP/2 only, and the client does not. The port that an Ingress names where traffic
/// within the system is encrypted is `https`, which says nothing.
#[test]
fn an_http1_client_reaches_a_revision_of_h2c() {
    run(async {
        let pod = StrictPod::start(Version::HTTP_2).await;
        let mut cluster = cluster("http2", &[&pod]).await;
        for port in [80, 443] {
            let mut split = split("hello-00001", 100);
            split["servicePort"] = json!(port);
            cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": [split]}]))]}));
            let request = Request::post("/x?y").header("host", "a").body(pieces());
            let answer = collect(respond(cluster.external, request.unwrap()).await).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
            let seen = pod.last();
            assert_eq!(seen.version, Version::HTTP_2);
            assert_eq!(seen.uri.path_and_query().unwrap(), "/x?y");
            assert_eq!(seen.uri.authority().unwrap(), &*pod.address.to_string());
            assert_eq!(seen.body, "first second");
            assert_eq!(seen.headers["k-original-host"], "a");
        }
        assert_eq!(pod.seen.borrow().len(), 2);
    });
}

/// A pod is gone before it answers, or before it is asked: the request reaches another one in the
/// pods' protocol, which is not the client's, and with all that it had.
#[test]
fn translated_requests_go_on_to_another_pod() {
    run(async {
        for speaks in [Version::HTTP_11, Version::HTTP_2] {
            for (method, is_asked) in [("PUT", true), ("POST", false)] {
                let first = StrictPod::start(speaks).await;
                // Taken after the one at 127.0.0.1.
                let second = StrictPod::on("127.0.0.2:0", speaks).await;
                let port = if speaks == Version::HTTP_2 {
                    "h2c"
                } else {
                    "http"
                };
                let mut cluster = cluster(port, &[&first, &second]).await;
                let rules = json!([rule(&[HOST], &json!([{"splits": to("hello-00001")}]))]);
                cluster.serve(&with_tls(&rules));
                let (lines, _guard) = events();
                if is_asked {
                    first.life.is_short.set(true);
                } else {
                    first.die();
                }
                let answer = put(&cluster, method, speaks != Version::HTTP_2).await;
                let case = format!("{method} in {speaks:?}");
                assert_eq!(
                    (answer.status.as_u16(), &*answer.body),
                    (200, "hello"),
                    "{case}"
                );
                assert_eq!(first.seen.borrow().len(), usize::from(is_asked), "{case}");
                if is_asked {
                    check_put(&first, speaks);
                } else {
                    let tried = format!("destination={}", first.address);
                    assert!(lines.text().contains(&tried), "{case}: {}", lines.text());
                }
                check_put(&second, speaks);
                assert_eq!(second.seen.borrow().len(), 1, "{case}");
            }
        }
    });
}

/// By a browser, or by a client of HTTP/1.
async fn put(cluster: &Cluster, method: &str, is_http2: bool) -> Answer {
    let uri = if is_http2 {
        format!("https://{HOST}/x?y")
    } else {
        "/x?y".to_owned()
    };
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("x-mine", "1")
        .header("x-mine", "2")
        .header("content-type", "text/x-mine");
    let body = Full::from("first second");
    let response = if is_http2 {
        request = request.header("cookie", "a=1").header("cookie", "b=2");
        let mut browser = cluster.browse(HOST).await;
        let sent = browser.send_request(request.body(body.boxed()).unwrap());
        sent.await.unwrap()
    } else {
        request = request.header("cookie", "a=1; b=2").header("host", HOST);
        request = request.header("connection", "x-hop").header("x-hop", "1");
        respond(cluster.external, request.body(body).unwrap()).await
    };
    collect(response).await
}

fn check_put(pod: &StrictPod, speaks: Version) {
    let seen = pod.last();
    assert_eq!(seen.version, speaks);
    assert_eq!(seen.uri.path_and_query().unwrap(), "/x?y");
    assert_eq!(seen.body, "first second");
    let address = pod.address.to_string();
    match speaks {
        Version::HTTP_2 => assert_eq!(seen.uri.authority().unwrap(), &*address),
        _ => assert_eq!(seen.headers["host"], address),
    }
    let all = |name: &str| -> Vec<_> {
        let values = seen.headers.get_all(name).iter();
        values.map(|it| it.to_str().unwrap()).collect()
    };
    assert_eq!(all("x-mine"), ["1", "2"]);
    assert_eq!(all("cookie"), ["a=1; b=2"]);
    assert_eq!(all("content-type"), ["text/x-mine"]);
    assert_eq!(all("content-length"), ["12"]);
    assert_eq!(all("k-original-host"), [HOST]);
    assert_eq!(all("k-proxy-request"), ["activator"]);
    for name in ["x-hop", "connection", "transfer-encoding"] {
        assert!(all(name).is_empty(), "{name}");
    }
}

/// While a request waits it is still one of HTTP/1, whose client's leaving has to be looked out for
/// where nobody reads: over TLS.
#[test]
fn a_client_of_a_revision_of_h2c_may_leave() {
    run(async {
        let mut cluster = cluster("http2", &[]).await;
        let rules = json!([rule(&[HOST], &json!([{"splits": to("hello-00001")}]))]);
        cluster.serve(&with_tls(&rules));
        let mut client = cluster.connect_tls(HOST, None).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\nsome");
        tokio::io::AsyncWriteExt::write_all(&mut client, head.as_bytes())
            .await
            .unwrap();
        eventually("it waits", || cluster.world.snapshot().queued == 1).await;
        drop(client);
        eventually("it has left", || cluster.world.snapshot().queued == 0).await;
    });
}

/// WebSockets are upgrades of HTTP/1.1, also where a Service's port is one of HTTP/2: directly, and
/// on both legs of a DomainMapping.
#[test]
fn websockets_pass_ports_of_http2() {
    run(async {
        for port in ["http", "http2"] {
            let pod = StrictPod::start(Version::HTTP_11).await;
            let mut cluster = cluster(port, &[&pod]).await;
            map_domain(&mut cluster);
            let stream = TcpStream::connect(cluster.external).await.unwrap();
            let url = format!("ws://{HOST}/chat");
            let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
            for round in 0..10 {
                socket.send(Message::text(round.to_string())).await.unwrap();
                let echo = socket.next().await.unwrap().unwrap().into_text().unwrap();
                assert_eq!(echo.as_str(), round.to_string());
            }
            assert_eq!(pod.last().headers["k-original-host"], HOST);
        }
    });
}

/// An offer of HTTP/2 for the first hop is no upgrade that goes on.
#[test]
fn an_offer_of_h2c_changes_nothing() {
    run(async {
        let pod = StrictPod::start(Version::HTTP_2).await;
        let mut cluster = cluster("h2c", &[&pod]).await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("hello-00001")}]))]}));
        let request = get("a", "/")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA");
        let answer = super::ask(cluster.external, request).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
        assert_eq!(pod.last().version, Version::HTTP_2);
    });
}
