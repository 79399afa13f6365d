//! Warning events on PodAutoscalers whose reconcile failed.
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

use super::objects::PodAutoscaler;

/// Who complains (the controller agent's name upstream).
const COMPONENT: &str = "podautoscaler-controller";
/// How long a complaint is not repeated.
const QUIET: Duration = Duration::from_secs(300);
/// Complaints that are remembered; beyond it all are forgotten.
const MAX_REMEMBERED: usize = 4096;
/// The API server refuses longer messages.
const MAX_MESSAGE: usize = 1024;

type Complaint = (String, &'static str, String);

/// Records events. Clones share their memory.
#[derive(Clone)]
pub(super) struct Recorder {
    client: Client,
    recorded: Arc<Mutex<HashMap<Complaint, Instant>>>,
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            recorded: Arc::default(),
        }
    }

    /// Records a warning about a PodAutoscaler. Failing to do so is only logged.
    pub(super) async fn warn(&self, about: &ObjectMeta, reason: &'static str, message: String) {
        let uid = about.uid.clone().unwrap_or_default();
        if !self.is_new((uid, reason, message.clone()), Instant::now()) {
            return;
        }
        let namespace = about.namespace.clone().unwrap_or_default();
        let event = event(about, reason, message, Timestamp::now());
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to record an event"
            );
        }
    }

    fn is_new(&self, complaint: Complaint, now: Instant) -> bool {
        let mut recorded = self.recorded.lock();
        recorded.retain(|_, at| now.duration_since(*at) < QUIET);
        if recorded.len() >= MAX_REMEMBERED {
            recorded.clear();
        }
        if recorded.contains_key(&complaint) {
            return false;
        }
        recorded.insert(complaint, now);
        true
    }
}

fn event(about: &ObjectMeta, reason: &str, mut message: String, now: Timestamp) -> Event {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE)
            .rev()
            .find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or_default());
    }
    let name = about.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(PodAutoscaler::api_version(&()).into_owned()),
            kind: Some(PodAutoscaler::kind(&()).into_owned()),
            namespace: about.namespace.clone(),
            name: Some(name),
            uid: about.uid.clone(),
            resource_version: about.resource_version.clone(),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: None,
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        ..Event::default()
    }
}
