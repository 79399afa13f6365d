//! The objects the reconciler reads and writes, as plain data: PodAutoscaler, Metric and
//! ServerlessService with their conditions.
//!
//! The Kubernetes shell and the one-machine platform both translate to these types; no field here
//! knows an API client. Behaviour of `pkg/apis/autoscaling/v1alpha1/{pa,metric}_lifecycle.go` and
//! `knative.dev/networking/pkg/apis/networking/v1alpha1/serverlessservice_lifecycle.go`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serving::annotation::Annotations;
use serving::condition::{Condition, ConditionSet, ConditionStatus, Conditions, READY, Severity};
use serving::{RevisionId, UnixTime};

/// Label of PodAutoscalers and pods: the Configuration's name.
pub const CONFIGURATION_LABEL: &str = "serving.knative.dev/configuration";
/// Label of PodAutoscalers and pods: the Revision's name.
pub const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// Label of PodAutoscalers and pods: the Service's name; may be absent.
pub const SERVICE_LABEL: &str = "serving.knative.dev/service";

/// PodAutoscaler condition: the revision has traffic and ready pods.
pub const ACTIVE: &str = "Active";
/// PodAutoscaler condition: the initial scale was reached once; never reset.
pub const SCALE_TARGET_INITIALIZED: &str = "ScaleTargetInitialized";
/// PodAutoscaler condition: the ServerlessService is ready.
pub const SKS_READY: &str = "SKSReady";
/// ServerlessService condition: the services have endpoints.
pub const ENDPOINTS_POPULATED: &str = "EndpointsPopulated";
/// ServerlessService condition, informational: activators are in the path.
pub const ACTIVATOR_ENDPOINTS_POPULATED: &str = "ActivatorEndpointsPopulated";

/// Conditions of a PodAutoscaler.
pub const POD_AUTOSCALER_CONDITIONS: ConditionSet =
    ConditionSet::living(&[ACTIVE, SCALE_TARGET_INITIALIZED, SKS_READY]);
/// Conditions of a Metric: only `Ready`.
pub const METRIC_CONDITIONS: ConditionSet = ConditionSet::living(&[]);
/// Conditions of a ServerlessService.
pub const SERVERLESS_SERVICE_CONDITIONS: ConditionSet =
    ConditionSet::living(&[ENDPOINTS_POPULATED]);

/// A PodAutoscaler.
#[derive(Clone, Debug, PartialEq)]
pub struct PodAutoscaler {
    pub id: RevisionId,
    /// Decides, with the controller reference of others, what this object owns.
    pub uid: String,
    pub generation: i64,
    pub annotations: Annotations,
    pub labels: BTreeMap<String, String>,
    pub spec: PodAutoscalerSpec,
    pub status: PodAutoscalerStatus,
}

/// `spec` of a PodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PodAutoscalerSpec {
    /// 0: unlimited.
    pub container_concurrency: i64,
    pub scale_target_ref: ScaleTargetRef,
    pub reachability: Reachability,
    /// `http1` or `h2c`.
    pub protocol_type: String,
}

/// The object whose `/scale` is patched, in the PodAutoscaler's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ScaleTargetRef {
    pub api_version: String,
    pub kind: String,
    pub name: String,
}

/// `spec.reachability`: whether a Route leads to the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Reachability {
    /// The empty string; counts as reachable.
    #[default]
    Unknown,
    Reachable,
    Unreachable,
}

/// `status` of a PodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PodAutoscalerStatus {
    pub observed_generation: i64,
    pub conditions: Conditions,
    /// The public service; written also when empty.
    pub service_name: String,
    /// The private service; written also when empty.
    pub metrics_service_name: String,
    /// -1: not decided yet.
    pub desired_scale: Option<i32>,
    pub actual_scale: Option<i32>,
}

/// A Metric: what is collected for one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    pub id: RevisionId,
    /// UID of the controller owner reference.
    pub controller_uid: Option<String>,
    pub spec: MetricSpec,
}

/// `spec` of a Metric.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MetricSpec {
    pub stable_window_ns: i64,
    pub panic_window_ns: i64,
    /// Service to scrape; empty where only activators report.
    pub scrape_target: String,
}

/// `status` of a Metric.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MetricStatus {
    pub observed_generation: i64,
    pub conditions: Conditions,
}

/// A ServerlessService.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerlessService {
    pub id: RevisionId,
    pub generation: i64,
    /// UID of the controller owner reference.
    pub controller_uid: Option<String>,
    pub spec: ServerlessServiceSpec,
    pub status: ServerlessServiceStatus,
}

/// `spec` of a ServerlessService.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerlessServiceSpec {
    /// `None` where an object carries no known mode.
    pub mode: Option<OperationMode>,
    pub object_ref: ScaleTargetRef,
    pub protocol_type: String,
    /// 0: all.
    pub num_activators: i32,
}

