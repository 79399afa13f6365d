//! The queue of one revision and its destinations, as values: who waits, in which order, and who is bound
//! to what. It wakes nobody and takes no lock; see [`RevisionThrottler`](super::RevisionThrottler).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use smallvec::SmallVec;

use crate::affinity::Session;
use crate::picker::Candidate;
use crate::pod_tracker::PodTracker;
use crate::queue_budget::Places;
use crate::retry_budget::RetryBudget;
use crate::trackers::Trackers;

/// Waiters of one revision that are on their way at once. A revision without a limit that comes up
/// would otherwise wake its whole queue, and requests of every other revision would run behind it;
/// each waiter that gets going lets the next one go.
pub(super) const MAX_HANDED: usize = 64;

/// Tickets of waiters that left, beyond the number that waits, before they are swept.
pub(super) const SWEEP_SLACK: usize = 64;

#[derive(Debug)]
pub(super) struct State {
    pub(super) trackers: Trackers,
    pub(super) in_flight: usize,
    pub(super) waiters: Slab<Waiter>,
    /// Keys of `waiters` in order of arrival; those of waiters that left are skipped by their
    /// ticket and swept when they outnumber the rest.
    pub(super) line: VecDeque<(usize, u64)>,
    next_ticket: u64,
    /// Who waits for one pod and no other. They are not in `line`.
    pub(super) pinned: Vec<Pinned>,
    /// All who wait, in `line` and `pinned`.
    pub(super) queued: Places,
    /// Waiters that were given a slot and have not been polled since; see [`MAX_HANDED`].
    pub(super) handed: usize,
    pub(super) retries: RetryBudget,
    random: fastrand::Rng,
    pub(super) deleted: bool,
}

/// The line for one pod, which is never empty.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) tracker: Arc<PodTracker>,
    /// Keys of `waiters` in order of arrival.
    pub(super) line: VecDeque<usize>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) bytes: usize,
    /// Boxed: most requests have none.
    pub(super) session: Option<Box<Session>>,
    pub(super) waker: Option<Waker>,
    pub(super) bound: Option<Arc<PodTracker>>,
    pub(super) refused: bool,
}

/// Wakers to call after the lock is gone.
pub(super) type Wakers = SmallVec<[Waker; 4]>;

// === impl State ===

impl State {
    /// Nobody waits.
    pub(super) fn new(trackers: Trackers, seed: u64) -> Self {
        Self {
            trackers,
            in_flight: 0,
            waiters: Slab::new(),
            line: VecDeque::new(),
            next_ticket: 0,
            pinned: Vec::new(),
            queued: Places::default(),
            handed: 0,
            retries: RetryBudget::default(),
            random: fastrand::Rng::with_seed(seed),
            deleted: false,
        }
    }

    /// A slot for a request that has not waited. Nobody is overtaken: while a slot is free nobody
    /// waits for it, except that a request which comes back may use one before it is handed on.
    pub(super) fn bind_newcomer(
        &mut self,
        session: Option<Session>,
        again: bool,
    ) -> Option<Arc<PodTracker>> {
        if self.in_line() > 0 && !again {
            return None;
        }
        self.bind(session)
    }

    fn bind(&mut self, session: Option<Session>) -> Option<Arc<PodTracker>> {
        let (in_flight, random) = (self.in_flight, &mut self.random);
        let random = |below| random.usize(..below);
        let tracker = match session {
            Some(session) => self.trackers.acquire_for(session, in_flight, random),
            None => self.trackers.acquire(in_flight, random),
        }?;
        self.in_flight += 1;
        Some(tracker)
    }

    /// How many wait for any pod.
    pub(super) fn in_line(&self) -> usize {
        let pinned = self.pinned.iter().map(|it| it.line.len());
        self.queued.count - pinned.sum::<usize>()
    }

    pub(super) fn push(&mut self, session: Option<Session>, bytes: usize, front: bool) -> usize {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let only = session.filter(|it| it.only).and_then(|it| it.pod);
        let only = only.and_then(|dest| self.trackers.find(dest));
        let key = self.waiters.insert(Waiter {
            ticket,
            bytes,
            session: session.map(|it| {
                let only = only.is_some();
                Box::new(Session { only, ..it })
            }),
            waker: None,
            bound: None,
            refused: false,
        });
        if let Some(tracker) = only {
            match self
                .pinned
                .iter_mut()
                .find(|it| Arc::ptr_eq(&it.tracker, tracker))
            {
                Some(pinned) => pinned.line.push_back(key),
                None => self.pinned.push(Pinned {
                    tracker: Arc::clone(tracker),
                    line: VecDeque::from([key]),
                }),
            }
        } else if front {
            self.line.push_front((key, ticket));
        } else {
            self.line.push_back((key, ticket));
        }
        self.queued += Places::one(bytes);
        key
    }

