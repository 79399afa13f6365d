//! One revision with everything that decides about it, in a world where other controllers are
//! at once done and every action succeeds.

use serving::annotation::{self, Annotations};
use serving::config;
use serving::{RevisionId, UnixTime};

use crate::collection::Collection;
use crate::decider::{Decider, DeciderStatus, Decision, Observation};
use crate::plan::{self, Action, DeciderSnapshot, Observed, ScaleTarget};
use crate::pod_autoscaler::{
    CONFIGURATION_LABEL, OperationMode, PodAutoscaler, PodAutoscalerSpec, PodAutoscalerStatus,
    REVISION_LABEL, Reachability, ScaleTargetRef, ServerlessService, ServerlessServiceSpec,
    ServerlessServiceStatus,
};
use crate::pods::PodCounts;
use crate::pods::Supply;
use crate::scale::{ProbeOutcome, UNKNOWN_SCALE};
use crate::spec::{Settings, Source, class};

/// Longer than any grace or retention period.
const LONG_IDLE_NS: i64 = 24 * 3600 * 1_000_000_000;
/// Progress deadline where no annotation sets one.
const PROGRESS_DEADLINE_NS: i64 = 600_000_000_000;

/// A PodAutoscaler as scenarios have it: defaults written out, everything else empty.
pub fn pod_autoscaler(
    mut annotations: Annotations,
    container_concurrency: i64,
    reachability: &str,
) -> PodAutoscaler {
    let class = class(&annotations).to_owned();
    annotations
        .entry(annotation::CLASS.name.to_owned())
        .or_insert(class);
    let labels = [CONFIGURATION_LABEL, REVISION_LABEL]
        .map(|label| (label.to_owned(), "scenario".to_owned()));
    PodAutoscaler {
        id: RevisionId::new("default", "scenario"),
        uid: "pod-autoscaler".to_owned(),
        generation: 1,
        annotations,
        labels: labels.into(),
        spec: PodAutoscalerSpec {
            container_concurrency,
            scale_target_ref: ScaleTargetRef::default(),
            reachability: Reachability::parse(reachability),
            protocol_type: "http1".to_owned(),
        },
        status: PodAutoscalerStatus {
            observed_generation: 1,
            service_name: "scenario".to_owned(),
            ..PodAutoscalerStatus::default()
        },
    }
}

/// The control loop of one revision.
#[derive(Debug)]
pub(super) struct Control {
    config: config::Autoscaler,
    pub(super) pod_autoscaler: PodAutoscaler,
    pub(super) settings: Settings,
    pub(super) collection: Collection,
    pub(super) decider: Decider,
    pub(super) decider_status: DeciderStatus,
    sks: ServerlessService,
    /// Of the scale target.
    pub(super) replicas: i32,
}

/// What came of one reconcile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reconciled {
    pub(super) want: i32,
    pub(super) requeue_after_ns: Option<i64>,
}

impl Control {
    /// A revision that `start`s now with so many pods ready.
    pub(super) fn new(
        mut pod_autoscaler: PodAutoscaler,
        config: config::Autoscaler,
        initial_ready: u32,
        start: UnixTime,
    ) -> Self {
        let settings = derive(&pod_autoscaler, &config);
        let status = &mut pod_autoscaler.status;
        status.initialize_conditions(start);
        let mut replicas = settings.decider.initial_scale;
        if initial_ready > 0 {
            status.mark_active(start);
            status.mark_scale_target_initialized(start);
            replicas = i32::try_from(initial_ready).unwrap_or(i32::MAX);
        }
        Self {
            collection: Collection::new(&settings.collection),
            decider: Decider::new(&settings.decider, initial_ready, start),
            decider_status: DeciderStatus::initial(&settings.decider),
            sks: serverless_service(&pod_autoscaler),
            config,
            pod_autoscaler,
            settings,
            replicas,
        }
    }

    /// Makes it a revision that has had no pods for long: decided to be zero, inactive, and once
    /// initialised.
    pub(super) fn idle(&mut self, now: UnixTime) {
        let since = UnixTime(now.0.saturating_sub(LONG_IDLE_NS));
        let status = &mut self.pod_autoscaler.status;
        status.mark_scale_target_initialized(since);
        status.mark_inactive("NoTraffic", "The target is not receiving traffic.", since);
        self.decider_status.desired_scale = 0;
        self.replicas = 0;
        self.sks.spec.mode = Some(OperationMode::Proxy);
        self.sks
            .status
            .mark_activator_endpoints_populated(true, since);
    }

