//! One set of deadlines for every decider and every collection, so that ten thousand revisions cost
//! one timer of the runtime and not ten thousand tasks.
//!
//! Deadlines of one period are added in the order in which they come up, so most go to the end of a
//! queue and are taken from its front; the others are in a heap.
//!
//! [`Timers`] is pure: it is told the time. An entry cannot be removed; its owner recognises a stale
//! one by comparing what it carries (a generation) with what it knows. That is cheap because every
//! entry comes up within one period.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Deadlines with a value each; equal deadlines come up in the order in which they were added.
#[derive(Debug)]
pub struct Timers<T> {
    /// Each ascending.
    queues: [VecDeque<Entry<T>>; QUEUES],
    /// What fits at the end of none of the queues.
    heap: BinaryHeap<Reverse<Entry<T>>>,
    added: u64,
}

/// There are two periods, and deadlines of no period.
const QUEUES: usize = 3;

#[derive(Debug)]
struct Entry<T> {
    due: Instant,
    order: u64,
    value: T,
}

/// First deadlines of timers of one period. One that begins alone comes up a period later; those
/// that begin by the thousand, as when a replica becomes the leader, are spread over one period
/// more, so that they do not come up all at once for ever after.
#[derive(Debug)]
pub struct Phases {
    period: Duration,
    /// The first of all beginnings, from which the [`GRID`] is counted.
    origin: Option<Instant>,
    /// When the next of many would come up, were there no limit to the delay.
    next: Option<Instant>,
}

/// Between the first deadlines of two timers that begin together: ten thousand fill a second.
const SPACING: Duration = Duration::from_micros(100);
/// Deadlines are a whole number of these apart, so that those of many come up twenty at a time: a
/// process that wakes for each of them spends a sixteenth more. Coarser saves no more, and what else
/// happens would wait for longer batches.
const GRID: Duration = Duration::from_millis(2);

// === impl Phases ===

impl Phases {
    /// Nothing has begun yet.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            origin: None,
            next: None,
        }
    }

    /// The first deadline of a timer that begins at `now`: at least one period away, and less than
    /// two and a step of 2 ms.
    pub fn first(&mut self, now: Instant) -> Instant {
        let origin = *self.origin.get_or_insert(now);
        let earliest = now + self.period;
        let due = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(due + SPACING);
        let beyond = due.duration_since(earliest).as_nanos() % self.period.as_nanos().max(1);
        let due = earliest + Duration::from_nanos(u64::try_from(beyond).unwrap_or(0));
        let past_step = due.saturating_duration_since(origin).as_nanos() % GRID.as_nanos();
        match u64::try_from(past_step) {
            Ok(past_step) if past_step > 0 => due + GRID - Duration::from_nanos(past_step),
            _ => due,
        }
    }
}

// === impl Timers ===

impl<T> Timers<T> {
    /// No deadlines yet.
    pub fn new() -> Self {
        Self {
            queues: [const { VecDeque::new() }; QUEUES],
            heap: BinaryHeap::new(),
            added: 0,
        }
    }

    /// Adds `value`, which comes up at `due`.
    pub fn add(&mut self, due: Instant, value: T) {
        let order = self.added;
        self.added += 1;
        let entry = Entry { due, order, value };
        // Of those that it can follow, the one that leaves the least behind; an empty one last.
        let queue = self
            .queues
            .iter_mut()
            .filter(|queue| queue.back().is_none_or(|last| last.due <= due))
            .max_by_key(|queue| queue.back().map(|last| last.due));
        match queue {
            Some(queue) => queue.push_back(entry),
            None => self.heap.push(Reverse(entry)),
        }
    }

    /// The earliest deadline.
    pub fn next_due(&self) -> Option<Instant> {
        self.earliest().map(|(entry, _)| entry.due)
    }

