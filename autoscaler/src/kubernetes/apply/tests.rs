//! Writes, against an API server that answers as it is scripted to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt as _;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::pod_autoscaler::{OperationMode, ServerlessServiceSpec};
use crate::world::{BatchNumber, FailedAction};

/// A request and its answer: `METHOD path`, status, body.
type Answer = (&'static str, u16, Value);

#[derive(Clone)]
struct Server {
    script: Arc<Mutex<VecDeque<Answer>>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

fn server(script: impl IntoIterator<Item = Answer>) -> (Writer, Server) {
    let server = Server {
        script: Arc::new(Mutex::new(script.into_iter().collect())),
        bodies: Arc::default(),
    };
    let answering = server.clone();
    let service = service_fn(move |request: http::Request<Body>| {
        let server = answering.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let asked = format!("{} {}", head.method, head.uri.path());
            let answer = server.script.lock().pop_front();
            let (expected, status, answer) = answer.unwrap_or_else(|| panic!("{asked}"));
            assert_eq!(asked, expected);
            server
                .bodies
                .lock()
                .push(String::from_utf8(body.to_vec()).unwrap());
            let answer = Body::from(answer.to_string().into_bytes());
            let response = Response::builder().status(status).body(answer).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    let client = Client::new(service, "default");
    let writer = Writer {
        client: client.clone(),
        caches: Caches::default(),
        events: Recorder::new(client),
    };
    writer.caches.pod_autoscalers.put(id(), &object("1"));
    (writer, server)
}

fn id() -> RevisionId {
    RevisionId::new("default", "hello")
}

fn wire(version: &str) -> Value {
    json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler",
        "metadata": {"namespace": "default", "name": "hello", "resourceVersion": version},
        "spec": {"scaleTargetRef": {}, "protocolType": "http1"}
    })
}

fn object(version: &str) -> PodAutoscaler {
    serde_json::from_value(wire(version)).unwrap()
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": "no"
    })
}

fn scale(api_version: &str, kind: &str) -> Action {
    Action::Scale {
        revision: id(),
        target: ScaleTargetRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: "target".to_owned(),
        },
        replicas: 3,
    }
}

fn status() -> Action {
    Action::Status {
        revision: id(),
        status: Box::default(),
    }
}

const PUT_STATUS: &str = "PUT /apis/autoscaling.internal.knative.dev/v1alpha1/namespaces/default/podautoscalers/hello/status";
const GET: &str =
    "GET /apis/autoscaling.internal.knative.dev/v1alpha1/namespaces/default/podautoscalers/hello";
const PATCH: &str = "PATCH /apis/apps/v1/namespaces/default/deployments/target/scale";
const SERVICES: &str =
    "POST /apis/networking.internal.knative.dev/v1alpha1/namespaces/default/serverlessservices";

/// Carries out batches and returns the failures.
async fn carry_out(writer: Writer, batches: Vec<Vec<Action>>) -> Vec<Failure> {
    let (sender, receiver) = mpsc::channel(8);
    let (updates, mut failures) = mpsc::channel(8);
    let mut number = BatchNumber::default();
    for actions in batches {
        number = number.next();
        sender.send(Batch { number, actions }).await.unwrap();
    }
    drop(sender);
    run(writer, receiver, updates).await;
    let mut all = Vec::new();
    while let Some(Update::Failed(of, failure)) = failures.recv().await {
        assert_eq!(of, id());
        all.push(failure);
    }
    all
}

#[tokio::test]
async fn replicas_are_patched_through_the_scale_of_any_kind() {
    let (writer, server) = server([
        (PATCH, 200, json!({})),
        (
            "PATCH /api/v1/namespaces/default/compasses/target/scale",
            200,
            json!({}),
        ),
    ]);
    let batches = vec![
        vec![scale("apps/v1", "Deployment")],
        vec![scale("v1", "Compass")],
    ];
    assert!(carry_out(writer, batches).await.is_empty());
    let body = r#"[{"op":"add","path":"/spec/replicas","value":3}]"#;
    assert_eq!(*server.bodies.lock(), [body, body]);
}

#[tokio::test]
async fn a_batch_ends_at_its_first_failure() {
    let (writer, server) = server([
        (PATCH, 403, refusal(403, "Forbidden")),
        // The next batch is carried out all the same.
        (PUT_STATUS, 200, wire("2")),
    ]);
    let batches = vec![
        vec![scale("apps/v1", "Deployment"), status()],
        vec![status()],
    ];
    let failures = carry_out(writer, batches).await;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].batch, BatchNumber::default().next());
    assert_eq!(failures[0].action, FailedAction::Scale);
    let message = failures[0].message.as_deref().unwrap();
    assert!(
        message.starts_with("failed to apply scale 3 to scale target target: "),
        "{message}"
    );
    assert_eq!(server.bodies.lock().len(), 2);
}

