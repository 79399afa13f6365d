//! Keys that wait to be reconciled: each at most once, in two lanes, some of them not before a time.
//!
//! The rules are those of Knative's controllers (`vendor/knative.dev/pkg/controller/controller.go`,
//! `two_lane_queue.go`, client-go's `workqueue`): the slow lane is served when the normal one is
//! empty, a delayed add keeps the earliest time of its key, and a key whose reconcile failed comes
//! back after a delay that doubles from 5 ms to 1000 s, all failures together at most ten in a
//! second beyond a burst of one hundred.
//!
//! Pure: the driver passes the time in and holds the only worker, so a key is never reconciled
//! twice at once. The queue never holds more entries than there are keys, which are bounded by the
//! PodAutoscalers that exist.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::timers::Timers;

/// Delay after the first failure of a key.
pub const BASE_RETRY_DELAY: Duration = Duration::from_millis(5);
/// The delay of a key that keeps failing grows no further.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(1000);
/// One retry of any key in this time once the burst is used up.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Retries that may start without waiting for [`RETRY_INTERVAL`].
const RETRY_BURST: u32 = 100;

/// Which lane an add uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Resyncs, promotion and configuration changes.
    Slow,
    /// Everything that happened to one key.
    Normal,
}

/// The queue. `K` is small and cheap to clone: the driver uses slab positions.
#[derive(Debug)]
pub struct WorkQueue<K> {
    normal: VecDeque<K>,
    slow: VecDeque<K>,
    keys: HashMap<K, State>,
    delayed: Timers<K>,
    retries: TokenBucket,
    ready: usize,
    /// The last time that was told.
    now: Option<Instant>,
    counts: Counts,
}

/// What has been added since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys that began to wait.
    pub adds: u64,
    /// Adds after a failure.
    pub retries: u64,
}

#[derive(Debug, Default)]
struct State {
    /// When it was added to a lane.
    since: Option<Instant>,
    lane: Option<Lane>,
    due: Option<Instant>,
    failures: u32,
}

/// A limit on how many retries start, of all keys together.
#[derive(Debug)]
struct TokenBucket {
    /// When the bucket would be full again.
    full_at: Option<Instant>,
}

