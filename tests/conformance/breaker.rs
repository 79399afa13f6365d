//! Family `breaker`: admission op by op, and which parameters are legal.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};
use serving::breaker::{Breaker, BreakerParams, Enter, EnterGate, Full, InfiniteBreaker, Permit};

use super::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    match case["kind"].as_str() {
        Some("params") => Verdict::of(case, legal(case)),
        Some("breaker") => match Breaker::new(params(case)) {
            Ok(breaker) => Verdict::of(case, run(case, Bounded(breaker))),
            Err(error) => Verdict::of(case, json!(error.to_string())),
        },
        Some("infinite") => Verdict::of(case, run(case, Gate(InfiniteBreaker::new(false)))),
        other => Verdict::Missing(other.unwrap_or("breaker").to_owned()),
    }
}

fn params(case: &Value) -> BreakerParams {
    let number = |key: &str| case[key].as_i64().unwrap_or_default();
    BreakerParams {
        queue_depth: number("queueDepth"),
        max_concurrency: number("maxConcurrency"),
        initial_capacity: number("initialCapacity"),
    }
}

fn legal(case: &Value) -> Value {
    match Breaker::new(params(case)) {
        Ok(_) => json!({"valid": true, "message": ""}),
        Err(error) => json!({"valid": false, "message": error.to_string()}),
    }
}

/// The two kinds of breaker, seen alike.
trait Subject {
    type Enter: Future<Output = Result<Permit, Full>> + Unpin;
    fn enter(&self) -> Self::Enter;
    fn reserve(&self) -> Option<Permit>;
    fn set_capacity(&self, capacity: u32);
    fn state(&self) -> Value;
}

struct Bounded(Breaker);

impl Subject for Bounded {
    type Enter = Enter;
    fn enter(&self) -> Enter {
        self.0.enter()
    }
    fn reserve(&self) -> Option<Permit> {
        self.0.try_reserve()
    }
    fn set_capacity(&self, capacity: u32) {
        self.0.set_capacity(capacity);
    }
    fn state(&self) -> Value {
        json!({
            "active": self.0.active(),
            "queued": self.0.queued(),
            "reserved": self.0.reserved(),
            "capacity": self.0.capacity(),
            "inFlight": self.0.in_flight(),
        })
    }
}

struct Gate(InfiniteBreaker);

struct Pass(EnterGate);

impl Future for Pass {
    type Output = Result<Permit, Full>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

impl Subject for Gate {
    type Enter = Pass;
    fn enter(&self) -> Pass {
        Pass(self.0.enter())
    }
    fn reserve(&self) -> Option<Permit> {
        self.0.try_reserve()
    }
    fn set_capacity(&self, capacity: u32) {
        self.0.set_capacity(capacity);
    }
    fn state(&self) -> Value {
        json!({
            "active": self.0.active(),
            "queued": self.0.queued(),
            "reserved": 0,
            "capacity": self.0.capacity(),
        })
    }
}

/// The requests of one case.
struct Replay<S: Subject> {
    subject: S,
    waiting: Vec<(u64, S::Enter)>,
    executing: Vec<(u64, Permit)>,
    reservations: Vec<Permit>,
    names: u64,
}

fn run<S: Subject>(case: &Value, subject: S) -> Value {
    let fifo = case["fifo"].as_bool().unwrap_or_default();
    let mut replay = Replay {
        subject,
        waiting: Vec::new(),
        executing: Vec::new(),
        reservations: Vec::new(),
        names: 0,
    };
    let ops = case["ops"].as_array().map_or(&[][..], Vec::as_slice);
    let states = ops.iter().map(|op| {
        let (result, started) = replay.step(op);
        let mut state = replay.subject.state();
        if let Some(result) = result {
            state["result"] = result;
        }
        if fifo {
            state["started"] = json!(started);
        }
        state
    });
    states.collect()
}

impl<S: Subject> Replay<S> {
    /// What the op itself answers, and who began to execute because of it.
    fn step(&mut self, op: &Value) -> (Option<Value>, Vec<u64>) {
        let argument = op[1].as_u64();
        let mut started = Vec::new();
        let result = match op[0].as_str() {
            Some("enter") => Some(self.enter(false, &mut started)),
            Some("enterCancelled") => Some(self.enter(true, &mut started)),
            Some("leave") => {
                let at = position(&self.executing, argument);
                drop(self.executing.remove(at));
                None
            }
            Some("cancel") => {
                let at = position(&self.waiting, argument);
                drop(self.waiting.remove(at));
                None
            }
            Some("reserve") => {
                let reserved = self.subject.reserve();
                let result = reserved.is_some();
                self.reservations.extend(reserved);
                Some(json!(result))
            }
            Some("release") => {
                drop(self.reservations.remove(0));
                None
            }
            Some("update") => {
                let capacity = argument.and_then(|n| u32::try_from(n).ok());
                self.subject.set_capacity(capacity.unwrap_or_default());
                None
            }
            _ => Some(json!(format!("unknown op {op}"))),
        };
        self.settle(&mut started);
        (result, started)
    }

    fn enter(&mut self, cancelled: bool, started: &mut Vec<u64>) -> Value {
        let name = self.names;
        self.names += 1;
        let mut enter = self.subject.enter();
        match poll(&mut enter) {
            Poll::Ready(Ok(permit)) => {
                self.executing.push((name, permit));
                started.push(name);
                json!("active")
            }
            Poll::Ready(Err(Full)) => json!("overflow"),
            Poll::Pending if cancelled => json!("cancelled"),
            Poll::Pending => {
                self.waiting.push((name, enter));
                json!("queued")
            }
        }
    }

    fn settle(&mut self, started: &mut Vec<u64>) {
        let mut at = 0;
        while at < self.waiting.len() {
            match poll(&mut self.waiting[at].1) {
                Poll::Ready(Ok(permit)) => {
                    let (name, _) = self.waiting.remove(at);
                    self.executing.push((name, permit));
                    started.push(name);
                }
                Poll::Ready(Err(Full)) | Poll::Pending => at += 1,
            }
        }
    }
}

/// Where the named request is, or any if none is named.
fn position<T>(requests: &[(u64, T)], name: Option<u64>) -> usize {
    name.and_then(|name| requests.iter().position(|(other, _)| *other == name))
        .unwrap_or_default()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
