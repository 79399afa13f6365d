//! The largest decision of the last while, by which a scale-down is delayed.
//!
//! Driven by the decider with its own times. Behaviour of `pkg/autoscaler/aggregation/max`.

use std::collections::VecDeque;

use serving::UnixTime;

/// Most slots of one window: a day of ticks. Longer delays are cut to it.
pub const MAX_SLOTS: i64 = 43_200;

const SECOND_NS: i64 = 1_000_000_000;

/// A sliding maximum. Values leave when they are as many slots old as the window has, which is
/// looked at when the next one is recorded.
#[derive(Clone, Debug)]
pub struct DelayWindow {
    /// Slot index and value; indices ascend, values descend, because a smaller value followed by
    /// a larger one can never become the maximum again.
    maxima: VecDeque<(i64, i32)>,
    slots: i64,
    granularity_seconds: i64,
}

// === impl DelayWindow ===

impl DelayWindow {
    /// A window of `delay_ns` in slots of `granularity_seconds`, rounded up, at least one.
    pub fn new(delay_ns: i64, granularity_seconds: u32) -> Self {
        let granularity_seconds = i64::from(granularity_seconds.max(1));
        let granularity_ns = granularity_seconds * SECOND_NS;
        let slots = delay_ns.clamp(1, MAX_SLOTS * granularity_ns);
        Self {
            maxima: VecDeque::new(),
            slots: (slots + granularity_ns - 1) / granularity_ns,
            granularity_seconds,
        }
    }

    /// Records a value. Of several in one slot the largest counts.
    pub fn record(&mut self, time: UnixTime, value: i32) {
        let index = time.seconds().div_euclid(self.granularity_seconds);
        while self.maxima.back().is_some_and(|&(_, v)| v <= value) {
            self.maxima.pop_back();
        }
        while self
            .maxima
            .front()
            .is_some_and(|&(i, _)| index.saturating_sub(i) >= self.slots)
        {
            self.maxima.pop_front();
        }
        if self.maxima.back().is_none_or(|&(i, _)| i < index) {
            self.maxima.push_back((index, value));
        }
    }

    /// The current maximum; 0 before the first value.
    pub fn current(&self) -> i32 {
        self.maxima.front().map_or(0, |&(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_holds_for_the_delay_counted_from_its_slot() {
        let mut window = DelayWindow::new(10 * SECOND_NS, 2);
        assert_eq!(window.current(), 0);
        window.record(UnixTime::from_seconds(10), 4);
        for second in (12..20).step_by(2) {
            window.record(UnixTime::from_seconds(second), 2);
            assert_eq!(window.current(), 4, "at {second}");
        }
        window.record(UnixTime::from_seconds(20), 2);
        assert_eq!(window.current(), 2);
    }

    #[test]
    fn within_one_slot_the_larger_wins() {
        let mut window = DelayWindow::new(2 * SECOND_NS, 2);
        window.record(UnixTime::from_seconds(10), 3);
        window.record(UnixTime::from_seconds(11), 1);
        assert_eq!(window.current(), 3);
        window.record(UnixTime::from_seconds(12), 1);
        assert_eq!(window.current(), 1);
    }

    #[test]
    fn never_holds_more_than_its_slots() {
        let mut window = DelayWindow::new(i64::MAX, 2);
        assert_eq!(window.slots, MAX_SLOTS);
        window = DelayWindow::new(7 * SECOND_NS, 2);
        for tick in 0..100 {
            window.record(UnixTime::from_seconds(tick * 2), (1000 - tick) as i32);
            assert!(window.maxima.len() <= 4);
        }
    }

    proptest! {
        #[test]
        fn is_the_maximum_of_the_last_slots(
            steps in prop::collection::vec((0i64..9, 0i32..40), 1..120),
            slots in 1i64..20,
        ) {
            let mut window = DelayWindow::new(slots * 2 * SECOND_NS, 2);
            let mut all = Vec::new();
            let mut second = 1_700_000_000;
            for (step, value) in steps {
                second += step;
                all.push((second / 2, value));
                window.record(UnixTime::from_seconds(second), value);
                let newest = second / 2;
                let expected = all.iter().filter(|(i, _)| newest - i < slots).map(|(_, v)| *v).max();
                prop_assert_eq!(Some(window.current()), expected);
            }
        }
    }
}
