//! Admission by concurrency: a breaker with a bounded queue, and a gate for revisions without a
//! limit. Behaviour of upstream's `pkg/queue/breaker.go` and the activator's infinite breaker.
//!
//! Every answer needs one short lock and no allocation unless the caller has to wait; a limit of
//! 2,147,483,647 costs no more than a limit of one. Whoever waits is served strictly first in,
//! first out: a slot that becomes free is handed to the first in line under the same lock, so
//! that no newcomer can overtake.

mod slots;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;

use self::slots::{Entered, Slots, Ticket};

/// What a [`Breaker`] is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerParams {
    /// How many may wait beyond `max_concurrency`.
    pub queue_depth: i64,
    /// Together with `queue_depth`, the number of slots in total.
    pub max_concurrency: i64,
    /// How many may execute at first.
    pub initial_capacity: i64,
}

/// Why parameters were refused, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// A queue needs at least one place.
    #[error("Queue depth must be greater than 0. Got {0}.")]
    QueueDepth(i64),
    /// No negative number of slots.
    #[error("Max concurrency must be 0 or greater. Got {0}.")]
    MaxConcurrency(i64),
    /// The initial capacity lies within the maximum.
    #[error("Initial capacity must be between 0 and max concurrency. Got {0}.")]
    InitialCapacity(i64),
}

/// Every slot is taken, the waiting ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pending request queue full")]
pub struct Full;

/// Limits how many execute at once and how many may wait for it. A clone is another handle on the
/// same breaker; it may be used from any thread.
#[derive(Clone, Debug)]
pub struct Breaker {
    shared: Arc<Shared>,
}

/// For container concurrency 0: no limit, but a gate that holds everybody while it is closed.
#[derive(Clone, Debug)]
pub struct InfiniteBreaker {
    shared: Arc<Shared>,
}

/// The right to execute. Dropping it gives it back and wakes who waits first.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    reserved: bool,
}

/// Future of [`Breaker::enter`].
///
/// Cancel-safe: dropping it while it waits frees its slot at once, and a permit that was granted
/// but not yet seen goes to the next in line.
#[derive(Debug)]
#[must_use = "the place in line is lost when this is dropped"]
pub struct Enter {
    state: State,
}

/// Future of [`InfiniteBreaker::enter`]; as cancel-safe as [`Enter`].
#[derive(Debug)]
#[must_use = "the place at the gate is lost when this is dropped"]
pub struct EnterGate {
    inner: Enter,
}

#[derive(Debug)]
struct Shared {
    slots: Mutex<Slots<Waker>>,
}

#[derive(Debug)]
enum State {
    Ready(Result<Permit, Full>),
    Waiting { shared: Arc<Shared>, ticket: Ticket },
    Done,
}

// === impl BreakerParams ===

impl BreakerParams {
    fn check(self) -> Result<(), ParamsError> {
        if self.queue_depth <= 0 {
            return Err(ParamsError::QueueDepth(self.queue_depth));
        }
        if self.max_concurrency < 0 {
            return Err(ParamsError::MaxConcurrency(self.max_concurrency));
        }
        if self.initial_capacity < 0 || self.initial_capacity > self.max_concurrency {
            return Err(ParamsError::InitialCapacity(self.initial_capacity));
        }
        Ok(())
    }
}

// === impl Breaker ===

impl Breaker {
    /// A breaker with `queue_depth + max_concurrency` slots.
    ///
    /// # Errors
    /// Upstream panics with the same text for the same parameters.
    pub fn new(params: BreakerParams) -> Result<Self, ParamsError> {
        params.check()?;
        let limit = params
            .queue_depth
            .saturating_add(params.max_concurrency)
            .unsigned_abs();
        let capacity = u32::try_from(params.initial_capacity).unwrap_or(u32::MAX);
        Ok(Self {
            shared: Shared::new(capacity, limit),
        })
    }

    /// Asks for a permit. The place in line is taken by the call itself, not by the first poll.
    pub fn enter(&self) -> Enter {
        self.shared.enter()
    }

    /// A permit without waiting, or nothing.
    pub fn try_reserve(&self) -> Option<Permit> {
        self.shared.try_reserve()
    }

    /// How many may execute from now on; may exceed the maximum given at first. Who executes is
    /// never interrupted.
    pub fn set_capacity(&self, capacity: u32) {
        self.shared.set_capacity(capacity);
    }

