//! Runs one revision against traffic in virtual time, a millisecond at a step.
//!
//! Requests are counted in groups that arrived together, so the cost follows time, not traffic.
//! The world is simple on purpose: one queue in front of all pods, as activators share one, each
//! pod serves so many requests at once, and everything Kubernetes does takes no time but the start
//! of a pod. What decides is the real thing: collection, decider and reconcile plan.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;
use serving::UnixTime;
use serving::annotation::Annotations;
use serving::config::{self, InvalidConfig};

use super::control::{Control, pod_autoscaler};
use super::traffic::{Arrival, Arrivals, BLOCK_MS, Lengths, Traffic};
use crate::decider::{Observation, TICK_SECONDS};
use crate::pods::Supply;
use crate::scale::UNKNOWN_SCALE;

/// Longest simulated time.
pub const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Simulated time when neither traffic nor caller says: ten minutes.
const DEFAULT_DURATION: Duration = Duration::from_secs(600);
/// Time after the last request of a trace, enough to see the revision go to zero.
const TAIL: Duration = Duration::from_secs(180);
/// Longest time one request or one pod start may take; longer draws are cut to it.
const MAX_LENGTH_MS: u64 = 3_600_000;
/// An even second far from zero, so that no time is ever negative.
const START_MS: i64 = 1_700_000_000_000;
const MILLISECOND_NS: i64 = 1_000_000;
const TICK_MS: u64 = TICK_SECONDS as u64 * 1000;

/// The settings to try.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    pub annotations: Annotations,
    /// Data of config-autoscaler.
    pub config: BTreeMap<String, String>,
    /// Requests a pod accepts at once; 0: as many as it serves.
    pub container_concurrency: u32,
    /// Pods that are ready at the start; without any the revision has been idle for long.
    pub initial_pods: u32,
}

/// How the revision behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// From the wish for a pod to its readiness.
    pub start_time: Lengths,
    /// One request in a pod.
    pub service_time: Lengths,
    /// Requests a pod serves at once; 0: any number.
    pub concurrency: u32,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub setting: &'a Setting,
    pub traffic: &'a Traffic,
    pub model: Model,
    /// `None`: until some time after the end of a trace.
    pub duration: Option<Duration>,
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub rows: Vec<Row>,
    pub summary: Summary,
}

/// The state after one tick of the decider.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Seconds since the start.
    pub at: f64,
    /// Arrivals per second since the tick before.
    pub requests_per_second: f64,
    /// Requests in pods or waiting, on average since the tick before.
    pub concurrency: f64,
    /// Requests waiting now.
    pub queued: u64,
    pub stable: Option<f64>,
    pub panic_value: Option<f64>,
    /// What the decider last decided; -1 before it could.
    pub desired: i32,
    /// What the bounds and the way to zero made of it.
    pub want: i32,
    pub excess_burst_capacity: i32,
    pub panic: bool,
    /// Pods that exist, ready or not.
    pub replicas: u32,
    pub ready: u32,
    /// `S`erve or `P`roxy.
    pub mode: char,
    /// `T`rue, `F`alse or `U`nknown.
    pub active: char,
}

/// One run in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub duration_seconds: f64,
    /// Existing pods, starting ones included, times seconds.
    pub pod_seconds: f64,
    pub peak_pods: u32,
    pub requests: u64,
    /// Requests that arrived while no pod was ready.
    pub cold_requests: u64,
    /// Time that requests waited for a pod, those of all requests.
    pub queueing_p50_ms: u32,
    pub queueing_p95_ms: u32,
    pub queueing_p99_ms: u32,
    pub queueing_max_ms: u32,
    /// The waits of all requests, added up.
    pub queueing_seconds: f64,
    /// Requests that still waited at the end; the percentiles count their wait so far.
    pub unserved: u64,
    /// Seconds in which a request waited.
    pub under_capacity_seconds: f64,
    pub panic_seconds: f64,
    /// Changes of the number of replicas.
    pub scale_changes: u32,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRun {
    #[error("config-autoscaler is invalid")]
    Config(#[from] InvalidConfig),
    #[error("longer than a week")]
    TooLong,
}

/// Simulates.
pub fn simulate(run: &Run<'_>) -> Result<Outcome, InvalidRun> {
    let config = config::Autoscaler::parse(&run.setting.config)?;
    let duration = run
        .duration
        .or_else(|| run.traffic.length().map(|length| length + TAIL))
        .unwrap_or(DEFAULT_DURATION);
    if duration > MAX_DURATION {
        return Err(InvalidRun::TooLong);
    }
    Ok(Engine::new(run, config).run(run, duration))
}

/// Requests that arrived in the same millisecond and have not been served.
#[derive(Clone, Copy, Debug)]
struct Group {
    arrived_ms: u64,
    count: u32,
    service_ms: Option<u32>,
}

/// What was counted since the last report or row.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    arrivals: u64,
    /// Requests present, summed over milliseconds.
    presence: u64,
}

