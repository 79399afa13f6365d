//! From serving to gone: signals, the drain's quiet period, and who is still in flight.
//!
//! [`Quiet`] is the pure part: a state machine over arrivals, signals and `/wait-for-drain` calls
//! with the time passed in (upstream: `vendor/knative.dev/pkg/network/handlers/drain.go` and
//! `pkg/queue/sharedmain/handlers.go`). [`Drain`] shares one between the requests and the shutdown,
//! and [`InFlight`] counts what the last phase waits for (`pkg/http/handler/hijack.go`).
//! Closing listeners and connections is the server's business, not this module's.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long `/wait-for-drain` keeps an instance draining that nobody told to stop: the app was
/// restarted by its liveness probe, and the call must not hold that up.
pub const UNSIGNALLED_DRAIN: Duration = Duration::from_secs(1);

/// The drain's quiet period as a state machine; pure.
#[derive(Clone, Debug)]
pub struct Quiet {
    period: Duration,
    state: State,
}

/// Where a [`Quiet`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody asked for a drain, or a drain without a signal was cancelled.
    Serving,
    /// Probes fail and requests are served; look again at `until`.
    Draining {
        /// When the phase ends unless a request arrives before.
        until: Instant,
    },
    /// The quiet period passed without a request; final.
    Quiet,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Serving,
    Draining {
        /// The start of the drain or the last request since.
        quiet_since: Instant,
        /// When a drain that no signal confirmed is cancelled.
        cancelled_at: Option<Instant>,
    },
    Quiet,
}

/// One instance's drain, shared by its requests, its admin port and its shutdown.
#[derive(Clone, Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    quiet: Mutex<Quiet>,
    /// Lets requests skip the lock while nothing drains.
    draining: std::sync::atomic::AtomicBool,
    changed: Notify,
}

/// Counts the requests between their arrival and the end of their response or upgraded connection.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    counter: Arc<Counter>,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicUsize,
    idle: Notify,
}

/// One request in flight; dropping it ends the count.
#[derive(Debug)]
pub struct InFlightGuard {
    counter: Arc<Counter>,
}

// === impl Quiet ===

impl Quiet {
    /// A machine whose drain ends after `period` without a request.
    pub const fn new(period: Duration) -> Self {
        Self {
            period,
            state: State::Serving,
        }
    }

    /// The process was told to stop: drains from now on and for good. A drain that
    /// `/wait-for-drain` began within the last second is taken over with its timer.
    pub fn signal(&mut self, now: Instant, period: Duration) {
        self.advance(now);
        self.period = period;
        self.state = match self.state {
            State::Serving => State::Draining {
                quiet_since: now,
                cancelled_at: None,
            },
            State::Draining { quiet_since, .. } => State::Draining {
                quiet_since,
                cancelled_at: None,
            },
            State::Quiet => State::Quiet,
        };
    }

    /// `/wait-for-drain` was called: joins the drain under way, or begins one that is cancelled
    /// after [`UNSIGNALLED_DRAIN`] unless a signal comes first.
    pub fn wait(&mut self, now: Instant) {
        self.advance(now);
        if matches!(self.state, State::Serving) {
            self.state = State::Draining {
                quiet_since: now,
                cancelled_at: Some(now + UNSIGNALLED_DRAIN),
            };
        }
    }

    /// A request that is no probe arrived: the quiet period starts again.
    pub fn request(&mut self, now: Instant) {
        self.advance(now);
        if let State::Draining { quiet_since, .. } = &mut self.state {
            *quiet_since = now;
        }
    }

    /// The phase at `now`.
    pub fn phase(&mut self, now: Instant) -> Phase {
        self.advance(now);
        match self.state {
            State::Serving => Phase::Serving,
            State::Draining {
                quiet_since,
                cancelled_at,
            } => {
                let quiet_at = quiet_since + self.period;
                Phase::Draining {
                    until: cancelled_at.map_or(quiet_at, |at| at.min(quiet_at)),
                }
            }
            State::Quiet => Phase::Quiet,
        }
    }

