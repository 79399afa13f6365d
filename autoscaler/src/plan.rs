//! One reconcile of a PodAutoscaler as a pure function.
//!
//! A driver (Kubernetes or one machine) fills in [`Observed`], asks [`needs_probe`], probes if so,
//! calls [`plan`] and executes the [`Plan`]: first the timers, then the actions in order, stopping
//! at the first that fails, then the status. Behaviour of `pkg/reconciler/autoscaling/kpa/kpa.go`
//! within the frame of `knative.dev/pkg/reconciler`.

use serving::annotation::{self, Annotations};
use serving::condition::READY;
use serving::{RevisionId, UnixTime};
use smallvec::SmallVec;

use crate::decider::DeciderStatus;
use crate::pod_autoscaler::{
    CONFIGURATION_LABEL, Metric, MetricSpec, OperationMode, POD_AUTOSCALER_CONDITIONS,
    PodAutoscaler, PodAutoscalerStatus, REVISION_LABEL, ScaleTargetRef, ServerlessService,
    ServerlessServiceSpec,
};
use crate::pods::PodCounts;
use crate::scale::{self, ProbeOutcome, ScaleInput, ScaleOutcome, UNKNOWN_SCALE};
use crate::spec::{DeciderSpec, Settings, scaling_metric_name};

/// Activators in the path while nothing better is known, and the least number ever asked for.
pub const MIN_ACTIVATORS: i32 = 2;

const NO_PRIVATE_SERVICE_NAME: &str = "No Private Service Name";

/// Everything one reconcile looks at.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    pub pod_autoscaler: &'a PodAutoscaler,
    /// Derived from the PodAutoscaler and the config maps.
    pub settings: &'a Settings,
    pub sks: Option<&'a ServerlessService>,
    pub metric: Option<&'a Metric>,
    /// The decider as it runs now; `None` before there is one.
    pub decider: Option<DeciderSnapshot>,
    pub pods: PodCounts,
    /// The scale target; `None` when there is none.
    pub scale_target: Option<ScaleTarget>,
    pub now: UnixTime,
}

/// A running decider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeciderSnapshot {
    pub spec: DeciderSpec,
    pub status: DeciderStatus,
}

/// The object that is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleTarget {
    /// `spec.replicas`; absent counts as 1.
    pub replicas: Option<i32>,
}

/// One change to make. Names and owners follow from the PodAutoscaler.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start a decider with this spec.
    CreateDecider(DeciderSpec),
    /// Hand the running decider a new spec; its status and panic state stay.
    UpdateDecider(DeciderSpec),
    CreateMetric(MetricSpec),
    UpdateMetric(MetricSpec),
    /// Patch the replicas of the scale target.
    Scale(i32),
    CreateServerlessService(ServerlessServiceSpec),
    UpdateServerlessService(ServerlessServiceSpec),
}

/// The outcome of one reconcile.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// To be executed in order; a failure ends the reconcile with an error.
    pub actions: SmallVec<[Action; 4]>,
    /// The status when all actions succeed. Write it if it
    /// [differs](PodAutoscalerStatus::differs_from) from the observed one.
    pub status: PodAutoscalerStatus,
    /// The status when an action fails.
    pub status_on_failure: PodAutoscalerStatus,
    /// Reconcile again after so many nanoseconds, also when an action fails.
    pub requeue_after_ns: Option<i64>,
    /// Probe the public service until an activator answers, then reconcile again.
    pub background_probe: bool,
    /// For the pod metrics: the scale asked for, [`UNKNOWN_SCALE`] if none; `None` when the
    /// reconcile ended before it was known.
    pub want: Option<i32>,
    /// Why the reconcile ended early. The actions are to be executed all the same.
    pub error: Option<PlanError>,
}

/// What ends a reconcile early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("error reconciling SKS: PA: {name} does not own SKS: {name}")]
    ServerlessServiceNotOwned { name: String },
    #[error("error reconciling Metric: PA: {name} does not own Metric: {name}")]
    MetricNotOwned { name: String },
    #[error(
        "error reconciling Decider: error creating Decider: label {label:?} not found or empty in Decider {name}"
    )]
    LabelMissing { label: &'static str, name: String },
    #[error(
        "error scaling target: failed to get scale target {}/{} {}: not found",
        target.api_version, target.kind, target.name
    )]
    ScaleTargetMissing { target: ScaleTargetRef },
}

/// The status being built. Every change gets a later time than the one before, because the newest
/// of several unhappy conditions explains Ready; all are replaced by one time in the end.
#[derive(Debug)]
struct Draft {
    status: PodAutoscalerStatus,
    moment: UnixTime,
}

