//! Waiting, binding and leaving, with hand-polled futures; then a seeded simulation.

use std::net::SocketAddr;

use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};

use super::state::{MAX_HANDED, SWEEP_SLACK};
use super::*;
use crate::options::Limits;
use crate::picker::Candidate as _;

fn limits(per_revision: usize, in_all: usize) -> QueueBudget {
    QueueBudget::new(Limits {
        max_queued_per_revision: per_revision,
        max_queued: in_all,
        ..Limits::default()
    })
}

fn throttler(container_concurrency: u32) -> Arc<RevisionThrottler> {
    with_budget(container_concurrency, limits(100_000, 100_000))
}

fn with_budget(container_concurrency: u32, budget: QueueBudget) -> Arc<RevisionThrottler> {
    let id = RevisionId::new("default", "hello-00001");
    RevisionThrottler::new(id, container_concurrency, budget, 7)
}

fn dest(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8012))
}

fn pods(last: &[u8]) -> Usable {
    Usable::Pods(last.iter().copied().map(dest).collect())
}

fn acquire(throttler: &Arc<RevisionThrottler>) -> Spawn<Acquire> {
    spawn(throttler.acquire(|| 0))
}

fn only_at(throttler: &Arc<RevisionThrottler>, last: u8) -> Spawn<Acquire> {
    let session = Some(Session::only_at(1, dest(last)));
    spawn(throttler.acquire_again(session, || 1))
}

/// Upstream's `TestThrottlerSuccesses`: a free slot is given without waiting.
#[test]
fn binds_at_once_when_a_slot_is_free() {
    let throttler = throttler(1);
    throttler.update(&pods(&[1, 2]));
    let first = assert_ready_ok!(acquire(&throttler).poll());
    let second = assert_ready_ok!(acquire(&throttler).poll());
    assert_eq!(first.tracker().dest(), dest(1));
    assert_eq!(second.tracker().dest(), dest(2));
    assert_pending!(acquire(&throttler).poll());
}

#[test]
fn hands_a_slot_to_the_longest_waiting() {
    let throttler = throttler(1);
    let mut first = acquire(&throttler);
    let mut second = acquire(&throttler);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    throttler.update(&pods(&[1]));
    assert!(first.is_woken());
    assert!(!second.is_woken());
    let permit = assert_ready_ok!(first.poll());
    drop(permit);
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
}

/// Edge case 16: an unlimited revision lets all of 50,000 waiters go together.
#[test]
fn edge_case_16_unlimited_releases_all() {
    let throttler = throttler(0);
    let mut waiting: Vec<_> = (0..50_000).map(|_| acquire(&throttler)).collect();
    for one in &mut waiting {
        assert_pending!(one.poll());
    }
    assert_eq!(throttler.snapshot().queued, 50_000);
    throttler.update(&pods(&[1, 2]));
    // As many at once as others can run between, and each that goes lets another one go.
    let woken = waiting.iter().filter(|one| one.is_woken()).count();
    assert_eq!(woken, MAX_HANDED);
    let permits: Vec<_> = waiting
        .iter_mut()
        .map(|one| assert_ready_ok!(one.poll()))
        .collect();
    assert_eq!(throttler.snapshot().in_flight, permits.len());
    assert_eq!(throttler.snapshot().queued, 0);
}

/// Edge case 17: upstream's nominal queue depth of 10,000 is no limit.
#[test]
fn edge_case_17_more_than_ten_thousand_wait() {
    let throttler = with_budget(2, QueueBudget::new(Limits::default()));
    let waiting: Vec<_> = (0..10_500).map(|_| acquire(&throttler)).collect();
    assert!(waiting.iter().all(|one| one.is_waiting()));
}

/// Edge case 18: lowering the capacity interrupts nobody and admits nobody.
#[test]
fn edge_case_18_capacity_below_in_flight() {
    let throttler = throttler(2);
    let through = |backends| Usable::ClusterIp {
        dest: dest(200),
        backends,
    };
    throttler.update(&through(2));
    let mut running: Vec<_> = (0..4)
        .map(|_| assert_ready_ok!(acquire(&throttler).poll()))
        .collect();
    let mut waiting = acquire(&throttler);
    assert_pending!(waiting.poll());
    throttler.update(&through(1));
    assert_eq!(throttler.snapshot().in_flight, 4);
    running.truncate(2);
    assert_pending!(waiting.poll());
    running.truncate(1);
    let permit = assert_ready_ok!(waiting.poll());
    assert!(permit.tracker().is_cluster_ip());
}

