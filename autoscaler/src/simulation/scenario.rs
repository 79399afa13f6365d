//! Replays a scripted scenario: given samples, ready pods and tick times, what is decided and what
//! becomes of the PodAutoscaler.
//!
//! Input and output have the schema of the `decider` conformance vectors, so that any of them can
//! be checked and any run of a real revision can be replayed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serving::UnixTime;
use serving::annotation::{self, Annotations};
use serving::condition::{Condition, ConditionStatus, Conditions, Severity};
use serving::config::{self, InvalidConfig};

use super::control::Control;
pub use super::control::pod_autoscaler;
use crate::plan;
use crate::pod_autoscaler::{
    ACTIVE, PodAutoscaler, PodAutoscalerStatus, Reachability, SCALE_TARGET_INITIALIZED,
};
use crate::scale::{self, ProbeOutcome, ScaleInput};
use crate::spec::{Settings, scaling_metric_name};

/// Most samples and most ticks of one scenario.
pub const MAX_EVENTS: usize = 1_000_000;

/// For how long the revision whose bounds are looked at has been inactive: longer than any grace
/// or retention period.
const LONG_INACTIVE_NS: i64 = 100 * 3600 * SECOND_NS;
const SECOND_NS: i64 = 1_000_000_000;
const MILLISECOND_NS: i64 = 1_000_000;

/// What happened to one revision. Times are milliseconds after `start`, which is Unix time.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    #[serde(default)]
    pub annotations: Annotations,
    /// config-autoscaler.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    #[serde(default)]
    pub container_concurrency: i64,
    #[serde(default)]
    pub reachability: String,
    pub start: i64,
    /// Pods that are ready when the decider is created.
    #[serde(default)]
    pub initial_ready: u32,
    pub samples: Vec<Sample>,
    pub ticks: Vec<i64>,
    /// Ready pods at each tick.
    pub ready: Vec<u32>,
    /// Indices of ticks that a sample caused, not the timer.
    #[serde(default)]
    pub poked_ticks: BTreeSet<usize>,
    #[serde(default)]
    pub updates: Vec<Update>,
}

/// One stat: time, concurrency, requests per second, and the proxied shares of both.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "SampleColumns")]
pub struct Sample {
    pub at: i64,
    pub concurrency: f64,
    pub requests_per_second: f64,
    pub proxied_concurrency: f64,
    pub proxied_requests_per_second: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SampleColumns {
    Plain(i64, f64, f64),
    Proxied(i64, f64, f64, f64, f64),
}

/// A change of configuration while the decider runs; what is absent stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    pub at: i64,
    pub annotations: Option<Annotations>,
    pub config: Option<BTreeMap<String, String>>,
    pub reachability: Option<String>,
}

/// Why a scenario cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum InvalidScenario {
    #[error("config-autoscaler is invalid")]
    Config(#[from] InvalidConfig),
    #[error("{ticks} ticks but {ready} ready counts")]
    Columns { ticks: usize, ready: usize },
    #[error("more than {MAX_EVENTS} samples or ticks")]
    TooLong,
}

/// The outcome of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(flatten)]
    pub derived: Derived,
    /// Ready pods that make the revision active, at the start.
    pub active_threshold: i32,
    pub initial_panic: bool,
    pub initial_status: Status,
    pub initial: Initial,
    pub ticks: Vec<Tick>,
    /// What was derived after each update.
    pub updates: Vec<Derived>,
}

/// A decider's status.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub desired_scale: i32,
    pub excess_burst_capacity: i32,
}

/// The first reconcile, before any tick.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Initial {
    #[serde(flatten)]
    pub lifecycle: Lifecycle,
    pub bounded: i32,
    pub num_activators: i32,
}

/// One tick and the reconcile after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// Milliseconds after the start.
    pub at: i64,
    pub ready: u32,
    /// Whether there was data to decide on.
    pub valid: bool,
    pub desired: i32,
    pub excess_burst_capacity: i32,
    pub stable: Option<f64>,
    pub panic_value: Option<f64>,
    /// Whether panic mode is on after the tick.
    pub panic: bool,
    pub status_desired: i32,
    pub status_ebc: i32,
    pub num_activators: i32,
    /// What bounds alone make of the status.
    pub bounded: i32,
    pub lifecycle: Lifecycle,
}

/// What one reconcile makes of the PodAutoscaler and its target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lifecycle {
    pub want: i32,
    pub replicas: i32,
    /// `S`erve or `P`roxy.
    pub mode: char,
    /// `T`rue, `F`alse or `U`nknown.
    pub active: char,
    pub initialized: bool,
}

/// What annotations and configuration amount to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Derived {
    pub spec: DerivedSpec,
    pub metric: DerivedMetric,
    pub min_scale: i32,
    pub max_scale: i32,
}

