//! The destinations of one revision, as far as they are this activator's, and what they can take.
//!
//! Pure state: updates and picks in, answers out. [`crate::revision_throttler`] guards it with its
//! lock and adds the waiting. Upstream: `revisionThrottler` in `pkg/activator/net/throttler.go`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::capacity::{assign, capacity, infer_index};
use crate::picker::Policy;
use crate::pod_tracker::PodTracker;

/// What probing found usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usable {
    /// These pods, directly; none means the revision is at zero or not up yet.
    Pods(Vec<SocketAddr>),
    /// The private Service, in front of so many ready pods.
    ClusterIp {
        /// The Service's address and port.
        dest: SocketAddr,
        /// Ready pods behind it.
        backends: usize,
    },
}

/// The state of one revision's destinations.
#[derive(Debug)]
pub struct Trackers {
    container_concurrency: u32,
    policy: Policy,
    /// Sorted by text.
    pods: Vec<Arc<PodTracker>>,
    /// The part of `pods` that this activator uses.
    assigned: Vec<Arc<PodTracker>>,
    cluster_ip: Option<Arc<PodTracker>>,
    backends: usize,
    /// 0 = unknown.
    activators: usize,
    index: Option<usize>,
    capacity: u64,
}

// === impl Trackers ===

impl Trackers {
    /// A revision without destinations.
    pub fn new(container_concurrency: u32) -> Self {
        Self {
            container_concurrency,
            policy: Policy::for_container_concurrency(container_concurrency),
            pods: Vec::new(),
            assigned: Vec::new(),
            cluster_ip: None,
            backends: 0,
            activators: 0,
            index: None,
            capacity: 0,
        }
    }

    /// Replaces the destinations. Pods that stay keep their requests in flight; destinations are
    /// in place before the capacity that lets requests through to them.
    pub fn update(&mut self, usable: &Usable) {
        match usable {
            Usable::Pods(dests) => self.update_pods(dests),
            Usable::ClusterIp { dest, backends } => {
                self.pods.clear();
                self.assigned.clear();
                if self.cluster_ip.as_ref().map(|now| now.dest()) != Some(*dest) {
                    self.cluster_ip = Some(Arc::new(PodTracker::cluster_ip(*dest)));
                }
                self.backends = *backends;
            }
        }
        self.recompute();
    }

    fn update_pods(&mut self, dests: &[SocketAddr]) {
        self.cluster_ip = None;
        let mut known: HashMap<SocketAddr, Arc<PodTracker>> = self
            .pods
            .drain(..)
            .map(|tracker| (tracker.dest(), tracker))
            .collect();
        let limit = self.container_concurrency;
        self.pods.extend(dests.iter().map(|dest| {
            known
                .remove(dest)
                .unwrap_or_else(|| Arc::new(PodTracker::pod(*dest, limit)))
        }));
        self.pods.sort_by(|a, b| a.text().cmp(b.text()));
        self.pods.dedup_by_key(|tracker| tracker.dest());
        self.backends = self.pods.len();
    }

    /// Sets the number of activators and this one's place among them; true when that was a change.
    pub fn set_activators(&mut self, activators: usize, index: Option<usize>) -> bool {
        if self.activators == activators && self.index == index {
            return false;
        }
        self.activators = activators;
        self.index = index;
        self.recompute();
        true
    }

    /// Applies a revision's public Endpoints: `addresses` sorted by bytes, without duplicates. While
    /// `own` is not among them they are pods (the activator is not in the path) and say nothing.
    /// True when the number or the place changed.
    pub fn public_endpoints<A: AsRef<str>>(&mut self, addresses: &[A], own: &str) -> bool {
        match infer_index(addresses, own) {
            Some(index) => self.set_activators(addresses.len(), Some(index)),
            None => false,
        }
    }

