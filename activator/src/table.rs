//! The revisions this activator knows, by name: read by every request, replaced by the driver.
//!
//! Readers take no lock. A writer copies the table, so the driver collects updates and replaces it
//! once per batch.

use std::collections::HashMap;
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
use crate::revision_lookup::{Key, Named};
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
    entries: ArcSwap<HashMap<Key, Arc<Entry>>>,
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
        self.entries.load().get(&named.key()).cloned()
    }

    /// As [`Self::get`], by id.
    pub fn get_id(&self, id: &RevisionId) -> Option<Arc<Entry>> {
        self.entries.load().get(&key(id)).cloned()
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.load().values().cloned().collect()
    }

    /// Replaces, adds and removes entries at once.
    pub(crate) fn apply(
        &self,
        changes: impl IntoIterator<Item = (RevisionId, Option<Arc<Entry>>)>,
    ) {
        let mut entries = HashMap::clone(&self.entries.load());
        for (id, entry) in changes {
            match entry {
                Some(entry) => entries.insert(key(&id), entry),
                None => entries.remove(&key(&id)),
            };
        }
        self.entries.store(Arc::new(entries));
    }
}

fn key(id: &RevisionId) -> Key {
    Named {
        namespace: id.namespace.as_bytes(),
        name: id.name.as_bytes(),
    }
    .key()
}
