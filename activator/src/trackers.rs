//! The destinations of one revision, as far as they are this activator's, and what they can take.
//!
//! Pure state: updates and picks in, answers out. [`crate::revision_throttler`] guards it with its
//! lock and adds the waiting. Upstream: `revisionThrottler` in `pkg/activator/net/throttler.go`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::affinity::{self, Session};
use crate::capacity::{assign, capacity, infer_index};
use crate::picker::{Candidate, Policy};
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

impl Usable {
    /// Whether there is nowhere to go.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Pods(pods) => pods.is_empty(),
            Self::ClusterIp { backends, .. } => *backends == 0,
        }
    }
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
    /// The rest, beginning behind this activator's part, while pods are shared.
    shared: Vec<Arc<PodTracker>>,
    /// Whether all activators in the path are ours.
    peers_share: bool,
    /// Whether the revision's queue-proxies are ours: all that have answered, and one has. While none
    /// has, what the last ones did.
    pods_report: bool,
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
            shared: Vec::new(),
            peers_share: false,
            pods_report: false,
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

    /// All activators in the path are ours (or not any more): pods need not be divided, provided
    /// that they tell how busy they are.
    pub fn set_peers_share(&mut self, share: bool) {
        self.peers_share = share;
        self.recompute();
    }

    /// A pod began to report, or ceased to.
    pub(crate) fn reports_changed(&mut self) {
        self.recompute();
    }

    /// The revision's queue-proxies are ours.
    #[cfg(test)]
    pub(crate) fn set_pods_report(&mut self) {
        self.pods_report = true;
        self.recompute();
    }

    /// Whether requests may go to pods that upstream would leave to other activators.
    pub fn is_sharing(&self) -> bool {
        self.peers_share
            && self.pods_report
            && self.container_concurrency > 0
            && self.activators > 1
            && self.cluster_ip.is_none()
    }

    /// A queue-proxy of Go's takes a request that must not wait for any other, so one is enough.
    fn ask_who_reports(&mut self) {
        let mut answered = self.pods.iter().filter_map(|pod| pod.reports()).peekable();
        if answered.peek().is_some() {
            self.pods_report = answered.all(|reports| reports);
        }
    }

    fn recompute(&mut self) {
        self.ask_who_reports();
        self.assigned.clear();
        self.shared.clear();
        if self.cluster_ip.is_none() {
            if self.container_concurrency == 0 {
                self.assigned.extend(self.pods.iter().cloned());
            } else {
                self.divide();
            }
        }
        self.capacity = capacity(
            self.container_concurrency,
            self.backends,
            self.assigned.len() + self.shared.len(),
            self.activators,
        );
    }

    fn divide(&mut self) {
        let pods = &self.pods;
        let share = assign(pods.len(), self.index, self.activators);
        let mine = share.positions().map(|at| Arc::clone(&pods[at]));
        self.assigned.extend(mine);
        if self.is_sharing() {
            // Each activator begins elsewhere, so that they do not all overflow to the same pod.
            let behind = (share.block.end..pods.len()).chain(0..share.block.start);
            let others = behind.filter(|at| share.extra != Some(*at));
            self.shared
                .extend(others.map(|at| Arc::clone(&self.pods[at])));
        }
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

    /// The pod with this address, if it is one that this activator uses.
    pub fn find(&self, dest: SocketAddr) -> Option<&Arc<PodTracker>> {
        let mut all = self.assigned.iter().chain(&self.shared);
        all.find(|pod| pod.dest() == dest)
    }

    /// As [`Self::acquire`], at the session's own pod while that has room, or only there.
    pub fn acquire_for(
        &mut self,
        session: Session,
        in_flight: usize,
        random: impl FnMut(usize) -> usize,
    ) -> Option<Arc<PodTracker>> {
        let only = session.pod.filter(|_| session.only);
        if let Some(tracker) = only.and_then(|dest| self.find(dest)) {
            return tracker.has_free_slot().then(|| {
                tracker.reserve();
                Arc::clone(tracker)
            });
        }
        let all = self.assigned.iter().chain(&self.shared);
        if self.cluster_ip.is_none()
            && let Some(tracker) = affinity::choose(all, session)
        {
            tracker.reserve();
            return Some(Arc::clone(tracker));
        }
        self.acquire(in_flight, random)
    }

    /// See [`affinity::next_to_ask`].
    pub fn next_to_ask(&self, key: u64, asked: &[SocketAddr]) -> Option<SocketAddr> {
        let all = self.assigned.iter().chain(&self.shared);
        affinity::next_to_ask(all, key, asked).filter(|_| self.cluster_ip.is_none())
    }

    /// As [`Self::acquire`], without asking for the revision's own capacity.
    pub fn acquire_unchecked(
        &mut self,
        random: impl FnMut(usize) -> usize,
    ) -> Option<Arc<PodTracker>> {
        let tracker = if let Some(tracker) = &self.cluster_ip {
            tracker
        } else {
            match self.policy.pick(&self.assigned, random) {
                Some(at) => &self.assigned[at],
                None => self.least_loaded()?,
            }
        };
        tracker.reserve();
        Some(Arc::clone(tracker))
    }

    /// Of the pods that others prefer, the one with the least to do.
    fn least_loaded(&self) -> Option<&Arc<PodTracker>> {
        let free = self.shared.iter().filter(|pod| pod.has_free_slot());
        free.min_by_key(|pod| pod.load())
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

    /// The pods that it uses when those are full.
    pub fn shared(&self) -> &[Arc<PodTracker>] {
        &self.shared
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

    /// With peers and queue-proxies of ours every pod may be used, the own part first; upstream's
    /// division comes back as soon as one of them is not ours.
    #[test]
    fn pods_are_shared_among_our_own() {
        let mut trackers = Trackers::new(1);
        trackers.update(&pods(&[1, 2, 3, 4]));
        trackers.public_endpoints(&["10.1.0.1", "10.1.0.2"], "10.1.0.1");
        trackers.set_peers_share(true);
        assert!(!trackers.is_sharing(), "no pod has reported");
        trackers.set_pods_report();
        assert!(trackers.is_sharing());
        assert_eq!(trackers.capacity(), 4);
        // Another activator's requests at the first pod that is not ours.
        trackers.shared()[0].reported(1, 0);
        let taken: Vec<_> = (0..5)
            .map(|at| trackers.acquire(at, |_| 0).map(|it| it.dest()))
            .collect();
        let expected = [1, 2, 4, 3].map(|last| Some(dest(last)));
        assert_eq!(taken[..4], expected);
        assert_eq!(taken[4], None);
        trackers.set_peers_share(false);
        assert_eq!(trackers.capacity(), 2);
        assert!(trackers.shared().is_empty());
    }

    /// One queue-proxy that does not report is enough to divide pods again, until it reports or goes.
    #[test]
    fn pods_are_divided_while_one_does_not_report() {
        let mut trackers = Trackers::new(1);
        trackers.update(&pods(&[1, 2]));
        trackers.public_endpoints(&["10.1.0.1", "10.1.0.2"], "10.1.0.1");
        trackers.set_peers_share(true);
        let all = trackers.pods.clone();
        assert!(all[0].reported(0, 0));
        trackers.reports_changed();
        assert!(trackers.is_sharing(), "the other has said nothing yet");
        assert!(all[1].not_reporting());
        trackers.reports_changed();
        assert!(!trackers.is_sharing());
        assert_eq!(trackers.capacity(), 1);
        assert!(all[1].reported(0, 0));
        trackers.reports_changed();
        assert!(trackers.is_sharing());
        assert!(all[1].not_reporting());
        trackers.reports_changed();
        trackers.update(&pods(&[1]));
        assert!(trackers.is_sharing());
        // At zero and afterwards the last answers count.
        trackers.update(&pods(&[]));
        trackers.update(&pods(&[3, 4]));
        assert!(trackers.is_sharing());
        assert!(trackers.pods[0].not_reporting());
        trackers.reports_changed();
        assert!(!trackers.is_sharing());
    }

    /// A new pod gets a few requests at once and more as it answers; alone it gets all. With a limit,
    /// too.
    #[test]
    fn new_pods_are_ramped() {
        for limit in [0, 500] {
            let mut trackers = Trackers::new(limit);
            trackers.update(&pods(&[1]));
            let held: Vec<_> = (0..300)
                .map(|_| trackers.acquire(0, |_| 0).unwrap())
                .collect();
            held.iter().for_each(|it| it.release());
            let _busy: Vec<_> = (0..100)
                .map(|_| trackers.acquire(0, |_| 0).unwrap())
                .collect();
            trackers.update(&pods(&[1, 2]));
            let mut of_new = || {
                (0..100)
                    .map(|_| trackers.acquire(0, |_| 0).unwrap())
                    .filter(|it| it.dest() == dest(2))
                    .collect::<Vec<_>>()
            };
            let first = of_new();
            assert_eq!(first.len(), 16, "limit {limit}");
            first.iter().for_each(|it| it.release());
            assert_eq!(of_new().len(), 32, "limit {limit}");
        }
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
