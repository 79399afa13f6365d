use serving::condition::ConditionStatus;
use serving::config;

use super::*;
use crate::pod_autoscaler::{ACTIVE, SKS_READY, ServerlessServiceStatus};
use crate::simulation::scenario::pod_autoscaler;
use crate::spec::Source;

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

/// A revision with one ready pod whose objects all exist and agree.
struct World {
    pod_autoscaler: PodAutoscaler,
    settings: Settings,
    sks: Option<ServerlessService>,
    metric: Option<Metric>,
    decider: Option<DeciderSnapshot>,
    ready: u32,
    scale_target: Option<ScaleTarget>,
}

impl World {
    fn new() -> Self {
        let mut pod_autoscaler = pod_autoscaler(Default::default(), 0, "");
        pod_autoscaler.status = PodAutoscalerStatus::default();
        let settings = Settings::derive(&Source::of(
            &pod_autoscaler,
            &config::Autoscaler::default(),
            0,
        ));
        Self {
            pod_autoscaler,
            settings,
            sks: None,
            metric: None,
            decider: None,
            ready: 0,
            scale_target: Some(ScaleTarget { replicas: Some(1) }),
        }
    }

    /// After the ServerlessService got its services and the decider decided.
    fn running(desired_scale: i32, excess_burst_capacity: i32, ready: u32) -> Self {
        let mut world = Self::new();
        let first = world.plan();
        world.apply(first);
        let sks = world.sks.as_mut().unwrap();
        sks.status.service_name = "scenario".to_owned();
        sks.status.private_service_name = "scenario-private".to_owned();
        world.ready = ready;
        let second = world.plan();
        world.apply(second);
        world.decider.as_mut().unwrap().status = DeciderStatus {
            desired_scale,
            excess_burst_capacity,
        };
        world
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            pod_autoscaler: &self.pod_autoscaler,
            settings: &self.settings,
            sks: self.sks.as_ref(),
            metric: self.metric.as_ref(),
            decider: self.decider,
            pods: PodCounts {
                ready: self.ready,
                ..PodCounts::default()
            },
            scale_target: self.scale_target,
            now: NOW,
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.observed(), ProbeOutcome::Activator)
    }

    /// Executes a plan the way a cluster would, whose other controllers are at once done.
    fn apply(&mut self, plan: Plan) {
        let id = self.pod_autoscaler.id.clone();
        let controller_uid = Some(self.pod_autoscaler.uid.clone());
        for action in plan.actions {
            match action {
                Action::CreateDecider(spec) => {
                    self.decider = Some(DeciderSnapshot {
                        spec,
                        status: DeciderStatus::initial(&spec),
                    });
                }
                Action::UpdateDecider(spec) => self.decider.as_mut().unwrap().spec = spec,
                Action::CreateMetric(spec) | Action::UpdateMetric(spec) => {
                    self.metric = Some(Metric {
                        id: id.clone(),
                        controller_uid: controller_uid.clone(),
                        spec,
                    });
                }
                Action::Scale(replicas) => {
                    self.scale_target = Some(ScaleTarget {
                        replicas: Some(replicas),
                    });
                }
                Action::CreateServerlessService(spec) => {
                    let mut status = ServerlessServiceStatus::default();
                    status.initialize_conditions(NOW);
                    status.mark_endpoints_ready(NOW);
                    self.sks = Some(ServerlessService {
                        id: id.clone(),
                        generation: 0,
                        controller_uid: controller_uid.clone(),
                        spec,
                        status,
                    });
                }
                Action::UpdateServerlessService(spec) => self.sks.as_mut().unwrap().spec = spec,
            }
        }
        self.pod_autoscaler.status = plan.status;
    }
}

fn kinds(plan: &Plan) -> Vec<&'static str> {
    plan.actions
        .iter()
        .map(|action| match action {
            Action::CreateDecider(_) => "create decider",
            Action::UpdateDecider(_) => "update decider",
            Action::CreateMetric(_) => "create metric",
            Action::UpdateMetric(_) => "update metric",
            Action::Scale(_) => "scale",
            Action::CreateServerlessService(_) => "create sks",
            Action::UpdateServerlessService(_) => "update sks",
        })
        .collect()
}

