//! The breaker against a naive model, and the scenarios of `pkg/queue/breaker_test.go`.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

use super::*;

fn breaker(queue_depth: i64, max_concurrency: i64, initial_capacity: i64) -> Breaker {
    Breaker::new(BreakerParams {
        queue_depth,
        max_concurrency,
        initial_capacity,
    })
    .expect("legal parameters")
}

/// Everything a number of requests can do to a breaker.
#[derive(Clone, Copy, Debug)]
enum Op {
    Enter,
    /// The n-th executing one ends.
    Leave(usize),
    /// The n-th waiting one gives up, woken or not.
    Cancel(usize),
    Reserve,
    Release(usize),
    SetCapacity(u32),
    /// The n-th waiting one is polled, woken or not.
    Poll(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Enter),
        5 => (0..8usize).prop_map(Op::Leave),
        2 => (0..8usize).prop_map(Op::Cancel),
        1 => Just(Op::Reserve),
        1 => (0..4usize).prop_map(Op::Release),
        1 => (0..6u32).prop_map(Op::SetCapacity),
        3 => (0..8usize).prop_map(Op::Poll),
    ]
}

/// What the breaker ought to do, written as plainly as possible.
#[derive(Debug)]
struct Model {
    limit: u64,
    capacity: u32,
    reserved: u64,
    active: Vec<u32>,
    line: VecDeque<u32>,
}

impl Model {
    fn in_flight(&self) -> u64 {
        (self.active.len() + self.line.len()) as u64 + self.reserved
    }

    fn has_room(&self) -> bool {
        (self.active.len() as u64) + self.reserved < u64::from(self.capacity)
    }

    fn settle(&mut self) {
        while self.has_room() {
            let Some(next) = self.line.pop_front() else {
                return;
            };
            self.active.push(next);
        }
    }
}

/// Drives breaker and model together.
struct Run {
    breaker: Breaker,
    model: Model,
    /// Not yet ready, in order of arrival; some may have been granted a permit without seeing it.
    waiting: Vec<(u32, Spawn<Enter>)>,
    executing: Vec<(u32, Permit)>,
    reservations: Vec<Permit>,
    names: u32,
}

impl Run {
    fn step(&mut self, op: Op) {
        match op {
            Op::Enter => self.enter(),
            Op::Leave(at) if !self.executing.is_empty() => {
                let (name, permit) = self.executing.remove(at % self.executing.len());
                drop(permit);
                self.model.active.retain(|other| *other != name);
            }
            Op::Cancel(at) if !self.waiting.is_empty() => {
                let (name, enter) = self.waiting.remove(at % self.waiting.len());
                drop(enter);
                self.model.line.retain(|other| *other != name);
                self.model.active.retain(|other| *other != name);
            }
            Op::Reserve => {
                let expected = self.model.in_flight() < self.model.limit && self.model.has_room();
                let got = self.breaker.try_reserve();
                assert_eq!(got.is_some(), expected, "reserve");
                self.model.reserved += u64::from(expected);
                self.reservations.extend(got);
            }
            Op::Release(at) if !self.reservations.is_empty() => {
                drop(self.reservations.remove(at % self.reservations.len()));
                self.model.reserved -= 1;
            }
            Op::SetCapacity(capacity) => {
                self.breaker.set_capacity(capacity);
                self.model.capacity = capacity;
            }
            Op::Poll(at) if !self.waiting.is_empty() => {
                let at = at % self.waiting.len();
                self.poll(at);
            }
            Op::Leave(_) | Op::Cancel(_) | Op::Release(_) | Op::Poll(_) => {}
        }
        self.model.settle();
        self.check();
    }

    fn enter(&mut self) {
        let name = self.names;
        self.names += 1;
        let mut enter = spawn(self.breaker.enter());
        match enter.poll() {
            Poll::Ready(Ok(permit)) => {
                assert!(self.model.has_room() && self.model.line.is_empty());
                self.model.active.push(name);
                self.executing.push((name, permit));
            }
            Poll::Ready(Err(Full)) => assert_eq!(self.model.in_flight(), self.model.limit),
            Poll::Pending => {
                assert!(self.model.in_flight() < self.model.limit);
                self.model.line.push_back(name);
                self.waiting.push((name, enter));
            }
        }
    }

    fn poll(&mut self, at: usize) {
        let (name, enter) = &mut self.waiting[at];
        let name = *name;
        let woken = enter.is_woken();
        if let Poll::Ready(entered) = enter.poll() {
            assert!(woken, "{name} became ready without being woken");
            assert!(self.model.active.contains(&name), "{name} jumped the line");
            drop(self.waiting.remove(at));
            let permit = entered.expect("a waiter has its slot");
            self.executing.push((name, permit));
        } else {
            assert!(self.model.line.contains(&name), "{name} was forgotten");
        }
    }

    fn check(&self) {
        let (breaker, model) = (&self.breaker, &self.model);
        assert_eq!(breaker.active(), model.active.len() as u64, "active");
        assert_eq!(breaker.queued(), model.line.len() as u64, "queued");
        assert_eq!(breaker.reserved(), model.reserved, "reserved");
        assert_eq!(breaker.in_flight(), model.in_flight(), "in flight");
        assert_eq!(breaker.capacity(), model.capacity, "capacity");
        assert!(model.in_flight() <= model.limit, "more than all slots");
        for (name, enter) in &self.waiting {
            // No lost wake-up: whoever the model lets execute has been woken.
            if model.active.contains(name) {
                assert!(enter.is_woken(), "{name} sleeps with a permit");
            }
        }
    }