struct Engine {
    control: Control,
    model: Model,
    rng: Rng,
    now_ms: u64,
    /// Requests one pod takes at once; 0: any number.
    slots_per_pod: u64,

    queue: VecDeque<Group>,
    queued: u64,
    running: u64,
    /// Requests that end in so many milliseconds from now.
    completions: VecDeque<u64>,

    ready: u32,
    /// When each starting pod becomes ready, soonest first.
    starting: VecDeque<u64>,
    requeue_at_ms: Option<u64>,
    want: i32,

    second: Period,
    tick: Period,
    /// Whether activators watch the revision: from its first request until one idle report.
    tracked: bool,
    /// The first request of an idle revision was reported at once and is not reported again.
    reported_early: bool,

    waits: BTreeMap<u32, u64>,
    under_capacity_ms: u64,
    panic_ms: u64,
    pod_ms: u64,
    summary: Summary,
    rows: Vec<Row>,
}

impl Engine {
    fn new(run: &Run<'_>, config: config::Autoscaler) -> Self {
        let setting = run.setting;
        let limit = i64::from(setting.container_concurrency);
        let pod_autoscaler = pod_autoscaler(setting.annotations.clone(), limit, "Reachable");
        let ready = setting.initial_pods;
        let mut control = Control::new(pod_autoscaler, config, ready, time(0));
        if ready == 0 {
            control.idle(time(0));
        }
        let slots_per_pod = match (setting.container_concurrency, run.model.concurrency) {
            (0, slots) | (slots, 0) => slots,
            (limit, slots) => limit.min(slots),
        };
        Self {
            control,
            model: run.model,
            // Another stream than that of the arrivals, which do not depend on the setting.
            rng: Rng::with_seed(run.seed ^ 0x9e37_79b9_7f4a_7c15),
            now_ms: 0,
            slots_per_pod: u64::from(slots_per_pod),
            queue: VecDeque::new(),
            queued: 0,
            running: 0,
            completions: VecDeque::new(),
            ready,
            starting: VecDeque::new(),
            requeue_at_ms: None,
            want: UNKNOWN_SCALE,
            second: Period::default(),
            tick: Period::default(),
            tracked: false,
            reported_early: false,
            waits: BTreeMap::new(),
            under_capacity_ms: 0,
            panic_ms: 0,
            pod_ms: 0,
            summary: Summary::default(),
            rows: Vec::new(),
        }
    }

    fn run(mut self, run: &Run<'_>, duration: Duration) -> Outcome {
        let end_ms = duration.as_millis() as u64;
        let mean_service = run.model.service_time.mean();
        let mut arrivals = Arrivals::new(run.traffic, mean_service, run.seed);
        let mut block = Vec::new();
        let mut next = 0;
        self.reconcile();
        while self.now_ms < end_ms {
            let offset = self.now_ms as usize % BLOCK_MS;
            if offset == 0 {
                block.clear();
                next = 0;
                arrivals.block(self.now_ms as usize / BLOCK_MS, &mut block);
            }
            self.before_arrivals();
            while let Some(arrival) = block.get(next).filter(|a| a.offset_ms == offset) {
                next += 1;
                self.arrive(arrival);
            }
            self.dispatch();
            self.count();
            self.now_ms += 1;
        }
        self.finish()
    }

