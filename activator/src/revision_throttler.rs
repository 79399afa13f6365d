//! One revision's queue: binds a request to a destination when a slot is free there, and not before.
//!
//! Requests call [`RevisionThrottler::acquire`]; the driver calls `update` and `public_endpoints`.
//! Every change (a slot given back, destinations updated, a waiter gone) hands free slots to the
//! longest waiting requests at once, so no slot is idle beside a waiter, unless the waiter's session
//! is at another pod ([`Session::only`]); those have a line for each pod. State is guarded by one
//! short lock per revision and shared by all threads; no lock is shared by revisions. It neither
//! proxies nor probes. Upstream: `revisionThrottler.try` in `pkg/activator/net/throttler.go`, whose
//! two breakers (revision and pod) are one decision here.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serving::RevisionId;
use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::affinity::Session;
use crate::error::Refused;
use crate::options::RevisionSnapshot;
use crate::picker::Candidate;
use crate::pod_tracker::PodTracker;
use crate::queue_budget::Places;
pub use crate::queue_budget::QueueBudget;
use crate::retry_budget::RetryBudget;
use crate::trackers::{Trackers, Usable};

/// See the module.
// As with pods, each request writes to it.
#[derive(Debug)]
#[repr(align(128))]
pub struct RevisionThrottler {
    id: Arc<RevisionId>,
    budget: QueueBudget,
    state: Mutex<State>,
}

/// A bound request: the right to use a slot of a destination; dropping it gives the slot back and
/// hands it on.
#[derive(Debug)]
pub struct Permit {
    throttler: Arc<RevisionThrottler>,
    tracker: Arc<PodTracker>,
}

/// Future of [`RevisionThrottler::acquire`]. It is in line from the call on; dropping it leaves the
/// line at once, and passes on a slot that it had already been given.
#[derive(Debug)]
pub struct Acquire {
    throttler: Arc<RevisionThrottler>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Ready(Arc<PodTracker>),
    Refused(Refused),
    Waiting {
        key: usize,
        /// There was no destination at all.
        is_cold: bool,
    },
    Done,
}

#[derive(Debug)]
struct State {
    trackers: Trackers,
    in_flight: usize,
    waiters: Slab<Waiter>,
    /// Keys of `waiters` in order of arrival; those of waiters that left are skipped by their
    /// ticket and swept when they outnumber the rest.
    line: VecDeque<(usize, u64)>,
    next_ticket: u64,
    /// Who waits for one pod and no other. They are not in `line`.
    pinned: Vec<Pinned>,
    /// All who wait, in `line` and `pinned`.
    queued: Places,
    /// Waiters that were given a slot and have not been polled since; see [`MAX_HANDED`].
    handed: usize,
    retries: RetryBudget,
    random: fastrand::Rng,
    deleted: bool,
}

/// The line for one pod, which is never empty.
#[derive(Debug)]
struct Pinned {
    tracker: Arc<PodTracker>,
    /// Keys of `waiters` in order of arrival.
    line: VecDeque<usize>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bytes: usize,
    /// Boxed: most requests have none.
    session: Option<Box<Session>>,
    waker: Option<Waker>,
    bound: Option<Arc<PodTracker>>,
    refused: bool,
}

/// Wakers to call after the lock is gone.
type Wakers = SmallVec<[Waker; 4]>;

// === impl RevisionThrottler ===