    fn finish(mut self) {
        self.step(Op::SetCapacity(1));
        while !self.waiting.is_empty()
            || !self.executing.is_empty()
            || !self.reservations.is_empty()
        {
            for at in (0..self.waiting.len()).rev() {
                self.poll(at);
            }
            self.step(Op::Leave(0));
            self.step(Op::Release(0));
        }
        assert_eq!(self.breaker.in_flight(), 0, "slots leaked");
        assert!(self.breaker.shared.slots.lock().is_clean());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_the_model(
        depth in 1..6i64,
        max in 0..5i64,
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut run = Run {
            breaker: breaker(depth, max, max),
            model: Model {
                limit: (depth + max) as u64,
                capacity: max as u32,
                reserved: 0,
                active: Vec::new(),
                line: VecDeque::new(),
            },
            waiting: Vec::new(),
            executing: Vec::new(),
            reservations: Vec::new(),
            names: 0,
        };
        for op in ops {
            run.step(op);
        }
        run.finish();
    }

    /// With a fixed capacity and no bound in reach, a breaker is a fair semaphore.
    #[test]
    fn admits_in_the_order_of_a_fair_semaphore(
        permits in 1..4usize,
        ops in proptest::collection::vec((any::<bool>(), 0..8usize), 1..80),
    ) {
        let breaker = breaker(1000, permits as i64, permits as i64);
        let semaphore = Arc::new(tokio::sync::Semaphore::new(permits));
        let mut ours: Vec<(Spawn<Enter>, Option<Permit>)> = Vec::new();
        let mut theirs = Vec::new();
        for (arrive, at) in ops {
            if arrive || ours.is_empty() {
                ours.push((spawn(breaker.enter()), None));
                theirs.push((spawn(Arc::clone(&semaphore).acquire_owned()), None));
            } else {
                let at = at % ours.len();
                drop(ours.remove(at));
                drop(theirs.remove(at));
            }
            for (enter, permit) in &mut ours {
                if permit.is_none() && let Poll::Ready(entered) = enter.poll() {
                    *permit = entered.ok();
                }
            }
            for (acquire, permit) in &mut theirs {
                if permit.is_none() && let Poll::Ready(acquired) = acquire.poll() {
                    *permit = acquired.ok();
                }
            }
            let ours: Vec<_> = ours.iter().map(|(_, permit)| permit.is_some()).collect();
            let theirs: Vec<_> = theirs.iter().map(|(_, permit)| permit.is_some()).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}

/// `TestBreakerOverload`, section 12 row 15: depth and concurrency add up.
#[test]
fn eleven_times_the_limit_is_admitted() {
    let breaker = breaker(20, 2, 2);
    let admitted: Vec<_> = (0..22).map(|_| breaker.enter()).collect();
    assert_eq!((breaker.active(), breaker.queued()), (2, 20));
    assert_eq!(
        assert_ready!(spawn(breaker.enter()).poll()).err(),
        Some(Full)
    );
    drop(admitted);
    assert_eq!(breaker.in_flight(), 0);
    assert_eq!(Full.to_string(), "pending request queue full");
}

/// `TestBreakerCancel`, section 12 row 16.
#[test]
fn a_cancelled_waiter_frees_its_slot_at_once() {
    let breaker = breaker(1, 1, 1);
    let permit = assert_ready!(spawn(breaker.enter()).poll());
    for _ in 0..1000 {
        let mut waiter = spawn(breaker.enter());
        assert_pending!(waiter.poll());
        assert_eq!(breaker.in_flight(), 2);
        drop(waiter);
        assert_eq!(breaker.in_flight(), 1);
    }
    drop(permit);
    assert_eq!(breaker.in_flight(), 0);
}

/// A slot granted to a waiter that leaves before it looks is not lost.
#[test]
fn an_unseen_permit_goes_to_the_next_in_line() {
    let breaker = breaker(10, 1, 1);
    let permit = assert_ready!(spawn(breaker.enter()).poll());
    let mut first = spawn(breaker.enter());
    let mut second = spawn(breaker.enter());
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    drop(permit);
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    assert!(second.is_woken());
    assert_ready!(second.poll()).expect("admitted");
}

/// The declared maximum costs nothing to make.
#[test]
fn the_largest_limit_is_cheap() {
    let breaker = breaker(10_000, i64::from(i32::MAX), 0);
    let mut waiter = spawn(breaker.enter());
    assert_pending!(waiter.poll());
    breaker.set_capacity(i32::MAX as u32);
    assert!(waiter.is_woken());
    assert_eq!(breaker.capacity(), 2_147_483_647);
}

/// `TestInfiniteBreaker`: all waiters pass when the gate opens.
#[test]
fn the_gate_lets_everybody_through() {
    let gate = InfiniteBreaker::new(false);
    let mut waiters: Vec<_> = (0..100).map(|_| spawn(gate.enter())).collect();
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    assert!(gate.try_reserve().is_none());
    gate.set_capacity(7);
    assert_eq!((gate.capacity(), gate.active(), gate.queued()), (1, 100, 0));
    let permits: Vec<_> = waiters
        .iter_mut()
        .map(|waiter| assert_ready!(waiter.poll()))
        .collect();
    drop(permits);
    assert_eq!(gate.active(), 0);
}