/// Covers upstream's `TestReconcileStatusWithConflict` family of its generated reconcilers.
#[tokio::test]
async fn a_status_that_conflicts_is_written_over_the_present_object() {
    let (writer, server) = server([
        (PUT_STATUS, 409, refusal(409, "Conflict")),
        (GET, 200, wire("7")),
        (PUT_STATUS, 200, wire("8")),
        (PUT_STATUS, 200, wire("9")),
    ]);
    let failures = carry_out(writer.clone(), vec![vec![status()], vec![status()]]).await;
    assert!(failures.is_empty(), "{failures:?}");
    let bodies: Vec<Value> = server
        .bodies
        .lock()
        .iter()
        .map(|body| serde_json::from_str(body).unwrap_or_default())
        .collect();
    let version = |at: usize| bodies[at]["metadata"]["resourceVersion"].clone();
    assert_eq!([version(0), version(2), version(3)], ["1", "7", "8"]);
    assert_eq!(bodies[0]["status"]["serviceName"], "");
}

#[tokio::test]
async fn a_status_that_keeps_conflicting_is_given_up_silently() {
    let mut script = vec![(PUT_STATUS, 409, refusal(409, "Conflict"))];
    for _ in 1..STATUS_ATTEMPTS {
        script.push((GET, 200, wire("7")));
        script.push((PUT_STATUS, 409, refusal(409, "Conflict")));
    }
    let (writer, server) = server(script);
    let failures = carry_out(writer, vec![vec![status()]]).await;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].action, FailedAction::Status);
    assert_eq!(failures[0].message, None);
    assert!(server.script.lock().is_empty());
}

/// Services that are deleted take their PodAutoscalers with them at any moment.
#[tokio::test]
async fn what_was_deleted_in_the_meantime_is_no_complaint_but_a_missing_scale_target_is() {
    let (writer, _server) = server([
        (PUT_STATUS, 404, refusal(404, "NotFound")),
        (PATCH, 404, refusal(404, "NotFound")),
    ]);
    let batches = vec![vec![status()], vec![scale("apps/v1", "Deployment")]];
    let failures = carry_out(writer, batches).await;
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[0].message, None);
    assert!(failures[1].message.is_some());
}

#[tokio::test]
async fn what_exists_is_updated_and_what_does_not_is_created() {
    let spec = |mode| ServerlessServiceSpec {
        mode: Some(mode),
        protocol_type: "http1".to_owned(),
        num_activators: 2,
        ..ServerlessServiceSpec::default()
    };
    let action = |mode| Action::ServerlessService {
        revision: id(),
        spec: spec(mode),
    };
    let created = json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "ServerlessService",
        "metadata": {
            "namespace": "default", "name": "hello", "resourceVersion": "5",
            "labels": {"kept": "yes"}
        },
        "spec": {"mode": "Proxy", "objectRef": {}, "protocolType": "http1", "numActivators": 2}
    });
    let (writer, server) = server([
        (SERVICES, 201, created.clone()),
        (
            "PUT /apis/networking.internal.knative.dev/v1alpha1/namespaces/default/serverlessservices/hello",
            200,
            created.clone(),
        ),
    ]);
    let batches = vec![
        vec![action(OperationMode::Proxy)],
        vec![action(OperationMode::Serve)],
    ];
    assert!(carry_out(writer, batches).await.is_empty());
    let mut expected = created;
    expected["spec"]["mode"] = json!("Serve");
    let sent: Value = serde_json::from_str(&server.bodies.lock()[1]).unwrap();
    assert_eq!(sent, expected);
}

/// Covers the events of upstream's generated reconcilers (`UpdateFailed` in `reconciler.go`).
#[tokio::test]
async fn events_are_recorded_on_the_object_they_are_about() {
    const EVENTS: &str = "POST /api/v1/namespaces/default/events";
    let event = |about| Action::Event {
        revision: id(),
        about,
        reason: "UpdateFailed",
        message: "no quota".to_owned(),
    };
    let answer = json!({"metadata": {}, "involvedObject": {}});
    let (writer, server) = server([(EVENTS, 201, answer.clone()), (EVENTS, 201, answer)]);
    let metric = json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "Metric",
        "metadata": {"namespace": "default", "name": "hello", "uid": "metric", "resourceVersion": "3"},
        "spec": {"stableWindow": 1, "panicWindow": 1, "scrapeTarget": ""}
    });
    let about_metric = event(EventObject::Metric);
    // There is no Metric yet.
    assert!(
        carry_out(writer.clone(), vec![vec![about_metric.clone()]])
            .await
            .is_empty()
    );
    let metric: Metric = serde_json::from_value(metric).unwrap();
    writer.caches.metrics.put(id(), &metric);
    let batches = vec![vec![event(EventObject::PodAutoscaler)], vec![about_metric]];
    assert!(carry_out(writer, batches).await.is_empty());
    let said: Vec<_> = server
        .bodies
        .lock()
        .iter()
        .map(|body| {
            let event: Value = serde_json::from_str(body).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            assert_eq!(event["reportingComponent"], event["source"]["component"]);
            assert_eq!(event["involvedObject"]["name"], "hello");
            [
                text(&event["involvedObject"]["kind"]),
                text(&event["involvedObject"]["uid"]),
                text(&event["involvedObject"]["resourceVersion"]),
                text(&event["source"]["component"]),
            ]
        })
        .collect();
    assert_eq!(
        said,
        [
            ["PodAutoscaler", "", "1", "podautoscaler-controller"],
            ["Metric", "metric", "3", "metric-controller"],
        ]
    );
}
