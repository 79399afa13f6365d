use proptest::prelude::*;
use serving::condition::{Condition, Severity};
use serving::config;

use super::*;
use crate::pod_autoscaler::{ACTIVE, Reachability};
use crate::simulation::scenario::pod_autoscaler;
use crate::spec::Source;

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

fn settings(annotations: &[(&str, &str)]) -> Settings {
    let annotations = annotations
        .iter()
        .map(|(key, value)| {
            (
                format!("autoscaling.knative.dev/{key}"),
                (*value).to_owned(),
            )
        })
        .collect();
    Settings::derive(&Source {
        annotations: &annotations,
        container_concurrency: 0,
        reachability: Reachability::Reachable,
        autoscaler: &config::Autoscaler::default(),
        progress_deadline_ns: 600 * SECOND_NS,
    })
}

fn status(active: ConditionStatus, for_seconds: i64) -> PodAutoscalerStatus {
    let mut status = PodAutoscalerStatus::default();
    let since = UnixTime(NOW.0 - for_seconds * SECOND_NS);
    status
        .conditions
        .set(Condition::new(ACTIVE, active, Severity::Error), since);
    status
}

fn input<'a>(
    settings: &'a Settings,
    status: &'a PodAutoscalerStatus,
    desired_scale: i32,
) -> ScaleInput<'a> {
    ScaleInput {
        settings,
        status,
        sks_mode: Some(OperationMode::Proxy),
        proxy_for_ns: 0,
        desired_scale,
        now: NOW,
    }
}

#[test]
fn nothing_known_changes_nothing_once_activation_is_over() {
    let settings = settings(&[("min-scale", "3")]);
    for active in [ConditionStatus::True, ConditionStatus::False] {
        let status = status(active, 10);
        let outcome = scale(&input(&settings, &status, -1), ProbeOutcome::NotProbed);
        assert_eq!(outcome, ScaleOutcome::hold(UNKNOWN_SCALE));
    }
}

#[test]
fn a_probe_that_was_not_made_keeps_the_last_pod() {
    let settings = settings(&[]);
    let status = status(ConditionStatus::False, 3600);
    let input = input(&settings, &status, 0);
    assert!(needs_probe(&input));
    let outcome = scale(&input, ProbeOutcome::NotProbed);
    assert!(!outcome.apply && outcome.background_probe);
    assert!(scale(&input, ProbeOutcome::Activator).apply);
}

#[test]
fn unlimited_burst_capacity_needs_no_probe() {
    let settings = settings(&[("target-burst-capacity", "-1")]);
    let status = status(ConditionStatus::False, 3600);
    let input = input(&settings, &status, 0);
    assert!(!needs_probe(&input));
    assert!(scale(&input, ProbeOutcome::NotProbed).apply);
}

#[test]
fn a_negative_bound_is_never_patched() {
    let settings = settings(&[("min-scale", "-5"), ("max-scale", "-2")]);
    let status = status(ConditionStatus::Unknown, 1);
    let outcome = scale(&input(&settings, &status, 4), ProbeOutcome::NotProbed);
    assert_eq!(outcome.patch(Some(1)), None);
}

#[test]
fn the_public_service_is_probed_on_the_port_of_the_protocol() {
    let mut pod_autoscaler = pod_autoscaler(Default::default(), 0, "");
    let address = |pa: &PodAutoscaler| probe_address(pa, "cluster.local");
    assert_eq!(
        address(&pod_autoscaler).as_deref(),
        Some("scenario.default.svc.cluster.local:80")
    );
    pod_autoscaler.spec.protocol_type = "h2c".to_owned();
    assert_eq!(
        address(&pod_autoscaler).as_deref(),
        Some("scenario.default.svc.cluster.local:81")
    );
    pod_autoscaler.status.service_name.clear();
    assert_eq!(address(&pod_autoscaler), None);
}

proptest! {
    /// What is patched lies within the bounds, between the two when they contradict each other,
    /// or is the 1 or 0 on the way to zero.
    #[test]
    fn patches_are_within_bounds(
        min in 0i32..6,
        max in 0i32..9,
        desired in -1i32..20,
        active in prop_oneof![
            Just(ConditionStatus::True),
            Just(ConditionStatus::False),
            Just(ConditionStatus::Unknown)
        ],
        for_seconds in 0i64..2000,
        replicas in 0i32..20,
        probe in prop_oneof![Just(ProbeOutcome::Activator), Just(ProbeOutcome::Failed)],
    ) {
        let settings = settings(&[
            ("min-scale", &min.to_string()),
            ("max-scale", &max.to_string()),
        ]);
        let status = status(active, for_seconds);
        let outcome = scale(&input(&settings, &status, desired), probe);
        let Some(patched) = outcome.patch(Some(replicas)) else { return Ok(()) };
        let lowest = if max == 0 { min } else { min.min(max) };
        prop_assert!(patched >= lowest);
        prop_assert!(max == 0 || patched <= max.max(min).max(1));
        // An unknown wish never takes the last pod, but for one that could not be activated.
        if desired < 0 {
            prop_assert!(patched > 0 || (active == ConditionStatus::Unknown && for_seconds > 630));
        }
    }
}
