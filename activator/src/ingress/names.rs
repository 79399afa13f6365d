//! The addresses behind names, for Services that are only names (ExternalName).
//!
//! Each name is looked up once at a time, whoever asks; the look-up goes on when everybody has left,
//! for the C library cannot be stopped. Requests wait for it until [`LIMIT`] after it began; how many
//! they are is bounded by their connections.

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
/// How long it is believed that a name has none.
const FAILURE_TTL: Duration = Duration::from_secs(1);
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

enum Name {
    Wanted(Rc<Running>),
    Known { until: Instant, found: Found },
}

/// None if there is no such name.
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
        let known = match self.all.borrow().get(name) {
            Some(Name::Known { until, found }) if *until > now => return Rc::clone(found),
            Some(Name::Wanted(running)) => Some(Rc::clone(running)),
            Some(Name::Known { .. }) | None => None,
        };
        let Some(running) = known.or_else(|| self.begin(name, now)) else {
            return Found::default();
        };
        // Nobody else runs between the look above and this, so that no notice is missed.
        let done = running.done.notified();
        let _ = timeout_at(running.since + LIMIT, done).await;
        running.found.get().cloned().unwrap_or_default()
    }

    /// Forgets the names for which `stays` is false.
    pub(super) fn retain(&self, stays: impl Fn(&str) -> bool) {
        let mut all = self.all.borrow_mut();
        all.retain(|name, it| stays(name) || matches!(it, Name::Wanted(_)));
    }

    /// All addresses that are remembered.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.all.borrow();
        let known = all.values().filter_map(|it| match it {
            Name::Known { found, .. } => Some(&found[..]),
            Name::Wanted(_) => None,
        });
        known.flatten().copied().collect()
    }

    fn begin(self: &Rc<Self>, name: &str, now: Instant) -> Option<Rc<Running>> {
        let mut all = self.all.borrow_mut();
        if all.len() >= MAX_NAMES && !all.contains_key(name) {
            all.retain(|_, it| matches!(it, Name::Wanted(_)));
            if all.len() >= MAX_NAMES {
                return None;
            }
        }
        let running = Rc::new(Running {
            since: now,
            found: OnceCell::new(),
            done: Notify::new(),
        });
        all.insert(name.to_owned(), Name::Wanted(Rc::clone(&running)));
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
        let found: Found = result
            .inspect_err(|error| tracing::debug!(name, %error, "name not found"))
            .unwrap_or_default()
            .into();
        let ttl = if found.is_empty() { FAILURE_TTL } else { TTL };
        let known = Name::Known {
            until: Instant::now() + ttl,
            found: Rc::clone(&found),
        };
        self.all.borrow_mut().insert(name, known);
        // Each look-up ends once.
        let _ = running.found.set(found);
        running.done.notify_waiters();
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
