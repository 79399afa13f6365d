//! What has been reported about one revision: four averages in two rings.
//!
//! Pure storage: the collector's shell scrapes, receives and says when. Stats are not kept one by
//! one, they are added to the bucket of their second. Behaviour of the `collection` of
//! `pkg/autoscaler/metrics/collector.go`.

use serving::UnixTime;
use smallvec::SmallVec;

use crate::burst::Flow;
use crate::decider::Observation;
use crate::spec::{CollectionSpec, DeciderSpec, ScalingMetric};
use crate::window::Buckets;

/// Width of a bucket.
pub const BUCKET_SECONDS: u32 = 1;

/// Seconds that tell where the flow of requests goes.
const FLOW_SECONDS: usize = 6;

const CONCURRENCY: usize = 0;
const REQUESTS_PER_SECOND: usize = 1;

/// The stats of one revision.
#[derive(Clone, Debug)]
pub struct Collection {
    stable: Buckets<2>,
    panic: Buckets<2>,
    scraped: bool,
}

// === impl Collection ===

impl Collection {
    /// A collection that has heard nothing.
    pub fn new(spec: &CollectionSpec) -> Self {
        let ring = |window_ns| Buckets::new(window_ns, BUCKET_SECONDS, spec.aggregation);
        Self {
            stable: ring(spec.stable_window_ns),
            panic: ring(spec.panic_window_ns),
            scraped: spec.scrape,
        }
    }

    /// Changes the windows and whether pods are scraped. The aggregation stays what it was when
    /// the collection was made.
    pub fn update(&mut self, spec: &CollectionSpec, now: UnixTime) {
        self.stable.resize(spec.stable_window_ns, now);
        self.panic.resize(spec.panic_window_ns, now);
        self.scraped = spec.scrape;
    }

    /// Adds what one report says of the second of `time`. Both values are net of requests that
    /// came through an activator, which reports those itself.
    pub fn record(&mut self, time: UnixTime, concurrency: f64, requests_per_second: f64) {
        let values = [concurrency, requests_per_second];
        self.stable.record(time, values);
        self.panic.record(time, values);
    }

    /// The averages to decide on. `None` when nothing was heard for a stable window although pods
    /// are scraped; where only activators report, silence means zero.
    pub fn observe(&self, metric: ScalingMetric, now: UnixTime) -> Option<Observation> {
        if self.scraped && self.stable.is_empty(now) {
            return None;
        }
        Some(self.averages(metric, now))
    }

    /// What a decider with this spec is to see: [`Collection::observe`] of its metric, or, where
    /// it has a target for the other metric too, the one that needs more pods, in units of its
    /// own metric.
    pub fn observe_for(&self, spec: &DeciderSpec, now: UnixTime) -> Option<Observation> {
        let mut observed = self.observe(spec.scaling_metric, now)?;
        if spec.extensions.learn_start_time {
            observed.flow = self.flow(now);
        }
        let Some(second_target_value) = spec.extensions.second_target_value else {
            return Some(observed);
        };
        let second = match spec.scaling_metric {
            ScalingMetric::Concurrency => self.averages(ScalingMetric::Rps, now),
            ScalingMetric::Rps => self.averages(ScalingMetric::Concurrency, now),
        };
        let exchange = spec.target_value / second_target_value;
        Some(Observation {
            stable: observed.stable.max(second.stable * exchange),
            panic: observed.panic.max(second.panic * exchange),
            flow: observed.flow,
        })
    }

    fn averages(&self, metric: ScalingMetric, now: UnixTime) -> Observation {
        let lane = match metric {
            ScalingMetric::Concurrency => CONCURRENCY,
            ScalingMetric::Rps => REQUESTS_PER_SECOND,
        };
        Observation {
            stable: self.stable.average(lane, now),
            panic: self.panic.average(lane, now),
            flow: None,
        }
    }

    /// What arrives and what is there, of late; `None` when that was not reported.
    fn flow(&self, now: UnixTime) -> Option<Flow> {
        let newest = self.stable.newest(now, FLOW_SECONDS)?;
        let requests = Trend::of(newest.iter().map(|values| values[REQUESTS_PER_SECOND]));
        let concurrency = Trend::of(newest.iter().map(|values| values[CONCURRENCY]));
        Some(Flow {
            requests: requests.level,
            // The level is a mean of two seconds, so its variance is half of it.
            chance: (requests.level / 2.0).sqrt(),
            concurrency: concurrency.level,
            request_growth: requests.growth_of_counts(),
            concurrency_growth: concurrency.growth(),
            stable_requests: self.stable.average(REQUESTS_PER_SECOND, now),
        })
    }
}

