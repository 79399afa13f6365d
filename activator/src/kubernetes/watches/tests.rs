//! Relisting, and the watches against a small API server.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use serving::body::Body;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use tokio::net::TcpListener;

use super::*;
use crate::{Backends, UPDATES_CAPACITY};

#[test]
fn a_new_list_deletes_what_it_does_not_name() {
    let mut relist = Relist::default();
    relist.begin();
    relist.saw(1);
    relist.saw(2);
    assert!(relist.end().is_empty());
    relist.saw(3);
    relist.begin();
    relist.saw(2);
    assert_eq!(relist.end(), HashSet::from([1, 3]));
    relist.begin();
    assert_eq!(relist.end(), HashSet::from([2]));
}

/// Lists one revision with its private Service, answers access reviews, and lets watches hang.
struct ApiServer {
    slices_allowed: bool,
    asked: RefCell<Vec<String>>,
}

impl Handler for ApiServer {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.asked.borrow_mut().push(path.clone());
        if query.contains("watch=true") {
            std::future::pending::<()>().await;
        }
        let labels = json!({
            "serving.knative.dev/revision": "hello-00001",
            "serving.knative.dev/revisionUID": "1",
            "networking.internal.knative.dev/serviceType": "Private",
        });
        let metadata = |name: &str| json!({"namespace": "default", "name": name, "labels": labels});
        let private = metadata("hello-00001-private");
        let ports = json!([{"name": "http", "port": 8012}]);
        let items = match path.as_str() {
            "/apis/serving.knative.dev/v1/revisions" => json!([{
                "metadata": metadata("hello-00001"),
                "spec": {"containerConcurrency": 3, "timeoutSeconds": 300, "containers": [{}]},
            }]),
            "/api/v1/endpoints" => json!([{
                "metadata": private,
                "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": ports}],
            }]),
            "/apis/discovery.k8s.io/v1/endpointslices" => json!([{
                "metadata": private,
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": true}}],
                "ports": ports,
            }]),
            "/api/v1/services" => json!([{
                "metadata": private,
                "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]},
            }]),
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => {
                return reply(&json!({
                    "metadata": {}, "spec": {}, "status": {"allowed": self.slices_allowed},
                }));
            }
            other => panic!("unexpected request for {other}"),
        };
        reply(&json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }
}

fn reply(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string(), ()));
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

/// Under upstream's ClusterRole addresses come from Endpoints, with more rights from slices.
#[test]
fn lists_become_updates() {
    for (slices_allowed, address) in [(false, "10.0.0.1:8012"), (true, "10.0.0.2:8012")] {
        crate::tests::run(async move {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", socket.local_addr().unwrap());
            let api_server = Rc::new(ApiServer {
                slices_allowed,
                asked: RefCell::default(),
            });
            tokio::task::spawn_local(server::serve(
                vec![Listener::plain(socket)],
                Rc::clone(&api_server),
                ServerOptions::default(),
                Shutdown::new(),
            ));
            let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
            let slices = may_list_endpoint_slices(&client).await.unwrap();
            assert_eq!(slices, slices_allowed);
            let (updates, mut received) = mpsc::channel(UPDATES_CAPACITY);
            let (synced, listed) = oneshot::channel();
            tokio::task::spawn_local(Watches::new(&client, slices, updates).run(synced));
            listed.await.unwrap();
            let mut revision = None;
            let mut backends = Backends::default();
            while let Ok(update) = received.try_recv() {
                match update {
                    Update::Revision(it) => revision = Some(it),
                    Update::Backends(_, it) => backends = it,
                    other => panic!("unexpected {other:?}"),
                }
            }
            assert_eq!(revision.unwrap().container_concurrency, 3);
            assert_eq!(backends.ready, [address.parse().unwrap()]);
            assert_eq!(backends.cluster_ip, Some("10.96.0.7:80".parse().unwrap()));
            let asked = api_server.asked.borrow();
            let lists_slices = asked.iter().any(|path| path.ends_with("/endpointslices"));
            assert_eq!(lists_slices, slices_allowed);
        });
    }
}
