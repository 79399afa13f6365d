//! Answers a burst by what is known of pods and requests: how long a pod takes to start, and how
//! long a request takes. Opt-in; without it the decider does exactly what the reference does.
//!
//! The reference divides whatever it sees by the target. While pods start, it sees a queue that
//! grows with every second of their start, and orders pods for the queue long after enough for the
//! requests themselves are on their way. Here arrivals and waiting requests are told apart:
//! arrivals are expected to be served at the target when the pods that are asked for now are
//! ready, and what will wait by then is to be gone soon after (knative/serving#13284).
//!
//! Pure, and driven by the decider: knows no clock and no pods but the numbers it is told.

use std::collections::VecDeque;

use serving::UnixTime;

use crate::decider::Supply;
use crate::spec::{DeciderSpec, ScalingMetric};

/// How soon after new pods are ready the requests that waited are to be served.
const DRAIN_SECONDS: f64 = 1.0;
/// Longest start that is believed: what takes longer waits for something else, such as a node.
const LONGEST_START_SECONDS: f64 = 120.0;
/// Weight of a new value in what is learned.
const LEARNING: f64 = 0.3;
/// How long the pods must have been the same before anything is learned about requests.
const CALM_NS: i64 = 6_000_000_000;
/// Fewer requests per second than these teach nothing about how long one takes.
const FEWEST_REQUESTS: f64 = 0.5;
/// How far a calm average may exceed what arrivals explain, before it is taken for a queue.
const TOLERANCE: f64 = 1.25;
/// Batches of starting pods that are told apart; more are counted with the newest.
const MAX_BATCHES: usize = 64;
const SECOND_NS: f64 = 1e9;

/// What has arrived and what was there, of late.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Flow {
    /// Requests per second in the last two or three seconds.
    pub requests: f64,
    /// How much of `requests` may be chance.
    pub chance: f64,
    /// Requests at once in the same time.
    pub concurrency: f64,
    /// By how much `requests` grows per second.
    pub request_growth: f64,
    /// By how much `concurrency` grows per second.
    pub concurrency_growth: f64,
    /// Requests per second over the stable window.
    pub stable_requests: f64,
}

/// What has been learned about one revision.
#[derive(Clone, Debug, Default)]
pub struct Burst {
    starts: StartTimes,
    service_seconds: Option<f64>,
    /// When the pods changed last.
    unchanged_since: UnixTime,
}

/// Pods needed, as fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// For what arrives.
    pub arrivals: f64,
    /// For what arrives even if the last seconds had more than their share by chance.
    pub certain: f64,
    /// For a while, for what waits.
    pub waiting: f64,
    /// Most that a calm average can be without a queue, in the scaling metric.
    pub calm_limit: f64,
}

/// How long pods take from their creation to their readiness.
#[derive(Clone, Debug, Default)]
struct StartTimes {
    /// When so many pods appeared that are not ready yet, oldest first.
    batches: VecDeque<(UnixTime, u32)>,
    /// Starting pods whose beginning was not seen. They are ready before all others.
    untracked: u32,
    seen: Option<Supply>,
    seconds: Option<f64>,
}

// === impl Burst ===

impl Burst {
    /// Takes in the pods there are now.
    pub fn observe(&mut self, supply: Supply, now: UnixTime) {
        if self.starts.seen != Some(supply) {
            self.unchanged_since = now;
        }
        self.starts.observe(supply, now);
    }

    /// Learns how long requests take, from a time in which the pods stayed the same: a queue that
    /// has just been let in says nothing.
    pub fn learn(&mut self, spec: &DeciderSpec, flow: &Flow, supply: Supply, now: UnixTime) {
        let calm_ns = now.0.saturating_sub(self.unchanged_since.0);
        if supply.starting > 0 || supply.ready == 0 || calm_ns < CALM_NS {
            return;
        }
        // What does not pile up is served.
        let served = flow.requests - flow.concurrency_growth;
        if flow.requests < FEWEST_REQUESTS || served < FEWEST_REQUESTS.max(flow.requests * 0.25) {
            return;
        }
        let serving = match spec.extensions.slots_per_pod {
            Some(slots) => flow.concurrency.min(f64::from(supply.ready) * slots),
            None => flow.concurrency,
        };
        blend(&mut self.service_seconds, serving / served);
    }