/// Who receives a revision's requests first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationMode {
    /// The pods.
    Serve,
    /// Activators.
    Proxy,
}

/// `status` of a ServerlessService.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerlessServiceStatus {
    pub observed_generation: i64,
    pub conditions: Conditions,
    /// The public service.
    pub service_name: String,
    /// The private service, which always has the pods.
    pub private_service_name: String,
}

/// Whether labels name a revision.
pub fn names_revision(labels: &BTreeMap<String, String>) -> bool {
    labels
        .get(REVISION_LABEL)
        .is_some_and(|name| !name.is_empty())
}

// === impl PodAutoscaler ===

impl PodAutoscaler {
    /// Whether Ready is True and speaks of the latest spec.
    pub fn is_ready(&self) -> bool {
        self.generation == self.status.observed_generation && self.status.conditions.is_true(READY)
    }
}

// === impl Reachability ===

impl Reachability {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Reachable => "Reachable",
            Self::Unreachable => "Unreachable",
        }
    }

    /// Reads the word on the wire; only `Unreachable` makes a difference.
    pub fn parse(text: &str) -> Self {
        match text {
            "Reachable" => Self::Reachable,
            "Unreachable" => Self::Unreachable,
            _ => Self::Unknown,
        }
    }
}

// === impl OperationMode ===

impl OperationMode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "Serve",
            Self::Proxy => "Proxy",
        }
    }

    /// Reads the word on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Serve" => Some(Self::Serve),
            "Proxy" => Some(Self::Proxy),
            _ => None,
        }
    }
}

// === impl PodAutoscalerStatus ===

impl PodAutoscalerStatus {
    /// Whether pods are ready to serve.
    pub fn is_active(&self) -> bool {
        self.conditions.is_true(ACTIVE)
    }

    /// Neither active nor inactive; also the state of a fresh object.
    pub fn is_activating(&self) -> bool {
        self.conditions.is_unknown(ACTIVE)
    }

    /// Whether the revision has been declared idle.
    pub fn is_inactive(&self) -> bool {
        self.conditions.is_false(ACTIVE)
    }

    /// Whether the initial scale was reached once.
    pub fn is_scale_target_initialized(&self) -> bool {
        self.conditions.is_true(SCALE_TARGET_INITIALIZED)
    }

    /// Nanoseconds for which `Active` has had `status`; `None` when it has another one.
    pub fn active_status_for_ns(&self, status: ConditionStatus, now: UnixTime) -> Option<i64> {
        self.conditions
            .since(ACTIVE, status)
            .map(|since| now.0.saturating_sub(since.0))
    }

    /// Whether activation has been tried for longer than `timeout_ns`.
    pub fn can_fail_activation(&self, now: UnixTime, timeout_ns: i64) -> bool {
        self.active_status_for_ns(ConditionStatus::Unknown, now)
            .is_some_and(|elapsed| elapsed > timeout_ns)
    }

    /// Adds missing conditions.
    pub fn initialize_conditions(&mut self, now: UnixTime) {
        POD_AUTOSCALER_CONDITIONS.initialize(&mut self.conditions, now);
    }

    /// `Active` becomes True.
    pub fn mark_active(&mut self, now: UnixTime) {
        POD_AUTOSCALER_CONDITIONS.mark_true(&mut self.conditions, ACTIVE, now);
    }

    /// `Active` becomes Unknown.
    pub fn mark_activating(
        &mut self,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        let conditions = &mut self.conditions;
        POD_AUTOSCALER_CONDITIONS.mark_unknown(conditions, ACTIVE, reason, message, now);
    }

    /// `Active` becomes False.
    pub fn mark_inactive(
        &mut self,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        let conditions = &mut self.conditions;
        POD_AUTOSCALER_CONDITIONS.mark_false(conditions, ACTIVE, reason, message, now);
    }

    /// Something of the same name exists that belongs to another owner.
    pub fn mark_resource_not_owned(&mut self, kind: &str, name: &str, now: UnixTime) {
        let message = format!("There is an existing {kind} {name:?} that we do not own.");
        self.mark_inactive("NotOwned", message, now);
    }

    /// Something this revision cannot do without could not be created.
    pub fn mark_resource_failed_creation(&mut self, kind: &str, name: &str, now: UnixTime) {
        let message = format!("Failed to create {kind} {name:?}.");
        self.mark_inactive("FailedCreate", message, now);
    }

    /// The initial scale was reached.
    pub fn mark_scale_target_initialized(&mut self, now: UnixTime) {
        let conditions = &mut self.conditions;
        POD_AUTOSCALER_CONDITIONS.mark_true(conditions, SCALE_TARGET_INITIALIZED, now);
    }