    /// What is due at this millisecond: ready pods, finished requests, reports, ticks, timers.
    fn before_arrivals(&mut self) {
        self.running -= self.completions.pop_front().unwrap_or(0);
        let mut changed = false;
        while self.starting.front().is_some_and(|&at| at <= self.now_ms) {
            self.starting.pop_front();
            self.ready += 1;
            changed = true;
        }
        if changed {
            self.control
                .observe_supply(self.supply(), time(self.now_ms));
        }
        if self.now_ms > 0 && self.now_ms.is_multiple_of(1000) {
            self.report();
        }
        if self.now_ms > 0 && self.now_ms.is_multiple_of(TICK_MS) {
            let (observed, _) = self.control.decide(self.supply(), time(self.now_ms));
            self.reconcile();
            self.push_row(observed);
        } else if changed || self.requeue_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.reconcile();
        }
    }

    fn arrive(&mut self, arrival: &Arrival) {
        let count = u64::from(arrival.count);
        self.summary.requests += count;
        if self.ready == 0 {
            self.summary.cold_requests += count;
        }
        self.second.arrivals += count;
        self.tick.arrivals += count;
        self.queue.push_back(Group {
            arrived_ms: self.now_ms,
            count: arrival.count,
            service_ms: arrival.service_ms,
        });
        self.queued += count;
        if !self.tracked && self.is_proxied() {
            self.tracked = true;
            self.reported_early = true;
            self.poke();
        }
    }

    /// An activator reports the first request of an idle revision at once.
    fn poke(&mut self) {
        let now = time(self.now_ms);
        self.control.collection.record(now, 1.0, 1.0);
        if self.control.decider_status.is_poked_by(1.0) {
            self.control.decide(self.supply(), now);
            self.reconcile();
        }
    }

    /// Reports of the second that has passed, from pods or activators.
    fn report(&mut self) {
        let period = std::mem::take(&mut self.second);
        let early = if std::mem::take(&mut self.reported_early) {
            1.0
        } else {
            0.0
        };
        let scraped = self.control.settings.collection.scrape && self.ready > 0;
        if scraped || self.tracked {
            self.control.collection.record(
                time(self.now_ms),
                (period.presence as f64 / 1000.0 - early).max(0.0),
                period.arrivals as f64 - early,
            );
            self.answer_burst();
        }
        if period.presence == 0 || !self.is_proxied() {
            self.tracked = false;
        }
    }

    fn answer_burst(&mut self) {
        let now = time(self.now_ms);
        if self.control.is_urgent(self.supply(), now) {
            self.control.decide(self.supply(), now);
            self.reconcile();
        }
    }

    fn is_proxied(&self) -> bool {
        self.ready == 0 || self.control.is_proxied()
    }

    fn dispatch(&mut self) {
        let capacity = match (self.ready, self.slots_per_pod) {
            (0, _) => 0,
            (_, 0) => u64::MAX,
            (ready, slots) => u64::from(ready) * slots,
        };
        while self.running < capacity
            && let Some(group) = self.queue.front_mut()
        {
            let taken = u64::from(group.count).min(capacity - self.running) as u32;
            group.count -= taken;
            let group = *group;
            if group.count == 0 {
                self.queue.pop_front();
            }
            self.queued -= u64::from(taken);
            self.running += u64::from(taken);
            let waited = self.now_ms - group.arrived_ms;
            self.waited(waited, u64::from(taken));
            self.serve(taken, group.service_ms);
        }
    }

    fn waited(&mut self, wait_ms: u64, count: u64) {
        let wait_ms = u32::try_from(wait_ms).unwrap_or(u32::MAX);
        *self.waits.entry(wait_ms).or_default() += count;
    }

    fn serve(&mut self, count: u32, service_ms: Option<u32>) {
        match (service_ms, self.model.service_time) {
            (Some(service_ms), _) => self.complete_in(u64::from(service_ms), count),
            (None, Lengths::Fixed(length)) => self.complete_in(length.as_millis() as u64, count),
            (None, lengths) => {
                for _ in 0..count {
                    let service_ms = lengths.draw_ms(&mut self.rng);
                    self.complete_in(service_ms, 1);
                }
            }
        }
    }

    /// Requests leave after at least one step, in which they are present.
    fn complete_in(&mut self, service_ms: u64, count: u32) {
        let index = service_ms.clamp(1, MAX_LENGTH_MS) as usize - 1;
        if self.completions.len() <= index {
            self.completions.resize(index + 1, 0);
        }
        self.completions[index] += u64::from(count);
    }

    /// Counts what holds during this millisecond.
    fn count(&mut self) {
        let present = self.running + self.queued;
        self.second.presence += present;
        self.tick.presence += present;
        self.pod_ms += u64::from(self.pods());
        self.under_capacity_ms += u64::from(self.queued > 0);
        self.panic_ms += u64::from(self.control.decider.is_panicking());
    }

    fn supply(&self) -> Supply {
        Supply {
            ready: self.ready,
            starting: self.starting.len() as u32,
        }
    }

    fn pods(&self) -> u32 {
        self.ready + self.starting.len() as u32
    }

    fn reconcile(&mut self) {
        let before = self.control.replicas;
        let reconciled = self.control.reconcile(self.ready, time(self.now_ms));
        self.want = reconciled.want;
        if self.requeue_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.requeue_at_ms = None;
        }
        if let Some(after_ns) = reconciled.requeue_after_ns {
            let at = self.now_ms + after_ns.max(0) as u64 / MILLISECOND_NS as u64 + 1;
            self.requeue_at_ms = Some(self.requeue_at_ms.map_or(at, |due| due.min(at)));
        }
        if self.control.replicas != before {
            self.summary.scale_changes += 1;
        }
        self.follow_replicas();
    }

    /// Starts pods, or takes away starting ones first and ready ones then; what those that go
    /// still serve is served to its end.
    fn follow_replicas(&mut self) {
        let replicas = u32::try_from(self.control.replicas).unwrap_or(0);
        while self.pods() < replicas {
            let start_ms = self.model.start_time.draw_ms(&mut self.rng);
            let at = self.now_ms + start_ms.clamp(1, MAX_LENGTH_MS);
            let index = self.starting.partition_point(|&other| other <= at);
            self.starting.insert(index, at);
        }
        while self.pods() > replicas {
            if self.starting.pop_back().is_none() {
                self.ready -= 1;
            }
        }
        self.summary.peak_pods = self.summary.peak_pods.max(self.pods());
        self.control
            .observe_supply(self.supply(), time(self.now_ms));
    }

    fn push_row(&mut self, observed: Option<Observation>) {
        let period = std::mem::take(&mut self.tick);
        let status = self.control.decider_status;
        self.rows.push(Row {
            at: self.now_ms as f64 / 1000.0,
            requests_per_second: period.arrivals as f64 * 1000.0 / TICK_MS as f64,
            concurrency: period.presence as f64 / TICK_MS as f64,
            queued: self.queued,
            stable: observed.map(|observed| observed.stable),
            panic_value: observed.map(|observed| observed.panic),
            desired: status.desired_scale,
            want: self.want,
            excess_burst_capacity: status.excess_burst_capacity,
            panic: self.control.decider.is_panicking(),
            replicas: self.pods(),
            ready: self.ready,
            mode: if self.control.is_proxied() { 'P' } else { 'S' },
            active: self.control.active(),
        });
    }

    fn finish(mut self) -> Outcome {
        let mut unserved = 0;
        for group in std::mem::take(&mut self.queue) {
            unserved += u64::from(group.count);
            self.waited(self.now_ms - group.arrived_ms, u64::from(group.count));
        }
        let seconds = |milliseconds: u64| milliseconds as f64 / 1000.0;
        let summary = Summary {
            duration_seconds: seconds(self.now_ms),
            pod_seconds: seconds(self.pod_ms),
            queueing_p50_ms: self.percentile(0.5),
            queueing_p95_ms: self.percentile(0.95),
            queueing_p99_ms: self.percentile(0.99),
            queueing_max_ms: self.waits.keys().next_back().copied().unwrap_or(0),
            queueing_seconds: seconds(
                self.waits
                    .iter()
                    .map(|(&wait_ms, &count)| u64::from(wait_ms) * count)
                    .sum(),
            ),
            unserved,
            under_capacity_seconds: seconds(self.under_capacity_ms),
            panic_seconds: seconds(self.panic_ms),
            ..self.summary
        };
        Outcome {
            rows: self.rows,
            summary,
        }
    }

    fn percentile(&self, share: f64) -> u32 {
        let total: u64 = self.waits.values().sum();
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        self.waits
            .iter()
            .find(|&(_, &count)| {
                seen += count;
                seen >= rank
            })
            .map_or(0, |(&wait_ms, _)| wait_ms)
    }
}

fn time(ms: u64) -> UnixTime {
    UnixTime((START_MS + ms as i64) * MILLISECOND_NS)
}

#[cfg(test)]
mod tests;
