//! What a collector gets. The encoding itself is checked against the official messages where
//! queue-proxy uses it.

use std::cell::RefCell;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use serving::RevisionId;
use serving::body::Body;
use serving::resource::Identity;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::http_metrics::Facts;
use crate::{Options, UPDATES_CAPACITY, Update};

#[derive(Default)]
struct Collector(RefCell<Vec<Bytes>>);

impl Handler for Collector {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        assert_eq!(request.uri().path(), "/v1/metrics");
        let body = request.into_body().collect().await.expect("whole");
        self.0.borrow_mut().push(body.to_bytes());
        Response::new(Body::empty(()))
    }
}

fn observability(protocol: &str, endpoint: &str) -> Observability {
    let mut observability = Observability::default();
    observability.metrics.protocol = protocol.to_owned();
    observability.metrics.endpoint = endpoint.to_owned();
    observability.metrics.export_interval_nanos = 10_000_000;
    observability
}

const NO_VARIABLES: &[(&str, &str)] = &[];

fn export(observability: &Observability) -> Result<Option<Export>, ExportError> {
    let identity = Identity {
        service: "activator",
        version: "1",
        namespace: "knative-serving",
        pod: "activator-0",
    };
    Export::new(&NO_VARIABLES, observability, identity.resource())
}

/// Edge case 61: with the protocol `none`, or to be scraped, nothing is pushed.
#[test]
fn edge_case_61_nothing_is_pushed_unless_wanted() {
    for protocol in ["none", "prometheus", ""] {
        assert!(
            export(&observability(protocol, ""))
                .expect("valid")
                .is_none()
        );
    }
    assert!(export(&observability(PROTOCOL_GRPC, "no url at all")).is_err());
}

#[test]
fn everything_is_pushed() {
    crate::tests::run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/v1/metrics", socket.local_addr().expect("bound"));
        let collector = Rc::new(Collector::default());
        tokio::task::spawn_local(server::serve(
            vec![Listener::plain(socket)],
            Rc::clone(&collector),
            ServerOptions::default(),
            Shutdown::new(),
        ));
        let (updates, received) = mpsc::channel(UPDATES_CAPACITY);
        let options = Options::new("activator-0", "10.1.0.1");
        let (activator, driver) = crate::new(options, received, &mut Registry::default());
        tokio::task::spawn_local(driver.run());
        let id = RevisionId::new("default", "hello-00001");
        let revision = Revision::new(id.clone());
        updates
            .send(Update::Revision(revision))
            .await
            .expect("taken");
        let shared = activator.shared();
        let entry = loop {
            if let Some(entry) = shared.table.get_id(&id) {
                break entry;
            }
            tokio::task::yield_now().await;
        };
        // What a first request does.
        shared.metrics.gauges(&entry);
        let settings = observability(PROTOCOL_HTTP_PROTOBUF, &endpoint);
        let export = export(&settings).expect("valid").expect("wanted");
        let mut tasks = JoinSet::new();
        let exporting = start(&activator, export, &mut tasks);
        let wanted = [
            "kn.revision.request.queued",
            "kn.revision.request.active",
            "kn.activator.stats.conn.reachable",
            "kn.activator.stats.conn.errors",
            "hello-00001",
            "service.name",
            "activator-0",
        ];
        let has_all = |message: &Bytes| {
            let has = |text: &str| message.windows(text.len()).any(|it| it == text.as_bytes());
            wanted.into_iter().all(has)
        };
        while !collector.0.borrow().iter().any(has_all) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The last word before the end of the process.
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        let before = collector.0.borrow().len();
        exporting.flush().await;
        assert_eq!(collector.0.borrow().len(), before + 1);
    });
}

/// What belongs to no revision is pushed without the attributes of one.
#[test]
fn refused_requests_have_no_revision() {
    crate::tests::run(async {
        let (_updates, received) = mpsc::channel(UPDATES_CAPACITY);
        let options = Options::new("activator-0", "10.1.0.1");
        let (activator, _driver) = crate::new(options, received, &mut Registry::default());
        let shared = activator.shared();
        let request = Request::get("/").body(()).expect("valid");
        let facts = Facts::of(&request, false);
        let status = StatusCode::NOT_FOUND;
        shared
            .metrics
            .http
            .refused(facts, status, 7, Duration::ZERO);
        let scopes = snapshot(shared);
        let mut metrics = scopes.iter().flat_map(|scope| &scope.metrics);
        let duration = metrics
            .find(|it| it.instrument.name == "http.server.request.duration")
            .expect("always there");
        let Series::Histogram(points) = &duration.series else {
            panic!("no histogram: {duration:?}");
        };
        let keys: Vec<_> = points[0].attributes.iter().map(|it| &*it.key).collect();
        assert_eq!(
            keys,
            [
                "http.request.method",
                "http.response.status_code",
                "network.protocol.name",
                "network.protocol.version",
                "url.scheme"
            ]
        );
    });
}
