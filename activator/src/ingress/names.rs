//! The addresses behind names, for Services that are only names (ExternalName).
//!
//! Each name is looked up once at a time, whoever asks; the look-up goes on when everybody has left,
//! for the C library cannot be stopped. Requests wait for it until [`LIMIT`] after it began; how many
//! they are is bounded by their connections.
//!
//! Addresses that were found are used until [`STALE`] afterwards: at once while they are looked up
//! anew, however long that takes, and on while it fails. So a DNS server that is away for a while
//! stops nothing, and what it says in the meantime is heard within [`FAILURE_TTL`] of its coming
//! back. Only an answer without addresses takes them away before. That a name does not exist is no
//! such answer but an error, which the C library reports as it does any other, and which DNS servers
//! give that have just begun; and who takes a Service away takes its routes away, which counts at
//! once.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

/// How long the addresses of a name are believed.
const TTL: Duration = Duration::from_secs(5);
/// How long it is believed that a name has none, or that it cannot be looked up.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// How long after they were found the addresses of a name are used, if no look-up has said since what
/// they are.
const STALE: Duration = Duration::from_secs(5 * 60);
/// How long a look-up may take. The C library asks again after 5 s, so one lost packet is survived.
const LIMIT: Duration = Duration::from_secs(10);
/// Names that are remembered; beyond that they are all looked up anew.
const MAX_NAMES: usize = 1024;
/// Look-ups under way, each of which has a thread; further ones wait.
const MAX_LOOKUPS: usize = 32;

/// Finds the addresses of a `host:port`.
pub(crate) type Lookup =
    Box<dyn Fn(String) -> LocalBoxFuture<'static, io::Result<Vec<SocketAddr>>>>;

/// See the module.
pub(super) struct Names {
    lookup: Lookup,
    all: RefCell<HashMap<String, Name>>,
    places: Semaphore,
}

/// What is known of a name.
struct Name {
    /// What was found last; nothing when that was too long ago.
    found: Found,
    /// Until when nobody asks again.
    believed: Instant,
    /// Until when `found` may be used.
    usable: Instant,
    /// The look-up under way; the name stays for as long as there is one.
    wanted: Option<Rc<Running>>,
}

/// Empty if there is no such name.
type Found = Rc<[SocketAddr]>;

/// A look-up under way.
struct Running {
    since: Instant,
    found: OnceCell<Found>,
    done: Notify,
}

/// Asks the system.
pub(super) fn system() -> Lookup {
    Box::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) }))
}

// === impl Names ===

impl Names {
    pub(super) fn new(lookup: Lookup) -> Rc<Self> {
        Rc::new(Self {
            lookup,
            all: RefCell::default(),
            places: Semaphore::new(MAX_LOOKUPS),
        })
    }

    /// The addresses of a name; none if it has none, if they are not found in time, or if there are
    /// too many names. Cancel-safe.
    pub(super) async fn resolve(self: &Rc<Self>, name: &str) -> Found {
        let now = Instant::now();
        let wanted = match self.all.borrow().get(name) {
            Some(known) if known.believed > now => return known.at(now),
            Some(known) => known.wanted.clone(),
            None => None,
        };
        let Some(running) = wanted.or_else(|| self.begin(name, now)) else {
            return Found::default();
        };
        let kept = self.all.borrow().get(name).map(|known| known.at(now));
        if let Some(kept) = kept.filter(|it| !it.is_empty()) {
            return kept;
        }
        // Nobody else runs between the look above and this, so that no notice is missed.
        let done = running.done.notified();
        let _ = timeout_at(running.since + LIMIT, done).await;
        running.found.get().cloned().unwrap_or_default()
    }

    /// Forgets the names for which `stays` is false.
    pub(super) fn retain(&self, stays: impl Fn(&str) -> bool) {
        let mut all = self.all.borrow_mut();
        all.retain(|name, it| stays(name) || it.wanted.is_some());
    }

    /// All addresses that are remembered, those of names that are looked up anew among them.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.all.borrow();
        all.values()
            .flat_map(|it| it.found.iter().copied())
            .collect()
    }

    fn begin(self: &Rc<Self>, name: &str, now: Instant) -> Option<Rc<Running>> {
        let mut all = self.all.borrow_mut();
        if all.len() >= MAX_NAMES && !all.contains_key(name) {
            all.retain(|_, it| it.wanted.is_some());
            if all.len() >= MAX_NAMES {
                return None;
            }
        }
        let running = Rc::new(Running {
            since: now,
            found: OnceCell::new(),
            done: Notify::new(),
        });
        let known = all.entry(name.to_owned()).or_insert_with(|| Name::new(now));
        known.wanted = Some(Rc::clone(&running));
        let task = Rc::clone(self).look_up(name.to_owned(), Rc::clone(&running));
        tokio::task::spawn_local(task);
        Some(running)
    }

    async fn look_up(self: Rc<Self>, name: String, running: Rc<Running>) {
        let result = {
            // Never closed; and if it were, there would be no more to it than a look-up too many.
            let _place = self.places.acquire().await;
            (self.lookup)(name.clone()).await
        };
        let found = {
            let mut all = self.all.borrow_mut();
            let known = all.get_mut(&name).expect("stays while it is looked up");
            known.learn(&name, result, Instant::now());
            Rc::clone(&known.found)
        };
        // Each look-up ends once.
        let _ = running.found.set(found);
        running.done.notify_waiters();
    }
}

// === impl Name ===

impl Name {
    /// One of which nothing is known.
    fn new(now: Instant) -> Self {
        Self {
            found: Found::default(),
            believed: now,
            usable: now,
            wanted: None,
        }
    }

    /// What may be used now.
    fn at(&self, now: Instant) -> Found {
        if self.usable > now {
            Rc::clone(&self.found)
        } else {
            Found::default()
        }
    }

    /// The look-up under way has ended.
    fn learn(&mut self, name: &str, result: io::Result<Vec<SocketAddr>>, now: Instant) {
        self.wanted = None;
        self.believed = now + FAILURE_TTL;
        match result {
            Ok(found) => {
                if !found.is_empty() {
                    self.believed = now + TTL;
                }
                self.usable = now + STALE;
                self.found = found.into();
            }
            Err(error) => {
                self.found = self.at(now);
                let kept = self.found.len();
                tracing::debug!(name, %error, kept, "name not found");
            }
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names")
            .field("known", &self.all.borrow().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
