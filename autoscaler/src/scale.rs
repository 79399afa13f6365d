//! From the decider's wish to the number of replicas: bounds, initial scale, scale to zero.
//!
//! Pure: the outcome of the activator probe comes in, wanted replicas and timers come out. Asked
//! in two steps, because a probe takes time: [`needs_probe`], then [`scale`]. Behaviour of
//! `pkg/reconciler/autoscaling/kpa/scaler.go`.

use serving::UnixTime;
use serving::condition::ConditionStatus;

use crate::pod_autoscaler::{OperationMode, PodAutoscaler, PodAutoscalerStatus};
use crate::spec::Settings;

/// The scale of a revision nobody has decided about.
pub const UNKNOWN_SCALE: i32 = -1;

/// Added to the progress deadline, so that the Revision's reconciler sees a failed deployment
/// before its pods are taken away.
pub const ACTIVATION_TIMEOUT_BUFFER_NS: i64 = 30 * SECOND_NS;

/// When to look again after a revision went inactive with activators already in the path: nothing
/// of the ServerlessService changes then, so nothing else would wake the reconciler.
pub const INACTIVE_IN_PROXY_REQUEUE_NS: i64 = 3 * SECOND_NS;

const SECOND_NS: i64 = 1_000_000_000;
const PROTOCOL_H2C: &str = "h2c";
const SERVICE_PORT_HTTP1: u16 = 80;
const SERVICE_PORT_H2C: u16 = 81;

/// What the scale depends on besides the probe.
#[derive(Clone, Copy, Debug)]
pub struct ScaleInput<'a> {
    pub settings: &'a Settings,
    pub status: &'a PodAutoscalerStatus,
    /// `spec.mode` of the ServerlessService.
    pub sks_mode: Option<OperationMode>,
    /// How long activators have been in the path.
    pub proxy_for_ns: i64,
    /// What the decider says.
    pub desired_scale: i32,
    pub now: UnixTime,
}

/// Whether the revision's public service answered as an activator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ProbeOutcome {
    /// Nobody probed, because [`needs_probe`] said no.
    #[default]
    NotProbed,
    /// An activator answered.
    Activator,
    /// Somebody else answered, or nobody.
    Failed,
}

/// What to do about the scale target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleOutcome {
    /// The wanted scale, -1 for unknown.
    pub want: i32,
    /// Whether replicas should become `want`, if they are not already.
    pub apply: bool,
    /// When to reconcile again, in nanoseconds from now.
    pub requeue_after_ns: Option<i64>,
    /// Keep probing in the background and reconcile after it.
    pub background_probe: bool,
}

/// The step that zero handling has reached.
enum Step {
    Done(ScaleOutcome),
    /// The revision is inactive; the last pods go only behind an activator.
    Inactive,
}

/// Whether [`scale`] wants to know if activators answer for the revision.
pub fn needs_probe(input: &ScaleInput<'_>) -> bool {
    matches!(before_probe(input), Step::Inactive)
        && input.settings.decider.target_burst_capacity != -1.0
}

/// Decides the scale. A probe that was needed and not made counts as failed.
pub fn scale(input: &ScaleInput<'_>, probe: ProbeOutcome) -> ScaleOutcome {
    match before_probe(input) {
        Step::Done(outcome) => outcome,
        Step::Inactive => {
            let always_proxied = input.settings.decider.target_burst_capacity == -1.0;
            if always_proxied || probe == ProbeOutcome::Activator {
                leave_last_pod(input)
            } else {
                ScaleOutcome {
                    background_probe: true,
                    ..ScaleOutcome::hold(0)
                }
            }
        }
    }
}

/// Everything up to the point where the activator probe matters.
fn before_probe(input: &ScaleInput<'_>) -> Step {
    if input.desired_scale < 0 && !input.status.is_activating() {
        return Step::Done(ScaleOutcome::hold(input.desired_scale));
    }
    let bounded = apply_bounds(input);
    if bounded != 0 {
        return Step::Done(ScaleOutcome::apply(bounded));
    }
    if !input.settings.scale_to_zero_enabled {
        return Step::Done(ScaleOutcome::apply(1));
    }
    if input.status.is_activating() {
        return Step::Done(give_up_activating(input));
    }
    match input
        .status
        .active_status_for_ns(ConditionStatus::True, input.now)
    {
        Some(active_for_ns) => Step::Done(become_inactive(input, active_for_ns)),
        None => Step::Inactive,
    }
}

