//! Admission by concurrency: a breaker with a bounded queue, and a gate for revisions without a
//! limit.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What a [`Breaker`] is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerParams {
    /// How many may wait beyond `max_concurrency`.
    pub queue_depth: i64,
    /// With `queue_depth`, the number of slots in total.
    pub max_concurrency: i64,
    /// How many may execute at first.
    pub initial_capacity: i64,
}

/// Why parameters were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    #[error("Queue depth must be greater than 0. Got {0}.")]
    QueueDepth(i64),
    #[error("Max concurrency must be 0 or greater. Got {0}.")]
    MaxConcurrency(i64),
    #[error("Initial capacity must be between 0 and max concurrency. Got {0}.")]
    InitialCapacity(i64),
}

/// Every slot is taken, waiting ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pending request queue full")]
pub struct Full;

/// Clone shares. `Send + Sync`.
#[derive(Clone, Debug)]
pub struct Breaker {}

/// The right to execute; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {}

/// Future of [`Breaker::enter`]: cancel-safe; dropping it while waiting frees its slot at once.
#[derive(Debug)]
pub struct Enter {}

impl Future for Enter {
    type Output = Result<Permit, Full>;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}

impl Breaker {
    pub fn new(_params: BreakerParams) -> Result<Self, ParamsError> {
        todo!()
    }
    /// Takes a slot at once (the future is already in line when this returns), first in first out.
    pub fn enter(&self) -> Enter {
        todo!()
    }
    /// An execution slot without waiting.
    pub fn try_reserve(&self) -> Option<Permit> {
        todo!()
    }
    /// May be above `max_concurrency`; running requests are never interrupted.
    pub fn set_capacity(&self, _capacity: u32) {
        todo!()
    }
    pub fn capacity(&self) -> u32 {
        todo!()
    }
    /// Executing after [`Breaker::enter`].
    pub fn active(&self) -> u64 {
        todo!()
    }
    pub fn queued(&self) -> u64 {
        todo!()
    }
    /// Outstanding permits of [`Breaker::try_reserve`].
    pub fn reserved(&self) -> u64 {
        todo!()
    }
    /// Active, queued and reserved together.
    pub fn in_flight(&self) -> u64 {
        todo!()
    }
}

/// For container concurrency 0: a gate that is open or closed.
#[derive(Clone, Debug)]
pub struct InfiniteBreaker {}

/// Future of [`InfiniteBreaker::enter`].
#[derive(Debug)]
pub struct EnterGate {}

impl Future for EnterGate {
    type Output = Permit;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}

impl InfiniteBreaker {
    pub fn new(_open: bool) -> Self {
        todo!()
    }
    pub fn enter(&self) -> EnterGate {
        todo!()
    }
    /// A permit if the gate is open.
    pub fn try_reserve(&self) -> Option<Permit> {
        todo!()
    }
    /// Above 0 opens and lets every waiter through.
    pub fn set_capacity(&self, _capacity: u32) {
        todo!()
    }
    /// 0 or 1.
    pub fn capacity(&self) -> u32 {
        todo!()
    }
    pub fn active(&self) -> u64 {
        todo!()
    }
    pub fn queued(&self) -> u64 {
        todo!()
    }
}