    /// How many may execute at once.
    pub fn capacity(&self) -> u32 {
        self.shared.slots.lock().capacity()
    }

    /// How many execute, reservations not included.
    pub fn active(&self) -> u64 {
        self.shared.slots.lock().active()
    }

    /// How many wait.
    pub fn queued(&self) -> u64 {
        self.shared.slots.lock().queued()
    }

    /// Permits of [`Breaker::try_reserve`] that are alive.
    pub fn reserved(&self) -> u64 {
        self.shared.slots.lock().reserved()
    }

    /// Active, queued and reserved together, read at one moment.
    pub fn in_flight(&self) -> u64 {
        self.shared.slots.lock().in_flight()
    }
}

// === impl InfiniteBreaker ===

impl InfiniteBreaker {
    /// A gate, open or closed.
    pub fn new(open: bool) -> Self {
        Self {
            shared: Shared::new(gate(u32::from(open)), u64::MAX),
        }
    }

    /// Passes as soon as the gate is open.
    pub fn enter(&self) -> EnterGate {
        EnterGate {
            inner: self.shared.enter(),
        }
    }

    /// Passes if the gate is open now.
    pub fn try_reserve(&self) -> Option<Permit> {
        self.shared.try_reserve()
    }

    /// Anything above 0 opens the gate and lets everybody through who waits.
    pub fn set_capacity(&self, capacity: u32) {
        self.shared.set_capacity(gate(capacity));
    }

    /// 1 while open, 0 while closed.
    pub fn capacity(&self) -> u32 {
        self.shared.slots.lock().capacity().min(1)
    }

    /// How many have passed and not ended.
    pub fn active(&self) -> u64 {
        self.shared.slots.lock().active()
    }

    /// How many wait.
    pub fn queued(&self) -> u64 {
        self.shared.slots.lock().queued()
    }
}

/// An open gate is a breaker whose capacity nobody reaches.
const fn gate(capacity: u32) -> u32 {
    if capacity > 0 { u32::MAX } else { 0 }
}

// === impl Shared ===

impl Shared {
    fn new(capacity: u32, limit: u64) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::new(Slots::new(capacity, limit)),
        })
    }

    fn permit(self: &Arc<Self>, reserved: bool) -> Permit {
        Permit {
            shared: Arc::clone(self),
            reserved,
        }
    }

    fn enter(self: &Arc<Self>) -> Enter {
        let entered = self.slots.lock().enter();
        let state = match entered {
            Entered::Active => State::Ready(Ok(self.permit(false))),
            Entered::Overflow => State::Ready(Err(Full)),
            Entered::Queued(ticket) => State::Waiting {
                shared: Arc::clone(self),
                ticket,
            },
        };
        Enter { state }
    }

    fn try_reserve(self: &Arc<Self>) -> Option<Permit> {
        let reserved = self.slots.lock().reserve();
        reserved.then(|| self.permit(true))
    }

    fn set_capacity(&self, capacity: u32) {
        let mut wakers = SmallVec::<[Waker; 8]>::new();
        {
            let mut slots = self.slots.lock();
            slots.set_capacity(capacity);
            while slots.can_grant() {
                wakers.extend(slots.grant());
            }
        }
        // Woken outside the lock: a waker may run anything.
        wakers.into_iter().for_each(Waker::wake);
    }
}

// === impl Permit ===

impl Drop for Permit {
    fn drop(&mut self) {
        let waker = {
            let mut slots = self.shared.slots.lock();
            if self.reserved {
                slots.release()
            } else {
                slots.leave()
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// === impl Enter ===

impl Future for Enter {
    type Output = Result<Permit, Full>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Waiting { shared, ticket } = &self.state {
            let granted = shared.slots.lock().take(*ticket, |wake| match wake {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *wake = Some(cx.waker().clone()),
            });
            if !granted {
                return Poll::Pending;
            }
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Ready(result) => Poll::Ready(result),
            State::Waiting { shared, .. } => Poll::Ready(Ok(Permit {
                shared,
                reserved: false,
            })),
            State::Done => panic!("polled after it was ready"),
        }
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        if let State::Waiting { shared, ticket } = &self.state {
            let waker = shared.slots.lock().cancel(*ticket);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

// === impl EnterGate ===

impl Future for EnterGate {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        Pin::new(&mut self.inner)
            .poll(cx)
            .map(|entered| entered.expect("a gate has no bound that could be reached"))
    }
}

#[cfg(test)]
mod tests;
