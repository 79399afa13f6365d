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

use crate::pods::Supply;
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
    pub fn need(
        &self,
        spec: &DeciderSpec,
        flow: &Flow,
        supply: Supply,
        now: UnixTime,
    ) -> Option<Need> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serving::config;

    use super::*;
    use crate::pod_autoscaler::Reachability;
    use crate::spec::{Settings, Source};

    fn at(milliseconds: i64) -> UnixTime {
        UnixTime(1_700_000_000_000_000_000 + milliseconds * 1_000_000)
    }

    fn supply(ready: u32, starting: u32) -> Supply {
        Supply { ready, starting }
    }

    fn spec(annotations: &[(&str, &str)], container_concurrency: i64) -> DeciderSpec {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Settings::derive(&Source {
            annotations: &annotations.iter().map(owned).collect(),
            container_concurrency,
            reachability: Reachability::Reachable,
            autoscaler: &config::Autoscaler::default(),
            progress_deadline_ns: 0,
        })
        .decider
    }

    /// Pods that take ten seconds and requests that take a fifth of one.
    fn learned(spec: &DeciderSpec) -> Burst {
        let mut burst = Burst::default();
        burst.observe(supply(0, 0), at(0));
        burst.observe(supply(0, 1), at(1000));
        burst.observe(supply(1, 0), at(11_000));
        let calm = Flow {
            requests: 20.0,
            concurrency: 4.0,
            stable_requests: 20.0,
            ..Flow::default()
        };
        burst.learn(spec, &calm, supply(1, 0), at(20_000));
        burst
    }

    #[test]
    fn start_times_are_learned_first_come_first_served() {
        let mut starts = StartTimes::default();
        starts.observe(supply(1, 2), at(0));
        // Nobody saw when those two began.
        starts.observe(supply(3, 0), at(500));
        assert_eq!(starts.seconds, None);
        starts.observe(supply(3, 1), at(1000));
        starts.observe(supply(3, 3), at(3000));
        assert_eq!(starts.remaining(at(3000)), None, "nothing is known yet");
        starts.observe(supply(4, 2), at(5000));
        assert_eq!(starts.seconds, Some(4.0));
        assert_eq!(starts.remaining(at(5000)), Some(2.0));
        assert_eq!(starts.remaining(at(50_000)), Some(0.0));
        // One is given up; the other takes six seconds.
        starts.observe(supply(4, 1), at(6000));
        starts.observe(supply(5, 0), at(9000));
        let expected = 4.0 + (6.0 - 4.0) * LEARNING;
        assert!((starts.seconds.unwrap() - expected).abs() < 1e-9);
        // A pod that was ready before is not one that starts.
        starts.observe(supply(4, 1), at(20_000));
        starts.observe(supply(5, 0), at(90_000));
        assert!((starts.seconds.unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn batches_are_bounded() {
        let mut starts = StartTimes::default();
        starts.observe(supply(0, 0), at(0));
        for number in 1..=500 {
            starts.observe(supply(0, number), at(i64::from(number)));
        }
        assert_eq!(starts.batches.len(), MAX_BATCHES);
        let counted: u32 = starts.batches.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 500);
    }

    #[test]
    fn requests_teach_only_in_a_calm() {
        let spec = spec(&[], 10);
        let flow = Flow {
            requests: 100.0,
            concurrency: 20.0,
            ..Flow::default()
        };
        let learn = |flow: Flow, supply_now: Supply, milliseconds: i64| {
            let mut burst = Burst::default();
            burst.observe(supply(2, 0), at(0));
            burst.observe(supply_now, at(1000));
            burst.learn(&spec, &flow, supply_now, at(1000 + milliseconds));
            burst.service_seconds
        };
        assert_eq!(learn(flow, supply(5, 0), 6000), Some(0.2));
        assert_eq!(
            learn(flow, supply(5, 0), 5999),
            None,
            "too soon after a change"
        );
        assert_eq!(learn(flow, supply(5, 1), 6000), None, "a pod starts");
        assert_eq!(learn(flow, supply(0, 0), 6000), None, "no pod");
        let few = Flow {
            requests: 0.4,
            ..flow
        };
        assert_eq!(learn(few, supply(5, 0), 6000), None, "hardly any requests");
        // Full pods: 20 of 50 are being served, and of 100 per second 40 are not.
        let full = Flow {
            concurrency: 50.0,
            concurrency_growth: 40.0,
            ..flow
        };
        let service = learn(full, supply(2, 0), 6000).unwrap();
        assert!((service - 20.0 / 60.0).abs() < 1e-9, "{service}");
    }

    #[test]
    fn a_burst_needs_pods_for_arrivals_and_for_a_while_for_what_waits() {
        let spec = spec(&[], 10);
        let flow = Flow {
            requests: 200.0,
            concurrency: 160.0,
            ..Flow::default()
        };
        let now = at(30_000);
        assert_eq!(Burst::default().need(&spec, &flow, supply(1, 0), now), None);
        let burst = learned(&spec);
        let need = burst.need(&spec, &flow, supply(1, 0), now).unwrap();
        // 200 per second of 0.2 s are 40 at once, 7 per pod.
        assert!((need.arrivals - 40.0 / 7.0).abs() < 1e-9, "{need:?}");
        // 150 wait, and 150 more each second for ten seconds; a pod serves 50 per second.
        assert!(
            (need.waiting - (150.0 + 150.0 * 10.0) / 50.0).abs() < 1e-9,
            "{need:?}"
        );
        // Enough pods, nothing waits.
        let need = burst.need(&spec, &flow, supply(20, 0), now).unwrap();
        assert_eq!(need.waiting, 0.0);
        assert!(need.pressure() <= need.pods());
    }

    #[test]
    fn an_app_that_is_scaled_on_requests_needs_no_service_time_for_arrivals() {
        let annotations = [
            ("autoscaling.knative.dev/metric", "rps"),
            ("autoscaling.knative.dev/target", "50"),
        ];
        let spec = spec(&annotations, 0);
        let flow = Flow {
            requests: 350.0,
            concurrency: 400.0,
            ..Flow::default()
        };
        let need = learned(&spec)
            .need(&spec, &flow, supply(1, 0), at(30_000))
            .unwrap();
        assert!((need.arrivals - 10.0).abs() < 1e-9, "{need:?}");
    }

    proptest! {
        /// Whatever is seen, a need is a number and not negative.
        #[test]
        fn a_need_is_finite(
            values in prop::array::uniform6(0.0f64..1e6),
            pods in prop::collection::vec((0u32..2000, 0u32..2000), 1..40),
            step in 0i64..20_000,
        ) {
            let spec = spec(&[], 10);
            let [requests, concurrency, request_growth, concurrency_growth, chance, stable_requests] = values;
            let flow = Flow {
                requests,
                chance,
                concurrency,
                request_growth: request_growth - 5e5,
                concurrency_growth: concurrency_growth - 5e5,
                stable_requests,
            };
            let mut burst = learned(&spec);
            for (index, (ready, starting)) in pods.into_iter().enumerate() {
                let now = at(30_000 + step * index as i64);
                let pods = supply(ready, starting);
                burst.observe(pods, now);
                burst.learn(&spec, &flow, pods, now);
                prop_assert!(burst.starts.batches.len() <= MAX_BATCHES);
                let need = burst.need(&spec, &flow, pods, now).unwrap();
                for value in [need.arrivals, need.certain, need.waiting, need.calm_limit] {
                    prop_assert!(value.is_finite() && value >= 0.0, "{:?}", need);
                }
            }
        }
    }
}