/// Edge case 19: when every pod goes between arrival and binding, requests simply wait on.
#[test]
fn edge_case_19_all_pods_vanish() {
    for limit in [0, 1, 10] {
        let throttler = throttler(limit);
        throttler.update(&pods(&[1]));
        throttler.update(&pods(&[]));
        let mut waiting = acquire(&throttler);
        assert_pending!(waiting.poll());
        throttler.update(&pods(&[2]));
        assert_eq!(assert_ready_ok!(waiting.poll()).tracker().dest(), dest(2));
    }
}

/// Edge case 51: who leaves the line is gone from it at once, and its slot goes on.
#[test]
fn edge_case_51_leaving_the_line() {
    let budget = limits(10, 10);
    let throttler = with_budget(1, budget.clone());
    let mut first = acquire(&throttler);
    let mut second = acquire(&throttler);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let third = acquire(&throttler);
    assert_eq!(budget.queued(), 3);
    drop(third);
    assert_eq!(budget.queued(), 2);
    throttler.update(&pods(&[1]));
    // Bound, but never polled again: the slot is the next one's.
    drop(first);
    assert!(second.is_woken());
    let permit = assert_ready_ok!(second.poll());
    assert_eq!(throttler.snapshot().in_flight, 1);
    drop(permit);
    assert_eq!(throttler.snapshot().in_flight, 0);
    assert_eq!(budget.queued(), 0);
}

#[test]
fn queue_limits_hold_per_revision_and_in_all() {
    let budget = limits(2, 3);
    let one = with_budget(1, budget.clone());
    let other = with_budget(1, budget.clone());
    let held = [acquire(&one), acquire(&one)];
    assert_eq!(
        assert_ready_err!(acquire(&one).poll()),
        Refused::RevisionQueueFull
    );
    // The other revision still has room.
    let last = acquire(&other);
    assert!(last.is_waiting());
    assert_eq!(
        assert_ready_err!(acquire(&other).poll()),
        Refused::QueuesFull
    );
    drop(held);
    assert!(acquire(&other).is_waiting());
    drop(last);
    assert_eq!(budget.queued(), 0);
}

/// Long queues of some leave places for the short ones of others.
#[test]
fn no_revision_takes_every_place() {
    let budget = limits(1000, 1000);
    let (greedy, modest) = (
        with_budget(1, budget.clone()),
        with_budget(1, budget.clone()),
    );
    let mut held: Vec<_> = (0..1000).map(|_| greedy.acquire(|| 0)).collect();
    held.retain(Acquire::is_waiting);
    assert_eq!(held.len(), 900);
    let mut short: Vec<_> = (0..100).map(|_| modest.acquire(|| 0)).collect();
    short.retain(Acquire::is_waiting);
    assert_eq!(short.len(), 10);
    drop(held);
    assert!(modest.acquire(|| 0).is_waiting());
    drop(short);
    assert_eq!(budget.queued(), 0);
}

#[test]
fn deletion_refuses_the_waiting_and_the_coming() {
    let budget = limits(10, 10);
    let throttler = with_budget(1, budget.clone());
    let mut waiting = acquire(&throttler);
    assert_pending!(waiting.poll());
    throttler.delete();
    assert!(waiting.is_woken());
    assert_eq!(assert_ready_err!(waiting.poll()), Refused::RevisionDeleted);
    assert_eq!(
        assert_ready_err!(acquire(&throttler).poll()),
        Refused::RevisionDeleted
    );
    assert_eq!(budget.queued(), 0);
}

#[test]
fn a_full_pod_is_passed_over_until_it_may_be_tried_again() {
    let throttler = throttler(2);
    throttler.update(&pods(&[1, 2]));
    let refused = assert_ready_ok!(acquire(&throttler).poll());
    let full = Arc::clone(refused.tracker());
    assert!(throttler.full(&full));
    assert!(!throttler.full(&full));
    drop(refused);
    let again: Vec<_> = (0..2)
        .map(|_| assert_ready_ok!(spawn(throttler.acquire_again(None, || 0)).poll()))
        .collect();
    assert!(
        again
            .iter()
            .all(|permit| permit.tracker().dest() == dest(2))
    );
    let mut late = acquire(&throttler);
    let mut first_in_line = spawn(throttler.acquire_again(None, || 0));
    assert_pending!(late.poll());
    assert_pending!(first_in_line.poll());
    throttler.not_full(&full);
    let permit = assert_ready_ok!(first_in_line.poll());
    assert_eq!(permit.tracker().dest(), dest(1));
    assert_ready!(late.poll()).unwrap();
}

