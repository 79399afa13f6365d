//! The revisions this activator knows, by name: read by every request, replaced by the driver.
//!
//! Readers take no lock. A writer copies the table, so the driver collects updates and replaces it
//! once per batch. An entry is found by the name that it has anyway, as bytes: a request's name need
//! not be text.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serving::RevisionId;
use serving::deadline::Timeouts;

use crate::affinity::McpSessions;
use crate::cold_start::ColdStart;
use crate::concurrency_reporter::RevisionStats;
use crate::http_metrics::RevisionHttpMetrics;
use crate::metrics::RevisionMetrics;
use crate::revision_lookup::Named;
use crate::revision_throttler::RevisionThrottler;
use crate::world::Revision;

/// A revision with everything a request needs of it.
#[derive(Debug)]
pub struct Entry {
    /// As the platform describes it.
    pub revision: Revision,
    /// Where its requests wait.
    pub throttler: Arc<RevisionThrottler>,
    /// Where they are counted.
    pub stats: Arc<RevisionStats>,
    /// What a scrape says of it.
    pub metrics: RevisionMetrics,
    /// See [`RevisionHttpMetrics`].
    pub http: Arc<RevisionHttpMetrics>,
    /// See [`ColdStart`].
    pub cold_start: Arc<ColdStart>,
    /// Sessions that the app has named; only with that kind of affinity.
    pub sessions: Option<Arc<Sessions>>,
}

/// Where the pods of sessions are.
pub type Sessions = Mutex<McpSessions<SocketAddr>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    entries: ArcSwap<HashSet<Listed>>,
}

/// An entry, equal to every other one of the same name.
#[derive(Clone, Debug)]
struct Listed(Arc<Entry>);

/// What entries are found by.
trait HasName {
    fn named(&self) -> Named<'_>;
}

// === impl Entry ===

impl Entry {
    /// The clocks of a request.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            total: self.revision.timeout,
            response_start: self.revision.response_start_timeout,
            idle: self.revision.idle_timeout,
        }
    }
}

// === impl Table ===

impl Table {
    /// Looks a revision up.
    pub fn get(&self, named: &Named<'_>) -> Option<Arc<Entry>> {
        let entries = self.entries.load();
        let found = entries.get(named as &dyn HasName)?;
        Some(Arc::clone(&found.0))
    }

    /// As [`Self::get`], by id.
    pub fn get_id(&self, id: &RevisionId) -> Option<Arc<Entry>> {
        self.get(&Named::by(id))
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let entries = self.entries.load();
        entries.iter().map(|it| Arc::clone(&it.0)).collect()
    }

    /// Replaces, adds and removes entries at once.
    #[allow(
        clippy::mutable_key_type,
        reason = "hashed and compared is the name, which never changes"
    )]
    pub(crate) fn apply(
        &self,
        changes: impl IntoIterator<Item = (Arc<RevisionId>, Option<Arc<Entry>>)>,
    ) {
        let mut entries = HashSet::clone(&self.entries.load());
        for (id, entry) in changes {
            match entry {
                Some(entry) => drop(entries.replace(Listed(entry))),
                None => drop(entries.take(&Named::by(&id) as &dyn HasName)),
            }
        }
        self.entries.store(Arc::new(entries));
    }
}

// === impl Listed ===

impl HasName for Listed {
    fn named(&self) -> Named<'_> {
        Named::by(&self.0.revision.id)
    }
}

impl HasName for Named<'_> {
    fn named(&self) -> Named<'_> {
        *self
    }
}

impl<'a> Borrow<dyn HasName + 'a> for Listed {
    fn borrow(&self) -> &(dyn HasName + 'a) {
        self
    }
}

impl PartialEq for dyn HasName + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.named() == other.named()
    }
}

impl Eq for dyn HasName + '_ {}

impl Hash for dyn HasName + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.named().hash(state);
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.named() == other.named()
    }
}

impl Eq for Listed {}

impl Hash for Listed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.named().hash(state);
    }
}
