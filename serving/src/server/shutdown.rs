//! The order to end, and who waits for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;
use tokio::sync::Notify;

/// Ends servers. A clone is another handle on the same order. Not `Send`.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Cell<Phase>,
    /// One per connection.
    tasks: RefCell<Slab<Waker>>,
    changed: Notify,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Running,
    Draining,
    Stopped,
}

/// A task that is woken when the phase changes.
#[derive(Debug)]
pub(super) struct Member {
    shutdown: Shutdown,
    key: Option<usize>,
}

// === impl Shutdown ===

impl Shutdown {
    /// Nothing ends yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops accepting and closes idle connections. Requests that were begun go on, HTTP/1
    /// connections end after theirs, HTTP/2 ones are told to go away.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Drops every connection now.
    pub fn stop(&self) {
        self.advance(Phase::Stopped);
    }

    /// Whether [`Shutdown::drain`] or [`Shutdown::stop`] was called.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.phase.get()
    }

    fn advance(&self, phase: Phase) {
        if self.phase() < phase {
            self.state.phase.set(phase);
            self.state.changed.notify_waiters();
            for (_, task) in self.state.tasks.borrow().iter() {
                task.wake_by_ref();
            }
        }
    }

    /// Ends when the phase is draining or later.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    pub(super) async fn reached(&self, phase: Phase) {
        while self.phase() < phase {
            self.state.changed.notified().await;
        }
    }

    pub(super) fn member(&self) -> Member {
        Member {
            shutdown: self.clone(),
            key: None,
        }
    }
}

// === impl Member ===

impl Member {
    /// The phase; registers the task at the first call.
    pub(super) fn phase(&mut self, cx: &Context<'_>) -> Phase {
        if self.key.is_none() {
            let mut tasks = self.shutdown.state.tasks.borrow_mut();
            self.key = Some(tasks.insert(cx.waker().clone()));
        }
        self.shutdown.phase()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shutdown.state.tasks.borrow_mut().remove(key);
        }
    }
}
