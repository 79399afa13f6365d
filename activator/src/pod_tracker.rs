//! One destination of a revision and the requests in flight there.
//!
//! Counts are changed only under the lock of the revision's throttler; they are atomics so that a
//! snapshot, and a request that outlives the destination's listing, can hold the tracker by itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use crate::affinity::{self, Place};
use crate::picker::Candidate;

/// A destination with its slots. Survives updates as long as its address stays listed.
// Each request writes to it; sharing cache lines, two threads slow each other down by a fifth.
#[derive(Debug)]
#[repr(align(128))]
pub struct PodTracker {
    dest: SocketAddr,
    /// The sort key that all activators agree on.
    text: Box<str>,
    /// Of the text; for sessions.
    hash: u64,
    /// `u32::MAX` = unlimited.
    capacity: u32,
    in_flight: AtomicU32,
    /// Requests that were here and are over, up to [`RAMPED`].
    served: AtomicU32,
    /// Requests of others at the pod, as of its last answer.
    others: AtomicU32,
    /// Whether the pod says how busy it is, which only queue-proxies of ours do.
    reports: AtomicU8,
    /// The queue-proxy said it is full although we see a free slot: others use the pod too.
    full: AtomicBool,
    cluster_ip: bool,
}

/// The pod has not answered a request yet.
const UNKNOWN: u8 = 0;
/// Its last answer said how busy it is.
const REPORTS: u8 = 1;
/// Its last answer did not.
const SILENT: u8 = 2;

/// What a new pod gets at once.
const RAMP_START: u32 = 16;
/// After so many requests a pod is not new any more. Each that ends lets one more run beside
/// [`RAMP_START`], so a pod that answers quickly is ramped quickly.
const RAMPED: u32 = 256;
/// Added to the weight of a pod that has enough for now.
const RAMPING_WEIGHT: u32 = 1 << 30;

// === impl PodTracker ===

impl PodTracker {
    /// A pod that executes `container_concurrency` requests at a time; 0 = unlimited.
    pub fn pod(dest: SocketAddr, container_concurrency: u32) -> Self {
        let capacity = match container_concurrency {
            0 => u32::MAX,
            limit => limit,
        };
        Self::new(dest, capacity, false)
    }

    /// The address of the private Service; the revision's own capacity is its limit.
    pub fn cluster_ip(dest: SocketAddr) -> Self {
        Self::new(dest, u32::MAX, true)
    }

    fn new(dest: SocketAddr, capacity: u32, cluster_ip: bool) -> Self {
        let text: Box<str> = dest.to_string().into();
        Self {
            dest,
            hash: affinity::hash(text.as_bytes()),
            text,
            capacity,
            in_flight: AtomicU32::new(0),
            served: AtomicU32::new(0),
            others: AtomicU32::new(0),
            reports: AtomicU8::new(UNKNOWN),
            full: AtomicBool::new(false),
            cluster_ip,
        }
    }

    /// Where requests go.
    pub fn dest(&self) -> SocketAddr {
        self.dest
    }

    /// The address as text, the order of which divides pods among activators.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether this is the private Service and not a pod.
    pub fn is_cluster_ip(&self) -> bool {
        self.cluster_ip
    }

    /// Slots; `u32::MAX` = unlimited.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn reserve(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a slot back.
    pub fn release(&self) {
        let before = self.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a slot is given back once");
        let served = self.served.load(Ordering::Relaxed);
        if served < RAMPED {
            self.served.store(served + 1, Ordering::Relaxed);
        }
    }

    /// The pod said how many requests it has, all activators' together; true unless it did so the
    /// last time, too.
    pub(crate) fn reported(&self, executing: u32, waiting: u32) -> bool {
        let all = executing.saturating_add(waiting);
        let others = all.saturating_sub(self.in_flight());
        self.others.store(others, Ordering::Relaxed);
        self.reports.swap(REPORTS, Ordering::Relaxed) != REPORTS
    }

    /// The pod answered without saying so; true unless it did so the last time, too.
    pub(crate) fn not_reporting(&self) -> bool {
        self.others.store(0, Ordering::Relaxed);
        self.reports.swap(SILENT, Ordering::Relaxed) != SILENT
    }

    /// Whether the pod says how busy it is; `None` before its first answer.
    pub(crate) fn reports(&self) -> Option<bool> {
        match self.reports.load(Ordering::Relaxed) {
            UNKNOWN => None,
            reports => Some(reports == REPORTS),
        }
    }

    /// What the pod has to do, as far as is known here.
    pub(crate) fn load(&self) -> u32 {
        let others = self.others.load(Ordering::Relaxed);
        self.in_flight().saturating_add(others)
    }

    /// Takes the pod out of the choice, or back in; true when that was a change.
    pub(crate) fn set_full(&self, full: bool) -> bool {
        self.full.swap(full, Ordering::Relaxed) != full
    }
}

impl Place for std::sync::Arc<PodTracker> {
    fn address(&self) -> SocketAddr {
        self.dest
    }

    fn hash(&self) -> u64 {
        self.hash
    }

    fn is_unlimited(&self) -> bool {
        self.capacity == u32::MAX
    }
}

impl Candidate for std::sync::Arc<PodTracker> {
    fn has_free_slot(&self) -> bool {
        !self.full.load(Ordering::Relaxed) && self.in_flight() < self.capacity
    }

    fn weight(&self) -> u32 {
        let ramping = if self.is_ramping() { RAMPING_WEIGHT } else { 0 };
        self.in_flight().saturating_add(ramping)
    }

    fn is_ramping(&self) -> bool {
        let served = self.served.load(Ordering::Relaxed);
        served < RAMPED && !self.cluster_ip && self.in_flight() >= RAMP_START + served
    }
}
