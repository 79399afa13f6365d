//! Several activators of ours in front of the same pods, in simulated time: each has its own
//! throttler, the pods enforce the limit as queue-proxies do, and nobody sees more than answers.
//!
//! A failure prints its seed; the scenario of a seed is always the same.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio_test::task::{Spawn, spawn};

use super::*;
use crate::options::Limits;

/// A millisecond is a step. This is the driver's pause for a pod that said it is full.
const FULL_PAUSE: u64 = 20;
/// A slot may be idle beside a waiter for a pause and the way there and back.
const DISPATCH_INTERVAL: u64 = FULL_PAUSE + 3;
const MAX_REDISPATCHES: u32 = 8;
/// How many steps a request takes on average.
const MEAN_SERVICE: f64 = 30.0;

struct World {
    random: fastrand::Rng,
    now: u64,
    limit: u32,
    activators: Vec<Activator>,
    pods: Vec<Pod>,
    served: usize,
}

struct Activator {
    throttler: Arc<RevisionThrottler>,
    line: Vec<Waiting>,
    /// Requests on their way to a pod.
    sent: Vec<(Permit, u32)>,
    /// Pods to be tried again, and when.
    pauses: VecDeque<(u64, Arc<PodTracker>)>,
}

/// A request in line, with the times it may be sent elsewhere.
struct Waiting {
    acquire: Spawn<Acquire>,
    attempts: u32,
    is_new: bool,
}

