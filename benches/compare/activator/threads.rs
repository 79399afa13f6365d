//! What a second thread costs and brings: CPU per request of the program, and whether revisions get
//! in each other's way when a pod is chosen and a request admitted to it.

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
use benches::load::closed_loop_of;
use benches::peers::Server;
use benches::process::Cpu;
use benches::report::{Bar, Report, Row};
use benches::revisions::Revision;
use benches::sample::Spread;
use serving::RevisionId;
use tokio::time::Instant;

use super::running::{Running, request};
use super::{Bench, OURS};
use crate::Options;

const CASE: &str = "pick and admit";
const COST: &str = "cpu, threads";
const CONNECTIONS: usize = 64;
const REVISIONS: usize = 8;
const BOUND: Duration = Duration::from_secs(120);
/// Of the work, the part that the thread with less to do must have.
const LEAST_SHARE: f64 = 0.2;
/// Where there are as many, wall-clock scaling is told.
const SCALING_CORES: usize = 6;
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
    Ok(())
}

/// CPU per request of the program with two threads, beside that with one.
pub(super) async fn cost(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants(COST) {
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Fewer would tell more of the load than of the program.
    let scales = cores >= SCALING_CORES;
    let (mut cpu, mut rates) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut shares = Vec::new();
    for round in 0..bench.options.rounds as usize {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            let ran = with_threads(bench, at + 1).await?;
            cpu[at].push(ran.cpu);
            rates[at].push(ran.rate);
            if at == 1 {
                shares.push(ran.least_share);
            }
        }
    }
    for (threads, cpu) in (1..).zip(&cpu) {
        let median = |figure: fn(&Cpu) -> f64| {
            let all: Vec<f64> = cpu.iter().map(figure).collect();
            Spread::of(&all).map(|spread| spread.median)
        };
        report.rows.push(Row {
            case: format!("{COST}, {threads}"),
            subject: OURS.to_owned(),
            requests: bench.options.requests,
            cpu_us_per_request: median(|cpu| cpu.total_us),
            user_us: median(|cpu| cpu.user_us),
            system_us: median(|cpu| cpu.system_us),
            ..Row::default()
        });
    }
    let totals = |at: usize| -> Vec<f64> { cpu[at].iter().map(|cpu| cpu.total_us).collect() };
    let bar = format!("{COST}: per request with two by one's");
    let ratio = Spread::of_ratios(&totals(1), &totals(0));
    let share = Spread::of(&shares).map_or(0.0, |spread| spread.median);
    // A thread that does next to nothing would prove nothing.
    report.bars.push(if share < LEAST_SHARE {
        let why = format!(
            "one of the two threads did {:.0} % of the work",
            share * 100.0
        );
        Bar::unmeasured(&bar, 1.15, &why)
    } else {
        Bar::at_most(&bar, ratio, 1.15)
    });
    let scaling = if scales {
        let median = Spread::of_ratios(&rates[1], &rates[0]).map_or(0.0, |spread| spread.median);
        format!("requests a second are {median:.2} times those of one")
    } else {
        format!(
            "requests a second are not compared on {cores} cores, of which load and pods need some"
        )
    };
    report.circumstances.push(format!(
        "{COST}: {REVISIONS} revisions; of two threads the one with less to do had {:.0} % of the \
         work; {scaling}",
        share * 100.0
    ));
    Ok(())
}

/// One round of the program with so many threads.
struct Ran {
    cpu: Cpu,
    /// Requests a second.
    rate: f64,
    /// Of the work, that of the thread with the least.
    least_share: f64,
}

async fn with_threads(bench: &Bench<'_>, threads: usize) -> anyhow::Result<Ran> {
    let pods = vec![bench.pods.address];
    let revision = Revision {
        pods,
        ..Revision::default()
    };
    let revisions = vec![revision; REVISIONS];
    let count = threads.to_string();
    let extra = [("PILOTLIGHT_THREADS", count.as_str())];
    let running = Running::start(&bench.program, &revisions, &extra).await?;
    let server = &running.server;
    load(server, bench.options.requests / 10).await?;
    let (before, of_threads) = (server.process.cpu()?, server.process.cpu_of_threads()?);
    let start = Instant::now();
    let ok = load(server, bench.options.requests).await?;
    let took = Instant::now() - start;
    let spent = server.process.cpu()?.since(before);
    let after = server.process.cpu_of_threads()?;
    let spent_by = |thread: &str| {
        let of = |all: &[(String, f64)]| -> f64 {
            let named = all.iter().filter(|(name, _)| name == thread);
            named.map(|(_, spent)| spent).sum()
        };
        of(&after) - of(&of_threads)
    };
    // The first thread is called as the program is.
    let second = spent_by("serve-2");
    let share = second / spent.total_us;
    Ok(Ran {
        cpu: spent.per(ok),
        rate: ok as f64 / took.as_secs_f64(),
        least_share: share.min(1.0 - share),
    })
}

/// Requests to all revisions at once.
async fn load(server: &Server, requests: u64) -> anyhow::Result<u64> {
    let each = requests / REVISIONS as u64;
    let loops = (0..REVISIONS).map(|index| {
        let connections = CONNECTIONS / REVISIONS;
        closed_loop_of(request(index), server.address, connections, each, BOUND)
    });
    let mut ok = 0;
    for done in futures_util::future::try_join_all(loops).await? {
        if done.other > 0 {
            bail!("{} answers were not 200", done.other);
        }
        ok += done.ok;
    }
    Ok(ok)
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
