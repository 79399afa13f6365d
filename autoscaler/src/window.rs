//! Sums per second over a sliding window, and their averages.
//!
//! A ring of buckets, driven by a collection with the times at which stats were taken; it neither
//! reads a clock nor knows what the values mean. Several values that always arrive together share
//! one ring as *lanes*. Behaviour of `pkg/autoscaler/aggregation/bucketing.go`, including how a
//! young or a stale series is averaged.

use serving::UnixTime;
use smallvec::SmallVec;

use crate::spec::Aggregation;

/// Most buckets of one ring: a day of seconds. Longer windows, which only an unvalidated
/// annotation can ask for, are cut to it.
pub const MAX_BUCKETS: usize = 86_400;

/// Largest share of the newest value in a weighted average that is never undercut, however long
/// the window.
const MIN_SMOOTHING: f64 = 0.2;
/// The weights of a full window add up to at least this, unless [`MIN_SMOOTHING`] is larger.
const WEIGHT_PRECISION: f64 = 0.9999;
/// Linear averages are rounded to so many steps per unit.
const ROUNDING: f64 = 1e6;
/// Weighted buckets whose weight has fallen by this factor since the newest filled bucket cannot
/// change a double any more.
const NEGLIGIBLE: f64 = 1e-30;
/// After how many buckets that is looked at.
const NEGLIGIBLE_CHECK: usize = 64;
const SECOND_NS: i64 = 1_000_000_000;

/// A ring of buckets with `N` values each.
#[derive(Clone, Debug)]
pub struct Buckets<const N: usize> {
    /// Position `index % slots.len()` holds the sums of that bucket index.
    slots: Box<[[f64; N]]>,
    /// Sums of all slots.
    totals: [f64; N],
    /// Index of the first write since the ring was last empty; unset after a resize without data.
    first: Option<i64>,
    /// Index of the newest write.
    last: Option<i64>,
    window_ns: i64,
    granularity_seconds: i64,
    /// Weight of the newest bucket; `None` for linear averages.
    smoothing: Option<f64>,
}

// === impl Buckets ===

impl<const N: usize> Buckets<N> {
    /// An empty ring. `window_ns` is divided into buckets of `granularity_seconds`, rounded up, at
    /// least one and at most [`MAX_BUCKETS`].
    pub fn new(window_ns: i64, granularity_seconds: u32, aggregation: Aggregation) -> Self {
        let granularity_seconds = i64::from(granularity_seconds.max(1));
        let window_ns = bounded_window(window_ns, granularity_seconds);
        let count = bucket_count(window_ns, granularity_seconds);
        Self {
            slots: vec![[0.0; N]; count].into_boxed_slice(),
            totals: [0.0; N],
            first: None,
            last: None,
            window_ns,
            granularity_seconds,
            smoothing: match aggregation {
                Aggregation::Linear => None,
                Aggregation::WeightedExponential => Some(smoothing(count)),
            },
        }
    }

    /// Adds `values` to the bucket of `time`. What is a window or more older than the newest
    /// write is ignored.
    pub fn record(&mut self, time: UnixTime, values: [f64; N]) {
        let index = self.index(time);
        match self.last {
            Some(last) if index == last => {}
            Some(last) if index < last => {
                if self.span_ns(last - index) >= self.window_ns {
                    return;
                }
                self.first = Some(self.first.map_or(index, |first| first.min(index)));
            }
            Some(last) if self.span_ns(index - last) < self.window_ns => {
                self.first.get_or_insert(index);
                for skipped in last + 1..=index {
                    let position = self.position(skipped);
                    for (total, value) in self.totals.iter_mut().zip(self.slots[position]) {
                        *total -= value;
                    }
                    self.slots[position] = [0.0; N];
                }
                self.last = Some(index);
            }
            _ => {
                self.slots.fill([0.0; N]);
                self.totals = [0.0; N];
                self.first = Some(index);
                self.last = Some(index);
            }
        }
        let position = self.position(index);
        let slot = self.slots[position].iter_mut();
        for ((sum, total), value) in slot.zip(&mut self.totals).zip(values) {
            *sum += value;
            *total += value;
        }
    }

    /// Whether nothing was written for longer than the window.
    pub fn is_empty(&self, now: UnixTime) -> bool {
        self.last
            .is_none_or(|last| self.span_ns(self.index(now) - last) > self.window_ns)
    }

    /// The average of one lane over the window that ends at `now`; 0 without data.
    pub fn average(&self, lane: usize, now: UnixTime) -> f64 {
        let Some(last) = self.last else { return 0.0 };
        let age = self.index(now) - last;
        match self.smoothing {
            None => self.linear_average(lane, last, age),
            Some(smoothing) => self.weighted_average(lane, last, age, smoothing),
        }
    }

