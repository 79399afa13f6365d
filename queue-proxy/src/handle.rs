//! What an embedding process may ask of a running queue-proxy, and tell it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serving::breaker::Breaker;
use serving::lifecycle::{Drain, InFlight};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::readiness::Readiness;

/// A view of one running queue-proxy; cheap to clone, lives on the proxy's thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Rc<Shared>,
    pub(crate) readiness: Rc<Readiness>,
}

/// What all parts of one queue-proxy share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) drain: Drain,
    pub(crate) in_flight: InFlight,
    pub(crate) breaker: Option<Breaker>,
    /// The verdict of the last finished readiness round.
    pub(crate) ready: Cell<bool>,
    /// The drain is to end now, whatever is still under way.
    pub(crate) cut_short: Notify,
}

// === impl Handle ===

impl Handle {
    /// Requests between their arrival and the end of their response or upgraded connection;
    /// probes that are answered here do not count.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.count()
    }

    /// Requests that the app is working on, and those that wait for a place. Without a limit
    /// nothing waits.
    pub fn load(&self) -> (u64, u64) {
        self.shared.load()
    }

    /// Requests that wait for a place.
    pub fn queued(&self) -> u64 {
        self.load().1
    }

    /// Whether the last readiness round succeeded and no drain has begun. Nothing probes in the
    /// background: the verdict is as old as the last probe request or call of [`Handle::probe`].
    pub fn ready(&self) -> bool {
        self.shared.ready.get() && !self.is_draining()
    }

    /// Asks the app now, as a probe request would: joins the round under way or begins one.
    /// Cancel safe; the round goes on.
    pub async fn probe(&self) -> bool {
        !self.is_draining() && self.readiness.ready().await
    }

    /// Whether probes are refused because the instance is going away.
    pub fn is_draining(&self) -> bool {
        self.shared.drain.is_draining()
    }

    /// Starts to drain, as a signal does, with a quiet period of the caller's choice. The future
    /// of [`crate::run`] resolves when the drain has ended.
    pub fn drain(&self, quiet_period: Duration) {
        self.shared.drain.signal(quiet_period);
    }

    /// Ends a drain whose time is over: WebSockets get a close frame, everything else that is
    /// still under way is cut. Without a drain it takes effect as soon as one has begun.
    pub fn cut_short(&self) {
        self.shared.cut_short.notify_one();
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn load(&self) -> (u64, u64) {
        match &self.breaker {
            Some(breaker) => (breaker.active(), breaker.queued()),
            None => (u64::try_from(self.in_flight.count()).unwrap_or(u64::MAX), 0),
        }
    }

    /// A request that is no probe arrived.
    pub(crate) fn arrived(&self, now: Instant) {
        self.drain.request(now);
    }
}