/// Whether [`plan`] wants to know if activators answer for the revision.
pub fn needs_probe(observed: &Observed<'_>) -> bool {
    let draft = Draft::preprocess(observed);
    served_sks(observed).is_some_and(|sks| {
        let decider = running_decider(observed);
        scale::needs_probe(&scale_input(observed, &draft, sks, decider))
    })
}

/// Plans one reconcile. A probe that was needed and not made counts as failed.
pub fn plan(observed: &Observed<'_>, probe: ProbeOutcome) -> Plan {
    let draft = Draft::preprocess(observed);
    let mut plan = match served_sks(observed) {
        Some(sks) => plan_scale(observed, draft, sks, probe),
        None => plan_first_sks(observed, draft),
    };
    for status in [&mut plan.status, &mut plan.status_on_failure] {
        postprocess(status, observed);
    }
    plan
}

/// Activators that should be in the path, given pods that are ready.
pub fn activators_needed(ready_pods: u32, spec: &DeciderSpec) -> i32 {
    if spec.target_burst_capacity == 0.0 {
        return MIN_ACTIVATORS;
    }
    let mut to_cover = f64::from(ready_pods) * spec.total_value;
    if spec.target_burst_capacity > 0.0 {
        to_cover += spec.target_burst_capacity;
    }
    let needed = (to_cover / spec.activator_capacity).ceil();
    // The cast saturates; a NaN falls to the minimum.
    (needed as i32).max(MIN_ACTIVATORS)
}

/// Annotations a new Metric gets: all of the PodAutoscaler's, and the scaling metric in any case.
pub fn metric_annotations(pod_autoscaler: &PodAutoscaler) -> Annotations {
    let mut annotations = pod_autoscaler.annotations.clone();
    if !annotations.contains_key(annotation::METRIC.name) {
        let metric = scaling_metric_name(&annotations).to_owned();
        annotations.insert(annotation::METRIC.name.to_owned(), metric);
    }
    annotations
}

/// Annotations a new ServerlessService gets: those of the PodAutoscaler but the scaling metric.
pub fn sks_annotations(pod_autoscaler: &PodAutoscaler) -> Annotations {
    let mut annotations = pod_autoscaler.annotations.clone();
    annotations.remove(annotation::METRIC.name);
    annotations
}

/// The ServerlessService once it has a private service, without which nothing can be collected.
fn served_sks<'a>(observed: &Observed<'a>) -> Option<&'a ServerlessService> {
    observed
        .sks
        .filter(|sks| !sks.status.private_service_name.is_empty())
}

/// The decider as it will run after the first action.
fn running_decider(observed: &Observed<'_>) -> DeciderStatus {
    match observed.decider {
        Some(decider) => decider.status,
        None => DeciderStatus::initial(&observed.settings.decider),
    }
}

fn scale_input<'a>(
    observed: &Observed<'a>,
    draft: &'a Draft,
    sks: &ServerlessService,
    decider: DeciderStatus,
) -> ScaleInput<'a> {
    ScaleInput {
        settings: observed.settings,
        status: &draft.status,
        sks_mode: sks.spec.mode,
        proxy_for_ns: sks.status.proxy_for_ns(observed.now),
        desired_scale: decider.desired_scale,
        now: observed.now,
    }
}

/// Before the ServerlessService has a private service: make sure it exists, say it is not ready.
fn plan_first_sks(observed: &Observed<'_>, mut draft: Draft) -> Plan {
    let mut plan = Plan::new(&draft.status);
    let spec = sks_spec(observed, OperationMode::Proxy, MIN_ACTIVATORS);
    if let Err(error) = reconcile_sks(observed, &mut draft, &mut plan.actions, spec) {
        return plan.fail(draft, error);
    }
    let moment = draft.moment();
    draft
        .status
        .mark_sks_not_ready(NO_PRIVATE_SERVICE_NAME, moment);
    draft.compute_status(observed.settings, UNKNOWN_SCALE, 0);
    plan.want = Some(UNKNOWN_SCALE);
    plan.status = draft.status;
    plan
}