impl RevisionThrottler {
    /// A revision without destinations: whoever comes waits. `seed` feeds the random choices.
    pub fn new(
        id: impl Into<Arc<RevisionId>>,
        container_concurrency: u32,
        budget: QueueBudget,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: id.into(),
            budget,
            state: Mutex::new(State {
                trackers: Trackers::new(container_concurrency),
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
            }),
        })
    }

    /// Whose throttler this is.
    pub fn id(&self) -> &RevisionId {
        &self.id
    }

    /// Takes a slot, or a place at the end of the line for a request that holds `bytes`, which is
    /// asked only then.
    pub fn acquire(self: &Arc<Self>, bytes: impl FnOnce() -> usize) -> Acquire {
        self.enter(None, bytes, false)
    }

    /// As [`Self::acquire`], at the pod of a session while that has room.
    pub fn acquire_for(
        self: &Arc<Self>,
        session: Option<Session>,
        bytes: impl FnOnce() -> usize,
    ) -> Acquire {
        self.enter(session, bytes, false)
    }

    /// As [`Self::acquire_for`], at the front of the line and past the queue limits: for a request that
    /// was let through before and then was not started. One for a session that is only at one pod
    /// waits for that pod's slot, behind those that do so already; when the pod is listed no longer, as
    /// any other.
    pub fn acquire_again(
        self: &Arc<Self>,
        session: Option<Session>,
        bytes: impl FnOnce() -> usize,
    ) -> Acquire {
        self.enter(session, bytes, true)
    }

    fn enter(
        self: &Arc<Self>,
        session: Option<Session>,
        bytes: impl FnOnce() -> usize,
        again: bool,
    ) -> Acquire {
        let place = {
            let mut state = self.state.lock();
            if !again {
                state.retries.deposit();
            }
            if state.deleted {
                Place::Refused(Refused::RevisionDeleted)
            } else if let Some(tracker) = state.bind_newcomer(session, again) {
                Place::Ready(tracker)
            } else {
                self.queue(&mut state, session, bytes(), again)
            }
        };
        Acquire {
            throttler: Arc::clone(self),
            place,
        }
    }

    fn queue(
        &self,
        state: &mut State,
        session: Option<Session>,
        bytes: usize,
        again: bool,
    ) -> Place {
        if again {
            // It held a place a moment ago; refusing it now would punish it for a full pod.
            self.budget.take_again(bytes);
        } else if let Err(refused) = self.budget.take(state.queued, bytes) {
            return Place::Refused(refused);
        }
        Place::Waiting {
            is_cold: state.trackers.capacity() == 0,
            key: state.push(session, bytes, again),
        }
    }

    /// Whether a request may be sent once more, which then counts.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.state.lock().retries.withdraw(now)
    }

    /// Replaces the destinations and lets through whom they have room for.
    pub fn update(&self, usable: &Usable) {
        self.relist(|trackers| trackers.update(usable));
    }

    /// Applies the list of activators; see [`Trackers::public_endpoints`].
    pub fn public_endpoints<A: AsRef<str>>(&self, addresses: &[A], own: &str) {
        self.relist(|trackers| {
            trackers.public_endpoints(addresses, own);
        });
    }

    /// Whether all activators in the path are ours; see [`Trackers::set_peers_share`].
    pub fn set_peers_share(&self, share: bool) {
        self.relist(|trackers| trackers.set_peers_share(share));
    }

    /// A pod said how busy it is: executing and waiting requests.
    pub fn reported(&self, tracker: &PodTracker, executing: u32, waiting: u32) {
        if tracker.reported(executing, waiting) {
            self.relist(Trackers::reports_changed);
        }
    }

    /// A pod answered a request without saying how busy it is, so its queue-proxy is not ours (any
    /// more).
    pub fn not_reporting(&self, tracker: &PodTracker) {
        if tracker.not_reporting() {
            self.relist(Trackers::reports_changed);
        }
    }

    /// Whether requests may go to pods that are busy with others' requests.
    pub fn is_sharing(&self) -> bool {
        self.state.lock().trackers.is_sharing()
    }

    /// Refuses everyone who waits and whoever still comes.
    pub fn delete(&self) {
        let mut wakers = Wakers::new();
        {
            let mut state = self.state.lock();
            state.deleted = true;
            state.unpin(|_, _| false);
            while let Some(key) = state.pop() {
                let waiter = &mut state.waiters[key];
                waiter.refused = true;
                wakers.extend(waiter.waker.take());
                let bytes = waiter.bytes;
                self.budget.give_back(Places::one(bytes));
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The destination said that it is full: nobody is bound to it until [`Self::not_full`].
    /// True when that is news.
    pub fn full(&self, tracker: &PodTracker) -> bool {
        let _state = self.state.lock();
        tracker.set_full(true)
    }

    /// The destination may be tried again.
    pub fn not_full(&self, tracker: &PodTracker) {
        self.change(|_| {
            tracker.set_full(false);
        });
    }

    /// Whether there is a destination besides this one.
    pub fn has_other(&self, tracker: &Arc<PodTracker>) -> bool {
        let state = self.state.lock();
        let trackers = &state.trackers;
        let mut all = trackers.assigned().iter().chain(trackers.shared());
        trackers.cluster_ip().is_none() && all.any(|other| !Arc::ptr_eq(other, tracker))
    }

    /// Whether this activator sends requests to this pod.
    pub fn uses(&self, pod: SocketAddr) -> bool {
        self.state.lock().trackers.find(pod).is_some()
    }

    /// The pod to ask next for a session that was not found at those in `asked`.
    pub fn next_to_ask(&self, key: u64, asked: &[SocketAddr]) -> Option<SocketAddr> {
        self.state.lock().trackers.next_to_ask(key, asked)
    }

    /// What an operator sees.
    pub fn snapshot(&self) -> RevisionSnapshot {
        let state = self.state.lock();
        let trackers = &state.trackers;
        let cluster_ip = trackers.cluster_ip();
        let destinations = match cluster_ip {
            Some(tracker) => std::slice::from_ref(tracker),
            None => trackers.assigned(),
        };
        let destinations = destinations.iter().chain(trackers.shared());
        RevisionSnapshot {
            id: RevisionId::clone(&self.id),
            queued: state.queued.count,
            queued_bytes: state.queued.bytes,
            in_flight: state.in_flight,
            capacity: trackers.capacity(),
            destinations: destinations
                .map(|tracker| (tracker.dest(), tracker.in_flight()))
                .collect(),
            through_cluster_ip: cluster_ip.is_some(),
        }
    }

    /// Applies a change of the destinations and hands out what it set free.
    fn relist(&self, change: impl FnOnce(&mut Trackers)) {
        self.change(|state| {
            change(&mut state.trackers);
            // A pod that stays listed keeps its tracker.
            state.unpin(|trackers, dest| trackers.find(dest).is_some());
        });
    }

    /// Applies a change and hands out what it set free.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut wakers = Wakers::new();
        {
            let mut state = self.state.lock();
            change(&mut state);
            let left = state.dispatch(&mut wakers);
            self.budget.give_back(left);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn give_back(&self, tracker: &PodTracker) {
        self.change(|state| {
            tracker.release();
            state.in_flight -= 1;
        });
    }
}

// === impl State ===

impl State {
    /// A slot for a request that has not waited. Nobody is overtaken: while a slot is free nobody
    /// waits for it, except that a request which comes back may use one before it is handed on.
    fn bind_newcomer(&mut self, session: Option<Session>, again: bool) -> Option<Arc<PodTracker>> {
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
    fn in_line(&self) -> usize {
        let pinned = self.pinned.iter().map(|it| it.line.len());
        self.queued.count - pinned.sum::<usize>()
    }

    fn push(&mut self, session: Option<Session>, bytes: usize, front: bool) -> usize {
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
    fn pop(&mut self) -> Option<usize> {
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
    fn dispatch(&mut self, wakers: &mut Wakers) -> Places {
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
    fn unpin(&mut self, stays: impl Fn(&Trackers, SocketAddr) -> bool) {
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
    fn leave(&mut self, key: usize) -> Waiter {
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

/// Tickets of waiters that left, beyond the number that waits, before they are swept.
const SWEEP_SLACK: usize = 64;

/// Waiters of one revision that are on their way at once. A revision without a limit that comes up
/// would otherwise wake its whole queue, and requests of every other revision would run behind it;
/// each waiter that gets going lets the next one go.
const MAX_HANDED: usize = 64;

// === impl Acquire ===

impl Acquire {
    /// Whether the request has to wait (it has neither been bound nor refused at once).
    pub fn is_waiting(&self) -> bool {
        matches!(self.place, Place::Waiting { .. })
    }

    /// Whether it waits, and there was no destination at all when the request came.
    pub fn is_cold(&self) -> bool {
        matches!(self.place, Place::Waiting { is_cold: true, .. })
    }

    fn permit(&self, tracker: Arc<PodTracker>) -> Permit {
        Permit {
            throttler: Arc::clone(&self.throttler),
            tracker,
        }
    }

    fn poll_waiting(&mut self, key: usize, cx: &mut Context<'_>) -> Poll<Result<Permit, Refused>> {
        let mut wakers = Wakers::new();
        let waiter = {
            let mut state = self.throttler.state.lock();
            let waiter = &mut state.waiters[key];
            if waiter.bound.is_none() && !waiter.refused {
                match &mut waiter.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            let waiter = state.leave(key);
            let left = state.dispatch(&mut wakers);
            self.throttler.budget.give_back(left);
            waiter
        };
        wakers.into_iter().for_each(Waker::wake);
        self.place = Place::Done;
        Poll::Ready(match waiter.bound {
            Some(tracker) => Ok(self.permit(tracker)),
            None => Err(Refused::RevisionDeleted),
        })
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Refused>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match std::mem::replace(&mut this.place, Place::Done) {
            Place::Ready(tracker) => Poll::Ready(Ok(this.permit(tracker))),
            Place::Refused(refused) => Poll::Ready(Err(refused)),
            Place::Waiting { key, is_cold } => {
                this.place = Place::Waiting { key, is_cold };
                this.poll_waiting(key, cx)
            }
            Place::Done => panic!("polled after completion"),
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.place, Place::Done) {
            Place::Ready(tracker) => self.throttler.give_back(&tracker),
            Place::Waiting { key, .. } => {
                let waiter = self.throttler.state.lock().leave(key);
                match waiter.bound {
                    Some(tracker) => self.throttler.give_back(&tracker),
                    None if waiter.refused => {}
                    None => self.throttler.budget.give_back(Places::one(waiter.bytes)),
                }
            }
            Place::Refused(_) | Place::Done => {}
        }
    }
}

// === impl Permit ===

impl Permit {
    /// Where the request goes.
    pub fn tracker(&self) -> &Arc<PodTracker> {
        &self.tracker
    }

    /// The throttler that gave it.
    pub fn throttler(&self) -> &Arc<RevisionThrottler> {
        &self.throttler
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.throttler.give_back(&self.tracker);
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