/// Where a series has come to and where it came from.
struct Trend {
    level: f64,
    before: f64,
    /// Seconds between the two.
    span: f64,
}

impl Trend {
    /// Of seconds, newest first. The newest may not be complete yet, so the level is that of the
    /// two newest or of the two before the newest, whichever is higher.
    fn of(newest: impl Iterator<Item = f64>) -> Self {
        let seconds: SmallVec<[f64; FLOW_SECONDS]> = newest.collect();
        let count = seconds.len();
        let mean = |from: usize, until: usize| {
            let until = until.min(count);
            let from = from.min(until.saturating_sub(1));
            seconds[from..until].iter().sum::<f64>() / (until - from).max(1) as f64
        };
        Self {
            level: mean(0, 2).max(mean(1, 3)),
            before: mean(count.saturating_sub(2), count),
            span: count.saturating_sub(2).max(1) as f64,
        }
    }

    /// Per second.
    fn growth(&self) -> f64 {
        (self.level - self.before) / self.span
    }

    /// Per second, of numbers of independent events: as much as chance explains does not count.
    /// Each mean is of two seconds, so its variance is half of it; two deviations are allowed for.
    fn growth_of_counts(&self) -> f64 {
        let chance = (2.0 * (self.level + self.before)).sqrt();
        (self.level - self.before - chance).max(0.0) / self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_autoscaler::Reachability;
    use crate::spec::{Aggregation, Settings, Source};

    const SECOND_NS: i64 = 1_000_000_000;

    fn spec(scrape: bool) -> CollectionSpec {
        CollectionSpec {
            stable_window_ns: 60 * SECOND_NS,
            panic_window_ns: 6 * SECOND_NS,
            scrape,
            aggregation: Aggregation::Linear,
        }
    }

    fn at(second: i64) -> UnixTime {
        UnixTime::from_seconds(1_700_000_000 + second)
    }

    #[test]
    fn silence_is_no_data_only_where_pods_are_scraped() {
        let scraped = Collection::new(&spec(true));
        assert_eq!(scraped.observe(ScalingMetric::Concurrency, at(0)), None);
        let pushed = Collection::new(&spec(false));
        assert_eq!(
            pushed.observe(ScalingMetric::Rps, at(0)),
            Some(Observation::default())
        );
    }

    #[test]
    fn stats_of_one_second_add_up_per_metric() {
        let mut collection = Collection::new(&spec(true));
        collection.record(at(0), 2.0, 10.0);
        collection.record(at(0), 3.0, 20.0);
        let observed = |metric| collection.observe(metric, at(0)).unwrap();
        assert_eq!(observed(ScalingMetric::Concurrency).stable, 5.0);
        assert_eq!(observed(ScalingMetric::Rps).panic, 30.0);
    }

    #[test]
    fn an_update_changes_windows_and_the_meaning_of_silence() {
        let mut collection = Collection::new(&spec(false));
        collection.record(at(0), 2.0, 0.0);
        collection.update(
            &CollectionSpec {
                stable_window_ns: 10 * SECOND_NS,
                ..spec(true)
            },
            at(0),
        );
        assert_eq!(collection.observe(ScalingMetric::Concurrency, at(11)), None);
    }

    #[test]
    fn the_second_metric_counts_when_it_needs_more_pods() {
        let annotations = [("pilotlight.dev/second-target", "10")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let settings = Settings::derive(&Source {
            annotations: &annotations,
            container_concurrency: 10,
            reachability: Reachability::Reachable,
            autoscaler: &serving::config::Autoscaler::default(),
            progress_deadline_ns: 0,
        });
        let observe = |concurrency, requests| {
            let mut collection = Collection::new(&settings.collection);
            collection.record(at(0), concurrency, requests);
            collection.observe_for(&settings.decider, at(0)).unwrap()
        };
        // Both targets are 7 per pod.
        assert_eq!(observe(14.0, 5.0).stable, 14.0);
        assert_eq!(observe(14.0, 21.0).stable, 21.0);
    }

    /// A revision's windows must stay small: there may be tens of thousands.
    #[test]
    fn fits_in_two_kilobytes_with_a_minute_of_data() {
        let slots = (60 + 6) * size_of::<[f64; 2]>();
        assert!(slots + size_of::<Collection>() <= 2048);
    }
}