/// The decider's spec.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DerivedSpec {
    pub activation_scale: i32,
    pub activator_capacity: f64,
    pub initial_scale: i32,
    pub max_scale_down_rate: f64,
    pub max_scale_up_rate: f64,
    pub panic_threshold: f64,
    pub reachable: bool,
    pub scale_down_delay_seconds: f64,
    pub scaling_metric: String,
    pub stable_window_seconds: f64,
    pub target_burst_capacity: f64,
    pub target_value: f64,
    pub total_value: f64,
}

/// The Metric's spec.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DerivedMetric {
    pub aggregation: String,
    pub panic_window_seconds: f64,
    pub scrape: bool,
    pub stable_window_seconds: f64,
}

/// Replays a scenario.
pub fn replay(scenario: &Scenario) -> Result<Report, InvalidScenario> {
    if scenario.ticks.len() != scenario.ready.len() {
        return Err(InvalidScenario::Columns {
            ticks: scenario.ticks.len(),
            ready: scenario.ready.len(),
        });
    }
    if scenario.ticks.len().max(scenario.samples.len()) > MAX_EVENTS {
        return Err(InvalidScenario::TooLong);
    }
    Replay::new(scenario)?.run(scenario)
}

/// What is derived from a PodAutoscaler, in the schema of the vectors.
pub fn derived(pod_autoscaler: &PodAutoscaler, settings: &Settings) -> Derived {
    let annotations = &pod_autoscaler.annotations;
    let spec = &settings.decider;
    let aggregation = match annotation::METRIC_AGGREGATION_ALGORITHM.get(annotations) {
        Some(annotation::AGGREGATION_WEIGHTED_EXPONENTIAL_LEGACY) => {
            annotation::AGGREGATION_WEIGHTED_EXPONENTIAL
        }
        other => other.unwrap_or(""),
    };
    Derived {
        spec: DerivedSpec {
            activation_scale: spec.activation_scale,
            activator_capacity: spec.activator_capacity,
            initial_scale: spec.initial_scale,
            max_scale_down_rate: spec.max_scale_down_rate,
            max_scale_up_rate: spec.max_scale_up_rate,
            panic_threshold: spec.panic_threshold,
            reachable: spec.reachable,
            scale_down_delay_seconds: seconds(spec.scale_down_delay_ns),
            scaling_metric: scaling_metric_name(annotations).to_owned(),
            stable_window_seconds: seconds(spec.stable_window_ns),
            target_burst_capacity: spec.target_burst_capacity,
            target_value: spec.target_value,
            total_value: spec.total_value,
        },
        metric: DerivedMetric {
            aggregation: aggregation.to_owned(),
            panic_window_seconds: seconds(settings.collection.panic_window_ns),
            scrape: settings.collection.scrape,
            stable_window_seconds: seconds(settings.collection.stable_window_ns),
        },
        min_scale: settings.min_scale,
        max_scale: settings.max_scale,
    }
}

/// A scenario being replayed.
struct Replay {
    start: UnixTime,
    control: Control,
}

impl Replay {
    fn new(scenario: &Scenario) -> Result<Self, InvalidScenario> {
        let start = UnixTime(scenario.start.saturating_mul(MILLISECOND_NS));
        let config = config::Autoscaler::parse(&scenario.config)?;
        let pod_autoscaler = pod_autoscaler(
            scenario.annotations.clone(),
            scenario.container_concurrency,
            &scenario.reachability,
        );
        let control = Control::new(pod_autoscaler, config, scenario.initial_ready, start);
        Ok(Self { start, control })
    }

    fn run(mut self, scenario: &Scenario) -> Result<Report, InvalidScenario> {
        let mut report = Report {
            derived: self.derived(),
            active_threshold: self.control.settings.active_threshold(false),
            initial_panic: self.control.decider.is_panicking(),
            initial_status: Status {
                desired_scale: self.control.decider_status.desired_scale,
                excess_burst_capacity: self.control.decider_status.excess_burst_capacity,
            },
            initial: self.initial(scenario.initial_ready),
            ticks: Vec::with_capacity(scenario.ticks.len()),
            updates: Vec::new(),
        };
        let mut updates = scenario.updates.iter().peekable();
        let mut samples = scenario.samples.iter().peekable();
        let mut ticks = scenario.ticks.iter().zip(&scenario.ready).peekable();
        loop {
            let tick = ticks.peek().map_or(i64::MAX, |(at, _)| **at);
            let sample = samples.peek().map_or(i64::MAX, |sample| sample.at);
            if let Some(update) = updates.next_if(|update| update.at <= sample.min(tick)) {
                self.update(update)?;
                report.updates.push(self.derived());
            } else if let Some(sample) = samples.next_if(|sample| sample.at <= tick) {
                let poked = tick == sample.at
                    && scenario.poked_ticks.contains(&report.ticks.len())
                    && self.control.decider_status.is_poked_by(sample.concurrency);
                self.record(sample);
                if poked && let Some((&at, &ready)) = ticks.next() {
                    report.ticks.push(self.tick(at, ready));
                }
            } else if let Some((&at, &ready)) = ticks.next() {
                report.ticks.push(self.tick(at, ready));
            } else {
                return Ok(report);
            }
        }
    }