    fn recompute(&mut self) {
        if self.cluster_ip.is_none() {
            self.assigned.clear();
            if self.container_concurrency == 0 {
                self.assigned.extend(self.pods.iter().cloned());
            } else {
                let share = assign(self.pods.len(), self.index, self.activators);
                let mine = share.positions().map(|at| Arc::clone(&self.pods[at]));
                self.assigned.extend(mine);
            }
        }
        self.capacity = capacity(
            self.container_concurrency,
            self.backends,
            self.assigned.len(),
            self.activators,
        );
    }

    /// Takes a slot, with `in_flight` requests of the revision running; `None` when there is none.
    ///
    /// Pods have slots of their own, so that requests which still run on a pod that left do not
    /// keep a free slot of another from a waiting request. The ClusterIP has the revision's.
    pub fn acquire(
        &mut self,
        in_flight: usize,
        random: impl FnMut(usize) -> usize,
    ) -> Option<Arc<PodTracker>> {
        if self.cluster_ip.is_some() && in_flight as u64 >= self.capacity {
            return None;
        }
        self.acquire_unchecked(random)
    }

    /// As [`Self::acquire`], without asking for the revision's own capacity.
    pub fn acquire_unchecked(
        &mut self,
        random: impl FnMut(usize) -> usize,
    ) -> Option<Arc<PodTracker>> {
        let tracker = if let Some(tracker) = &self.cluster_ip {
            tracker
        } else {
            let at = self.policy.pick(&self.assigned, random)?;
            &self.assigned[at]
        };
        tracker.reserve();
        Some(Arc::clone(tracker))
    }

    /// The slots of the revision on this activator.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Destinations in the last update, also those that are not this activator's.
    pub fn backends(&self) -> usize {
        self.backends
    }

    /// Activators in the path; 0 = unknown.
    pub fn activators(&self) -> usize {
        self.activators
    }

    /// This activator's place among them.
    pub fn index(&self) -> Option<usize> {
        self.index
    }

    /// The private Service, when pods cannot be addressed.
    pub fn cluster_ip(&self) -> Option<&Arc<PodTracker>> {
        self.cluster_ip.as_ref()
    }

    /// The pods this activator uses, sorted by text; meaningless beside a ClusterIP.
    pub fn assigned(&self) -> &[Arc<PodTracker>] {
        &self.assigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dest(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 8012))
    }

    fn pods(last: &[u8]) -> Usable {
        Usable::Pods(last.iter().copied().map(dest).collect())
    }

    /// Edge case 22: public Endpoints that list pods leave number and place as they were.
    #[test]
    fn edge_case_22_serve_mode_keeps_the_index() {
        let mut trackers = Trackers::new(10);
        trackers.update(&pods(&[1, 2, 3, 4]));
        assert!(trackers.public_endpoints(&["10.1.0.1", "10.1.0.2"], "10.1.0.2"));
        assert_eq!((trackers.index(), trackers.activators()), (Some(1), 2));
        assert_eq!(trackers.capacity(), 20);
        assert!(!trackers.public_endpoints(&["10.0.0.1", "10.0.0.2"], "10.1.0.2"));
        assert_eq!((trackers.index(), trackers.activators()), (Some(1), 2));
        let assigned: Vec<_> = trackers.assigned().iter().map(|it| it.dest()).collect();
        assert_eq!(assigned, [dest(3), dest(4)]);
    }

    /// Pods that stay keep their requests in flight; one that comes back is a new one.
    #[test]
    fn trackers_survive_while_listed() {
        let mut trackers = Trackers::new(1);
        trackers.update(&pods(&[1]));
        let held = trackers.acquire(0, |_| 0).unwrap();
        trackers.update(&pods(&[1, 2]));
        assert_eq!(trackers.acquire(1, |_| 0).unwrap().dest(), dest(2));
        trackers.update(&pods(&[]));
        trackers.update(&pods(&[1]));
        assert!(!Arc::ptr_eq(&held, &trackers.acquire(2, |_| 0).unwrap()));
    }
}