fn condition<'a>(
    status: &'a PodAutoscalerStatus,
    type_: &str,
) -> (ConditionStatus, &'a str, &'a str) {
    let condition = status.conditions.get(type_).unwrap();
    (condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_fresh_revision_first_gets_its_serverless_service() {
    let plan = World::new().plan();
    assert_eq!(kinds(&plan), ["create sks"]);
    let Action::CreateServerlessService(spec) = &plan.actions[0] else {
        panic!("{:?}", plan.actions);
    };
    assert_eq!(spec.mode, Some(OperationMode::Proxy));
    assert_eq!(spec.num_activators, MIN_ACTIVATORS);
    assert_eq!(plan.status.desired_scale, Some(UNKNOWN_SCALE));
    assert_eq!(plan.status.actual_scale, Some(0));
    assert_eq!(
        condition(&plan.status, SKS_READY),
        (
            ConditionStatus::Unknown,
            "NotReady",
            NO_PRIVATE_SERVICE_NAME
        )
    );
    assert_eq!(condition(&plan.status, ACTIVE).1, "Queued");
    // The newest of the two unhappy conditions explains Ready.
    assert_eq!(condition(&plan.status, READY).1, "Queued");
    assert_eq!(plan.status.observed_generation, 1);
    assert!(plan.error.is_none());
}

#[test]
fn a_private_service_brings_decider_and_metric_before_anything_else() {
    let mut world = World::new();
    let first = world.plan();
    world.apply(first);
    world.sks.as_mut().unwrap().status.private_service_name = "private".to_owned();
    world.ready = 1;
    let plan = world.plan();
    assert_eq!(
        kinds(&plan),
        ["create decider", "create metric", "update sks"]
    );
    let Action::CreateMetric(metric) = &plan.actions[1] else {
        panic!("{:?}", plan.actions);
    };
    assert_eq!(metric.scrape_target, "private");
    assert_eq!(plan.status.metrics_service_name, "private");
    assert_eq!(plan.want, Some(UNKNOWN_SCALE));
    // 1 pod of 100 and a burst of 211 need 4 activators of 100.
    let Action::UpdateServerlessService(sks) = &plan.actions[2] else {
        panic!("{:?}", plan.actions);
    };
    assert_eq!(sks.num_activators, 4);
}

#[test]
fn a_settled_revision_needs_nothing() {
    let mut world = World::running(1, -1, 1);
    let plan = world.plan();
    world.apply(plan);
    let plan = world.plan();
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    assert!(!plan.status.differs_from(&world.pod_autoscaler.status));
    assert!(world.pod_autoscaler.is_ready());
}

#[test]
fn enough_capacity_takes_activators_out_of_the_path() {
    for (excess, mode) in [(0, OperationMode::Serve), (-1, OperationMode::Proxy)] {
        let mut world = World::running(3, excess, 3);
        let plan = world.plan();
        assert!(plan.actions.contains(&Action::Scale(3)));
        world.apply(plan);
        assert_eq!(world.sks.unwrap().spec.mode, Some(mode), "{excess}");
    }
}

#[test]
fn a_serverless_service_about_to_change_is_not_ready() {
    let world = World::running(3, 5, 3);
    let plan = world.plan();
    assert_eq!(
        condition(&plan.status, SKS_READY),
        (ConditionStatus::Unknown, "NotReady", "")
    );
}

#[test]
fn what_was_desired_survives_a_restart() {
    let mut world = World::running(5, -1, 5);
    let plan = world.plan();
    world.apply(plan);
    world.decider = None;
    let plan = world.plan();
    assert_eq!(kinds(&plan), ["create decider"]);
    assert_eq!(plan.want, Some(UNKNOWN_SCALE));
    assert_eq!(plan.status.desired_scale, Some(5));
    assert_eq!(condition(&plan.status, ACTIVE).0, ConditionStatus::True);
}

#[test]
fn a_changed_setting_reaches_decider_and_metric_once() {
    let mut world = World::running(1, -1, 1);
    let plan = world.plan();
    world.apply(plan);
    world.settings.decider.stable_window_ns *= 2;
    world.settings.collection.stable_window_ns *= 2;
    let plan = world.plan();
    assert_eq!(kinds(&plan), ["update decider", "update metric"]);
    world.apply(plan);
    assert!(world.plan().actions.is_empty());
}

#[test]
fn foreign_objects_are_left_alone_and_reported() {
    let mut world = World::running(2, -1, 1);
    world.metric.as_mut().unwrap().controller_uid = None;
    let plan = world.plan();
    assert!(plan.actions.is_empty());
    assert_eq!(
        condition(&plan.status, ACTIVE),
        (
            ConditionStatus::False,
            "NotOwned",
            "There is an existing Metric \"scenario\" that we do not own."
        )
    );
    assert_eq!(
        plan.error.unwrap().to_string(),
        "error reconciling Metric: PA: scenario does not own Metric: scenario"
    );

    let mut world = World::running(2, -1, 1);
    world.sks.as_mut().unwrap().controller_uid = Some("another".to_owned());
    let plan = world.plan();
    // The scale was applied before; only the ServerlessService is refused.
    assert_eq!(kinds(&plan), ["scale"]);
    assert_eq!(condition(&plan.status, ACTIVE).1, "NotOwned");
    assert_eq!(
        plan.error.unwrap().to_string(),
        "error reconciling SKS: PA: scenario does not own SKS: scenario"
    );
}

#[test]
fn a_missing_target_ends_the_reconcile() {
    let mut world = World::running(2, -1, 1);
    world.scale_target = None;
    let plan = world.plan();
    assert!(matches!(
        plan.error,
        Some(PlanError::ScaleTargetMissing { .. })
    ));
    // Nothing wanted, nothing missed.
    world.decider.as_mut().unwrap().status.desired_scale = UNKNOWN_SCALE;
    assert!(world.plan().error.is_none());
}

#[test]
fn a_decider_needs_its_labels() {
    let mut world = World::running(1, -1, 1);
    world.decider = None;
    world.pod_autoscaler.labels.remove(REVISION_LABEL);
    let error = world.plan().error.unwrap();
    assert_eq!(
        error.to_string(),
        "error reconciling Decider: error creating Decider: \
         label \"serving.knative.dev/revision\" not found or empty in Decider scenario"
    );
}

#[test]
fn a_failed_action_keeps_what_was_found_out_before() {
    let mut world = World::running(3, 5, 3);
    world.pod_autoscaler.status.metrics_service_name.clear();
    let plan = world.plan();
    assert_eq!(
        plan.status_on_failure.metrics_service_name,
        "scenario-private"
    );
    assert_eq!(
        plan.status_on_failure.actual_scale, world.pod_autoscaler.status.actual_scale,
        "the status of the scale is not known when its patch fails"
    );
}

#[test]
fn a_new_generation_is_announced_until_it_has_been_processed() {
    let mut world = World::running(1, -1, 1);
    let plan = world.plan();
    world.apply(plan);
    world.pod_autoscaler.generation = 2;
    world.metric.as_mut().unwrap().controller_uid = None;
    let plan = world.plan();
    assert_eq!(plan.status.observed_generation, 2);
    assert_eq!(
        condition(&plan.status_on_failure, READY).1,
        "NewObservedGenFailure"
    );
    world.metric.as_mut().unwrap().controller_uid = Some(world.pod_autoscaler.uid.clone());
    assert_eq!(
        condition(&world.plan().status, READY).0,
        ConditionStatus::True
    );
}

#[test]
fn activators_cover_pods_and_burst() {
    let spec = World::new().settings.decider;
    let with = |target_burst_capacity| DeciderSpec {
        target_burst_capacity,
        ..spec
    };
    for (burst, ready, expected) in [
        (211.0, 0, 3),
        (211.0, 1, 4),
        (211.0, 5, 8),
        (0.0, 50, 2),
        (-1.0, 1, 2),
        (-1.0, 4, 4),
        (-1.0, 50, 50),
    ] {
        assert_eq!(
            activators_needed(ready, &with(burst)),
            expected,
            "{burst} {ready}"
        );
    }
}

#[test]
fn the_scaling_metric_is_written_to_the_metric_only() {
    let mut pod_autoscaler = pod_autoscaler(Default::default(), 0, "");
    let metric = annotation::METRIC.name;
    assert_eq!(metric_annotations(&pod_autoscaler)[metric], "concurrency");
    pod_autoscaler
        .annotations
        .insert(metric.to_owned(), "rps".to_owned());
    assert_eq!(metric_annotations(&pod_autoscaler)[metric], "rps");
    assert!(!sks_annotations(&pod_autoscaler).contains_key(metric));
}