    fn time(&self, at: i64) -> UnixTime {
        let offset = at.saturating_mul(MILLISECOND_NS);
        UnixTime(self.start.0.saturating_add(offset))
    }

    fn derived(&self) -> Derived {
        derived(&self.control.pod_autoscaler, &self.control.settings)
    }

    fn update(&mut self, update: &Update) -> Result<(), InvalidScenario> {
        let now = self.time(update.at);
        let pod_autoscaler = &mut self.control.pod_autoscaler;
        if let Some(reachability) = &update.reachability {
            pod_autoscaler.spec.reachability = Reachability::parse(reachability);
        }
        if let Some(annotations) = &update.annotations {
            pod_autoscaler.annotations.clone_from(annotations);
        }
        let config = update
            .config
            .as_ref()
            .map(config::Autoscaler::parse)
            .transpose()?;
        self.control.reconfigure(config, now);
        Ok(())
    }

    fn record(&mut self, sample: &Sample) {
        self.control.collection.record(
            self.time(sample.at),
            sample.concurrency - sample.proxied_concurrency,
            sample.requests_per_second - sample.proxied_requests_per_second,
        );
    }

    fn tick(&mut self, at: i64, ready: u32) -> Tick {
        let now = self.time(at);
        let (observed, decision) = self.control.decide(ready, now);
        let bounded = self.bounded(now);
        Tick {
            at,
            ready,
            valid: decision.is_some(),
            desired: decision.map_or(0, |decision| decision.desired_scale),
            excess_burst_capacity: decision.map_or(0, |decision| decision.excess_burst_capacity),
            stable: observed.map(|observed| observed.stable),
            panic_value: observed.map(|observed| observed.panic),
            panic: self.control.decider.is_panicking(),
            status_desired: self.control.decider_status.desired_scale,
            status_ebc: self.control.decider_status.excess_burst_capacity,
            num_activators: plan::activators_needed(ready, &self.control.settings.decider),
            bounded,
            lifecycle: self.reconcile(ready, now),
        }
    }

    fn initial(&mut self, ready: u32) -> Initial {
        Initial {
            bounded: self.bounded(self.start),
            num_activators: plan::activators_needed(ready, &self.control.settings.decider),
            lifecycle: self.reconcile(ready, self.start),
        }
    }

    fn reconcile(&mut self, ready: u32, now: UnixTime) -> Lifecycle {
        let want = self.control.reconcile(ready, now).want;
        Lifecycle {
            want,
            replicas: self.control.replicas,
            mode: if self.control.is_proxied() { 'P' } else { 'S' },
            active: self.control.active(),
            initialized: self
                .control
                .pod_autoscaler
                .status
                .is_scale_target_initialized(),
        }
    }

    /// The scale when nothing but bounds and initial scale stands in its way.
    fn bounded(&self, now: UnixTime) -> i32 {
        let mut settings = self.control.settings;
        settings.scale_to_zero_enabled = true;
        let initialized = &self.control.pod_autoscaler.status;
        let initialized = if initialized.is_scale_target_initialized() {
            ConditionStatus::True
        } else {
            ConditionStatus::Unknown
        };
        let mut inactive = Condition::new(ACTIVE, ConditionStatus::False, Severity::Error);
        inactive.last_transition_time = UnixTime(now.0.saturating_sub(LONG_INACTIVE_NS));
        let initialized = Condition::new(SCALE_TARGET_INITIALIZED, initialized, Severity::Error);
        let status = PodAutoscalerStatus {
            conditions: Conditions::from_iter([inactive, initialized]),
            ..PodAutoscalerStatus::default()
        };
        let input = ScaleInput {
            settings: &settings,
            status: &status,
            sks_mode: None,
            proxy_for_ns: 0,
            desired_scale: self.control.decider_status.desired_scale,
            now,
        };
        scale::scale(&input, ProbeOutcome::Activator).want
    }
}

fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / SECOND_NS as f64
}

impl From<SampleColumns> for Sample {
    fn from(columns: SampleColumns) -> Self {
        let (at, concurrency, requests_per_second, proxied) = match columns {
            SampleColumns::Plain(at, concurrency, rps) => (at, concurrency, rps, (0.0, 0.0)),
            SampleColumns::Proxied(at, concurrency, rps, c, r) => (at, concurrency, rps, (c, r)),
        };
        Self {
            at,
            concurrency,
            requests_per_second,
            proxied_concurrency: proxied.0,
            proxied_requests_per_second: proxied.1,
        }
    }
}
