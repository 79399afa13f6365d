//! Warning events on objects whose reconcile failed.
//!
//! The same complaint about the same object is recorded once in five minutes: a reconcile that
//! keeps failing would otherwise write an event for each attempt. Upstream's recorder counts
//! repetitions in one event instead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::world::EventObject;

/// How long a complaint is not repeated.
const QUIET: Duration = Duration::from_secs(300);
/// Complaints that are remembered; beyond it all are forgotten.
const MAX_REMEMBERED: usize = 4096;
/// The API server refuses longer messages.
const MAX_MESSAGE: usize = 1024;

/// Uid of the object, reason and message.
type Complaint = (String, &'static str, String);

/// Records events. Clones share their memory.
#[derive(Clone)]
pub(super) struct Recorder {
    client: Client,
    recorded: Arc<Mutex<HashMap<Complaint, Instant>>>,
}

/// What is to be recorded.
#[derive(Debug)]
pub(super) struct Warning {
    pub(super) component: &'static str,
    /// The object that it is about.
    pub(super) involved: ObjectReference,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A complaint that is forgotten again, when it goes, unless it was kept.
struct Remembered<'a> {
    recorder: &'a Recorder,
    complaint: Option<Complaint>,
}

/// Who complains about an object (`defaultControllerAgentName` of upstream's generated reconcilers,
/// `pkg/client/injection/reconciler/autoscaling/v1alpha1/*/controller.go`).
pub(super) fn component(about: EventObject) -> &'static str {
    match about {
        EventObject::PodAutoscaler => "podautoscaler-controller",
        EventObject::Metric => "metric-controller",
    }
}

/// Names an object, in the version that was last seen.
pub(super) fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        resource_version: object.meta().resource_version.clone(),
        ..object.object_ref(&())
    }
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            recorded: Arc::default(),
        }
    }

    /// Records a warning. Failing to do so is only logged; the next such complaint is then recorded
    /// instead. So it is when the future is dropped.
    pub(super) async fn record(&self, warning: Warning) {
        let Some(remembered) = self.remember(warning.complaint(), Instant::now()) else {
            return;
        };
        let namespace = warning.involved.namespace.clone().unwrap_or_default();
        let event = event(warning, Timestamp::now());
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => remembered.keep(),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to record an event"
            ),
        }
    }

    /// Remembers a complaint, unless it was made lately. It is from now on, so that others do not
    /// make it at the same time.
    fn remember(&self, complaint: Complaint, now: Instant) -> Option<Remembered<'_>> {
        let mut recorded = self.recorded.lock();
        recorded.retain(|_, at| now.duration_since(*at) < QUIET);
        if recorded.contains_key(&complaint) {
            return None;
        }
        if recorded.len() >= MAX_REMEMBERED {
            recorded.clear();
        }
        recorded.insert(complaint.clone(), now);
        Some(Remembered {
            recorder: self,
            complaint: Some(complaint),
        })
    }
}

// === impl Remembered ===

impl Remembered<'_> {
    fn keep(mut self) {
        self.complaint = None;
    }
}

impl Drop for Remembered<'_> {
    fn drop(&mut self) {
        if let Some(complaint) = &self.complaint {
            self.recorder.recorded.lock().remove(complaint);
        }
    }
}

// === impl Warning ===

impl Warning {
    fn complaint(&self) -> Complaint {
        let uid = self.involved.uid.clone().unwrap_or_default();
        (uid, self.reason, self.message.clone())
    }
}

