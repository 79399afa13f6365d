//! Upgraded connections: raw tunnels that outlive their request, counted and ended together.
//!
//! Bytes pass as they are. A half-closed direction is passed on and the other one continues. Of a
//! WebSocket the frame headers are tracked, never a payload read, so that at the end of a drain
//! both sides get a close frame with status 1001 between two frames.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod tunnel;
mod websocket;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use self::tunnel::{Side, Tunnel};
use crate::body::{End, Guard, Outcome};
use crate::deadline::Expired;
use crate::pool::Stream;

/// Bytes read at once, into one buffer that all tunnels share; also the most that one direction of
/// a tunnel holds back for a peer that does not read.
const CHUNK: usize = 64 << 10;

/// How long a tunnel that is told to close may take to reach the end of a frame and hand over the
/// last bytes.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Both ends of an accepted upgrade.
#[derive(Debug)]
pub struct Upgrade {
    pub(crate) client: OnUpgrade,
    /// The app's connection, and what was read from it after its 101.
    pub(crate) app: (Stream, Bytes),
    pub(crate) is_websocket: bool,
}

/// How long a tunnel may last. For ever by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// When it ends whatever passes.
    pub until: Option<Instant>,
    /// Until when the app must have sent something behind its 101. Upstream ends it then whatever
    /// was sent (knative/serving#16169).
    pub response_start: Option<Instant>,
    /// It ends when for so long nothing passes in either direction. Upstream ends it then although
    /// bytes pass.
    pub idle: Option<Duration>,
}

/// What has passed through a tunnel so far.
#[derive(Debug)]
struct Traffic {
    /// When something did.
    last: Cell<Instant>,
    /// Whether anything came from the app.
    answered: Cell<bool>,
}

/// The running tunnels of one server. A clone is another handle on the same. Not `Send`.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The deadline of each running tunnel.
    running: RefCell<Slab<Option<Instant>>>,
    closing: Cell<bool>,
    changed: Notify,
    chunk: RefCell<Vec<u8>>,
}

/// One tunnel in the count, with what waits for its end.
struct Running<G: Guard> {
    state: Rc<State>,
    key: usize,
    guard: Option<G>,
    end: End,
}

// === impl Lifetime ===

impl Lifetime {
    /// Ends when it is over, with `traffic` as it is then.
    async fn expired(self, traffic: &Traffic) -> Expired {
        loop {
            let response_start = self.response_start.filter(|_| !traffic.answered.get());
            let clocks = [
                (self.until, Expired::Total),
                (response_start, Expired::ResponseStart),
                (
                    self.idle.map(|idle| traffic.last.get() + idle),
                    Expired::Idle,
                ),
            ];
            let running = clocks
                .into_iter()
                .filter_map(|(at, expired)| Some((at?, expired)));
            let Some((next, expired)) = running.min_by_key(|(at, _)| *at) else {
                return std::future::pending().await;
            };
            if next <= Instant::now() {
                return expired;
            }
            sleep_until(next).await;
        }
    }
}

// === impl Traffic ===

impl Traffic {
    fn passed(&self, to_app: bool, to_client: bool) {
        if to_app || to_client {
            self.last.set(Instant::now());
        }
        if to_client {
            self.answered.set(true);
        }
    }
}

// === impl Tunnels ===

impl Tunnels {
    /// No tunnel runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a tunnel until both directions have ended, one broke, or its `lifetime` is over; then
    /// `guard` is told how many bytes the client got, and dropped.
    pub fn spawn<G: Guard>(&self, upgrade: Upgrade, lifetime: Lifetime, guard: G) {
        let mut running = Running {
            key: self.state.running.borrow_mut().insert(lifetime.until),
            state: Rc::clone(&self.state),
            guard: Some(guard),
            end: End {
                outcome: Outcome::Abandoned,
                bytes: 0,
            },
        };
        tokio::task::spawn_local(async move { running.run_within(upgrade, lifetime).await });
    }

    /// How many run.
    pub fn active(&self) -> usize {
        self.state.running.borrow().len()
    }

    /// The latest deadline among those that run.
    pub fn latest_deadline(&self) -> Option<Instant> {
        let running = self.state.running.borrow();
        running.iter().filter_map(|(_, deadline)| *deadline).max()
    }

    /// Ends when none runs.
    pub async fn closed(&self) {
        while self.active() > 0 {
            self.state.changed.notified().await;
        }
    }

    /// Ends all, also those that begin later: WebSockets with a close frame 1001, others plainly.
    /// Each has a second for it; wait with [`Tunnels::closed`].
    pub fn close(&self) {
        self.state.closing.set(true);
        self.state.changed.notify_waiters();
    }
}

// === impl State ===

impl State {
    async fn closing(&self) {
        while !self.closing.get() {
            self.changed.notified().await;
        }
    }
}

// === impl Running ===

impl<G: Guard> Running<G> {
    async fn run_within(&mut self, upgrade: Upgrade, lifetime: Lifetime) {
        if lifetime == Lifetime::default() {
            return self.run(upgrade, None).await;
        }
        let traffic = Traffic {
            last: Cell::new(Instant::now()),
            answered: Cell::new(false),
        };
        // Without these clocks nobody asks, and the time is not looked at.
        let asked = lifetime.idle.is_some() || lifetime.response_start.is_some();
        let expired = tokio::select! {
            biased;
            () = self.run(upgrade, asked.then_some(&traffic)) => return,
            expired = lifetime.expired(&traffic) => expired,
        };
        self.end.outcome = Outcome::Expired(expired);
    }

    async fn run(&mut self, upgrade: Upgrade, traffic: Option<&Traffic>) {
        let is_websocket = upgrade.is_websocket;
        // When the 101 has been written.
        let Ok(client) = upgrade.client.await else {
            return;
        };
        let mut tunnel = Tunnel::new(Side::client(client), Side::app(upgrade.app), is_websocket);
        let state = Rc::clone(&self.state);
        let ended = tokio::select! {
            biased;
            ended = tunnel.relay(&state.chunk, &mut self.end.bytes, traffic) => Some(ended),
            () = state.closing() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                tunnel.begin_close();
                let close = tunnel.close(&state.chunk, &mut self.end.bytes);
                timeout(CLOSE_GRACE, close).await.unwrap_or(Ok(()))
            }
        };
        self.end.outcome = match ended {
            Ok(()) => Outcome::Complete,
            Err(_) => Outcome::Failed,
        };
    }
}

impl<G: Guard> Drop for Running<G> {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.ended(self.end);
        }
        self.state.running.borrow_mut().remove(self.key);
        self.state.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