    /// The one who waited longest, now out of line.
    pub(super) fn pop(&mut self) -> Option<usize> {
        while let Some((key, ticket)) = self.line.pop_front() {
            let waits = self.waiters.get(key).is_some_and(|waiter| {
                waiter.ticket == ticket && waiter.bound.is_none() && !waiter.refused
            });
            if waits {
                self.queued -= Places::one(self.waiters[key].bytes);
                return Some(key);
            }
        }
        None
    }

    /// The session of the one who waited longest.
    fn next_session(&mut self) -> Option<Session> {
        while let Some((key, ticket)) = self.line.front() {
            match self.waiters.get(*key) {
                Some(it) if it.ticket == *ticket && it.bound.is_none() && !it.refused => {
                    return it.session.as_deref().copied();
                }
                _ => self.line.pop_front(),
            };
        }
        None
    }

    /// Hands free slots to waiters; the places that they leave.
    pub(super) fn dispatch(&mut self, wakers: &mut Wakers) -> Places {
        let before = self.queued;
        self.dispatch_pinned(wakers);
        while self.in_line() > 0 && self.handed < MAX_HANDED {
            let session = self.next_session();
            let Some(tracker) = self.bind(session) else {
                break;
            };
            let key = self.pop().expect("someone is in line");
            self.hand(key, tracker, wakers);
        }
        let mut left = before;
        left -= self.queued;
        left
    }

    fn dispatch_pinned(&mut self, wakers: &mut Wakers) {
        let mut at = 0;
        while at < self.pinned.len() && self.handed < MAX_HANDED {
            let pinned = &mut self.pinned[at];
            if !pinned.tracker.has_free_slot() {
                at += 1;
                continue;
            }
            let key = pinned.line.pop_front().expect("never empty");
            let tracker = Arc::clone(&pinned.tracker);
            if pinned.line.is_empty() {
                self.pinned.swap_remove(at);
            }
            tracker.reserve();
            self.in_flight += 1;
            self.queued -= Places::one(self.waiters[key].bytes);
            self.hand(key, tracker, wakers);
        }
    }

    fn hand(&mut self, key: usize, tracker: Arc<PodTracker>, wakers: &mut Wakers) {
        let waiter = &mut self.waiters[key];
        waiter.bound = Some(tracker);
        wakers.extend(waiter.waker.take());
        self.handed += 1;
    }

    /// Who waits for a pod that does not stay joins the front of the line.
    pub(super) fn unpin(&mut self, stays: impl Fn(&Trackers, SocketAddr) -> bool) {
        for pinned in std::mem::take(&mut self.pinned) {
            if stays(&self.trackers, pinned.tracker.dest()) {
                self.pinned.push(pinned);
                continue;
            }
            for key in pinned.line.into_iter().rev() {
                let waiter = &mut self.waiters[key];
                if let Some(session) = &mut waiter.session {
                    session.only = false;
                }
                self.line.push_front((key, waiter.ticket));
            }
        }
    }

    /// A waiter has left that may have waited for one pod.
    fn leave_pinned(&mut self, key: usize) {
        for pinned in &mut self.pinned {
            pinned.line.retain(|it| *it != key);
        }
        self.pinned.retain(|it| !it.line.is_empty());
    }

    /// Takes a waiter out for good; its entry in the line stays until it is passed or swept.
    pub(super) fn leave(&mut self, key: usize) -> Waiter {
        let waiter = self.waiters.remove(key);
        if waiter.bound.is_some() {
            self.handed -= 1;
        } else if !waiter.refused {
            self.queued -= Places::one(waiter.bytes);
            if waiter.session.as_ref().is_some_and(|it| it.only) {
                self.leave_pinned(key);
            }
            // Without the sweep, clients that come and go at a cold revision would leave their
            // tickets behind for as long as it stays cold.
            if self.line.len() > 2 * self.queued.count + SWEEP_SLACK {
                let waiters = &self.waiters;
                self.line.retain(|(key, ticket)| {
                    waiters
                        .get(*key)
                        .is_some_and(|waiter| waiter.ticket == *ticket)
                });
            }
        }
        if self.waiters.is_empty() {
            // A burst's memory is not kept.
            self.waiters = Slab::new();
            self.line = VecDeque::new();
        }
        waiter
    }
}