/// The lower bound wins over the upper one.
fn apply_bounds(input: &ScaleInput<'_>) -> i32 {
    let settings = input.settings;
    let initial = settings.decider.initial_scale;
    let mut low = settings.min_scale;
    if initial > 1 && settings.decider.reachable && !input.status.is_scale_target_initialized() {
        low = low.max(initial);
    }
    let high = settings.max_scale;
    if input.desired_scale < low {
        low
    } else if high != 0 && input.desired_scale > high {
        high
    } else {
        input.desired_scale
    }
}

fn give_up_activating(input: &ScaleInput<'_>) -> ScaleOutcome {
    let timeout_ns = input
        .settings
        .progress_deadline_ns
        .saturating_add(ACTIVATION_TIMEOUT_BUFFER_NS);
    if input.status.can_fail_activation(input.now, timeout_ns) {
        ScaleOutcome::apply(0)
    } else {
        ScaleOutcome::hold(UNKNOWN_SCALE).requeue(timeout_ns)
    }
}

fn become_inactive(input: &ScaleInput<'_>, active_for_ns: i64) -> ScaleOutcome {
    let remaining_ns = input.settings.decider.stable_window_ns - active_for_ns;
    if remaining_ns > 0 {
        return ScaleOutcome::apply(1).requeue(remaining_ns);
    }
    let outcome = ScaleOutcome::hold(0);
    if input.sks_mode == Some(OperationMode::Proxy) {
        outcome.requeue(INACTIVE_IN_PROXY_REQUEUE_NS)
    } else {
        outcome
    }
}

/// The activator is in the path; the last pod goes after grace and retention.
fn leave_last_pod(input: &ScaleInput<'_>) -> ScaleOutcome {
    let grace_ns = input.settings.scale_to_zero_grace_period_ns;
    let retention_ns = input.settings.pod_retention_period_ns;
    let inactive_for_ns = input
        .status
        .active_status_for_ns(ConditionStatus::False, input.now)
        .unwrap_or(-1);
    if inactive_for_ns >= grace_ns.max(retention_ns) {
        return ScaleOutcome::apply(0);
    }
    if retention_ns > 0 && inactive_for_ns < retention_ns {
        return ScaleOutcome::hold(0).requeue(retention_ns - inactive_for_ns);
    }
    let remaining_ns = grace_ns - input.proxy_for_ns;
    if remaining_ns <= 0 {
        ScaleOutcome::apply(0)
    } else {
        ScaleOutcome::hold(0).requeue(remaining_ns)
    }
}

/// Host and port of the revision's public service, where activators answer probes; `None` without
/// one, which counts as a failed probe (`paToProbeTarget`).
pub fn probe_address(pod_autoscaler: &PodAutoscaler, cluster_domain: &str) -> Option<String> {
    let service = &pod_autoscaler.status.service_name;
    if service.is_empty() {
        return None;
    }
    let namespace = &pod_autoscaler.id.namespace;
    let port = if pod_autoscaler.spec.protocol_type == PROTOCOL_H2C {
        SERVICE_PORT_H2C
    } else {
        SERVICE_PORT_HTTP1
    };
    Some(format!("{service}.{namespace}.svc.{cluster_domain}:{port}"))
}

// === impl ScaleOutcome ===

impl ScaleOutcome {
    const fn apply(want: i32) -> Self {
        Self {
            want,
            apply: true,
            requeue_after_ns: None,
            background_probe: false,
        }
    }

    const fn hold(want: i32) -> Self {
        Self {
            want,
            apply: false,
            requeue_after_ns: None,
            background_probe: false,
        }
    }

    const fn requeue(mut self, after_ns: i64) -> Self {
        self.requeue_after_ns = Some(after_ns);
        self
    }

    /// The number to patch the target to, given its `spec.replicas`; absent counts as 1. Never
    /// negative, which an unvalidated lower bound could ask for.
    pub fn patch(&self, replicas: Option<i32>) -> Option<i32> {
        (self.apply && self.want >= 0 && self.want != replicas.unwrap_or(1)).then_some(self.want)
    }
}

#[cfg(test)]
mod tests;