    fn advance(&mut self, now: Instant) {
        let State::Draining {
            quiet_since,
            cancelled_at,
        } = self.state
        else {
            return;
        };
        if let Some(at) = cancelled_at {
            // However short the quiet period: without a signal the instance goes on serving.
            if now >= at || now >= quiet_since + self.period {
                self.state = State::Serving;
            }
        } else if now >= quiet_since + self.period {
            self.state = State::Quiet;
        }
    }
}

// === impl Drain ===

impl Drain {
    /// A drain nobody asked for yet; `period` is what [`Drain::signal`] uses unless told otherwise.
    pub fn new(period: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                quiet: Mutex::new(Quiet::new(period)),
                draining: false.into(),
                changed: Notify::new(),
            }),
        }
    }

    /// Starts draining for good, ending after `period` without a request.
    pub fn signal(&self, period: Duration) {
        self.change(|quiet, now| quiet.signal(now, period));
    }

    /// A request that is no probe arrived at `now`. Costs one atomic read while nothing drains.
    pub fn request(&self, now: Instant) {
        if self.shared.draining.load(Ordering::Acquire) {
            self.shared.quiet.lock().request(now);
        }
    }

    /// Whether probes are to fail.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
            && self.shared.quiet.lock().phase(Instant::now()) != Phase::Serving
    }

    /// Answers a `/wait-for-drain` call: resolves when the drain ends, or at the latest one second
    /// after the first such call when no signal came. Cancel safe; the drain goes on.
    pub async fn wait(&self) {
        self.change(|quiet, now| quiet.wait(now));
        self.until(|phase| phase != Phase::Quiet && phase != Phase::Serving)
            .await;
    }

    /// Resolves once the quiet period has passed after a signal. Cancel safe.
    pub async fn quiet(&self) {
        self.until(|phase| phase != Phase::Quiet).await;
    }

    fn change(&self, change: impl FnOnce(&mut Quiet, Instant)) {
        change(&mut self.shared.quiet.lock(), Instant::now());
        self.shared.draining.store(true, Ordering::Release);
        self.shared.changed.notify_waiters();
    }

    async fn until(&self, pending: impl Fn(Phase) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let phase = self.phase();
            if !pending(phase) {
                return;
            }
            match phase {
                Phase::Draining { until } => {
                    // Requests move `until` without waking anybody; it is read again then.
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
                Phase::Serving | Phase::Quiet => changed.await,
            }
        }
    }

    fn phase(&self) -> Phase {
        let mut quiet = self.shared.quiet.lock();
        let phase = quiet.phase(Instant::now());
        if phase == Phase::Serving {
            self.shared.draining.store(false, Ordering::Release);
        }
        phase
    }
}

// === impl InFlight ===

impl InFlight {
    /// Counts one more request until the guard is dropped.
    pub fn enter(&self) -> InFlightGuard {
        self.counter.count.fetch_add(1, Ordering::AcqRel);
        InFlightGuard {
            counter: Arc::clone(&self.counter),
        }
    }

    /// How many requests are in flight.
    pub fn count(&self) -> usize {
        self.counter.count.load(Ordering::Acquire)
    }

    /// Resolves when nothing is in flight. Cancel safe.
    pub async fn idle(&self) {
        loop {
            let idle = self.counter.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.counter.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.counter.idle.notify_waiters();
        }
    }
}

// === signals ===

/// Listens for SIGTERM and SIGINT: the first future resolves at the first of them (begin to
/// drain), the second at the next (leave at once). Must be called within a runtime.
pub fn signals() -> io::Result<(
    impl Future<Output = ()> + use<>,
    impl Future<Output = ()> + use<>,
)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, first_came) = oneshot::channel();
    let second = async move {
        next(&mut terminate, &mut interrupt).await;
        // The drain may have ended already; nobody listens then.
        let _ = first.send(());
        next(&mut terminate, &mut interrupt).await;
    };
    // The second future does the listening, so it has to be polled alongside the first.
    let first = async move {
        if first_came.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok((first, second))
}

async fn next(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests;
