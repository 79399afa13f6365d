//! Lives of revisions in virtual time, on a platform that does as it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use prost::Message as _;
use serving::condition::READY;
use serving::stat::{Stat, WireStatMessage, WireStatMessages};
use serving::{RevisionId, UnixTime, config};
use tokio::time::Instant;

use super::core::{Core, Effect, Now};
use super::*;
use crate::plan::ScaleTarget;
use crate::pod_autoscaler::{
    OperationMode, PodAutoscaler, PodAutoscalerSpec, PodAutoscalerStatus, ScaleTargetRef,
    ServerlessService, ServerlessServiceStatus,
};
use crate::pods::{Pod, PodPhase};
use crate::sample_size::Sample;
use crate::scraper::ScrapeError;
use crate::world::{
    Action, BatchNumber, ClusterConfig, EventObject, FailedAction, Failure, Ownership, ProbeTarget,
    RevisionPod, RevisionSnapshot,
};

mod golden;
mod handover;
mod latency;
mod metric;
mod rounds;
mod writes;

/// A platform for one revision, and the clock.
struct Platform {
    core: Core,
    now: Now,
    object: PodAutoscaler,
    sks: Option<ServerlessService>,
    replicas: i32,
    /// Concurrency that each scrape reports; `None`: the pods do not answer.
    load: Option<f64>,
    /// Why not.
    error: fn() -> ScrapeError,
    /// Whether scrapes are never answered at all.
    hangs: bool,
    /// Whether an activator answers probes.
    activator: bool,
    /// Whether actions are carried out and echoed.
    obedient: bool,
    log: Vec<Action>,
    /// The kind of every action that can fail, and its batch.
    sent: Vec<(FailedAction, BatchNumber)>,
}

fn id() -> RevisionId {
    RevisionId::new("default", "hello-00001")
}

fn revision(annotations: &[(&str, &str)]) -> PodAutoscaler {
    let labels = [
        ("serving.knative.dev/configuration", "hello"),
        ("serving.knative.dev/revision", "hello-00001"),
        ("serving.knative.dev/service", "hello"),
    ];
    let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    };
    PodAutoscaler {
        id: id(),
        uid: "uid".to_owned(),
        generation: 1,
        annotations: owned(annotations),
        labels: owned(&labels),
        spec: PodAutoscalerSpec {
            scale_target_ref: ScaleTargetRef {
                api_version: "apps/v1".to_owned(),
                kind: "Deployment".to_owned(),
                name: "hello-00001-deployment".to_owned(),
            },
            protocol_type: "http1".to_owned(),
            ..PodAutoscalerSpec::default()
        },
        status: PodAutoscalerStatus::default(),
    }
}

fn cluster_config() -> Update {
    Update::Config(Arc::new(ClusterConfig {
        autoscaler: config::Autoscaler::default(),
        progress_deadline: Duration::from_secs(600),
    }))
}

fn probe_targets() -> ProbeTargets {
    Arc::new(|object: &PodAutoscaler| {
        Some(ProbeTarget {
            address: "127.0.0.1:1".to_owned(),
            host: object.status.service_name.clone(),
        })
    })
}

fn ready_pod(number: i32) -> RevisionPod {
    RevisionPod {
        pod: Pod {
            phase: PodPhase::Running,
            ready: true,
            ..Pod::default()
        },
        stats: Some(([10, 0, 0, u8::try_from(number).unwrap()], 9090).into()),
    }
}

fn frame(stats: &[(&RevisionId, f64)]) -> Vec<u8> {
    let message = |(id, concurrency): &(&RevisionId, f64)| WireStatMessage {
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        stat: Some(Stat {
            average_concurrent_requests: *concurrency,
            request_count: *concurrency,
            ..Stat::default()
        }),
    };
    let messages = stats.iter().map(message).collect();
    WireStatMessages { messages }.encode_to_vec()
}

