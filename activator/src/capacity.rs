//! How much of a revision this activator may use: its capacity, its share of the pods and its
//! place among the activators.
//!
//! Pure arithmetic, driven by [`crate::trackers`]; nothing here knows requests or addresses
//! beyond their order. Upstream: `pkg/activator/net/throttler.go`.

use std::ops::Range;

/// No revision has more slots than this (upstream's `revisionMaxConcurrency`).
pub const MAX_CAPACITY: u64 = i32::MAX as u64;

/// The slots of a revision on this activator.
///
/// `backends` are the destinations of the last update, `assigned` the pods this activator uses
/// (0 when it routes through the ClusterIP), `activators` the activators in the path (0 = unknown).
/// Without a limit (`container_concurrency` 0) the answer is all or nothing.
pub fn capacity(
    container_concurrency: u32,
    backends: usize,
    assigned: usize,
    activators: usize,
) -> u64 {
    let limit = u64::from(container_concurrency);
    let wanted = if assigned > 0 {
        limit.saturating_mul(assigned as u64)
    } else {
        let all = limit.saturating_mul(backends as u64);
        if all > 0 {
            (all / activators.max(1) as u64).max(1)
        } else {
            0
        }
    };
    if backends > 0 && (container_concurrency == 0 || wanted > MAX_CAPACITY) {
        MAX_CAPACITY
    } else {
        wanted
    }
}

/// The pods of one activator: a block and, for the first few activators, one more pod of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Positions that belong to this activator alone (or are shared when pods are fewer than
    /// activators).
    pub block: Range<usize>,
    /// One position of those that do not divide evenly.
    pub extra: Option<usize>,
}

// === impl Share ===

impl Share {
    /// All of `pods`.
    pub const fn all(pods: usize) -> Self {
        Self {
            block: 0..pods,
            extra: None,
        }
    }

    /// The positions, in order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + use<> {
        self.block.clone().chain(self.extra)
    }
}

/// Which of `pods` (sorted by address) the activator at `index` of `activators` uses.
///
/// Without an index every pod is used: the activator may have been listed a moment ago, or be
/// addressed through a stale list.
pub fn assign(pods: usize, index: Option<usize>, activators: usize) -> Share {
    let Some(index) = index else {
        return Share::all(pods);
    };
    // Zero activators with a known index cannot come from one update of the public Endpoints.
    if pods <= 1 || activators <= 1 {
        return Share::all(pods);
    }
    if activators > pods {
        let only = index % pods;
        return Share {
            block: only..only + 1,
            extra: None,
        };
    }
    let size = pods / activators;
    let rest = pods % activators;
    let start = (index * size).min(pods);
    Share {
        block: start..(start + size).min(pods),
        extra: (index < rest).then(|| pods - rest + index),
    }
}

/// The rank of `own` in `addresses`, which are sorted by bytes; `None` when it is not listed.
pub fn infer_index<A: AsRef<str>>(addresses: &[A], own: &str) -> Option<usize> {
    addresses
        .binary_search_by(|address| address.as_ref().as_bytes().cmp(own.as_bytes()))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Upstream's `TestThrottlerCalculateCapacity`.
    #[test]
    fn capacities() {
        assert_eq!(capacity(10, 10, 0, 5), 20);
        assert_eq!(capacity(10, 10, 0, 200), 1);
        assert_eq!(capacity(10, 3, 2, 2), 20);
        assert_eq!(capacity(0, 1, 0, 3), MAX_CAPACITY);
        assert_eq!(capacity(0, 0, 0, 3), 0);
        assert_eq!(capacity(u32::MAX, 10, 0, 1), MAX_CAPACITY);
    }

    /// Edge case 21: without an index all pods, and the ClusterIP's capacity divided by one.
    #[test]
    fn edge_case_21_unknown_index() {
        assert_eq!(assign(7, None, 4), Share::all(7));
        assert_eq!(capacity(10, 7, 0, 0), 70);
    }

    /// Edge case 20: more activators than pods share the pods, each with its full limit.
    #[test]
    fn edge_case_20_more_activators_than_pods() {
        for index in 0..5 {
            let share: Vec<_> = assign(3, Some(index), 5).positions().collect();
            assert_eq!(share, [index % 3]);
            assert_eq!(capacity(10, 3, share.len(), 5), 10);
        }
    }

    /// Edge case 23: the order is that of bytes, on which all replicas agree.
    #[test]
    fn edge_case_23_addresses_in_byte_order() {
        let mut addresses = ["10.0.0.9", "10.0.0.10", "10.0.0.1"];
        addresses.sort_unstable();
        assert_eq!(infer_index(&addresses, "10.0.0.10"), Some(1));
        assert_eq!(infer_index(&addresses, "10.0.0.9"), Some(2));
        assert_eq!(infer_index(&addresses, "10.0.0.8"), None);
    }

    proptest! {
        #[test]
        fn every_pod_belongs_to_someone(pods in 0usize..60, activators in 1usize..30) {
            let mut used = BTreeSet::new();
            let mut total = 0;
            for index in 0..activators {
                let share: Vec<_> = assign(pods, Some(index), activators).positions().collect();
                total += share.len();
                used.extend(share);
            }
            prop_assert_eq!(used.len(), pods);
            if activators <= pods && pods > 1 {
                prop_assert_eq!(total, pods, "no pod is shared while there are enough");
            }
        }
    }
}
