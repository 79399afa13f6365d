//! One revision's queue: binds a request to a destination when a slot is free there, and not before.
//!
//! Requests call [`RevisionThrottler::acquire`]; the driver calls `update` and `public_endpoints`.
//! Every change (a slot given back, destinations updated, a waiter gone) hands free slots to the
//! longest waiting requests at once, so no slot is idle beside a waiter, unless the waiter's session
//! is at another pod ([`Session::only`]); those have a line for each pod. State is guarded by one
//! short lock per revision and shared by all threads; no lock is shared by revisions. It neither
//! proxies nor probes. Upstream: `revisionThrottler.try` in `pkg/activator/net/throttler.go`, whose
//! two breakers (revision and pod) are one decision here.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serving::RevisionId;
use tokio::time::Instant;

use crate::affinity::Session;
use crate::error::Refused;
use crate::options::RevisionSnapshot;
use crate::pod_tracker::PodTracker;
use crate::queue_budget::Places;
pub use crate::queue_budget::QueueBudget;
use crate::trackers::{Trackers, Usable};
use state::{State, Wakers};

mod state;

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
            state: Mutex::new(State::new(Trackers::new(container_concurrency), seed)),
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
