//! Reading and following, against a small API server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use serving::body::Body;
use serving::forward::error_response;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

const CERTIFICATE: &str = include_str!("../../../tests/certificates/routing.crt");
const KEY: &str = include_str!("../../../tests/certificates/routing.key");
const AUTHORITY: &str = include_str!("../../../tests/certificates/first-ca.crt");

/// Has the Secret, unless it is away, and bundles; its watches tell one change each.
#[derive(Default)]
struct ApiServer {
    absent: Cell<bool>,
    bundles: RefCell<Vec<&'static str>>,
    event: RefCell<Option<Value>>,
    changed: Notify,
}

impl Handler for ApiServer {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let maps = path == "/api/v1/namespaces/knative-serving/configmaps";
        if query.contains("watch=true") {
            loop {
                let event = if maps { self.event.take() } else { None };
                match event {
                    Some(event) => return Response::new(Body::full(format!("{event}\n"), ())),
                    None => self.changed.notified().await,
                }
            }
        }
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": "knative-serving"},
            "data": {"ca.crt": base64(AUTHORITY), "tls.crt": base64(CERTIFICATE), "tls.key": base64(KEY)},
        });
        let items = match path.as_str() {
            "/api/v1/namespaces/knative-serving/secrets/routing-serving-certs" => {
                if self.absent.get() {
                    return error_response(StatusCode::NOT_FOUND, "no such Secret", ());
                }
                return Response::new(Body::full(secret.to_string(), ()));
            }
            "/api/v1/namespaces/knative-serving/secrets" => vec![secret],
            _ if maps => self
                .bundles
                .borrow()
                .iter()
                .map(|name| bundle(name))
                .collect(),
            other => panic!("unexpected request for {other}"),
        };
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
        Response::new(Body::full(list.to_string(), ()))
    }
}

fn bundle(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "knative-serving", "resourceVersion": "2"},
        "data": {"ca.pem": AUTHORITY},
    })
}

/// What a Secret's data looks like in JSON.
fn base64(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).expect("serializable")
}

async fn start() -> (Rc<ApiServer>, Client) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("bound"));
    let api_server = Rc::new(ApiServer::default());
    tokio::task::spawn_local(server::serve(
        vec![Listener::plain(socket)],
        Rc::clone(&api_server),
        ServerOptions::default(),
        Shutdown::new(),
    ));
    let config = kube::Config::new(url.parse().expect("a URL"));
    (api_server, Client::try_from(config).expect("a client"))
}

#[test]
fn an_absent_secret_stops_the_start() {
    crate::tests::run(async {
        let (api_server, client) = start().await;
        api_server.absent.set(true);
        let refused = read(&client, "knative-serving").await;
        assert!(matches!(refused, Err(StartError::Certificates(_))));
    });
}

#[test]
fn bundles_come_and_go() {
    crate::tests::run(async {
        let (api_server, client) = start().await;
        api_server.bundles.replace(vec!["first", "second"]);
        let tls = read(&client, "knative-serving").await.expect("readable");
        assert_eq!(tls.bundles(), ["first", "second"]);
        // One is deleted between the list and the watch.
        api_server.bundles.replace(vec!["first"]);
        let followed = tls.clone();
        tokio::task::spawn_local(async move {
            follow(&client, "knative-serving", &followed).await;
        });
        eventually(|| tls.bundles() == ["first"]).await;
        let added = json!({"type": "ADDED", "object": bundle("third")});
        api_server.event.replace(Some(added));
        api_server.changed.notify_waiters();
        eventually(|| tls.bundles() == ["first", "third"]).await;
        let deleted = json!({"type": "DELETED", "object": bundle("first")});
        api_server.event.replace(Some(deleted));
        api_server.changed.notify_waiters();
        eventually(|| tls.bundles() == ["third"]).await;
    });
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