/// Requests that still run on a pod that left do not keep another pod's slot from a waiter.
#[test]
fn removed_pods_do_not_hold_slots_of_others() {
    let throttler = throttler(1);
    throttler.update(&pods(&[1, 2]));
    let old: Vec<_> = (0..2)
        .map(|_| assert_ready_ok!(acquire(&throttler).poll()))
        .collect();
    throttler.update(&pods(&[3]));
    let fresh = assert_ready_ok!(acquire(&throttler).poll());
    assert_eq!(fresh.tracker().dest(), dest(3));
    // A pod that comes back while its request runs is a new tracker, as upstream's is.
    drop(old);
    assert_eq!(throttler.snapshot().in_flight, 1);
}

/// Clients that come and go at a cold revision leave nothing behind.
#[test]
fn a_cold_revision_keeps_no_memory_of_those_who_left() {
    let throttler = throttler(1);
    let _stays = acquire(&throttler);
    for _ in 0..100_000 {
        drop(acquire(&throttler));
    }
    let state = throttler.state.lock();
    assert!(state.line.len() <= 2 + SWEEP_SLACK, "{}", state.line.len());
    assert!(state.waiters.capacity() < 64);
}

/// Nobody else waits because of a request that waits for one pod, and it goes first there.
#[test]
fn a_request_may_wait_for_one_pod() {
    let throttler = throttler(1);
    throttler.update(&pods(&[1, 2]));
    let at_first = assert_ready_ok!(acquire(&throttler).poll());
    let mut first = only_at(&throttler, 1);
    let mut second = only_at(&throttler, 1);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(throttler.snapshot().queued, 2);
    let at_second = assert_ready_ok!(acquire(&throttler).poll());
    assert_eq!(at_second.tracker().dest(), dest(2));
    let mut any = acquire(&throttler);
    assert_pending!(any.poll());
    drop(at_second);
    let at_second = assert_ready_ok!(any.poll());
    let mut any = acquire(&throttler);
    assert_pending!(any.poll());
    drop(at_first);
    assert!(first.is_woken() && !second.is_woken() && !any.is_woken());
    let at_first = assert_ready_ok!(first.poll());
    assert_eq!(at_first.tracker().dest(), dest(1));
    // Who leaves leaves nothing behind.
    drop(second);
    assert_eq!(throttler.snapshot().queued, 1);
    assert!(throttler.state.lock().pinned.is_empty());
    drop(at_first);
    assert_ready_ok!(any.poll());
    drop(at_second);
    assert_eq!(throttler.snapshot().queued_bytes, 0);
    assert_eq!(throttler.snapshot().in_flight, 0);
}

/// When the pod goes the request takes any other, in its turn, and does not wait for it when it comes
/// back.
#[test]
fn who_waits_for_a_pod_that_goes_takes_another() {
    let throttler = throttler(1);
    throttler.update(&pods(&[1, 2]));
    let _at_first = assert_ready_ok!(acquire(&throttler).poll());
    let at_second = assert_ready_ok!(acquire(&throttler).poll());
    let mut any = acquire(&throttler);
    let mut first = only_at(&throttler, 1);
    let mut second = only_at(&throttler, 1);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(any.poll());
    throttler.update(&pods(&[2]));
    assert!(!first.is_woken());
    drop(at_second);
    assert!(first.is_woken() && !second.is_woken() && !any.is_woken());
    let at_second = assert_ready_ok!(first.poll());
    assert_eq!(at_second.tracker().dest(), dest(2));
    // Another tracker at the same address.
    throttler.update(&pods(&[1, 2]));
    assert!(second.is_woken() && !any.is_woken());
    let at_first = assert_ready_ok!(second.poll());
    assert_eq!(at_first.tracker().dest(), dest(1));
    let mut third = only_at(&throttler, 3);
    assert_pending!(third.poll());
    drop(at_first);
    assert!(third.is_woken(), "it never was listed");
}

/// A slot of a pod that has said that it is full is none.
#[test]
fn a_full_pod_is_waited_for_until_it_may_be_tried_again() {
    let throttler = throttler(1);
    throttler.update(&pods(&[1, 2]));
    let at_first = assert_ready_ok!(acquire(&throttler).poll());
    let mut waiting = only_at(&throttler, 1);
    assert_pending!(waiting.poll());
    throttler.update(&pods(&[1, 2]));
    assert!(!waiting.is_woken());
    throttler.full(at_first.tracker());
    drop(at_first);
    assert!(!waiting.is_woken());
    let tracker = Arc::clone(throttler.state.lock().trackers.find(dest(1)).unwrap());
    throttler.not_full(&tracker);
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.poll());
}

