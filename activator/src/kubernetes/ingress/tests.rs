//! The whole controller against a small API server and a real replica: itself.

use std::cell::RefCell;

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use serde_json::Value;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::{Options, UPDATES_CAPACITY};

const INGRESSES: &str = "/apis/networking.internal.knative.dev/v1alpha1/";

/// Lists Ingresses of several classes, a backend and the gateway's replica; keeps what is written.
struct ApiServer {
    replica_port: u16,
    backend: SocketAddr,
    written: RefCell<Vec<(String, Value)>>,
}

impl Handler for ApiServer {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if query.contains("watch=true") {
            std::future::pending::<()>().await;
        }
        if request.method() != http::Method::GET {
            assert_eq!(request.method(), http::Method::PATCH);
            let body = request
                .into_body()
                .collect()
                .await
                .expect("whole")
                .to_bytes();
            let body = serde_json::from_slice(&body).expect("JSON");
            self.written.borrow_mut().push((path, body));
            return reply(&ingress(
                "ours",
                Some(&json!({CLASS_ANNOTATION: "ours.example.com"})),
            ));
        }
        let items = if path == format!("{INGRESSES}ingresses") {
            json!([
                ingress("ours", Some(&json!({CLASS_ANNOTATION: "ours.example.com"}))),
                ingress("none", None),
                ingress("nothing", Some(&json!({}))),
                ingress("empty", Some(&json!({CLASS_ANNOTATION: ""}))),
                ingress(
                    "other",
                    Some(&json!({CLASS_ANNOTATION: "OURS.example.com"}))
                ),
            ])
        } else {
            match path.as_str() {
                "/api/v1/services" => json!([{
                    "metadata": {"namespace": "ns", "name": "app"},
                    "spec": {"ports": [{"name": "http", "port": 80}]},
                }]),
                "/api/v1/endpoints" => json!([
                    endpoints("ns", "app", "http", self.backend.port()),
                    endpoints("knative-serving", "internal", "http2", self.replica_port),
                ]),
                "/api/v1/secrets" => json!([]),
                other => panic!("unexpected request for {other}"),
            }
        };
        reply(&json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }
}

fn ingress(name: &str, annotations: Option<&Value>) -> Value {
    json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {"namespace": "ns", "name": name, "generation": 3, "resourceVersion": "42",
            "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"rules": [{"hosts": [format!("{name}.example.com")], "http": {"paths": [
            {"splits": [{"serviceNamespace": "ns", "serviceName": "app", "servicePort": 80}]},
        ]}}]},
    })
}

fn endpoints(namespace: &str, name: &str, port_name: &str, port: u16) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "subsets": [{"addresses": [{"ip": "127.0.0.1"}],
            "ports": [{"name": port_name, "port": port}]}],
    })
}

fn reply(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string(), ()));
    let json = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http_header::CONTENT_TYPE, json);
    response
}

async fn serve(socket: TcpListener, handler: Rc<impl Handler>) {
    let listeners = vec![Listener::plain(socket)];
    server::serve(
        listeners,
        handler,
        ServerOptions::default(),
        Shutdown::new(),
    )
    .await;
}

async fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// "ingressclass" and edge case 64: an Ingress of no, an empty or another class is neither served
/// nor written. Ours is first waiting and then ready, with one address for each entry.
#[test]
fn conformance_ingressclass_and_edge_case_64() {
    crate::tests::run(async {
        let (_updates, received) = mpsc::channel(UPDATES_CAPACITY);
        let options = Options::new("activator-0", "10.1.0.1");
        let (activator, driver) = crate::new(options, received, &mut Registry::default());
        tokio::task::spawn_local(driver.run());
        let gateway = Gateway::new(activator, 7);
        let (replica, replica_address) = socket().await;
        tokio::task::spawn_local(serve(replica, Rc::new(gateway.front(true))));
        let (_backend, backend) = socket().await;
        let (api, address) = socket().await;
        let api_server = Rc::new(ApiServer {
            replica_port: replica_address.port(),
            backend,
            written: RefCell::default(),
        });
        tokio::task::spawn_local(serve(api, Rc::clone(&api_server)));
        let url = format!("http://{address}").parse().expect("a URL");
        let client = Client::try_from(kube::Config::new(url)).expect("a client");
        let options = IngressOptions {
            class: "ours.example.com".to_owned(),
            public_service: "public".to_owned(),
            private_service: "internal".to_owned(),
            namespace: "knative-serving".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            replica_port: replica_address.port(),
        };
        let (synced, listed) = oneshot::channel();
        let certificates = Arc::new(Certificates::default());
        let watched = run(client, options, gateway.clone(), certificates, synced);
        tokio::task::spawn_local(watched);
        listed.await.expect("listed");
        assert_eq!(Vec::from_iter(gateway.routing().hashes.keys()), ["ns/ours"]);
        let is_ready = |body: &Value| body["status"]["conditions"][2]["status"] == "True";
        loop {
            if api_server
                .written
                .borrow()
                .iter()
                .any(|(_, body)| is_ready(body))
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let written = api_server.written.borrow();
        for (path, body) in &*written {
            assert_eq!(
                path,
                &format!("{INGRESSES}namespaces/ns/ingresses/ours/status")
            );
            assert_eq!(body["metadata"]["resourceVersion"], "42");
            assert_eq!(body["status"]["observedGeneration"], 3);
        }
        assert!(!is_ready(&written[0].1), "first it waits");
        let last = &written.last().expect("written").1["status"];
        assert_eq!(
            last["publicLoadBalancer"]["ingress"],
            json!([{"domainInternal": "public.knative-serving.svc.cluster.local"}])
        );
        assert_eq!(
            last["privateLoadBalancer"]["ingress"],
            json!([{"domainInternal": "internal.knative-serving.svc.cluster.local"}])
        );
    });
}
