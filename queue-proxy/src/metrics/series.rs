//! Histograms by label set, with a bound on the number of label sets.

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::{Registry, Unit};
use serving::histogram::Histogram;
use serving::http_metrics::MAX_SERIES;
pub(super) use serving::http_metrics::OVERFLOW;
use std::cell::RefCell;

/// A set of labels that knows what replaces it when there are too many.
pub(super) trait LabelSet:
    EncodeLabelSet + Clone + Debug + Eq + Hash + Send + Sync + 'static
{
    fn overflow() -> Self;
}

#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0)
    }
}

/// One metric's histograms.
#[derive(Debug)]
pub(super) struct Histograms<L: LabelSet> {
    family: Family<L, Histogram, Buckets>,
    /// In the order of their first observation; the family cannot be walked.
    series: RefCell<Vec<(L, Histogram)>>,
}

// === impl Histograms ===

impl<L: LabelSet> Histograms<L> {
    pub(super) fn register(
        registry: &mut Registry,
        name: &str,
        help: &str,
        unit: Unit,
        buckets: &'static [f64],
    ) -> Self {
        let family = Family::new_with_constructor(Buckets(buckets));
        registry.register_with_unit(name, help, unit, family.clone());
        Self {
            family,
            series: RefCell::default(),
        }
    }

    pub(super) fn observe(&self, labels: L, value: f64) {
        if let Some(histogram) = self.family.get(&labels) {
            histogram.observe(value);
            return;
        }
        // The guard of the lookup above is released: two in one statement would deadlock.
        let mut series = self.series.borrow_mut();
        let labels = if series.len() < MAX_SERIES {
            labels
        } else {
            L::overflow()
        };
        let histogram = self.family.get_or_create_owned(&labels);
        histogram.observe(value);
        if series.len() <= MAX_SERIES && series.iter().all(|(known, _)| *known != labels) {
            series.push((labels, histogram));
        }
    }

    /// Every label set and its distribution.
    #[cfg(feature = "otel")]
    pub(super) fn snapshot(&self) -> Vec<(L, Histogram)> {
        self.series.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Number {
        number: usize,
    }

    impl LabelSet for Number {
        fn overflow() -> Self {
            Self { number: usize::MAX }
        }
    }

    #[test]
    fn label_sets_beyond_the_bound_share_one() {
        let mut registry = Registry::default();
        let histograms = Histograms::<Number>::register(
            &mut registry,
            "n",
            "N",
            Unit::Seconds,
            serving::histogram::SECONDS,
        );
        for number in 0..MAX_SERIES + 5 {
            histograms.observe(Number { number }, 1.0);
            histograms.observe(Number { number: 0 }, 1.0);
        }
        let overflow = histograms
            .family
            .get(&Number::overflow())
            .map(|h| h.count());
        assert_eq!(overflow, Some(5));
        let first = histograms
            .family
            .get(&Number { number: 0 })
            .map(|h| h.count());
        assert_eq!(first, Some(1 + MAX_SERIES as u64 + 5));
    }
}