/// The usual case: decider, Metric, scale, ServerlessService, status.
fn plan_scale(
    observed: &Observed<'_>,
    mut draft: Draft,
    sks: &ServerlessService,
    probe: ProbeOutcome,
) -> Plan {
    draft
        .status
        .metrics_service_name
        .clone_from(&sks.status.private_service_name);
    let mut plan = Plan::new(&draft.status);
    if let Err(error) = reconcile_decider(observed, &mut plan.actions)
        .and_then(|()| reconcile_metric(observed, &mut draft, &mut plan.actions))
    {
        return plan.fail(draft, error);
    }

    let decider = running_decider(observed);
    let outcome = scale::scale(&scale_input(observed, &draft, sks, decider), probe);
    plan.requeue_after_ns = outcome.requeue_after_ns;
    plan.background_probe = outcome.background_probe;
    if let Err(error) = reconcile_scale_target(observed, &outcome, &mut plan.actions) {
        return plan.fail(draft, error);
    }

    let mode = if outcome.want > 0 && decider.excess_burst_capacity >= 0 {
        OperationMode::Serve
    } else {
        OperationMode::Proxy
    };
    let activators = activators_needed(observed.pods.ready, &observed.settings.decider);
    let spec = sks_spec(observed, mode, activators);
    match reconcile_sks(observed, &mut draft, &mut plan.actions, spec) {
        Ok(changed) => draft.propagate_sks(sks, changed),
        Err(error) => return plan.fail(draft, error),
    }
    draft.compute_status(observed.settings, outcome.want, observed.pods.ready);
    plan.want = Some(outcome.want);
    plan.status = draft.status;
    plan
}

fn sks_spec(
    observed: &Observed<'_>,
    mode: OperationMode,
    num_activators: i32,
) -> ServerlessServiceSpec {
    let spec = &observed.pod_autoscaler.spec;
    ServerlessServiceSpec {
        mode: Some(mode),
        object_ref: spec.scale_target_ref.clone(),
        protocol_type: spec.protocol_type.clone(),
        num_activators,
    }
}

/// Whether the ServerlessService is going to change.
fn reconcile_sks(
    observed: &Observed<'_>,
    draft: &mut Draft,
    actions: &mut SmallVec<[Action; 4]>,
    spec: ServerlessServiceSpec,
) -> Result<bool, PlanError> {
    let pod_autoscaler = observed.pod_autoscaler;
    let Some(sks) = observed.sks else {
        actions.push(Action::CreateServerlessService(spec));
        return Ok(true);
    };
    if sks.controller_uid.as_ref() != Some(&pod_autoscaler.uid) {
        let name = pod_autoscaler.id.name.clone();
        let moment = draft.moment();
        draft
            .status
            .mark_resource_not_owned("ServerlessService", &name, moment);
        return Err(PlanError::ServerlessServiceNotOwned { name });
    }
    let changed = sks.spec != spec;
    if changed {
        actions.push(Action::UpdateServerlessService(spec));
    }
    Ok(changed)
}

fn reconcile_decider(
    observed: &Observed<'_>,
    actions: &mut SmallVec<[Action; 4]>,
) -> Result<(), PlanError> {
    let spec = observed.settings.decider;
    match observed.decider {
        Some(decider) if decider.spec == spec => {}
        Some(_) => actions.push(Action::UpdateDecider(spec)),
        None => {
            let pod_autoscaler = observed.pod_autoscaler;
            for label in [CONFIGURATION_LABEL, REVISION_LABEL] {
                if pod_autoscaler
                    .labels
                    .get(label)
                    .is_none_or(String::is_empty)
                {
                    let name = pod_autoscaler.id.name.clone();
                    return Err(PlanError::LabelMissing { label, name });
                }
            }
            actions.push(Action::CreateDecider(spec));
        }
    }
    Ok(())
}

fn reconcile_metric(
    observed: &Observed<'_>,
    draft: &mut Draft,
    actions: &mut SmallVec<[Action; 4]>,
) -> Result<(), PlanError> {
    let collection = &observed.settings.collection;
    let spec = MetricSpec {
        stable_window_ns: collection.stable_window_ns,
        panic_window_ns: collection.panic_window_ns,
        scrape_target: if collection.scrape {
            draft.status.metrics_service_name.clone()
        } else {
            String::new()
        },
    };
    match observed.metric {
        None => actions.push(Action::CreateMetric(spec)),
        Some(metric) if metric.controller_uid.as_ref() != Some(&observed.pod_autoscaler.uid) => {
            let RevisionId { name, .. } = observed.pod_autoscaler.id.clone();
            let moment = draft.moment();
            draft
                .status
                .mark_resource_not_owned("Metric", &name, moment);
            return Err(PlanError::MetricNotOwned { name });
        }
        Some(metric) if metric.spec != spec => actions.push(Action::UpdateMetric(spec)),
        Some(_) => {}
    }
    Ok(())
}

