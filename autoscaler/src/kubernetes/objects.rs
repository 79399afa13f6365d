//! The custom resources as they are on the wire, and what becomes of them in the pure modules.
//!
//! Written so that a write serialises what the Go types serialise: `status.serviceName`,
//! `status.metricsServiceName` and `spec.scrapeTarget` also when they are empty, because the
//! schemas require them; everything else is left out when it is empty. Upstream:
//! `pkg/apis/autoscaling/v1alpha1/*_types.go`, `knative.dev/networking/pkg/apis/networking/v1alpha1`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{CustomResource, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serving::condition::{self, ConditionStatus, Conditions, Severity};
use serving::{RevisionId, UnixTime};

use crate::plan;
use crate::pod_autoscaler as pure;
use crate::spec::Aggregation;
use crate::world::MetricObject;

/// The API version of PodAutoscalers and Metrics.
const AUTOSCALING: &str = "autoscaling.internal.knative.dev/v1alpha1";

/// `spec` of a PodAutoscaler.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "autoscaling.internal.knative.dev",
    version = "v1alpha1",
    kind = "PodAutoscaler",
    plural = "podautoscalers",
    namespaced,
    status = "PodAutoscalerStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAutoscalerSpec {
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub container_concurrency: i64,
    pub scale_target_ref: ObjectReference,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reachability: String,
    pub protocol_type: String,
}

/// `status` of a PodAutoscaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAutoscalerStatus {
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub service_name: String,
    pub metrics_service_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_scale: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_scale: Option<i32>,
}

/// `spec` of a Metric.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "autoscaling.internal.knative.dev",
    version = "v1alpha1",
    kind = "Metric",
    plural = "metrics",
    namespaced,
    status = "MetricStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSpec {
    /// Nanoseconds.
    pub stable_window: i64,
    /// Nanoseconds.
    pub panic_window: i64,
    pub scrape_target: String,
}

/// `status` of a Metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricStatus {
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// `spec` of a ServerlessService.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "networking.internal.knative.dev",
    version = "v1alpha1",
    kind = "ServerlessService",
    plural = "serverlessservices",
    namespaced,
    status = "ServerlessServiceStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerlessServiceSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    pub object_ref: ObjectReference,
    pub protocol_type: String,
    #[serde(skip_serializing_if = "is_zero_i32")]
    pub num_activators: i32,
}

/// `status` of a ServerlessService.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerlessServiceStatus {
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub private_service_name: String,
}

/// `knative.dev/pkg/apis.Condition`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// RFC 3339 with whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_zero_i64(value: &i64) -> bool {
    *value == 0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_zero_i32(value: &i32) -> bool {
    *value == 0
}

/// The revision that an object of ours is about.
pub(super) fn id_of(metadata: &ObjectMeta) -> RevisionId {
    RevisionId::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn controller_uid(metadata: &ObjectMeta) -> Option<String> {
    let owners = metadata.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.clone())
        .next()
}

/// Metadata of an object that a PodAutoscaler owns.
fn owned_by(owner: &pure::PodAutoscaler, annotations: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(owner.id.namespace.clone()),
        name: Some(owner.id.name.clone()),
        labels: Some(owner.labels.clone()),
        annotations: Some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: AUTOSCALING.to_owned(),
            kind: "PodAutoscaler".to_owned(),
            name: owner.id.name.clone(),
            uid: owner.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn target_of(reference: &ObjectReference) -> pure::ScaleTargetRef {
    pure::ScaleTargetRef {
        api_version: reference.api_version.clone().unwrap_or_default(),
        kind: reference.kind.clone().unwrap_or_default(),
        name: reference.name.clone().unwrap_or_default(),
    }
}

fn reference_to(target: &pure::ScaleTargetRef) -> ObjectReference {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: some(&target.api_version),
        kind: some(&target.kind),
        name: some(&target.name),
        ..ObjectReference::default()
    }
}

// === impl Condition ===

impl Condition {
    fn to_pure(&self) -> condition::Condition {
        let time = self
            .last_transition_time
            .as_deref()
            .and_then(|text| text.parse::<k8s_openapi::jiff::Timestamp>().ok())
            .map_or(UnixTime::default(), |time| {
                UnixTime::from_seconds(time.as_second())
            });
        condition::Condition {
            type_: known_type(&self.type_),
            status: ConditionStatus::parse(&self.status).unwrap_or(ConditionStatus::Unknown),
            severity: Severity::parse(&self.severity),
            reason: self.reason.clone().into(),
            message: self.message.clone().into(),
            last_transition_time: time,
        }
    }

    fn of(condition: &condition::Condition) -> Self {
        let time =
            k8s_openapi::jiff::Timestamp::from_second(condition.last_transition_time.seconds());
        Self {
            type_: condition.type_.to_string(),
            status: condition.status.as_str().to_owned(),
            severity: condition.severity.as_str().to_owned(),
            last_transition_time: time.ok().map(|time| time.to_string()),
            reason: condition.reason.to_string(),
            message: condition.message.to_string(),
        }
    }
}

/// Condition types are few; ten thousand objects share their names.
fn known_type(text: &str) -> Cow<'static, str> {
    let known = [
        condition::READY,
        pure::ACTIVE,
        pure::SCALE_TARGET_INITIALIZED,
        pure::SKS_READY,
        pure::ENDPOINTS_POPULATED,
        pure::ACTIVATOR_ENDPOINTS_POPULATED,
    ];
    known
        .into_iter()
        .find(|name| *name == text)
        .map_or_else(|| text.to_owned().into(), Cow::Borrowed)
}

fn conditions_of(wire: &[Condition]) -> Conditions {
    wire.iter().map(Condition::to_pure).collect()
}