    /// The ServerlessService is ready.
    pub fn mark_sks_ready(&mut self, now: UnixTime) {
        POD_AUTOSCALER_CONDITIONS.mark_true(&mut self.conditions, SKS_READY, now);
    }

    /// The ServerlessService is not ready, as it says itself.
    pub fn mark_sks_not_ready(&mut self, message: impl Into<Cow<'static, str>>, now: UnixTime) {
        let conditions = &mut self.conditions;
        POD_AUTOSCALER_CONDITIONS.mark_unknown(conditions, SKS_READY, "NotReady", message, now);
    }

    /// Whether writing this status over `other` would change anything; times do not count.
    pub fn differs_from(&self, other: &Self) -> bool {
        self.observed_generation != other.observed_generation
            || self.service_name != other.service_name
            || self.metrics_service_name != other.metrics_service_name
            || self.desired_scale != other.desired_scale
            || self.actual_scale != other.actual_scale
            || !self.conditions.same_apart_from_times(&other.conditions)
    }
}

// === impl MetricStatus ===

impl MetricStatus {
    /// Whether Ready is True and speaks of `generation`.
    pub fn is_ready(&self, generation: i64) -> bool {
        self.observed_generation == generation && self.conditions.is_true(READY)
    }

    /// Adds the condition when it is missing.
    pub fn initialize_conditions(&mut self, now: UnixTime) {
        METRIC_CONDITIONS.initialize(&mut self.conditions, now);
    }

    /// Collection works.
    pub fn mark_ready(&mut self, now: UnixTime) {
        METRIC_CONDITIONS.mark_true(&mut self.conditions, READY, now);
    }

    /// Collection does not work yet.
    pub fn mark_not_ready(
        &mut self,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        METRIC_CONDITIONS.mark_unknown(&mut self.conditions, READY, reason, message, now);
    }

    /// Collection fails.
    pub fn mark_failed(
        &mut self,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        METRIC_CONDITIONS.mark_false(&mut self.conditions, READY, reason, message, now);
    }

    /// Whether writing this status over `other` would change anything; times do not count.
    pub fn differs_from(&self, other: &Self) -> bool {
        self.observed_generation != other.observed_generation
            || !self.conditions.same_apart_from_times(&other.conditions)
    }
}

// === impl ServerlessService ===

impl ServerlessService {
    /// Whether Ready is True and speaks of the latest spec.
    pub fn is_ready(&self) -> bool {
        self.status.observed_generation == self.generation && self.status.conditions.is_true(READY)
    }
}

// === impl ServerlessServiceStatus ===

impl ServerlessServiceStatus {
    /// Adds missing conditions.
    pub fn initialize_conditions(&mut self, now: UnixTime) {
        SERVERLESS_SERVICE_CONDITIONS.initialize(&mut self.conditions, now);
    }

    /// The services have endpoints.
    pub fn mark_endpoints_ready(&mut self, now: UnixTime) {
        let conditions = &mut self.conditions;
        SERVERLESS_SERVICE_CONDITIONS.mark_true(conditions, ENDPOINTS_POPULATED, now);
    }

    /// The services have no endpoints yet.
    pub fn mark_endpoints_not_ready(
        &mut self,
        reason: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        SERVERLESS_SERVICE_CONDITIONS.mark_unknown(
            &mut self.conditions,
            ENDPOINTS_POPULATED,
            reason,
            "K8s Service is not ready",
            now,
        );
    }

    /// A service of that name belongs to somebody else.
    pub fn mark_endpoints_not_owned(&mut self, kind: &str, name: &str, now: UnixTime) {
        SERVERLESS_SERVICE_CONDITIONS.mark_false(
            &mut self.conditions,
            ENDPOINTS_POPULATED,
            "NotOwned",
            format!("Resource {name} of type {kind} is not owned by SKS"),
            now,
        );
    }

    /// Activators entered (`true`) or left the path. Reason and message are the same in both
    /// cases, as the reference has them.
    pub fn mark_activator_endpoints_populated(&mut self, populated: bool, now: UnixTime) {
        let status = if populated {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        };
        let condition = Condition::new(ACTIVATOR_ENDPOINTS_POPULATED, status, Severity::Info)
            .because(
                ACTIVATOR_ENDPOINTS_POPULATED,
                "Revision is backed by Activator",
            );
        self.conditions.set(condition, now);
    }

    /// Nanoseconds since activators entered the path; 0 when they are not in it.
    pub fn proxy_for_ns(&self, now: UnixTime) -> i64 {
        self.conditions
            .since(ACTIVATOR_ENDPOINTS_POPULATED, ConditionStatus::True)
            .map_or(0, |since| now.0.saturating_sub(since.0))
    }
}