fn reconcile_scale_target(
    observed: &Observed<'_>,
    outcome: &ScaleOutcome,
    actions: &mut SmallVec<[Action; 4]>,
) -> Result<(), PlanError> {
    if !outcome.apply {
        return Ok(());
    }
    let Some(target) = observed.scale_target else {
        let target = observed.pod_autoscaler.spec.scale_target_ref.clone();
        return Err(PlanError::ScaleTargetMissing { target });
    };
    if let Some(replicas) = outcome.patch(target.replicas) {
        actions.push(Action::Scale(replicas));
    }
    Ok(())
}

/// What the frame around every reconcile does after it, whatever came of it.
fn postprocess(status: &mut PodAutoscalerStatus, observed: &Observed<'_>) {
    let pod_autoscaler = observed.pod_autoscaler;
    status.observed_generation = pod_autoscaler.generation;
    status
        .conditions
        .keep_unchanged_times(&pod_autoscaler.status.conditions, observed.now);
}

// === impl Plan ===

impl Plan {
    /// A plan that does nothing yet; `status` is what has been found out so far.
    fn new(status: &PodAutoscalerStatus) -> Self {
        Self {
            actions: SmallVec::new(),
            status: status.clone(),
            status_on_failure: status.clone(),
            requeue_after_ns: None,
            background_probe: false,
            want: None,
            error: None,
        }
    }

    fn fail(mut self, draft: Draft, error: PlanError) -> Self {
        self.status = draft.status;
        self.error = Some(error);
        self
    }
}

// === impl Draft ===

impl Draft {
    /// What the frame around every reconcile does before it.
    fn preprocess(observed: &Observed<'_>) -> Self {
        let pod_autoscaler = observed.pod_autoscaler;
        let mut draft = Self {
            status: pod_autoscaler.status.clone(),
            moment: observed.now,
        };
        let moment = draft.moment();
        draft.status.initialize_conditions(moment);
        if draft.status.observed_generation != pod_autoscaler.generation {
            let moment = draft.moment();
            POD_AUTOSCALER_CONDITIONS.mark_unknown(
                &mut draft.status.conditions,
                READY,
                "NewObservedGenFailure",
                "unsuccessfully observed a new generation",
                moment,
            );
        }
        draft
    }

    fn moment(&mut self) -> UnixTime {
        self.moment.0 = self.moment.0.saturating_add(1);
        self.moment
    }

    /// Takes over names and readiness. One that is about to change cannot be ready: its
    /// controller has not seen the new generation.
    fn propagate_sks(&mut self, sks: &ServerlessService, changed: bool) {
        self.status
            .service_name
            .clone_from(&sks.status.service_name);
        let moment = self.moment();
        if !changed && sks.is_ready() {
            self.status.mark_sks_ready(moment);
        } else {
            let message = sks.status.conditions.message(READY);
            self.status.mark_sks_not_ready(message, moment);
        }
    }

    fn compute_status(&mut self, settings: &Settings, want: i32, ready: u32) {
        self.status.actual_scale = Some(i32::try_from(ready).unwrap_or(i32::MAX));
        // Right after a restart nothing is decided; what was known before is nearer to the truth.
        if want != UNKNOWN_SCALE || self.status.desired_scale.is_none_or(|scale| scale < 0) {
            self.status.desired_scale = Some(want);
        }
        let moment = self.moment();
        compute_active(&mut self.status, settings, want, ready, moment);
    }
}

/// Sets the condition `Active`, and `ScaleTargetInitialized` once enough pods are ready, from the
/// wanted scale, the ready pods and the state so far.
pub fn compute_active(
    status: &mut PodAutoscalerStatus,
    settings: &Settings,
    want: i32,
    ready: u32,
    now: UnixTime,
) {
    let threshold = settings.active_threshold(status.is_scale_target_initialized());
    let enough = i64::from(ready) >= i64::from(threshold);
    if enough && !status.service_name.is_empty() {
        status.mark_scale_target_initialized(now);
    }
    let wanted = want > 0 || !status.is_inactive();
    if want == 0 || threshold == 0 {
        // Without an initial scale nothing is wanted either; then nothing has failed.
        if status.is_activating() && threshold > 0 {
            let message = "The target could not be activated.";
            status.mark_inactive("TimedOut", message, now);
        } else {
            mark_no_traffic(status, now);
        }
    } else if enough {
        if wanted {
            status.mark_active(now);
        }
    } else if wanted {
        let message = "Requests to the target are being buffered as resources are provisioned.";
        status.mark_activating("Queued", message, now);
    } else {
        // Without marking anything, Ready would keep what the frame set before the body.
        mark_no_traffic(status, now);
    }
}

fn mark_no_traffic(status: &mut PodAutoscalerStatus, now: UnixTime) {
    status.mark_inactive("NoTraffic", "The target is not receiving traffic.", now);
}

#[cfg(test)]
mod tests;