    /// Takes the earliest entry if it is due, with its deadline, from which the next one of a
    /// periodic timer is counted so that it keeps its phase.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, T)> {
        let (entry, place) = self.earliest()?;
        if entry.due > now {
            return None;
        }
        let entry = match place {
            Some(queue) => self.queues[queue].pop_front(),
            None => self.heap.pop().map(|Reverse(entry)| entry),
        };
        entry.map(|entry| (entry.due, entry.value))
    }

    /// The earliest entry and the queue that it leads; none for the heap.
    fn earliest(&self) -> Option<(&Entry<T>, Option<usize>)> {
        let queues = self.queues.iter().enumerate();
        let queues = queues.filter_map(|(at, queue)| Some((queue.front()?, Some(at))));
        let heap = self.heap.peek().map(|Reverse(entry)| (entry, None));
        queues.chain(heap).min_by_key(|(entry, _)| *entry)
    }

    /// How many deadlines there are.
    pub fn len(&self) -> usize {
        self.heap.len() + self.queues.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Whether there is no deadline.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Entry ===

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// The next deadline of a periodic timer that was due at `due`: phase is kept, and periods that
/// passed while nobody looked are skipped, as Go's `time.Ticker` drops them.
pub fn next_period(due: Instant, period: Duration, now: Instant) -> Instant {
    let next = due + period;
    if next > now {
        return next;
    }
    let late = now.duration_since(due).as_nanos();
    let periods = late / period.as_nanos().max(1) + 1;
    due + period * u32::try_from(periods).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn comes_up_by_deadline_then_by_order() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.add(start + 2 * SECOND, "late");
        timers.add(start + SECOND, "first");
        timers.add(start + SECOND, "second");
        assert_eq!(timers.next_due(), Some(start + SECOND));
        assert!(timers.pop_due(start).is_none());
        let now = start + SECOND;
        assert_eq!(timers.pop_due(now).unwrap().1, "first");
        assert_eq!(timers.pop_due(now).unwrap().1, "second");
        assert!(timers.pop_due(now).is_none());
        assert_eq!(timers.len(), 1);
    }

    /// Against a list that is sorted: any mix of periods, and deadlines that fit nowhere.
    #[test]
    fn order_does_not_depend_on_where_an_entry_is_kept() {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(7);
        let mut timers = Timers::new();
        let mut model = Vec::new();
        for value in 0..2_000_u32 {
            let delay = [1_000, 2_000, random.u64(0..3_000)][random.usize(0..3)];
            let due = start + Duration::from_millis(u64::from(value) / 4 + delay);
            timers.add(due, value);
            model.push((due, value));
        }
        assert!(!timers.heap.is_empty(), "some fit nowhere");
        // Stable, so that equal deadlines stay in the order of their addition.
        model.sort_by_key(|(due, _)| *due);
        assert_eq!(timers.len(), model.len());
        let end = start + 10 * SECOND;
        let popped: Vec<_> = std::iter::from_fn(|| timers.pop_due(end)).collect();
        assert_eq!(popped, model);
        assert!(timers.is_empty());
    }

    #[test]
    fn what_begins_together_is_spread_and_what_begins_alone_is_not() {
        let start = Instant::now();
        let mut phases = Phases::new(SECOND);
        let mut due: Vec<_> = (0..20_000).map(|_| phases.first(start) - start).collect();
        assert_eq!(due[..3], [SECOND, SECOND + GRID, SECOND + GRID]);
        due.sort_unstable();
        assert!(due.last().is_some_and(|last| *last < 2 * SECOND + GRID));
        assert!(due.iter().all(|due| due.as_nanos() % GRID.as_nanos() == 0));
        // Twice around: no step has more than its share.
        let share = 2 * usize::try_from(GRID.as_nanos() / SPACING.as_nanos()).unwrap();
        assert!(due.windows(share + 1).all(|all| all[share] > all[0]));
        let later = start + 10 * SECOND;
        assert_eq!(phases.first(later), later + SECOND);
        let between = later + GRID / 2;
        assert_eq!(phases.first(between), later + SECOND + GRID);
    }

    #[test]
    fn a_period_keeps_its_phase_and_skips_what_was_missed() {
        let due = Instant::now();
        assert_eq!(next_period(due, SECOND, due), due + SECOND);
        assert_eq!(next_period(due, SECOND, due + SECOND), due + 2 * SECOND);
        let late = due + Duration::from_millis(4_300);
        assert_eq!(next_period(due, SECOND, late), due + 5 * SECOND);
    }
}
