//! Whether revisions get in each other's way: choosing a pod and admitting to it on two threads
//! beside one.

use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use activator::Limits;
use activator::revision_throttler::{QueueBudget, RevisionThrottler};
use activator::trackers::Usable;
use anyhow::bail;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;
use serving::RevisionId;
use tokio::time::Instant;

use super::OURS;
use crate::Options;

const CASE: &str = "pick and admit";
const ROUND: Duration = Duration::from_millis(500);
const PODS: u8 = 10;
/// Two threads that share nothing must do so many times the work of one, or the machine has no second
/// core to give.
const FREE: f64 = 1.9;
/// Operations between two looks at the clock.
const BATCH: u64 = 1_000;

pub(super) fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    if !options.wants(CASE) {
        return Ok(());
    }
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        one.push(rate(1)?);
        two.push(rate(2)?);
        alone.push(arithmetic(1)?);
        beside.push(arithmetic(2)?);
    }
    for (threads, rates) in [(1, &one), (2, &two)] {
        report.rows.push(Row {
            case: format!("{CASE}, {threads} threads"),
            subject: OURS.to_owned(),
            requests: Spread::of(rates).map_or(0, |spread| spread.median as u64),
            ..Row::default()
        });
    }
    let bar = format!("{CASE}: operations/s of two threads by one's");
    let machine = Spread::of_ratios(&beside, &alone).map_or(0.0, |spread| spread.median);
    let ratio = Spread::of_ratios(&two, &one);
    let found = ratio.map_or(0.0, |spread| spread.median);
    // A machine without a second core can only make it look worse.
    let bar = if found < 1.7 && machine < FREE {
        let why = format!(
            "{found:.2}, where two threads that share nothing do {machine:.2} times the work of one"
        );
        Bar::unmeasured(&bar, 1.7, &why)
    } else {
        Bar::at_least(&bar, ratio, 1.7)
    };
    report.bars.push(bar);
    report.bars.push(Bar::unmeasured(
        "CPU per request with two threads by one's",
        1.15,
        "the program has one thread; several activators share pods",
    ));
    Ok(())
}

/// Operations per second of all threads, each with a revision of its own as requests have that come
/// to different threads; queues and budget are shared as in an activator.
fn rate(threads: usize) -> anyhow::Result<f64> {
    let budget = QueueBudget::new(Limits::default());
    let throttlers = (0..threads).map(|index| {
        let id = RevisionId::new("bench", format!("revision-{index}"));
        let throttler = RevisionThrottler::new(id, 10, budget.clone(), 7);
        let pods = (1..=PODS).map(|last| SocketAddr::from(([10, 0, 0, last], 8012)));
        throttler.update(&Usable::Pods(pods.collect()));
        throttler
    });
    sum(throttlers.map(|throttler| move || pick_and_admit(&throttler)))
}

/// As [`rate`], of threads that touch no memory.
fn arithmetic(threads: usize) -> anyhow::Result<f64> {
    sum((0..threads as u64).map(|seed| {
        let mut state = black_box(seed);
        move || state = black_box(state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17))
    }))
}

/// Operations per second of all threads, one for each of the operations.
fn sum<F>(operations: impl Iterator<Item = F>) -> anyhow::Result<f64>
where
    F: FnMut() + Send + 'static,
{
    let working: Vec<_> = operations
        .map(|operation| std::thread::spawn(move || work(operation)))
        .collect();
    let mut sum = 0.0;
    for thread in working {
        let Ok(rate) = thread.join() else {
            bail!("a thread found no slot");
        };
        sum += rate;
    }
    Ok(sum)
}

fn pick_and_admit(throttler: &Arc<RevisionThrottler>) {
    let mut context = Context::from_waker(Waker::noop());
    let acquire = pin!(throttler.acquire(|| 0));
    match acquire.poll(&mut context) {
        Poll::Ready(Ok(permit)) => drop(black_box(permit)),
        other => panic!("ten pods have room for one request: {other:?}"),
    }
}

fn work(mut operation: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut done = 0;
    loop {
        for _ in 0..BATCH {
            operation();
        }
        done += BATCH;
        let took = Instant::now() - start;
        if took >= ROUND {
            return done as f64 / took.as_secs_f64();
        }
    }
}