    /// Whether recent buckets count more.
    pub fn is_weighted(&self) -> bool {
        self.smoothing.is_some()
    }

    /// The index of the oldest and of the newest bucket that something was written to.
    pub fn written(&self) -> Option<(i64, i64)> {
        Some((self.first?, self.last?))
    }

    /// The buckets from index `last`, the newest, back; at most `count`, and none from before the
    /// first write.
    pub fn newest(&self, last: i64, count: usize) -> SmallVec<[[f64; N]; 8]> {
        let first = self.first.unwrap_or(last);
        let count = count.min(self.slots.len()) as i64;
        let buckets = (first.max(last - count + 1)..=last).rev();
        buckets
            .map(|index| self.slots[self.position(index)])
            .collect()
    }

    /// Changes the window; `now` decides whether what was written still counts. Kept data is
    /// spread over the old window, so the average of a young series falls, as in the reference.
    pub fn resize(&mut self, window_ns: i64, now: UnixTime) {
        let window_ns = bounded_window(window_ns, self.granularity_seconds);
        if window_ns == self.window_ns {
            return;
        }
        let count = bucket_count(window_ns, self.granularity_seconds);
        let mut slots = vec![[0.0; N]; count].into_boxed_slice();
        let mut totals = [0.0; N];
        self.first = match self.last {
            Some(last) if !self.is_empty(now) => {
                let kept = self.slots.len().min(count) as i64;
                for index in (last - kept + 1..=last).rev() {
                    let values = self.slots[self.position(index)];
                    slots[index.rem_euclid(count as i64) as usize] = values;
                    for (total, value) in totals.iter_mut().zip(values) {
                        *total += value;
                    }
                }
                Some(last - (self.slots.len() as i64 - 1))
            }
            _ => None,
        };
        self.slots = slots;
        self.totals = totals;
        self.window_ns = window_ns;
        if self.smoothing.is_some() {
            self.smoothing = Some(smoothing(count));
        }
    }

    /// The length of the window.
    pub fn window_ns(&self) -> i64 {
        self.window_ns
    }

    /// Seconds without a write at the end leave numerator and denominator; gaps count as zero.
    fn linear_average(&self, lane: usize, last: i64, age: i64) -> f64 {
        let mut sum = self.totals[lane];
        let mut filled = self.slots.len() as i64;
        if age > 0 {
            if self.span_ns(age) >= self.window_ns {
                return 0.0;
            }
            for outdated in last + 1..=last + age {
                sum -= self.slots[self.position(outdated)][lane];
            }
            filled -= age;
        }
        if let Some(first) = self.first {
            filled = filled.min(last - first + 1);
        }
        (sum / filled as f64 * ROUNDING).round() / ROUNDING
    }

    /// Weights fall with age and are not normalised; seconds without a write count as zero.
    fn weighted_average(&self, lane: usize, last: i64, age: i64, smoothing: f64) -> f64 {
        let age = age.max(0);
        if self.span_ns(age) > self.window_ns {
            return 0.0;
        }
        let decay = 1.0 - smoothing;
        let mut weight = smoothing;
        if age > 0 {
            weight *= decay.powf(age as f64);
        }
        let newest = self.position(last);
        let counted = usize::try_from(self.slots.len() as i64 - age).unwrap_or(0);
        let newest_first = self.slots[..=newest]
            .iter()
            .rev()
            .chain(self.slots[newest + 1..].iter().rev())
            .take(counted);
        let mut sum = 0.0;
        let mut least_weight = 0.0;
        for (position, values) in newest_first.enumerate() {
            sum += values[lane] * weight;
            weight *= decay;
            if position % NEGLIGIBLE_CHECK == 0 {
                if weight < least_weight {
                    break;
                }
                if sum != 0.0 && least_weight == 0.0 {
                    least_weight = weight * NEGLIGIBLE;
                }
            }
        }
        sum
    }

    fn index(&self, time: UnixTime) -> i64 {
        time.0.div_euclid(self.granularity_seconds * SECOND_NS)
    }

    fn position(&self, index: i64) -> usize {
        index.rem_euclid(self.slots.len() as i64) as usize
    }

    fn span_ns(&self, buckets: i64) -> i64 {
        buckets.saturating_mul(self.granularity_seconds * SECOND_NS)
    }
}

fn bounded_window(window_ns: i64, granularity_seconds: i64) -> i64 {
    window_ns.clamp(1, MAX_BUCKETS as i64 * granularity_seconds * SECOND_NS)
}

