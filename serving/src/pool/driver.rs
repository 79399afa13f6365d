//! hyper's half of an HTTP/1 connection, polled by whoever uses the connection.
//!
//! In a task of its own it would cost two more wake-ups and polls per request. So it belongs to the
//! exchange: the future that waits for the response and then the response's body poll it. While the
//! connection idles nobody does; an event then only leaves a mark and tells the sweep.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// See the module.
pub(super) struct Driver {
    /// Nothing once it has ended.
    connection: Option<Connection>,
    relay: Arc<Relay>,
    /// The relay's, made once.
    waker: Waker,
}

/// Passes the connection's wake-ups on to its user. The connection itself knows only this one
/// waker, so that a change of users registers nothing anew.
#[derive(Debug)]
struct Relay {
    user: Mutex<User>,
    /// Something happened while there was no user.
    stirred: AtomicBool,
    sweep: Arc<Notify>,
}

#[derive(Debug)]
enum User {
    Nobody,
    /// Nothing is to be woken while the user itself is at work.
    Someone(Option<Waker>),
}

// === impl Driver ===

impl Driver {
    /// In use from the start; `sweep` is told of events while the connection idles.
    pub(super) fn new(
        connection: impl Future<Output = hyper::Result<()>> + 'static,
        sweep: Arc<Notify>,
    ) -> Self {
        let relay = Arc::new(Relay {
            user: Mutex::new(User::Someone(None)),
            stirred: AtomicBool::new(false),
            sweep,
        });
        Self {
            connection: Some(Box::pin(connection)),
            waker: Waker::from(Arc::clone(&relay)),
            relay,
        }
    }

    /// Drives the connection on behalf of the task of `cx`, which is woken when it can go on.
    /// Whether it goes on at all.
    pub(super) fn drive(&mut self, cx: &Context<'_>) -> bool {
        if self.connection.is_some() {
            self.relay.attend(cx.waker());
        }
        self.poll()
    }

    /// From now on events wake nobody, until the next [`Driver::drive`] of the same user.
    pub(super) fn hush(&self) {
        *self.relay.user.lock() = User::Someone(None);
    }

    /// The connection has no user.
    pub(super) fn rest(&self) {
        *self.relay.user.lock() = User::Nobody;
    }

    /// Looks after a connection without a user; whether it goes on.
    pub(super) fn look_after(&mut self) -> bool {
        if self.relay.stirred.swap(false, Ordering::Relaxed) {
            self.poll()
        } else {
            self.connection.is_some()
        }
    }

    /// Lets the connection notice that a response was read to its end.
    pub(super) fn settle(&mut self) {
        self.hush();
        self.poll();
    }

    /// Leaves the connection to itself.
    pub(super) fn release(self) {
        if let Some(connection) = self.connection {
            tokio::task::spawn_local(async move { ended(&connection.await) });
        }
    }

    fn poll(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let polled = connection
            .as_mut()
            .poll(&mut Context::from_waker(&self.waker));
        if let Poll::Ready(result) = polled {
            ended(&result);
            // Whoever still waits for something of it learns of the end by the drop.
            self.connection = None;
        }
        self.connection.is_some()
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

/// Whoever waits for a response learns of the error as well.
fn ended(result: &hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection to the destination ended");
    }
}

// === impl Relay ===

impl Relay {
    fn attend(&self, waker: &Waker) {
        let mut user = self.user.lock();
        match &mut *user {
            User::Someone(Some(known)) if known.will_wake(waker) => {}
            user => *user = User::Someone(Some(waker.clone())),
        }
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waker = match &mut *self.user.lock() {
            User::Someone(waker) => waker.take(),
            User::Nobody => {
                self.stirred.store(true, Ordering::Relaxed);
                self.sweep.notify_one();
                None
            }
        };
        // Woken outside the lock: a waker may run anything.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