    /// Derives everything anew after annotations, reachability or `config` changed.
    pub(super) fn reconfigure(&mut self, config: Option<config::Autoscaler>, now: UnixTime) {
        if let Some(config) = config {
            self.config = config;
        }
        self.settings = derive(&self.pod_autoscaler, &self.config);
        self.collection.update(&self.settings.collection, now);
    }

    /// The pods have changed.
    pub(super) fn observe_supply(&mut self, supply: Supply, now: UnixTime) {
        let spec = self.settings.decider;
        self.decider.observe_supply(&spec, supply, now);
    }

    /// Whether the stat that was just recorded calls for a decision before the next tick.
    pub(super) fn is_urgent(&self, supply: Supply, now: UnixTime) -> bool {
        let spec = &self.settings.decider;
        let desired = self.decider_status.desired_scale;
        let observed = self.collection.observe_for(spec, now);
        self.decider.is_urgent(spec, observed, supply, desired, now)
    }

    /// Evaluates the decider and stores what it decides.
    pub(super) fn decide(
        &mut self,
        supply: impl Into<Supply>,
        now: UnixTime,
    ) -> (Option<Observation>, Option<Decision>) {
        let spec = self.settings.decider;
        let observed = self.collection.observe_for(&spec, now);
        let decision = self.decider.decide(&spec, observed, supply, now);
        if let Some(decision) = decision {
            self.decider_status.store(decision);
        }
        (observed, decision)
    }

    /// One reconcile whose changes all take effect at once.
    pub(super) fn reconcile(&mut self, ready: u32, now: UnixTime) -> Reconciled {
        let observed = Observed {
            pod_autoscaler: &self.pod_autoscaler,
            settings: &self.settings,
            sks: Some(&self.sks),
            metric: None,
            decider: Some(DeciderSnapshot {
                spec: self.settings.decider,
                status: self.decider_status,
            }),
            pods: PodCounts {
                ready,
                ..PodCounts::default()
            },
            scale_target: Some(ScaleTarget {
                replicas: Some(self.replicas),
            }),
            now,
        };
        let plan = plan::plan(&observed, ProbeOutcome::Activator);
        self.pod_autoscaler.status = plan.status;
        for action in plan.actions {
            match action {
                Action::Scale(replicas) => self.replicas = replicas,
                Action::UpdateServerlessService(spec) => self.sks.spec = spec,
                _ => {}
            }
        }
        let activators = self.is_proxied() || ready == 0;
        self.sks
            .status
            .mark_activator_endpoints_populated(activators, now);
        Reconciled {
            want: plan.want.unwrap_or(UNKNOWN_SCALE),
            requeue_after_ns: plan.requeue_after_ns,
        }
    }

    /// Whether requests go to activators first.
    pub(super) fn is_proxied(&self) -> bool {
        self.sks.spec.mode == Some(OperationMode::Proxy)
    }

    /// `T`rue, `F`alse or `U`nknown, as the condition `Active` has it.
    pub(super) fn active(&self) -> char {
        let status = &self.pod_autoscaler.status;
        if status.is_active() {
            'T'
        } else if status.is_inactive() {
            'F'
        } else {
            'U'
        }
    }
}

fn derive(pod_autoscaler: &PodAutoscaler, config: &config::Autoscaler) -> Settings {
    Settings::derive(&Source::of(pod_autoscaler, config, PROGRESS_DEADLINE_NS))
}

/// One with services, not yet put into a mode.
fn serverless_service(pod_autoscaler: &PodAutoscaler) -> ServerlessService {
    ServerlessService {
        id: pod_autoscaler.id.clone(),
        generation: 1,
        controller_uid: Some(pod_autoscaler.uid.clone()),
        spec: ServerlessServiceSpec::default(),
        status: ServerlessServiceStatus {
            observed_generation: 1,
            service_name: pod_autoscaler.id.name.clone(),
            private_service_name: format!("{}-private", pod_autoscaler.id.name),
            ..ServerlessServiceStatus::default()
        },
    }
}