fn bucket_count(window_ns: i64, granularity_seconds: i64) -> usize {
    let granularity_ns = granularity_seconds * SECOND_NS;
    // At least 1 and at most MAX_BUCKETS, because the window was bounded.
    ((window_ns + granularity_ns - 1) / granularity_ns) as usize
}

fn smoothing(buckets: usize) -> f64 {
    (1.0 - (1.0 - WEIGHT_PRECISION).powf(1.0 / buckets as f64)).max(MIN_SMOOTHING)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(window_seconds: i64, aggregation: Aggregation) -> Buckets<1> {
        Buckets::new(window_seconds * SECOND_NS, 1, aggregation)
    }

    fn at(second: i64) -> UnixTime {
        UnixTime::from_seconds(1_700_000_000 + second)
    }

    #[test]
    fn averages_the_seconds_that_exist() {
        let mut buckets = ring(60, Aggregation::Linear);
        assert!(buckets.is_empty(at(0)));
        for second in 0..5 {
            buckets.record(at(second), [30.0]);
        }
        buckets.record(at(5), [0.0]);
        assert_eq!(buckets.average(0, at(5)), 25.0);
    }

    #[test]
    fn holds_while_stale_then_zero_then_empty() {
        let mut buckets = ring(60, Aggregation::Linear);
        for second in 0..60 {
            buckets.record(at(second), [100.0]);
        }
        assert_eq!(buckets.average(0, at(118)), 100.0);
        assert_eq!(buckets.average(0, at(119)), 0.0);
        assert!(!buckets.is_empty(at(119)));
        assert!(buckets.is_empty(at(120)));
    }

    #[test]
    fn a_write_a_window_late_is_ignored() {
        let mut buckets = ring(6, Aggregation::Linear);
        buckets.record(at(10), [6.0]);
        buckets.record(at(4), [100.0]);
        assert_eq!(buckets.average(0, at(10)), 6.0);
        buckets.record(at(5), [6.0]);
        assert_eq!(buckets.average(0, at(10)), 2.0);
    }

    #[test]
    fn weights_are_those_of_the_reference() {
        for (count, expected) in [
            (1, 0.9999),
            (2, 0.99),
            (3, 0.953_584),
            (6, 0.784_557),
            (12, 0.535_841),
            (30, 0.264_358),
            (40, 0.205_672),
            (42, 0.2),
            (3600, 0.2),
        ] {
            assert!((smoothing(count) - expected).abs() < 1e-6, "{count}");
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_cut() {
        let buckets = Buckets::<1>::new(i64::MAX, 1, Aggregation::Linear);
        assert_eq!(buckets.slots.len(), MAX_BUCKETS);
        let buckets = Buckets::<1>::new(-5, 1, Aggregation::Linear);
        assert_eq!(buckets.slots.len(), 1);
    }

    proptest! {
        /// Two lanes in one ring are two rings.
        #[test]
        fn lanes_do_not_mix(
            writes in prop::collection::vec((0i64..200, 0.0f64..50.0, 0.0f64..50.0), 1..80),
            weighted: bool,
        ) {
            let aggregation = if weighted {
                Aggregation::WeightedExponential
            } else {
                Aggregation::Linear
            };
            let mut both = Buckets::<2>::new(30 * SECOND_NS, 1, aggregation);
            let (mut left, mut right) = (ring(30, aggregation), ring(30, aggregation));
            for (second, a, b) in writes {
                both.record(at(second), [a, b]);
                left.record(at(second), [a]);
                right.record(at(second), [b]);
                for later in [second, second + 7, second + 40] {
                    prop_assert_eq!(both.average(0, at(later)), left.average(0, at(later)));
                    prop_assert_eq!(both.average(1, at(later)), right.average(0, at(later)));
                    prop_assert_eq!(both.is_empty(at(later)), left.is_empty(at(later)));
                }
            }
        }

        /// In order, an average lies between the extremes of what was written, or is zero.
        #[test]
        fn a_linear_average_is_within_what_was_written(
            values in prop::collection::vec(1.0f64..50.0, 1..100),
            later in 0i64..100,
        ) {
            let mut buckets = ring(20, Aggregation::Linear);
            for (second, value) in values.iter().enumerate() {
                buckets.record(at(second as i64), [*value]);
            }
            let average = buckets.average(0, at(values.len() as i64 - 1 + later));
            let highest = values.iter().copied().fold(0.0, f64::max);
            prop_assert!(average == 0.0 || (0.999_999..=highest + 1e-6).contains(&average));
            prop_assert_eq!(average == 0.0, later >= 20);
        }
    }
}
