//! Family `scale`.

use autoscaler::pod_autoscaler::{ACTIVE, OperationMode, SCALE_TARGET_INITIALIZED};
use autoscaler::scale::{ProbeOutcome, ScaleInput, needs_probe, scale};
use serde_json::{Value, json};
use serving::UnixTime;
use serving::condition::{Condition, ConditionStatus, Severity};

use super::Verdict;
use super::decider::{pod_autoscaler, settings};

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);
const MILLISECOND_NS: i64 = 1_000_000;

pub(crate) fn replay(case: &Value) -> Verdict {
    let input = &case["input"];
    let milliseconds = |name: &str| input[name].as_i64().unwrap_or(0);
    let number = |name: &str| milliseconds(name) as i32;
    let pod_autoscaler = pod_autoscaler(input);
    let settings = settings(input, &pod_autoscaler);
    let mut status = pod_autoscaler.status.clone();
    let active = input["active"].as_str().and_then(ConditionStatus::parse);
    let since = UnixTime(NOW.0 - milliseconds("activeSinceMs") * MILLISECOND_NS);
    if let Some(active) = active {
        let condition = Condition::new(ACTIVE, active, Severity::Error);
        status.conditions.set(condition, since);
    }
    if input["initialized"] == true {
        let condition = Condition::new(
            SCALE_TARGET_INITIALIZED,
            ConditionStatus::True,
            Severity::Error,
        );
        status.conditions.set(condition, since);
    }
    let scale_input = ScaleInput {
        settings: &settings,
        status: &status,
        sks_mode: input["sksMode"].as_str().and_then(OperationMode::parse),
        proxy_for_ns: milliseconds("proxyForMs").max(0) * MILLISECOND_NS,
        desired_scale: number("desiredScale"),
        now: NOW,
    };
    let probes = needs_probe(&scale_input);
    let probe = match input["probe"].as_str() {
        _ if !probes => ProbeOutcome::NotProbed,
        Some("ok") => ProbeOutcome::Activator,
        _ => ProbeOutcome::Failed,
    };
    let outcome = scale(&scale_input, probe);
    let requeue: Vec<i64> = outcome.requeue_after_ns.into_iter().collect();
    Verdict::of(
        case,
        json!({
            "scale": outcome.want,
            "patchedReplicas": outcome.patch(Some(number("currentReplicas"))),
            "enqueueAfterNs": requeue,
            "activatorProbes": u8::from(probes),
            "asyncProbes": u8::from(outcome.background_probe),
        }),
    )
}