fn event(warning: Warning, now: Timestamp) -> Event {
    let Warning {
        component,
        involved,
        reason,
        mut message,
    } = warning;
    let mut end = MAX_MESSAGE.min(message.len());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    let name = involved.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: involved.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: involved,
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: None,
        }),
        reporting_component: Some(component.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    fn warning(message: &str) -> Warning {
        Warning {
            component: component(EventObject::PodAutoscaler),
            involved: ObjectReference {
                kind: Some("PodAutoscaler".to_owned()),
                namespace: Some("default".to_owned()),
                name: Some("hello".to_owned()),
                uid: Some("uid".to_owned()),
                ..ObjectReference::default()
            },
            reason: "InternalError",
            message: message.to_owned(),
        }
    }

    /// A recorder whose API server answers with these codes in turn; those that are left.
    fn recorder(codes: impl IntoIterator<Item = u16>) -> (Recorder, Arc<Mutex<VecDeque<u16>>>) {
        let codes = Arc::new(Mutex::new(codes.into_iter().collect::<VecDeque<_>>()));
        let left = Arc::clone(&codes);
        let service = service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/default/events");
            let code = codes.lock().pop_front().expect("no more events than that");
            let answer = match code {
                201 => json!({"metadata": {}, "involvedObject": {}}),
                code => json!({"kind": "Status", "status": "Failure", "code": code}),
            };
            let answer = Body::from(answer.to_string().into_bytes());
            let response = Response::builder().status(code).body(answer).unwrap();
            async { Ok::<_, Infallible>(response) }
        });
        (Recorder::new(Client::new(service, "default")), left)
    }

    #[test]
    fn an_event_says_who_complains_about_what() {
        let now = Timestamp::from_nanosecond(0x1234).unwrap();
        let about = warning("no");
        let involved = about.involved.clone();
        let event = event(about, now);
        assert_eq!(event.metadata.name.as_deref(), Some("hello.1234"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.involved_object, involved);
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reason.as_deref(), Some("InternalError"));
        assert_eq!(event.message.as_deref(), Some("no"));
        assert_eq!(
            (event.first_timestamp, event.last_timestamp),
            (Some(Time(now)), Some(Time(now)))
        );
        let component = event.source.and_then(|source| source.component);
        assert_eq!(component.as_deref(), Some("podautoscaler-controller"));
    }

    #[test]
    fn a_message_is_cut_to_what_the_api_server_takes() {
        let length = |message: &str| {
            let event = event(warning(message), Timestamp::UNIX_EPOCH);
            event.message.unwrap().len()
        };
        assert_eq!(length(&"n".repeat(MAX_MESSAGE)), MAX_MESSAGE);
        assert_eq!(length(&"n".repeat(MAX_MESSAGE + 1)), MAX_MESSAGE);
        // Not within a character.
        assert_eq!(length(&"€".repeat(MAX_MESSAGE)), MAX_MESSAGE - 1);
    }

    #[tokio::test]
    async fn a_complaint_is_not_repeated_for_a_while_and_memory_is_bounded() {
        let (recorder, _) = recorder([]);
        let start = Instant::now();
        let is_new = |message: &str, now| {
            let remembered = recorder.remember(warning(message).complaint(), now);
            remembered.map(Remembered::keep).is_some()
        };
        assert!(is_new("a", start));
        assert!(!is_new("a", start + QUIET - Duration::from_nanos(1)));
        assert!(is_new("b", start), "another one");
        assert!(is_new("a", start + QUIET));

        recorder.recorded.lock().clear();
        for number in 0..MAX_REMEMBERED {
            assert!(is_new(&number.to_string(), start));
        }
        assert!(!is_new("0", start));
        assert!(is_new("one more", start));
        assert_eq!(recorder.recorded.lock().len(), 1);
        assert!(is_new("0", start), "forgotten with all others");
    }

    #[tokio::test]
    async fn a_complaint_that_was_refused_is_made_again() {
        let (recorder, left) = recorder([500, 201]);
        for expected in [1, 0, 0] {
            recorder.record(warning("no")).await;
            assert_eq!(left.lock().len(), expected);
        }
    }

    #[tokio::test]
    async fn a_complaint_that_was_given_up_is_made_again() {
        let service = service_fn(|_: Request<Body>| async {
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        });
        let recorder = Recorder::new(Client::new(service, "default"));
        let recording = recorder.record(warning("no"));
        assert_eq!(futures_util::FutureExt::now_or_never(recording), None);
        assert!(recorder.recorded.lock().is_empty());
    }
}
