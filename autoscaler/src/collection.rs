//! What has been reported about one revision: four averages in two rings.
//!
//! Pure storage: the collector's shell scrapes, receives and says when. Stats are not kept one by
//! one, they are added to the bucket of their second. Behaviour of the `collection` of
//! `pkg/autoscaler/metrics/collector.go`.

use serving::{RevisionId, UnixTime};
use smallvec::SmallVec;

use crate::burst::Flow;
use crate::decider::Observation;
use crate::handover::{MAX_SECONDS, Windows};
use crate::spec::{CollectionSpec, DeciderSpec, ScalingMetric};
use crate::window::Buckets;

/// Width of a bucket.
pub const BUCKET_SECONDS: u32 = 1;

/// Seconds that tell where the flow of requests goes.
const FLOW_SECONDS: usize = 6;

/// More requests than one revision can have; what claims more is not believed.
const MOST_REQUESTS: f64 = 1e9;

const CONCURRENCY: usize = 0;
const REQUESTS_PER_SECOND: usize = 1;

/// The stats of one revision.
#[derive(Clone, Debug)]
pub struct Collection {
    stable: Buckets<2>,
    panic: Buckets<2>,
    scraped: bool,
    /// Whether there is nothing yet but what another replica handed over.
    only_handed_over: bool,
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
            only_handed_over: false,
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
        self.only_handed_over = false;
        self.add(time, [concurrency, requests_per_second]);
    }

    fn add(&mut self, time: UnixTime, values: [f64; 2]) {
        self.stable.record(time, values);
        self.panic.record(time, values);
    }

    /// The seconds that are over, to be handed to another replica; `None` without any.
    pub fn hand_over(&self, id: &RevisionId, now: UnixTime) -> Option<Windows> {
        let (first, last) = self.stable.written()?;
        let newest = last.min(now.seconds() - 1);
        let skipped = usize::try_from(last - newest).ok()?;
        let buckets = self.stable.newest(last, skipped + MAX_SECONDS);
        let buckets = buckets.get(skipped..).filter(|left| !left.is_empty())?;
        (!self.stable.is_empty(now) && newest >= first).then(|| Windows {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            newest,
            concurrency: buckets.iter().map(|values| values[CONCURRENCY]).collect(),
            requests: buckets
                .iter()
                .map(|values| values[REQUESTS_PER_SECOND])
                .collect(),
        })
    }

    /// Fills in what another replica collected before this one began. It is no data by itself: until
    /// something is recorded here, pods that are scraped count as not heard of.
    pub fn take_over(&mut self, windows: &Windows, now: UnixTime) {
        let began = self
            .stable
            .written()
            .map_or(now.seconds(), |(first, _)| first);
        // What is there may have been handed over too: that remains no data of its own.
        self.only_handed_over |= self.stable.written().is_none();
        for (second, concurrency, requests) in windows.seconds() {
            let sound = |value: f64| (0.0..MOST_REQUESTS).contains(&value);
            if second < began && sound(concurrency) && sound(requests) {
                self.add(UnixTime::from_seconds(second), [concurrency, requests]);
            }
        }
    }

    /// The averages to decide on. `None` when nothing was heard for a stable window although pods
    /// are scraped; where only activators report, silence means zero.
    pub fn observe(&self, metric: ScalingMetric, now: UnixTime) -> Option<Observation> {
        if self.scraped && (self.only_handed_over || self.stable.is_empty(now)) {
            return None;
        }
        Some(self.averages(metric, now))
    }

    /// Whether averages are lower already because the second that is over is missing. Linear ones
    /// leave such seconds out.
    pub fn falls_in_silence(&self, now: UnixTime) -> bool {
        let written = self.stable.written();
        self.stable.is_weighted() && written.is_some_and(|(_, last)| last < now.seconds() - 1)
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
        let (_, last) = self.stable.written()?;
        if now.seconds() - last > 1 {
            return None;
        }
        let newest = self.stable.newest(last, FLOW_SECONDS);
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
    fn windows_that_were_handed_over_average_as_before() {
        let id = RevisionId::new("default", "a");
        let mut old = Collection::new(&spec(true));
        for second in 0..90 {
            old.record(at(second), 3.0 + second as f64, 5.0);
        }
        // The present second is not over.
        let windows = old.hand_over(&id, at(89)).unwrap();
        assert_eq!(
            (windows.newest, windows.requests.len()),
            (at(88).seconds(), 59)
        );
        let mut new = Collection::new(&spec(true));
        new.take_over(&windows, at(95));
        assert_eq!(
            new.observe(ScalingMetric::Concurrency, at(95)),
            None,
            "no data of its own"
        );
        new.take_over(&windows, at(95));
        assert_eq!(
            new.observe(ScalingMetric::Concurrency, at(95)),
            None,
            "nor after it was handed over again"
        );
        new.record(at(95), 98.0, 5.0);
        for second in 89..95 {
            old.record(at(second), if second == 89 { -92.0 } else { 0.0 }, 0.0);
        }
        old.record(at(95), 98.0, 5.0);
        let seen = |it: &Collection| it.observe(ScalingMetric::Concurrency, at(95)).unwrap();
        assert_eq!(seen(&new).stable, seen(&old).stable);
        new.take_over(&windows, at(95));
        assert_eq!(
            seen(&new).stable,
            seen(&old).stable,
            "data of its own stays data"
        );
    }

    #[test]
    fn what_was_collected_here_is_not_handed_over_to_as_well() {
        let id = RevisionId::new("default", "a");
        let mut old = Collection::new(&spec(true));
        let mut new = Collection::new(&spec(true));
        for second in 0..20 {
            old.record(at(second), 10.0, 1.0);
        }
        for second in 15..21 {
            new.record(at(second), 10.0, 1.0);
        }
        let mut windows = old.hand_over(&id, at(20)).unwrap();
        // Neither nonsense nor a time to come is taken.
        windows.concurrency[10] = f64::NAN;
        windows.requests[11] = -1.0;
        new.take_over(&windows, at(20));
        let observed = new.observe(ScalingMetric::Concurrency, at(20)).unwrap();
        assert!(
            (observed.stable - 10.0 * 19.0 / 21.0).abs() < 1e-6,
            "{observed:?}"
        );
        windows.newest = at(500).seconds();
        let mut early = Collection::new(&spec(true));
        early.take_over(&windows, at(20));
        early.record(at(20), 1.0, 1.0);
        assert_eq!(
            early
                .observe(ScalingMetric::Concurrency, at(20))
                .unwrap()
                .stable,
            1.0
        );
    }

    #[test]
    fn nothing_is_handed_over_of_a_silent_revision() {
        let id = RevisionId::new("default", "a");
        let mut silent = Collection::new(&spec(true));
        assert_eq!(silent.hand_over(&id, at(0)), None);
        silent.record(at(0), 1.0, 1.0);
        assert_eq!(silent.hand_over(&id, at(0)), None, "the second is not over");
        assert!(silent.hand_over(&id, at(60)).is_some());
        assert_eq!(
            silent.hand_over(&id, at(61)),
            None,
            "no longer in the window"
        );
        let mut long = Collection::new(&CollectionSpec {
            stable_window_ns: 3600 * SECOND_NS,
            ..spec(true)
        });
        for second in 0..2000 {
            long.record(at(second), 1.0, 1.0);
        }
        let windows = long.hand_over(&id, at(2000)).unwrap();
        assert_eq!(windows.requests.len(), MAX_SECONDS);
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
