//! A histogram that is observed without a lock.
//!
//! `prometheus-client`'s own takes a mutex per observation. This one adds to atomics and is read
//! once per scrape; a scrape that races an observation may see its count before its sum, as with
//! every client that does this. Clones share. Driven by the metrics of each program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::TypedMetric;

/// Bounds in seconds of OpenTelemetry's HTTP duration histograms.
pub const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Bounds in bytes of OpenTelemetry's size histograms.
pub const BYTES: &[f64] = &[
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];

/// Bounds in milliseconds of the latencies that Knative exposed before 1.19
/// (`pkg/queue/request_metric.go` of those releases).
pub const LEGACY_MILLISECONDS: &[f64] = &[
    5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0,
    500.0, 600.0, 700.0, 800.0, 900.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0,
];

/// A distribution over fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    /// The sum's bits, then one count per bound and one for everything above: side by side, as an
    /// observation changes both, and ten thousand histograms do not stay in a cache.
    values: Arc<[AtomicU64]>,
}

// === impl Histogram ===

impl Histogram {
    /// An empty histogram with the given ascending upper bounds.
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds must ascend");
        Self {
            bounds,
            // Zero bits are the sum 0.0, too.
            values: (0..bounds.len() + 2).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Adds one value. A value equal to a bound belongs to that bound's bucket.
    pub fn observe(&self, value: f64) {
        let (sum, counts) = self.parts();
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Ordering::Relaxed);
        // Contended only when several threads observe at once; a failed exchange tries again.
        let mut current = sum.load(Ordering::Relaxed);
        loop {
            let next = (f64::from_bits(current) + value).to_bits();
            match sum.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => current = changed,
            }
        }
    }

    /// How many values were observed.
    pub fn count(&self) -> u64 {
        let (_, counts) = self.parts();
        counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// The sum of the values observed.
    pub fn sum(&self) -> f64 {
        let (sum, _) = self.parts();
        f64::from_bits(sum.load(Ordering::Relaxed))
    }

    /// The non-cumulative count of each bucket with its upper bound; the last is without bound.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied();
        let (_, counts) = self.parts();
        bounds
            .chain(std::iter::once(f64::INFINITY))
            .zip(counts.iter().map(|c| c.load(Ordering::Relaxed)))
            .collect()
    }

    /// The sum's bits, and the counts.
    fn parts(&self) -> (&AtomicU64, &[AtomicU64]) {
        let (sum, counts) = self.values.split_first().expect("it is never empty");
        (sum, counts)
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let buckets = self.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 2.5] {
            histogram.observe(value);
        }
        let counts: Vec<_> = histogram.buckets().into_iter().map(|(_, n)| n).collect();
        assert_eq!(counts, [2, 2, 1]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 7.5).abs() < 1e-9);
    }

    #[test]
    fn a_scrape_shows_cumulative_buckets() {
        let mut registry = Registry::default();
        let histogram = Histogram::new(&[0.5, 1.0]);
        registry.register("wait", "Waiting", histogram.clone());
        histogram.observe(0.7);
        histogram.observe(9.0);
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes everything");
        for line in [
            "wait_sum 9.7",
            "wait_count 2",
            "wait_bucket{le=\"0.5\"} 0",
            "wait_bucket{le=\"1.0\"} 1",
            "wait_bucket{le=\"+Inf\"} 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