#[test]
fn who_waits_for_one_pod_is_refused_with_the_revision() {
    let throttler = throttler(1);
    throttler.update(&pods(&[1]));
    let _running = assert_ready_ok!(acquire(&throttler).poll());
    let mut waiting = only_at(&throttler, 1);
    assert_pending!(waiting.poll());
    throttler.delete();
    assert_eq!(assert_ready_err!(waiting.poll()), Refused::RevisionDeleted);
    assert_eq!(throttler.snapshot().queued, 0);
}

// --- simulation ---

struct Simulation {
    random: fastrand::Rng,
    throttler: Arc<RevisionThrottler>,
    limit: u32,
    waiting: Vec<Spawn<Acquire>>,
    running: Vec<Permit>,
    full: Vec<Arc<PodTracker>>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let limit = random.u32(0..6);
        Self {
            throttler: throttler(limit),
            random,
            limit,
            waiting: Vec::new(),
            running: Vec::new(),
            full: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..30 => self.waiting.push(acquire(&self.throttler)),
            30..40 => {
                let last = self.random.u8(1..9);
                self.waiting.push(only_at(&self.throttler, last));
            }
            40..70 if !self.running.is_empty() => {
                let at = self.random.usize(..self.running.len());
                self.running.swap_remove(at);
            }
            70..80 if !self.waiting.is_empty() => {
                let at = self.random.usize(..self.waiting.len());
                drop(self.waiting.swap_remove(at));
            }
            80..88 => {
                let listed: Vec<u8> = (1..9).filter(|_| self.random.bool()).collect();
                self.throttler.update(&pods(&listed));
            }
            88..92 => {
                let count = self.random.usize(1..5);
                let own = self.random.usize(..count);
                let addresses: Vec<_> = (0..count).map(|at| format!("10.1.0.{at}")).collect();
                self.throttler
                    .public_endpoints(&addresses, &format!("10.1.0.{own}"));
            }
            92..96 if !self.running.is_empty() => {
                let at = self.random.usize(..self.running.len());
                let permit = self.running.swap_remove(at);
                let tracker = Arc::clone(permit.tracker());
                self.throttler.full(&tracker);
                self.full.push(tracker);
                drop(permit);
                self.waiting
                    .push(spawn(self.throttler.acquire_again(None, || 0)));
            }
            96..100 => {
                for tracker in self.full.drain(..) {
                    self.throttler.not_full(&tracker);
                }
            }
            _ => {}
        }
        self.poll_some();
    }

    /// Some tasks run late, as on a busy runtime.
    fn poll_some(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            if self.random.u32(0..4) == 0 {
                at += 1;
                continue;
            }
            match self.waiting[at].poll() {
                Poll::Ready(permit) => {
                    self.running.push(permit.expect("nothing refuses here"));
                    drop(self.waiting.remove(at));
                }
                Poll::Pending => at += 1,
            }
        }
    }

    fn check(&self) {
        let state = self.throttler.state.lock();
        let bound = state.waiters.iter().filter(|(_, w)| w.bound.is_some());
        let ready = self
            .waiting
            .iter()
            .filter(|one| matches!(one.place, Place::Ready(_)));
        assert_eq!(
            state.in_flight,
            self.running.len() + bound.count() + ready.count(),
            "permits out = slots taken"
        );
        assert_eq!(state.queued.count, self.throttler.budget.queued());
        assert!(state.handed <= MAX_HANDED);
        for tracker in &state.trackers.assigned().to_vec() {
            if self.limit > 0 {
                assert!(tracker.in_flight() <= self.limit, "limit exceeded");
            }
            assert!(
                state.in_line() == 0 || state.handed == MAX_HANDED || !tracker.has_free_slot(),
                "an idle slot beside a waiter"
            );
        }
        for pinned in &state.pinned {
            let tracker = state.trackers.find(pinned.tracker.dest()).unwrap();
            assert!(Arc::ptr_eq(tracker, &pinned.tracker));
            assert!(!pinned.line.is_empty());
            assert!(
                state.handed == MAX_HANDED || !tracker.has_free_slot(),
                "an idle slot beside its waiter"
            );
        }
    }
}

#[test]
fn simulation_keeps_limits_and_leaves_no_slot_idle() {
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..400 {
            simulation.step();
            simulation.check();
        }
        // Everybody is served in the end.
        for tracker in simulation.full.drain(..) {
            simulation.throttler.not_full(&tracker);
        }
        simulation.throttler.update(&pods(&[1]));
        while !(simulation.waiting.is_empty() && simulation.running.is_empty()) {
            simulation.running.clear();
            simulation.poll_some();
        }
        assert_eq!(simulation.throttler.snapshot().in_flight, 0, "seed {seed}");
    }
}