impl Platform {
    fn new(annotations: &[(&str, &str)], replicas: i32) -> Self {
        Self::measured(annotations, replicas, &mut Registry::default())
    }

    fn measured(annotations: &[(&str, &str)], replicas: i32, registry: &mut Registry) -> Self {
        let metrics = Metrics::register(registry);
        let mut platform = Self {
            core: Core::new(scraper::Options::default(), probe_targets(), metrics),
            now: Now {
                instant: Instant::now(),
                unix: UnixTime::from_seconds(1_700_000_000),
            },
            object: revision(annotations),
            sks: None,
            replicas,
            load: Some(0.0),
            error: || ScrapeError::PodsExhausted,
            hangs: false,
            activator: true,
            obedient: true,
            log: Vec::new(),
            sent: Vec::new(),
        };
        platform.tell(cluster_config());
        let target = ScaleTarget {
            replicas: Some(replicas),
        };
        platform.tell(Update::ScaleTarget(id(), Some(target)));
        platform.tell_pods();
        let object = platform.object.clone();
        platform.tell(Update::PodAutoscaler(Box::new(object)));
        platform
    }

    fn tell(&mut self, update: Update) {
        self.core.update(update, self.now);
        self.settle();
    }

    /// Tells that the last action of a kind failed.
    fn fail(&mut self, action: FailedAction, message: Option<&str>) {
        let batch = self.batch_of(action);
        self.fail_batch(batch, action, message);
    }

    fn fail_batch(&mut self, batch: BatchNumber, action: FailedAction, message: Option<&str>) {
        let message = message.map(str::to_owned);
        let failure = Failure {
            batch,
            action,
            message,
        };
        self.tell(Update::Failed(id(), failure));
    }

    /// The last batch with an action of a kind.
    fn batch_of(&self, action: FailedAction) -> BatchNumber {
        let sent = self.sent.iter().rev().find(|(kind, _)| *kind == action);
        sent.expect("there was one").1
    }

    fn tell_pods(&mut self) {
        let pods = (1..=self.replicas).map(ready_pod).collect();
        self.tell(Update::Pods(id(), pods));
    }

    /// The object as the platform has it, but for its generation.
    fn tell_generation(&mut self, generation: i64) {
        self.object.generation = generation;
        let object = Box::new(self.object.clone());
        self.tell(Update::PodAutoscaler(object));
    }

    fn tell_sks(&mut self) {
        let sks = self.sks.clone().map(Box::new);
        self.tell(Update::ServerlessService(id(), sks));
    }

    fn stat(&mut self, concurrency: f64) {
        let frame = frame(&[(&id(), concurrency)]);
        assert_eq!(self.core.record_frame(&frame, self.now), Ok(1));
        self.settle();
    }

