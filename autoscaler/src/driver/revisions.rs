//! Keeps the revisions, and beside them a small account for stats that only need to be added up.
//!
//! A revision and its windows are spread over many places in memory. With ten thousand of them none
//! is in the processor's caches when a stat arrives, and waiting for it takes longer than all the
//! rest. Most stats change nothing but two sums of the current second, so those are kept close
//! together, and are put into the windows before anyone looks at the revision.

use std::ops::{Index, IndexMut};

use serving::UnixTime;
use slab::Slab;

use super::revision::Revision;

/// See the module. Whoever gets a revision to change finds its windows complete.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    slab: Slab<Revision>,
    /// By slot, as long as the highest that was ever taken.
    pending: Vec<Pending>,
}

/// What is still to be recorded of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Pending {
    /// Unix seconds; `None` when stats must go to the revision itself.
    second: Option<i64>,
    concurrency: f64,
    requests_per_second: f64,
}

// === impl Revisions ===

impl Revisions {
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn contains(&self, slot: usize) -> bool {
        self.slab.contains(slot)
    }

    pub(super) fn insert(&mut self, revision: Revision) -> usize {
        let slot = self.slab.insert(revision);
        let length = self.pending.len().max(slot + 1);
        self.pending.resize(length, Pending::default());
        slot
    }

    pub(super) fn remove(&mut self, slot: usize) -> Revision {
        self.pending[slot] = Pending::default();
        self.slab.remove(slot)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Revision> {
        let revision = self.slab.get_mut(slot)?;
        settle(&mut self.pending[slot], revision);
        Some(revision)
    }

    /// All slots that are taken.
    pub(super) fn slots(&self) -> Vec<usize> {
        self.slab.iter().map(|(slot, _)| slot).collect()
    }

    /// All revisions; their windows may lack what [`settle`](Self::settle) puts there.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Revision> {
        self.slab.iter().map(|(_, revision)| revision)
    }

    /// Puts everything into the windows.
    pub(super) fn settle(&mut self) {
        for (slot, revision) in &mut self.slab {
            settle(&mut self.pending[slot], revision);
        }
    }

    /// Adds up stats of this second until someone wants to change the revision. Only for one whose
    /// stats change nothing but its windows.
    pub(super) fn add_up(&mut self, slot: usize, second: i64) {
        self.pending[slot] = Pending {
            second: Some(second),
            ..Pending::default()
        };
    }

    /// Adds a stat up; `false` when it must go to the revision itself.
    pub(super) fn add(
        &mut self,
        slot: usize,
        second: i64,
        concurrency: f64,
        requests_per_second: f64,
    ) -> bool {
        let pending = &mut self.pending[slot];
        let fits = pending.second == Some(second);
        if fits {
            pending.concurrency += concurrency;
            pending.requests_per_second += requests_per_second;
        }
        fits
    }
}

impl Index<usize> for Revisions {
    type Output = Revision;

    fn index(&self, slot: usize) -> &Revision {
        &self.slab[slot]
    }
}

impl IndexMut<usize> for Revisions {
    fn index_mut(&mut self, slot: usize) -> &mut Revision {
        let revision = &mut self.slab[slot];
        settle(&mut self.pending[slot], revision);
        revision
    }
}

/// Records what is pending. From here on stats go to the revision, as it may be changed into one
/// that they do more to.
fn settle(pending: &mut Pending, revision: &mut Revision) {
    let Pending {
        second,
        concurrency,
        requests_per_second,
    } = std::mem::take(pending);
    if let (Some(second), Some(collecting)) = (second, &mut revision.collecting)
        && (concurrency != 0.0 || requests_per_second != 0.0)
    {
        let time = UnixTime::from_seconds(second);
        let collection = &mut collecting.collection;
        collection.record(time, concurrency, requests_per_second);
    }
}

#[cfg(test)]
mod tests {
    use serving::RevisionId;
    use tokio::time::Instant;

    use super::super::revision::Collecting;
    use super::*;
    use crate::collection::Collection;
    use crate::pod_autoscaler::MetricSpec;
    use crate::scraper::ConnectionPool;
    use crate::spec::{Aggregation, CollectionSpec, ScalingMetric};

    const SECOND: i64 = 1_700_000_000;

    fn revision(name: &str) -> Revision {
        let spec = CollectionSpec {
            stable_window_ns: 60_000_000_000,
            panic_window_ns: 6_000_000_000,
            scrape: false,
            aggregation: Aggregation::Linear,
        };
        let mut revision = Revision::new(RevisionId::new("default", name), 1);
        let collection = Collection::new(&spec);
        revision.collecting = Some(Collecting {
            collection,
            spec: MetricSpec::default(),
            host: None,
            scraping: false,
            pods_addressable: true,
            connections: ConnectionPool::default(),
            error: None,
            due: Instant::now(),
        });
        revision
    }

    fn concurrency(revision: &Revision) -> f64 {
        let collecting = revision.collecting.as_ref().unwrap();
        let now = UnixTime::from_seconds(SECOND);
        let observed = collecting
            .collection
            .observe(ScalingMetric::Concurrency, now);
        observed.unwrap().stable
    }

    #[test]
    fn what_was_added_up_is_there_for_whoever_changes_the_revision() {
        let mut revisions = Revisions::default();
        let slots = ["a", "b"].map(|name| revisions.insert(revision(name)));
        for slot in slots {
            assert!(!revisions.add(slot, SECOND, 9.0, 9.0), "not asked for yet");
            revisions.add_up(slot, SECOND);
            assert!(revisions.add(slot, SECOND, 2.0, 1.0));
            assert!(revisions.add(slot, SECOND, 3.0, 1.0));
            assert!(!revisions.add(slot, SECOND + 1, 9.0, 9.0), "another second");
        }
        assert_eq!(concurrency(&revisions[slots[0]]), 0.0);
        assert_eq!(concurrency(revisions.get_mut(slots[0]).unwrap()), 5.0);
        assert!(
            !revisions.add(slots[0], SECOND, 9.0, 9.0),
            "it may be changed"
        );
        let changed = &mut revisions[slots[0]];
        assert_eq!(concurrency(changed), 5.0, "and only once");
        revisions.settle();
        assert_eq!(concurrency(&revisions[slots[1]]), 5.0);
    }

    #[test]
    fn a_slot_that_is_taken_again_begins_with_nothing() {
        let mut revisions = Revisions::default();
        let slot = revisions.insert(revision("a"));
        revisions.add_up(slot, SECOND);
        assert!(revisions.add(slot, SECOND, 2.0, 1.0));
        revisions.remove(slot);
        assert_eq!(revisions.insert(revision("b")), slot);
        assert!(!revisions.add(slot, SECOND, 2.0, 1.0));
        let changed = &mut revisions[slot];
        assert_eq!(concurrency(changed), 0.0);
        assert_eq!(revisions.pending.len(), 1);
    }
}
