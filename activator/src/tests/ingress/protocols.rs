//! The protocol in which requests go on, to pods that speak one protocol and no other.

use std::cell::{Ref, RefCell};

use futures_util::{SinkExt, StreamExt};
use http::Version;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http_body_util::{Full, StreamBody};
use serde_json::json;
use serving::header;
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
}

struct Seen {
    version: Version,
    headers: HeaderMap,
    uri: http::Uri,
    body: Bytes,
}

impl StrictPod {
    async fn start(speaks: Version) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let all = Rc::clone(&seen);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                tokio::task::spawn_local(serve(stream, speaks, Rc::clone(&all)));
            }
        });
        Self { address, seen }
    }

    fn last(&self) -> Ref<'_, Seen> {
        Ref::map(self.seen.borrow(), |all| {
            all.last().expect("a request came")
        })
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

async fn serve(stream: TcpStream, speaks: Version, seen: Rc<RefCell<Vec<Seen>>>) {
    let mut first = [0; 3];
    while stream.peek(&mut first).await.unwrap() < first.len() {
        tokio::task::yield_now().await;
    }
    let is_http2 = first == *b"PRI";
    let service = hyper::service::service_fn(move |request| {
        let seen = Rc::clone(&seen);
        async move { Ok::<_, Infallible>(answer(request, speaks, &seen).await) }
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