    /// Lets everything happen that happens at this moment.
    fn settle(&mut self) {
        loop {
            let more = self.core.tick(self.now);
            self.core.work(self.now);
            let effects = self.core.take_effects();
            let idle = effects.is_empty() && !self.core.has_batch() && !more;
            for effect in effects {
                self.carry_out(effect);
            }
            while let Some(batch) = self.core.next_batch() {
                for action in batch.actions {
                    self.log.push(action.clone());
                    let kind = action.failure();
                    self.sent.extend(kind.map(|kind| (kind, batch.number)));
                    if self.obedient {
                        self.obey(action);
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Scrape(..) if self.hangs => {}
            Effect::Scrape(key, round) => {
                let result = match self.load {
                    Some(load) => Ok(Some(Sample {
                        average_concurrent_requests: load,
                        ..Sample::default()
                    })),
                    None => Err((self.error)()),
                };
                let report = Report {
                    result,
                    connections: round.connections,
                    pods_addressable: round.pods_addressable,
                    duration: Some(Duration::from_millis(1)),
                };
                self.core.scraped(key, report, self.now);
            }
            Effect::Probe(key, _) => self.core.probed(key, self.activator),
            Effect::ProbeInBackground(key, _) => self.core.background_probed(key, self.now),
        }
    }

    fn obey(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Scale { replicas, .. } => {
                self.replicas = replicas;
                let target = ScaleTarget {
                    replicas: Some(replicas),
                };
                self.core
                    .update(Update::ScaleTarget(id(), Some(target)), now);
                let pods = (1..=replicas).map(ready_pod).collect();
                self.core.update(Update::Pods(id(), pods), now);
            }
            Action::ServerlessService { spec, .. } => {
                let old = self.sks.take();
                let mut status = old.as_ref().map_or_else(
                    || ServerlessServiceStatus {
                        service_name: "hello-00001".to_owned(),
                        private_service_name: "hello-00001-private".to_owned(),
                        ..ServerlessServiceStatus::default()
                    },
                    |old| old.status.clone(),
                );
                let generation = old.map_or(1, |old| old.generation + 1);
                status.observed_generation = generation;
                status.initialize_conditions(now.unix);
                status.mark_endpoints_ready(now.unix);
                let proxied = spec.mode == Some(OperationMode::Proxy);
                status.mark_activator_endpoints_populated(proxied, now.unix);
                self.sks = Some(ServerlessService {
                    id: id(),
                    generation,
                    controller_uid: Some("uid".to_owned()),
                    spec,
                    status,
                });
                let sks = self.sks.clone().map(Box::new);
                self.core.update(Update::ServerlessService(id(), sks), now);
            }
            Action::Status { status, .. } => {
                self.object.status = *status;
                let object = Box::new(self.object.clone());
                self.core.update(Update::PodAutoscaler(object), now);
            }
            Action::Metric { .. } | Action::MetricStatus { .. } | Action::Event { .. } => {}
        }
    }

    /// Advances time in steps short enough to keep every deadline.
    fn run(&mut self, duration: Duration) {
        let step = Duration::from_millis(250);
        let mut left = duration;
        while left > Duration::ZERO {
            self.now.instant += step.min(left);
            self.now.unix = self.now.unix.after(step.min(left));
            left = left.saturating_sub(step);
            self.settle();
        }
    }

    fn run_seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Runs until `wanted` holds, at most so many seconds.
    fn run_until(&mut self, limit: u64, wanted: impl Fn(&Self) -> bool) -> u64 {
        for second in 0..limit {
            if wanted(self) {
                return second;
            }
            self.run_seconds(1);
        }
        panic!("not within {limit} s: {:?}", self.snapshot());
    }

    fn snapshot(&self) -> RevisionSnapshot {
        self.core.snapshot().remove(0)
    }

    fn scales(&self) -> Vec<i32> {
        let scale = |action: &Action| match action {
            Action::Scale { replicas, .. } => Some(*replicas),
            _ => None,
        };
        self.log.iter().filter_map(scale).collect()
    }

    fn condition(&self, kind: &str) -> (&'static str, String) {
        let condition = self.object.status.conditions.get(kind).unwrap();
        (condition.status.as_str(), condition.reason.to_string())
    }
}

#[test]
fn a_revision_goes_to_zero_and_is_woken_by_a_stat() {
    let mut platform = Platform::new(&[], 1);
    assert_eq!(platform.condition(READY).0, "True", "ready with its pod");

    // Idle for a stable window, then inactive, then for the grace period behind activators.
    let seconds = platform.run_until(120, |it| it.replicas == 0);
    assert!((60..=100).contains(&seconds), "{seconds} s");
    assert_eq!(
        platform.condition("Active"),
        ("False", "NoTraffic".to_owned())
    );
    platform.run_seconds(10);
    assert_eq!(platform.scales(), [0]);
    assert_eq!(platform.snapshot().proxied, Some(true));

    platform.stat(1.0);
    assert_eq!(platform.scales(), [0, 1], "without waiting for a timer");
    assert_eq!(platform.condition("Active").0, "True");
}

#[test]
fn a_revision_created_at_zero_is_woken_by_its_first_stat() {
    let mut platform = Platform::new(&[("autoscaling.knative.dev/initial-scale", "0")], 0);
    let allowed = config::Autoscaler {
        allow_zero_initial_scale: true,
        ..config::Autoscaler::default()
    };
    platform.tell(Update::Config(Arc::new(ClusterConfig {
        autoscaler: allowed,
        progress_deadline: Duration::from_secs(600),
    })));
    platform.run_seconds(5);
    assert_eq!(platform.snapshot().desired, -1, "nothing was decided yet");
    platform.stat(1.0);
    assert_eq!(platform.scales(), [1], "without waiting for a timer");
}

#[test]
fn load_makes_it_grow_and_silence_shrink_in_halves() {
    let mut platform = Platform::new(&[("autoscaling.knative.dev/target", "10")], 1);
    platform.load = Some(50.0);
    platform.run_until(30, |it| it.replicas >= 8);
    platform.run_seconds(70);
    assert_eq!(platform.replicas, 8, "50 / (10 x 0.7), rounded up");
    assert!(!platform.snapshot().panic_mode);

    platform.load = Some(0.0);
    let before = platform.scales().len();
    platform.run_until(300, |it| it.replicas == 0);
    let scales = platform.scales().split_off(before);
    assert!(scales.is_sorted_by(|a, b| a > b), "{scales:?}");
    assert!(
        scales
            .windows(2)
            .all(|pair| pair[1] >= pair[0] / 2 || pair[1] == 0),
        "{scales:?}"
    );
}

/// Missing data never becomes a decision to scale down, in either phase of the tick: the average
/// holds for a window, where it is linear, is zero for one second, and then there is no data.
#[test]
fn nothing_is_scaled_down_while_pods_do_not_answer() {
    let mut zero_was_seen = false;
    for (aggregation, loaded_for) in [
        ("linear", 70),
        ("linear", 71),
        (WEIGHTED, 70),
        (WEIGHTED, 71),
    ] {
        let case = format!("{aggregation} after {loaded_for} s");
        let mut platform = loaded(aggregation, loaded_for);
        platform.load = None;
        let mut stable = platform.snapshot().stable;
        for _ in 0..130 {
            platform.run_seconds(1);
            let snapshot = platform.snapshot();
            assert_eq!((platform.replicas, snapshot.desired), (4, 4), "{case}");
            let error = snapshot.scrape_error.as_deref();
            assert_eq!(error, Some("pods exhausted"), "{case}");
            stable = stable.min(snapshot.stable);
        }
        zero_was_seen |= aggregation != WEIGHTED && stable == 0.0;
        assert!(aggregation != WEIGHTED || stable < 14.0, "{case}: {stable}");

        // What activators report may still raise it.
        platform.stat(500.0);
        platform.run_seconds(2);
        let raised = platform.replicas;
        assert!(raised > 4, "{case}");
        platform.run_seconds(130);
        assert_eq!(platform.replicas, raised, "{case}");

        // Pods that answer again are believed.
        platform.load = Some(0.0);
        platform.run_until(300, |it| it.replicas == 0);
    }
    assert!(zero_was_seen, "no tick fell into the second of zero");

    let mut blind = Platform::new(&[], 4);
    blind.load = None;
    blind.run_seconds(600);
    assert_eq!(blind.scales(), [] as [i32; 0]);
    assert_eq!(blind.snapshot().desired, -1);
}

/// A round may take three seconds to fail, and a weighted average has fallen by half until then.
#[test]
fn nothing_is_scaled_down_while_a_round_is_overdue() {
    let mut platform = loaded(WEIGHTED, 70);
    platform.hangs = true;
    platform.run_seconds(130);
    assert_eq!((platform.replicas, platform.snapshot().desired), (4, 4));
    assert!(platform.snapshot().stable < 14.0);
}

const WEIGHTED: &str = "weighted-exponential";

/// Four pods with what they can serve, for some seconds.
fn loaded(aggregation: &str, seconds: u64) -> Platform {
    let annotations = [
        ("autoscaling.knative.dev/target", "10"),
        (
            "autoscaling.knative.dev/metric-aggregation-algorithm",
            aggregation,
        ),
    ];
    let mut platform = Platform::new(&annotations, 4);
    platform.load = Some(40.0 * 0.7);
    platform.run_seconds(seconds);
    assert_eq!((platform.replicas, platform.snapshot().desired), (4, 4));
    platform
}

/// Upstream's `TestReconcileAndScaleToZero`: without an activator in the path the last pod stays.
#[test]
fn the_last_pod_stays_until_an_activator_answers() {
    let mut platform = Platform::new(&[], 1);
    platform.activator = false;
    platform.run_seconds(300);
    assert_eq!(platform.replicas, 1);
    assert_eq!(platform.condition("Active").0, "False");
    platform.activator = true;
    platform.run_until(5, |it| it.replicas == 0);
}

#[derive(Debug)]
struct OwnsNone;

impl Ownership for OwnsNone {
    fn owns(&self, _revision: &RevisionId) -> bool {
        false
    }
}

#[test]
fn what_is_another_replicas_is_left_alone() {
    let mut platform = Platform::new(&[("autoscaling.knative.dev/target", "10")], 4);
    platform.load = Some(40.0 * 0.7);
    platform.run_seconds(70);
    platform.tell(Update::Ownership(Arc::new(OwnsNone)));
    platform.log.clear();
    platform.load = Some(1000.0);
    platform.run_seconds(30);
    platform.stat(1000.0);
    assert_eq!(platform.log, []);

    platform.load = Some(0.0);
    platform.tell(Update::Ownership(Arc::new(crate::world::OwnsAll)));
    platform.run_seconds(50);
    assert!(platform.snapshot().panic_mode, "as after a restart");
    assert_eq!(platform.scales(), [] as [i32; 0]);
}

#[test]
fn a_deleted_revision_is_forgotten_and_stats_of_it_are_dropped() {
    let mut platform = Platform::new(&[], 1);
    platform.run_seconds(5);
    platform.tell(Update::PodAutoscalerDeleted(id()));
    platform.tell(Update::Pods(id(), Vec::new()));
    platform.tell(Update::ServerlessService(id(), None));
    platform.tell(Update::ScaleTarget(id(), None));
    platform.log.clear();
    platform.stat(5.0);
    platform.run_seconds(10);
    assert_eq!(platform.log, []);
    assert_eq!(platform.core.snapshot(), []);
    assert!(platform.core.timers.is_empty(), "no timer is left behind");
}

#[test]
fn a_changed_configuration_reaches_running_deciders() {
    let mut platform = Platform::new(&[], 3);
    platform.load = Some(3.0);
    platform.run_seconds(80);
    let autoscaler = config::Autoscaler {
        min_scale: 5,
        ..config::Autoscaler::default()
    };
    platform.tell(Update::Config(Arc::new(ClusterConfig {
        autoscaler,
        progress_deadline: Duration::from_secs(600),
    })));
    assert_eq!(platform.replicas, 5);
}

/// Frames are bounded work: a malformed one records nothing.
#[test]
fn a_malformed_frame_is_refused_whole() {
    let mut platform = Platform::new(&[], 1);
    let mut bytes = frame(&[(&id(), 9.0)]);
    bytes.push(0xff);
    assert!(platform.core.record_frame(&bytes, platform.now).is_err());
}

#[derive(Debug)]
struct OwnsAllNow;

impl Ownership for OwnsAllNow {
    fn owns(&self, _revision: &RevisionId) -> bool {
        true
    }
}