fn wire_conditions(conditions: &Conditions) -> Vec<Condition> {
    conditions.iter().map(Condition::of).collect()
}

// === impl PodAutoscaler ===

impl PodAutoscaler {
    pub(super) fn to_pure(&self) -> pure::PodAutoscaler {
        let status = self.status.clone().unwrap_or_default();
        pure::PodAutoscaler {
            id: id_of(&self.metadata),
            uid: self.uid().unwrap_or_default(),
            generation: self.metadata.generation.unwrap_or_default(),
            annotations: self.annotations().clone(),
            labels: self.labels().clone(),
            spec: pure::PodAutoscalerSpec {
                container_concurrency: self.spec.container_concurrency,
                scale_target_ref: target_of(&self.spec.scale_target_ref),
                reachability: pure::Reachability::parse(&self.spec.reachability),
                protocol_type: self.spec.protocol_type.clone(),
            },
            status: pure::PodAutoscalerStatus {
                observed_generation: status.observed_generation,
                conditions: conditions_of(&status.conditions),
                service_name: status.service_name,
                metrics_service_name: status.metrics_service_name,
                desired_scale: status.desired_scale,
                actual_scale: status.actual_scale,
            },
        }
    }

    /// This object with another status, to be written.
    pub(super) fn with_status(&self, status: &pure::PodAutoscalerStatus) -> Self {
        let old = self.status.as_ref();
        let status = PodAutoscalerStatus {
            observed_generation: status.observed_generation,
            conditions: wire_conditions(&status.conditions),
            annotations: old.map(|old| old.annotations.clone()).unwrap_or_default(),
            service_name: status.service_name.clone(),
            metrics_service_name: status.metrics_service_name.clone(),
            desired_scale: status.desired_scale,
            actual_scale: status.actual_scale,
        };
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

// === impl Metric ===

impl Metric {
    pub(super) fn to_pure(&self) -> MetricObject {
        let status = self.status.clone().unwrap_or_default();
        MetricObject {
            metric: pure::Metric {
                id: id_of(&self.metadata),
                controller_uid: controller_uid(&self.metadata),
                spec: pure::MetricSpec {
                    stable_window_ns: self.spec.stable_window,
                    panic_window_ns: self.spec.panic_window,
                    scrape_target: self.spec.scrape_target.clone(),
                },
            },
            generation: self.metadata.generation.unwrap_or(1),
            aggregation: Aggregation::of(self.annotations()),
            names_revision: pure::names_revision(self.labels()),
            status: pure::MetricStatus {
                observed_generation: status.observed_generation,
                conditions: conditions_of(&status.conditions),
            },
        }
    }

    /// A Metric to be created.
    pub(super) fn of(owner: &pure::PodAutoscaler, spec: &pure::MetricSpec) -> Self {
        Self {
            metadata: owned_by(owner, plan::metric_annotations(owner)),
            spec: MetricSpec::of(spec),
            status: None,
        }
    }

    /// This object with another spec, to be written.
    pub(super) fn with_spec(&self, spec: &pure::MetricSpec) -> Self {
        Self {
            spec: MetricSpec::of(spec),
            ..self.clone()
        }
    }

    /// This object with another status, to be written.
    pub(super) fn with_status(&self, status: &pure::MetricStatus) -> Self {
        let old = self.status.as_ref();
        Self {
            status: Some(MetricStatus {
                observed_generation: status.observed_generation,
                conditions: wire_conditions(&status.conditions),
                annotations: old.map(|old| old.annotations.clone()).unwrap_or_default(),
            }),
            ..self.clone()
        }
    }
}

impl MetricSpec {
    fn of(spec: &pure::MetricSpec) -> Self {
        Self {
            stable_window: spec.stable_window_ns,
            panic_window: spec.panic_window_ns,
            scrape_target: spec.scrape_target.clone(),
        }
    }
}

// === impl ServerlessService ===

impl ServerlessService {
    pub(super) fn to_pure(&self) -> pure::ServerlessService {
        let status = self.status.clone().unwrap_or_default();
        pure::ServerlessService {
            id: id_of(&self.metadata),
            generation: self.metadata.generation.unwrap_or_default(),
            controller_uid: controller_uid(&self.metadata),
            spec: pure::ServerlessServiceSpec {
                mode: pure::OperationMode::parse(&self.spec.mode),
                object_ref: target_of(&self.spec.object_ref),
                protocol_type: self.spec.protocol_type.clone(),
                num_activators: self.spec.num_activators,
            },
            status: pure::ServerlessServiceStatus {
                observed_generation: status.observed_generation,
                conditions: conditions_of(&status.conditions),
                service_name: status.service_name,
                private_service_name: status.private_service_name,
            },
        }
    }

    /// A ServerlessService to be created.
    pub(super) fn of(owner: &pure::PodAutoscaler, spec: &pure::ServerlessServiceSpec) -> Self {
        Self {
            metadata: owned_by(owner, plan::sks_annotations(owner)),
            spec: ServerlessServiceSpec::of(spec),
            status: None,
        }
    }

    /// This object with another spec, to be written.
    pub(super) fn with_spec(&self, spec: &pure::ServerlessServiceSpec) -> Self {
        Self {
            spec: ServerlessServiceSpec::of(spec),
            ..self.clone()
        }
    }
}

impl ServerlessServiceSpec {
    fn of(spec: &pure::ServerlessServiceSpec) -> Self {
        Self {
            mode: spec
                .mode
                .map(|mode| mode.as_str().to_owned())
                .unwrap_or_default(),
            object_ref: reference_to(&spec.object_ref),
            protocol_type: spec.protocol_type.clone(),
            num_activators: spec.num_activators,
        }
    }
}

#[cfg(test)]
mod tests;