/// A queue-proxy: `limit` requests execute, those that may wait do so here.
struct Pod {
    dest: SocketAddr,
    listed: bool,
    /// Whose, and until when.
    executing: Vec<(usize, Permit, u64)>,
    waiting: VecDeque<(usize, Permit)>,
    /// Since when a slot is free while somebody waits in an activator.
    idle_since: Option<u64>,
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let limit = random.u32(1..6);
        let activators = random.usize(2..6);
        let pods = random.u8(1..9);
        let budget = QueueBudget::new(Limits::default());
        let mut world = Self {
            now: 0,
            limit,
            activators: (0..activators)
                .map(|_| Activator {
                    throttler: RevisionThrottler::new(
                        RevisionId::new("default", "hello-00001"),
                        limit,
                        budget.clone(),
                        random.u64(..),
                    ),
                    line: Vec::new(),
                    sent: Vec::new(),
                    pauses: VecDeque::new(),
                })
                .collect(),
            pods: (1..=pods)
                .map(|last| Pod {
                    dest: SocketAddr::from(([10, 0, 0, last], 8012)),
                    listed: true,
                    executing: Vec::new(),
                    waiting: VecDeque::new(),
                    idle_since: None,
                })
                .collect(),
            served: 0,
            random,
        };
        world.list();
        world
    }

    /// Everyone learns the pods and the activators.
    fn list(&mut self) {
        let listed = self.pods.iter().filter(|pod| pod.listed);
        let usable = Usable::Pods(listed.map(|pod| pod.dest).collect());
        let count = self.activators.len();
        let addresses: Vec<_> = (0..count).map(|at| format!("10.1.0.{at}")).collect();
        for (activator, own) in self.activators.iter().zip(&addresses) {
            activator.throttler.update(&usable);
            activator.throttler.public_endpoints(&addresses, own);
            activator.throttler.set_peers_share(true);
            activator
                .throttler
                .change(|state| state.trackers.set_pods_report());
        }
    }

    /// `load` is the share of the pods' capacity that arrives.
    fn step(&mut self, load: f64) {
        self.now += 1;
        let slots = self.pods.len() * self.limit as usize;
        for _ in 0..slots {
            if self.random.f64() < load / MEAN_SERVICE {
                // Traffic is not spread evenly.
                let skewed = self.random.usize(..self.activators.len());
                let at = self.random.usize(..=skewed);
                let activator = &mut self.activators[at];
                let acquire = activator.throttler.acquire(|| 100);
                activator.line.push(Waiting::new(acquire, MAX_REDISPATCHES));
            }
        }
        if self.random.u32(0..300) == 0 {
            let at = self.random.usize(..self.pods.len());
            let others = self.pods.iter().filter(|pod| pod.listed).count();
            let pod = &mut self.pods[at];
            // One stays, or there is nothing to look at.
            pod.listed = !pod.listed || others == 1;
            self.list();
        }
        self.finish();
        self.deliver();
        self.bind();
        self.check();
    }

    /// Responses end; who waits at the pod is next.
    fn finish(&mut self) {
        for pod in &mut self.pods {
            let mut at = 0;
            while at < pod.executing.len() {
                if pod.executing[at].2 > self.now {
                    at += 1;
                    continue;
                }
                let executing = u32::try_from(pod.executing.len()).unwrap();
                let waiting = u32::try_from(pod.waiting.len()).unwrap();
                let (owner, permit, _) = pod.executing.swap_remove(at);
                let throttler = &self.activators[owner].throttler;
                throttler.reported(permit.tracker(), executing, waiting);
                drop(permit);
                self.served += 1;
            }
            while pod.executing.len() < self.limit as usize
                && let Some((owner, permit)) = pod.waiting.pop_front()
            {
                let until = self.now + self.random.u64(1..60);
                pod.executing.push((owner, permit, until));
            }
        }
    }

    /// Requests arrive at their pods, which take, keep or refuse them.
    fn deliver(&mut self) {
        for (owner, activator) in self.activators.iter_mut().enumerate() {
            while let Some((_, tracker)) = pop_due(&mut activator.pauses, self.now) {
                activator.throttler.not_full(&tracker);
            }
            for (permit, attempts) in activator.sent.drain(..) {
                let dest = permit.tracker().dest();
                let pods = &mut self.pods;
                let pod = pods.iter_mut().find(|pod| pod.dest == dest).unwrap();
                let free = pod.executing.len() < self.limit as usize && pod.waiting.is_empty();
                if free {
                    let until = self.now + self.random.u64(1..60);
                    pod.executing.push((owner, permit, until));
                } else if attempts == 0 {
                    pod.waiting.push_back((owner, permit));
                } else {
                    let tracker = Arc::clone(permit.tracker());
                    if activator.throttler.full(&tracker) {
                        activator.pauses.push_back((self.now + FULL_PAUSE, tracker));
                    }
                    let again = activator.throttler.acquire_again(None, || 100);
                    activator.line.push(Waiting::new(again, attempts - 1));
                    drop(permit);
                }
            }
        }
    }

    fn bind(&mut self) {
        for activator in &mut self.activators {
            let mut at = 0;
            while at < activator.line.len() {
                let waiting = &mut activator.line[at];
                let is_due = waiting.is_new || waiting.acquire.is_woken();
                waiting.is_new = false;
                if !is_due {
                    at += 1;
                    continue;
                }
                match waiting.acquire.poll() {
                    Poll::Ready(permit) => {
                        let attempts = activator.line.remove(at).attempts;
                        let permit = permit.expect("within every limit");
                        activator.sent.push((permit, attempts));
                    }
                    Poll::Pending => at += 1,
                }
            }
        }
    }

    fn check(&mut self) {
        let someone_waits = self.activators.iter().any(|it| !it.line.is_empty());
        for pod in &mut self.pods {
            assert!(pod.executing.len() <= self.limit as usize, "limit exceeded");
            let is_idle = pod.listed && pod.executing.len() < self.limit as usize;
            if !(is_idle && someone_waits) {
                pod.idle_since = None;
                continue;
            }
            let since = *pod.idle_since.get_or_insert(self.now);
            assert!(
                self.now - since <= DISPATCH_INTERVAL,
                "a slot of {} is idle beside a waiter since {since}, now {}",
                pod.dest,
                self.now
            );
        }
    }

    fn is_done(&self) -> bool {
        let quiet = |it: &Activator| it.line.is_empty() && it.sent.is_empty();
        self.activators.iter().all(quiet)
            && self
                .pods
                .iter()
                .all(|pod| pod.executing.is_empty() && pod.waiting.is_empty())
    }
}

// === impl Waiting ===

impl Waiting {
    fn new(acquire: Acquire, attempts: u32) -> Self {
        Self {
            acquire: spawn(acquire),
            attempts,
            is_new: true,
        }
    }
}

fn pop_due<T>(queue: &mut VecDeque<(u64, T)>, now: u64) -> Option<(u64, T)> {
    let is_due = queue.front().is_some_and(|(due, _)| *due <= now);
    is_due.then(|| queue.pop_front()).flatten()
}

#[test]
fn activators_share_pods_without_idle_slots() {
    for seed in 0..24 {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for step in 0..1_500 {
                // Bursts and lulls.
                world.step(if step % 500 < 300 { 1.3 } else { 0.2 });
            }
            let limit = world.now + 60_000;
            while !world.is_done() {
                world.step(0.0);
                assert!(world.now < limit, "someone waits for ever");
            }
            assert!(world.served > 30, "{}", world.served);
            for activator in &world.activators {
                assert_eq!(activator.throttler.snapshot().in_flight, 0);
            }
        });
        assert!(result.is_ok(), "seed {seed}");
    }
}
