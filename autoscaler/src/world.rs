//! How the autoscaler meets its platform: the world enters as [`Update`]s on one bounded channel and
//! leaves as [`Action`]s on another. `kubernetes` watches and patches an API server, `local` keeps
//! objects in memory and starts processes; the driver cannot tell them apart.
//!
//! Actions come in batches, one per reconcile. A platform carries out a [`Batch`] in order and stops
//! at the first action that fails, which it reports with [`Update::Failed`]; batches of one revision
//! it keeps in order, those of different revisions it may carry out in any. A batch that fails does
//! not keep later ones of its revision from being carried out.
//!
//! The driver never waits for room in the channel of actions before it takes the next update, so a
//! platform may wait for room in the channel of updates while it carries out actions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serving::config;
use serving::{RevisionId, UnixTime};

use crate::plan::ScaleTarget;
use crate::pod_autoscaler::{
    Metric, MetricSpec, MetricStatus, PodAutoscaler, PodAutoscalerStatus, ScaleTargetRef,
    ServerlessService, ServerlessServiceSpec,
};
use crate::pods::Pod;
use crate::spec::Aggregation;

/// Recommended capacity of the channel of updates.
pub const UPDATES_CAPACITY: usize = 1024;
/// Recommended capacity of the channel of actions.
pub const ACTIONS_CAPACITY: usize = 1024;

/// Something that happened in the world. Each carries the whole present state of its object, so a
/// lost intermediate state loses nothing. Objects may come in any order.
///
/// A platform echoes what actions changed: a new ServerlessService spec, new replicas. Until it does,
/// for at most half a minute, the driver goes on as if they had changed.
#[derive(Clone, Debug)]
pub enum Update {
    /// The configuration at start, or a changed one. Nothing is reconciled before the first.
    Config(Arc<ClusterConfig>),
    /// A PodAutoscaler of class KPA was created or changed. A platform that keeps objects itself puts
    /// in the last status that [`Action::Status`] asked for.
    PodAutoscaler(Box<PodAutoscaler>),
    /// A PodAutoscaler is gone: decider, collection and gauges of the revision go with it.
    PodAutoscalerDeleted(RevisionId),
    /// All pods that the revision has now.
    Pods(RevisionId, Vec<RevisionPod>),
    /// The ServerlessService of the revision, or its absence.
    ServerlessService(RevisionId, Option<Box<ServerlessService>>),
    /// The scale target of the revision: `None` while it does not exist. A revision is not
    /// reconciled before the first. `None` counts only after something else of the revision has
    /// been told, so a platform tells of the PodAutoscaler first.
    ScaleTarget(RevisionId, Option<ScaleTarget>),
    /// The Metric of the revision, or its absence. A platform without Metric objects never sends
    /// it: the driver collects what its own [`Action::Metric`] asks for.
    Metric(RevisionId, Option<Box<MetricObject>>),
    /// An action could not be carried out; the revision is reconciled again after a back-off.
    Failed(RevisionId, Failure),
    /// Which revisions this replica is to reconcile has changed.
    Ownership(Arc<dyn Ownership>),
}

/// The two config maps that act on decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// `config-autoscaler`.
    pub autoscaler: config::Autoscaler,
    /// `progress-deadline` of `config-deployment`.
    pub progress_deadline: Duration,
}

/// A pod and where its queue-proxy serves statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionPod {
    /// What is counted.
    pub pod: Pod,
    /// In a cluster the pod's address and port 9090; `None` until the pod has an address.
    pub stats: Option<SocketAddr>,
}

/// A Metric object with what the pure modules do not look at.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricObject {
    /// Owner and spec.
    pub metric: Metric,
    /// `metadata.generation`.
    pub generation: i64,
    /// What its annotations say, as far as they are looked at: only when collection begins.
    pub aggregation: Aggregation,
    /// Whether its labels name the revision whose pods are scraped.
    pub names_revision: bool,
    /// The status as last written.
    pub status: MetricStatus,
}

/// What one reconcile asks for, all of it of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Told back in [`Failure::batch`].
    pub number: BatchNumber,
    /// In the order in which they are to be carried out; at least one.
    pub actions: Vec<Action>,
}

/// Tells the batches of one driver apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchNumber(u64);

/// What the driver asks of its platform.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Patch `/scale` of the target to `replicas`.
    Scale {
        /// Whose target.
        revision: RevisionId,
        /// The target, in the revision's namespace.
        target: ScaleTargetRef,
        /// The wanted number.
        replicas: i32,
    },
    /// Create the ServerlessService, or write its spec where that differs.
    ServerlessService {
        /// Its name, and that of its owner.
        revision: RevisionId,
        /// The wanted spec.
        spec: ServerlessServiceSpec,
    },
    /// Create the Metric, or write its spec where that differs.
    Metric {
        /// Its name, and that of its owner.
        revision: RevisionId,
        /// The wanted spec.
        spec: MetricSpec,
    },
    /// Write the status of the PodAutoscaler.
    Status {
        /// Whose status.
        revision: RevisionId,
        /// All of it.
        status: Box<PodAutoscalerStatus>,
    },
    /// Write the status of the Metric.
    MetricStatus {
        /// Whose status.
        revision: RevisionId,
        /// All of it.
        status: Box<MetricStatus>,
    },
    /// Record a Warning event.
    Event {
        /// The name of the object.
        revision: RevisionId,
        /// On which of its objects.
        about: EventObject,
        /// `InternalError` or `UpdateFailed`.
        reason: &'static str,
        /// For a person.
        message: String,
    },
}

