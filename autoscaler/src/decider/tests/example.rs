//! A revision under a scripted load, checked tick by tick against a table.

use std::collections::BTreeMap;
use std::ops::Range;

use serving::UnixTime;
use serving::annotation::Annotations;
use serving::config;

use crate::collection::Collection;
use crate::decider::Decider;
use crate::pod_autoscaler::Reachability;
use crate::spec::{Settings, Source};

pub(super) const ACTIVATION: &str = "autoscaling.knative.dev/activation-scale";
pub(super) const AGGREGATION: &str = "autoscaling.knative.dev/metric-aggregation-algorithm";
pub(super) const DELAY: &str = "autoscaling.knative.dev/scale-down-delay";
pub(super) const INITIAL: &str = "autoscaling.knative.dev/initial-scale";
pub(super) const METRIC: &str = "autoscaling.knative.dev/metric";
pub(super) const TARGET: &str = "autoscaling.knative.dev/target";
pub(super) const TBC: &str = "autoscaling.knative.dev/target-burst-capacity";
pub(super) const UTILIZATION: &str = "autoscaling.knative.dev/target-utilization-percentage";
pub(super) const WINDOW: &str = "autoscaling.knative.dev/window";

/// Second 0 is an even whole second.
const START_NS: i64 = 1_700_000_000_000_000_000;
/// Tables carry four decimals.
const TOLERANCE: f64 = 0.5e-4;

#[derive(Clone)]
pub(super) struct Example {
    annotations: Annotations,
    config: BTreeMap<String, String>,
    container_concurrency: i64,
    created_with: u32,
    unreachable_from: Option<f64>,
    window_from: Option<(f64, &'static str)>,
    /// Second, concurrency and requests per second of each stat, in order.
    stats: Vec<(f64, f64, f64)>,
}

/// A time given in seconds after the start.
fn at(second: f64) -> UnixTime {
    UnixTime(START_NS + (second * 1e9).round() as i64)
}

impl Example {
    pub(super) fn new() -> Self {
        Self {
            annotations: Annotations::new(),
            config: BTreeMap::new(),
            container_concurrency: 0,
            created_with: 1,
            unreachable_from: None,
            window_from: None,
            stats: Vec::new(),
        }
    }

    pub(super) fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(super) fn configure(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A target that pods are meant to reach in full.
    pub(super) fn exact_target(self, target: &str) -> Self {
        self.annotate(TARGET, target).annotate(UTILIZATION, "100")
    }

    pub(super) fn container_concurrency(mut self, limit: i64) -> Self {
        self.container_concurrency = limit;
        self
    }

    pub(super) fn created_with(mut self, ready: u32) -> Self {
        self.created_with = ready;
        self
    }

    pub(super) fn unreachable_from(mut self, second: u32) -> Self {
        self.unreachable_from = Some(f64::from(second));
        self
    }

    pub(super) fn window_from(mut self, second: f64, window: &'static str) -> Self {
        self.window_from = Some((second, window));
        self
    }

    /// The same concurrency in each of these seconds.
    pub(super) fn load(mut self, seconds: Range<u32>, concurrency: f64) -> Self {
        let stats = seconds.map(|second| (f64::from(second), concurrency, 0.0));
        self.stats.extend(stats);
        self
    }

    pub(super) fn value(mut self, second: f64, concurrency: f64) -> Self {
        self.stats.push((second, concurrency, 0.0));
        self
    }

    /// Five pods, of which four are scraped, and the activator's report 0.4 s later.
    pub(super) fn scraped_and_pushed(mut self, seconds: u32) -> Self {
        for second in 0..seconds {
            self.stats.push((f64::from(second), 0.0, 500.0 - 350.0));
            self.stats.push((f64::from(second) + 0.4, 0.0, 350.0));
        }
        self
    }

    fn settings(&self, now: f64) -> Settings {
        let mut annotations = self.annotations.clone();
        if let Some((_, window)) = self.window_from.filter(|(from, _)| *from <= now) {
            annotations.insert(WINDOW.to_owned(), window.to_owned());
        }
        let unreachable = self.unreachable_from.is_some_and(|from| from <= now);
        Settings::derive(&Source {
            annotations: &annotations,
            container_concurrency: self.container_concurrency,
            reachability: if unreachable {
                Reachability::Unreachable
            } else {
                Reachability::Reachable
            },
            autoscaler: &config::Autoscaler::parse(&self.config).unwrap(),
            progress_deadline_ns: 0,
        })
    }

    /// Replays the ticks of the table.
    pub(super) fn check(self, table: &str) {
        let mut settings = self.settings(0.0);
        let mut collection = Collection::new(&settings.collection);
        let mut decider = Decider::new(&settings.decider, self.created_with, at(0.0));
        let mut stats = self.stats.iter().peekable();
        for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let columns: Vec<&str> = row.split(' ').collect();
            let second: f64 = columns[0].parse().unwrap();
            if let Some((from, _)) = self.window_from.filter(|(from, _)| *from <= second) {
                while let Some(&(at_second, c, rps)) = stats.next_if(|stat| stat.0 <= from) {
                    collection.record(at(at_second), c, rps);
                }
                collection.update(&self.settings(second).collection, at(from));
            }
            settings = self.settings(second);
            while let Some(&(at_second, c, rps)) = stats.next_if(|stat| stat.0 <= second) {
                collection.record(at(at_second), c, rps);
            }
            let observed = collection.observe(settings.decider.scaling_metric, at(second));
            let ready: u32 = columns[1].parse().unwrap();
            let decision = decider.decide(&settings.decider, observed, ready, at(second));

            check_average(row, columns[2], observed.map(|o| o.stable));
            check_average(row, columns[3], observed.map(|o| o.panic));
            let since = number(columns[4]).map(at);
            assert_eq!(decider.panic_since, since, "panic: {row}");
            assert_eq!(
                Some(f64::from(decider.panic_peak)),
                number(columns[5]),
                "{row}"
            );
            let decided = decision.map(|d| (d.desired_scale, d.excess_burst_capacity));
            let expected = number(columns[6]).zip(number(columns[7]));
            assert_eq!(
                decided,
                expected.map(|(desired, excess)| (desired as i32, excess as i32)),
                "{row}"
            );
        }
    }
}

/// A number; a dash or a word is none.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn check_average(row: &str, expected: &str, got: Option<f64>) {
    match (number(expected), got) {
        (None, None) => {}
        (Some(expected), Some(got)) if (expected - got).abs() <= TOLERANCE => {}
        _ => panic!("average {got:?} instead of {expected}: {row}"),
    }
}