    /// What the present flow needs; `None` until both times are known.
    pub fn need(&self, spec: &DeciderSpec, flow: &Flow, supply: Supply, now: UnixTime) -> Option<Need> {
        let start = self.starts.seconds?.min(LONGEST_START_SECONDS);
        let service = self.service_seconds?;
        // One request per second in units of the scaling metric.
        let unit = match spec.scaling_metric {
            ScalingMetric::Concurrency => service,
            ScalingMetric::Rps => 1.0,
        };
        let slots = spec.extensions.slots_per_pod.unwrap_or(spec.total_value);
        let per_pod = match spec.scaling_metric {
            ScalingMetric::Concurrency => slots / service,
            ScalingMetric::Rps => spec.total_value,
        };
        let expected = flow.requests + (flow.request_growth * start).clamp(0.0, flow.requests);
        let running = match spec.extensions.slots_per_pod {
            Some(slots) => f64::from(supply.ready) * slots,
            None if supply.ready == 0 => 0.0,
            // Pods without a limit take whatever comes.
            None => flow.concurrency,
        };
        let waiting = (flow.concurrency - running).max(0.0);
        let shortfall = flow.requests - f64::from(supply.ready) * per_pod;
        let until_ready = self.starts.remaining(now).unwrap_or(start);
        let waiting = (waiting + shortfall.max(0.0) * until_ready).max(0.0);
        Some(Need {
            arrivals: expected * unit / spec.target_value,
            certain: (expected - flow.chance).max(0.0) * unit / spec.target_value,
            waiting: waiting / (DRAIN_SECONDS * per_pod),
            calm_limit: flow.stable_requests * unit * TOLERANCE,
        })
    }
}

// === impl Need ===

impl Need {
    /// Pods for everything.
    pub fn pods(&self) -> f64 {
        (self.arrivals + self.waiting).ceil()
    }

    /// Pods by which a panic is judged: those that are needed by more than chance.
    pub fn pressure(&self) -> f64 {
        (self.certain + self.waiting).ceil()
    }
}

// === impl StartTimes ===

impl StartTimes {
    fn observe(&mut self, supply: Supply, now: UnixTime) {
        let Some(before) = self.seen.replace(supply) else {
            self.untracked = supply.starting;
            return;
        };
        let total = |supply: Supply| supply.ready.saturating_add(supply.starting);
        let appeared = total(supply).saturating_sub(total(before));
        if appeared > 0 {
            self.push(appeared, now);
        }
        self.became_ready(supply.ready.saturating_sub(before.ready), now);
        self.forget_beyond(supply.starting);
    }

    fn push(&mut self, count: u32, now: UnixTime) {
        let full = self.batches.len() >= MAX_BATCHES;
        match self.batches.back_mut() {
            Some((at, waiting)) if full || *at == now => *waiting += count,
            _ => self.batches.push_back((now, count)),
        }
    }

    fn became_ready(&mut self, mut count: u32, now: UnixTime) {
        let known = self.untracked.min(count);
        self.untracked -= known;
        count -= known;
        while count > 0
            && let Some((at, waiting)) = self.batches.front_mut()
        {
            let taken = count.min(*waiting);
            *waiting -= taken;
            count -= taken;
            let took = now.0.saturating_sub(at.0) as f64 / SECOND_NS;
            if *waiting == 0 {
                self.batches.pop_front();
            }
            blend(&mut self.seconds, took.max(0.0));
        }
    }

    /// Pods that went before they were ready were the newest.
    fn forget_beyond(&mut self, starting: u32) {
        self.untracked = self.untracked.min(starting);
        let mut room = starting - self.untracked;
        for (_, waiting) in &mut self.batches {
            *waiting = (*waiting).min(room);
            room -= *waiting;
        }
        self.batches.retain(|(_, waiting)| *waiting > 0);
    }

    /// Until the first of the starting pods should be ready.
    fn remaining(&self, now: UnixTime) -> Option<f64> {
        let (at, _) = self.batches.front()?;
        let age = now.0.saturating_sub(at.0) as f64 / SECOND_NS;
        Some((self.seconds? - age).max(0.0))
    }
}

fn blend(known: &mut Option<f64>, value: f64) {
    let before = known.unwrap_or(value);
    *known = Some(before + (value - before) * LEARNING);
}
