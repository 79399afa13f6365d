//! What a collector gets, read with the official messages.

use std::cell::RefCell;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use prometheus_client::registry::Registry;
use prost::Message;
use serving::RevisionId;
use serving::body::Body;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::{Options, UPDATES_CAPACITY, Update};

#[derive(Default)]
struct Collector(RefCell<Vec<ExportMetricsServiceRequest>>);

impl Handler for Collector {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        assert_eq!(request.uri().path(), "/v1/metrics");
        let body = request
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        let message = ExportMetricsServiceRequest::decode(body).expect("a message");
        self.0.borrow_mut().push(message);
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
    Export::new(
        &NO_VARIABLES,
        observability,
        "knative-serving",
        "activator-0",
    )
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
        let revision = Revision {
            service: "hello".to_owned(),
            ..Revision::new(RevisionId::new("default", "hello-00001"))
        };
        updates
            .send(Update::Revision(revision))
            .await
            .expect("taken");
        let settings = observability(PROTOCOL_HTTP_PROTOBUF, &endpoint);
        let export = export(&settings).expect("valid").expect("wanted");
        tokio::task::spawn_local(run(activator, export));
        loop {
            let queued = find(&collector.0.borrow(), "kn.revision.request.queued");
            if let Some(metric) = queued {
                let Some(Data::Sum(sum)) = metric.data else {
                    panic!("{metric:?}")
                };
                assert!(!sum.is_monotonic);
                let attributes = &sum.data_points[0].attributes;
                let value = attributes[1].value.clone().and_then(|it| it.value);
                let name = any_value::Value::StringValue("hello-00001".to_owned());
                assert_eq!(value, Some(name));
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let received = collector.0.borrow();
        let errors = find(&received, "kn.activator.stats.conn.errors").expect("sent");
        assert!(matches!(errors.data, Some(Data::Sum(sum)) if sum.is_monotonic));
        let resource = received[0].resource_metrics[0]
            .resource
            .clone()
            .expect("sent");
        assert!(
            resource
                .attributes
                .iter()
                .any(|it| it.key == "service.name")
        );
    });
}

fn find(received: &[ExportMetricsServiceRequest], name: &str) -> Option<Metric> {
    let scopes = received.iter().flat_map(|it| &it.resource_metrics);
    let scopes = scopes.flat_map(|it| &it.scope_metrics);
    let mut metrics = scopes.flat_map(|it| &it.metrics);
    metrics.find(|it| it.name == name).cloned()
}
