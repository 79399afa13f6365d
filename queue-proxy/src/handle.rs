//! What an embedding process may ask of a running queue-proxy, and tell it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serving::lifecycle::{Drain, InFlight};

/// A view of one running queue-proxy; cheap to clone, lives on the proxy's thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Rc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) drain: Drain,
    pub(crate) in_flight: InFlight,
    /// The verdict of the last finished readiness round.
    pub(crate) ready: Cell<bool>,
}

// === impl Handle ===

impl Handle {
    /// Requests between their arrival and the end of their response or upgraded connection;
    /// probes that are answered here do not count.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.count()
    }

    /// Whether the last readiness round succeeded and no drain has begun. Nothing probes in the
    /// background: the verdict is as old as the last probe request.
    pub fn ready(&self) -> bool {
        self.shared.ready.get() && !self.is_draining()
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
}
