//! What all queues of an activator may hold together, and what one of them may.
//!
//! Shared by all revisions' throttlers and without a lock: two counters. Who takes a place gives it
//! back. Upstream has no such limits (knative/serving#13583).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Refused;
use crate::options::Limits;

/// One place in so many is kept for revisions with short queues.
const RESERVED_SHARE: usize = 10;
/// A queue is short below one place in so many.
const SMALL_SHARE: usize = 100;

/// Waiting requests of all revisions, against one limit. Clones share.
#[derive(Clone, Debug)]
pub struct QueueBudget {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    count: AtomicUsize,
    bytes: AtomicUsize,
    limits: Limits,
}

/// Places, and the bytes that wait in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Requests.
    pub count: usize,
    /// What they hold; see [`Limits::max_queued_bytes`].
    pub bytes: usize,
}

// === impl Places ===

impl Places {
    /// One request.
    pub const fn one(bytes: usize) -> Self {
        Self { count: 1, bytes }
    }
}

impl std::ops::AddAssign for Places {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

impl std::ops::SubAssign for Places {
    fn sub_assign(&mut self, other: Self) {
        self.count -= other.count;
        self.bytes -= other.bytes;
    }
}

// === impl QueueBudget ===

impl QueueBudget {
    /// Nothing waits yet.
    pub fn new(limits: Limits) -> Self {
        let held = Held {
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limits,
        };
        Self {
            held: Arc::new(held),
        }
    }

    /// Requests that wait, of all revisions.
    pub fn queued(&self) -> usize {
        self.held.count.load(Ordering::Relaxed)
    }

    /// What they hold.
    pub fn queued_bytes(&self) -> usize {
        self.held.bytes.load(Ordering::Relaxed)
    }

    /// A place for a request of `bytes`, of a revision that has `own` places already. The last tenth
    /// of all places is for revisions that have less than a hundredth of them, so that a few
    /// revisions with long queues do not keep every other one from being woken.
    ///
    /// # Errors
    /// Which limit is reached.
    pub(crate) fn take(&self, own: Places, bytes: usize) -> Result<(), Refused> {
        let limits = &self.held.limits;
        if own.count >= limits.max_queued_per_revision {
            return Err(Refused::RevisionQueueFull);
        }
        // A request that is larger than the whole budget may still wait alone.
        if own.count > 0 && own.bytes + bytes > limits.max_queued_bytes_per_revision {
            return Err(Refused::RevisionBytesFull);
        }
        let count = take(&self.held.count, 1, share(limits.max_queued, own.count));
        if !count {
            return Err(Refused::QueuesFull);
        }
        let limit = share(limits.max_queued_bytes, own.bytes);
        if !take(&self.held.bytes, bytes, limit) {
            self.held.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::BytesFull);
        }
        Ok(())
    }

    /// A place beyond all limits, for a request that had one a moment ago.
    pub(crate) fn take_again(&self, bytes: usize) {
        self.held.count.fetch_add(1, Ordering::Relaxed);
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, places: Places) {
        if places.count > 0 {
            self.held.count.fetch_sub(places.count, Ordering::Relaxed);
            self.held.bytes.fetch_sub(places.bytes, Ordering::Relaxed);
        }
    }
}

/// How far a revision that has `own` may go.
fn share(all: usize, own: usize) -> usize {
    if own < (all / SMALL_SHARE).max(1) {
        all
    } else {
        all - all / RESERVED_SHARE
    }
}

fn take(held: &AtomicUsize, more: usize, limit: usize) -> bool {
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
        let then = held.checked_add(more)?;
        (then <= limit || held == 0).then_some(then)
    })
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limits: Limits) -> QueueBudget {
        QueueBudget::new(limits)
    }

    #[test]
    fn bytes_of_one_revision_and_of_all() {
        let budget = budget(Limits {
            max_queued_bytes_per_revision: 1_000,
            max_queued_bytes: 10_000,
            ..Limits::default()
        });
        let mut own = Places::default();
        budget.take(own, 900).unwrap();
        own += Places::one(900);
        budget.take(own, 100).unwrap();
        own += Places::one(100);
        assert_eq!(budget.take(own, 1), Err(Refused::RevisionBytesFull));
        // Another revision fills the rest, up to the tenth that is kept for short queues.
        for _ in 0..8 {
            let other = Places { count: 1, bytes: 0 };
            budget.take(other, 1_000).unwrap();
        }
        let long = Places {
            count: 3,
            bytes: 500,
        };
        assert_eq!(budget.take(long, 400), Err(Refused::BytesFull));
        assert_eq!(budget.queued(), 10);
        assert_eq!(budget.queued_bytes(), 9_000);
        budget.take(Places::default(), 400).unwrap();
        budget.give_back(own);
        assert_eq!((budget.queued(), budget.queued_bytes()), (9, 8_400));
    }

    /// One request is never too large to wait.
    #[test]
    fn a_large_request_may_wait_alone() {
        let budget = budget(Limits {
            max_queued_bytes_per_revision: 10,
            max_queued_bytes: 10,
            ..Limits::default()
        });
        budget.take(Places::default(), 1_000).unwrap();
        assert_eq!(budget.take(Places::default(), 1), Err(Refused::BytesFull));
    }
}