/// The objects of a revision that events are recorded on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventObject {
    /// The PodAutoscaler, for whatever its reconcile does.
    PodAutoscaler,
    /// The Metric, for its status.
    Metric,
}

/// Which action failed and how.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The batch that ended with it. More may have been asked for since.
    pub batch: BatchNumber,
    /// What could not be done.
    pub action: FailedAction,
    /// The error's text, for the event; `None` for a conflict, which is retried silently.
    pub message: Option<String>,
}

/// The kinds of [`Action`] whose failure matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailedAction {
    /// [`Action::Scale`].
    Scale,
    /// [`Action::ServerlessService`].
    ServerlessService,
    /// [`Action::Metric`].
    Metric,
    /// [`Action::Status`].
    Status,
    /// [`Action::MetricStatus`].
    MetricStatus,
}

/// Tells which revisions this replica reconciles. On one machine: all.
pub trait Ownership: Send + Sync + std::fmt::Debug {
    /// Whether `revision` is this replica's to reconcile now.
    fn owns(&self, revision: &RevisionId) -> bool;
}

/// Owns every revision.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnsAll;

/// Where the activator probe of a revision goes (`pkg/reconciler/autoscaling/kpa/scaler.go`,
/// `paToProbeTarget`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Host and port to dial; a name is resolved each time.
    pub address: String,
    /// The `Host` header.
    pub host: String,
}

/// Where to send the activator probe of a PodAutoscaler whose `status.serviceName` is set; `None`
/// counts as a failed probe.
pub type ProbeTargets = Arc<dyn Fn(&PodAutoscaler) -> Option<ProbeTarget> + Send + Sync>;

/// What `pilotlight status` and tests see of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionSnapshot {
    /// Which revision.
    pub revision: RevisionId,
    /// What the decider wants, before bounds; -1 while nothing is decided.
    pub desired: i32,
    /// The scale after bounds and zero handling of the last reconcile; -1 for unknown.
    pub want: i32,
    /// Ready pods.
    pub ready: u32,
    /// All others that count.
    pub not_ready: u32,
    /// Average over the stable window at the last valid tick.
    pub stable: f64,
    /// Average over the panic window at the last valid tick.
    pub panic: f64,
    /// Whether the decider is in panic mode.
    pub panic_mode: bool,
    /// Excess burst capacity of the last valid tick.
    pub excess_burst_capacity: i32,
    /// Whether activators are in the path: `Some(true)` for Proxy, `None` before the first decision.
    pub proxied: Option<bool>,
    /// When the last valid tick was.
    pub decided_at: Option<UnixTime>,
    /// The text of the last scrape error.
    pub scrape_error: Option<String>,
}

// === impl OwnsAll ===

impl Ownership for OwnsAll {
    fn owns(&self, _revision: &RevisionId) -> bool {
        true
    }
}

// === impl Update ===

impl Update {
    /// The revision it is about.
    pub fn revision(&self) -> Option<&RevisionId> {
        match self {
            Self::PodAutoscaler(object) => Some(&object.id),
            Self::PodAutoscalerDeleted(revision)
            | Self::Pods(revision, _)
            | Self::ServerlessService(revision, _)
            | Self::ScaleTarget(revision, _)
            | Self::Metric(revision, _)
            | Self::Failed(revision, _) => Some(revision),
            Self::Config(_) | Self::Ownership(_) => None,
        }
    }
}

// === impl Batch ===

impl Batch {
    /// The revision it is about; `None` for one without actions.
    pub fn revision(&self) -> Option<&RevisionId> {
        self.actions.first().map(Action::revision)
    }
}

// === impl BatchNumber ===

impl BatchNumber {
    /// The number of the batch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

// === impl Action ===

impl Action {
    /// The revision it is about.
    pub const fn revision(&self) -> &RevisionId {
        match self {
            Self::Scale { revision, .. }
            | Self::ServerlessService { revision, .. }
            | Self::Metric { revision, .. }
            | Self::Status { revision, .. }
            | Self::MetricStatus { revision, .. }
            | Self::Event { revision, .. } => revision,
        }
    }

    /// How a failure of it is reported; `None` for one whose failure does not matter.
    pub const fn failure(&self) -> Option<FailedAction> {
        match self {
            Self::Scale { .. } => Some(FailedAction::Scale),
            Self::ServerlessService { .. } => Some(FailedAction::ServerlessService),
            Self::Metric { .. } => Some(FailedAction::Metric),
            Self::Status { .. } => Some(FailedAction::Status),
            Self::MetricStatus { .. } => Some(FailedAction::MetricStatus),
            Self::Event { .. } => None,
        }
    }
}