// === impl WorkQueue ===

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            normal: VecDeque::new(),
            slow: VecDeque::new(),
            keys: HashMap::new(),
            delayed: Timers::new(),
            retries: TokenBucket { full_at: None },
            ready: 0,
            now: None,
            counts: Counts::default(),
        }
    }

    /// Tells the time from which keys that are added next begin to wait.
    pub fn at(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// What has been added so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Adds a key at once. A key that waits in the slow lane moves to the normal one when that is
    /// asked for; otherwise a key already waiting stays where it is.
    pub fn add(&mut self, key: K, lane: Lane) {
        let state = self.keys.entry(key.clone()).or_default();
        match state.lane {
            Some(present) if present >= lane => return,
            // The entry left behind in the slow lane is skipped when it comes up.
            Some(_) => {}
            None => {
                self.ready += 1;
                self.counts.adds += 1;
                state.since = self.now;
            }
        }
        state.lane = Some(lane);
        match lane {
            Lane::Normal => self.normal.push_back(key),
            Lane::Slow => self.slow.push_back(key),
        }
    }

    /// Adds a key to the normal lane at `due`, unless it is to be added earlier anyway.
    pub fn add_at(&mut self, key: K, due: Instant) {
        let state = self.keys.entry(key.clone()).or_default();
        if state.due.is_some_and(|present| present <= due) {
            return;
        }
        state.due = Some(due);
        self.delayed.add(due, key);
    }

    /// Adds a key whose reconcile failed, after its back-off.
    pub fn add_failed(&mut self, key: K, now: Instant) {
        self.counts.retries += 1;
        let state = self.keys.entry(key.clone()).or_default();
        let exponent = state.failures.min(30);
        state.failures = state.failures.saturating_add(1);
        let own = BASE_RETRY_DELAY
            .saturating_mul(1 << exponent)
            .min(MAX_RETRY_DELAY);
        let delay = own.max(self.retries.take(now));
        self.add_at(key, now + delay);
    }

    /// Ends a key's back-off after a reconcile that succeeded.
    pub fn forget_failures(&mut self, key: &K) {
        if let Some(state) = self.keys.get_mut(key) {
            state.failures = 0;
        }
        self.drop_if_idle(key);
    }

    /// Removes all that is known of a key that is gone.
    pub fn remove(&mut self, key: &K) {
        if self
            .keys
            .remove(key)
            .is_some_and(|state| state.lane.is_some())
        {
            self.ready -= 1;
            self.normal.retain(|waiting| waiting != key);
            self.slow.retain(|waiting| waiting != key);
        }
    }

    /// Moves keys whose time has come into the normal lane.
    pub fn promote(&mut self, now: Instant) {
        self.at(now);
        while let Some((due, key)) = self.delayed.pop_due(now) {
            match self.keys.get_mut(&key) {
                Some(state) if state.due == Some(due) => state.due = None,
                // Superseded by an earlier time, or the key is gone.
                _ => continue,
            }
            self.add(key, Lane::Normal);
        }
    }

    /// Takes the next key to reconcile, and how long it has waited.
    pub fn pop(&mut self) -> Option<(K, Duration)> {
        loop {
            let (key, lane) = match self.normal.pop_front() {
                Some(key) => (key, Lane::Normal),
                None => (self.slow.pop_front()?, Lane::Slow),
            };
            let Some(state) = self.keys.get_mut(&key) else {
                continue;
            };
            if state.lane != Some(lane) {
                continue;
            }
            state.lane = None;
            let since = state.since.take();
            self.ready -= 1;
            self.drop_if_idle(&key);
            let waited = self.now.zip(since).map(|(now, since)| now - since);
            return Some((key, waited.unwrap_or_default()));
        }
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.next_due()
    }

    /// Keys that wait to be taken now.
    pub fn len(&self) -> usize {
        self.ready
    }

    /// Whether no key waits to be taken now.
    pub fn is_empty(&self) -> bool {
        self.ready == 0
    }

    fn drop_if_idle(&mut self, key: &K) {
        if let Some(state) = self.keys.get(key)
            && state.lane.is_none()
            && state.due.is_none()
            && state.failures == 0
        {
            self.keys.remove(key);
        }
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

// === impl TokenBucket ===

impl TokenBucket {
    /// Takes a token and returns how long its taker has to wait.
    fn take(&mut self, now: Instant) -> Duration {
        let full_at = self.full_at.unwrap_or(now).max(now) + RETRY_INTERVAL;
        self.full_at = Some(full_at);
        (full_at - now).saturating_sub(RETRY_INTERVAL * RETRY_BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain(queue: &mut WorkQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop())
            .map(|(key, _)| key)
            .collect()
    }

    #[test]
    fn what_waits_is_counted_and_timed() {
        let mut queue = WorkQueue::new();
        let now = Instant::now();
        queue.at(now);
        queue.add(1, Lane::Slow);
        queue.at(now + SECOND);
        // It has waited since it was added first, in whichever lane.
        queue.add(1, Lane::Normal);
        queue.add_failed(2, now);
        queue.promote(now + 2 * SECOND);
        assert_eq!(queue.pop(), Some((1, 2 * SECOND)));
        assert_eq!(queue.pop(), Some((2, Duration::ZERO)));
        assert_eq!(queue.pop(), None);
        let counts = Counts {
            adds: 2,
            retries: 1,
        };
        assert_eq!(queue.counts(), counts);
    }

    #[test]
    fn a_key_waits_once() {
        let mut queue = WorkQueue::new();
        for key in [1, 2, 1, 2, 1] {
            queue.add(key, Lane::Normal);
        }
        assert_eq!(queue.len(), 2);
        assert_eq!(drain(&mut queue), [1, 2]);
        assert!(queue.is_empty());
        assert!(queue.keys.is_empty(), "nothing is remembered of idle keys");
    }

    #[test]
    fn the_slow_lane_is_served_last_and_can_be_left() {
        let mut queue = WorkQueue::new();
        for key in [1, 2, 3] {
            queue.add(key, Lane::Slow);
        }
        queue.add(4, Lane::Normal);
        queue.add(3, Lane::Normal);
        queue.add(4, Lane::Slow);
        assert_eq!(queue.len(), 4);
        assert_eq!(drain(&mut queue), [4, 3, 1, 2]);
    }

    /// Covers the scenario of upstream's `TestEnqueueAfter` and of client-go's delaying queue.
    #[test]
    fn the_earliest_delay_of_a_key_wins() {
        let start = Instant::now();
        let mut queue = WorkQueue::new();
        queue.add_at(1, start + 10 * SECOND);
        queue.add_at(1, start + 3 * SECOND);
        queue.add_at(1, start + 5 * SECOND);
        assert_eq!(queue.next_due(), Some(start + 3 * SECOND));
        queue.promote(start + 2 * SECOND);
        assert!(queue.is_empty());
        queue.promote(start + 3 * SECOND);
        assert_eq!(drain(&mut queue), [1]);
        queue.promote(start + 20 * SECOND);
        assert!(queue.is_empty(), "the later times were superseded");
    }

    #[test]
    fn failures_back_off_per_key() {
        let start = Instant::now();
        let mut queue = WorkQueue::new();
        let mut now = start;
        for failure in 0..30_u32 {
            queue.add_failed(1, now);
            let due = queue.next_due().unwrap();
            let expected = (BASE_RETRY_DELAY * 2_u32.pow(failure.min(20))).min(MAX_RETRY_DELAY);
            assert_eq!(due - now, expected, "failure {failure}");
            now = due;
            queue.promote(now);
            assert_eq!(queue.pop().map(|(key, _)| key), Some(1));
        }
        queue.forget_failures(&1);
        queue.add_failed(1, now);
        assert_eq!(queue.next_due().unwrap() - now, BASE_RETRY_DELAY);
    }

    #[test]
    fn all_failures_together_are_limited() {
        let now = Instant::now();
        let mut queue = WorkQueue::new();
        for key in 0..110 {
            queue.add_failed(key, now);
        }
        queue.promote(now + BASE_RETRY_DELAY);
        assert_eq!(drain(&mut queue).len(), 100);
        queue.promote(now + SECOND);
        assert_eq!(drain(&mut queue).len(), 10);
    }

    #[test]
    fn a_removed_key_does_not_come_back() {
        let now = Instant::now();
        let mut queue = WorkQueue::new();
        queue.add(1, Lane::Normal);
        queue.add_at(1, now);
        queue.remove(&1);
        queue.promote(now + SECOND);
        assert_eq!(queue.pop(), None);
        assert!(queue.is_empty());
    }
}
