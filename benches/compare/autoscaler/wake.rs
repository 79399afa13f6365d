//! From the stat that wakes a revision at zero to the scale patch at the API server.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use benches::awake::KeepAwake;
use benches::fleet::{Fleet, name};
use benches::idle::IdleThread;
use benches::pods::Idle;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;
use futures_util::SinkExt as _;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::Bench;
use super::running::Running;
use super::stats::{connect, frame};

pub(super) const CASE: &str = "wake";

const BAR_MS: f64 = 2.0;
/// Above this the machine itself is late.
const IDLE_BAR_MS: f64 = 0.5;
const WAKES: usize = 1_500;
/// How often a case is measured until the machine itself was in time.
const ATTEMPTS: usize = 5;
/// Between two wakes; not a divisor of any of the autoscaler's periods.
const GAP: Duration = Duration::from_micros(13_700);
/// A patch that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let awake = KeepAwake::start();
    report
        .circumstances
        .push(format!("{CASE}: {}", awake.circumstance()));
    for (active, at_zero) in [(100, 2_000), (10_000, 2_000), (100, 50_000)] {
        let fleet = Fleet {
            active,
            at_zero,
            namespaces: 100,
            scraped: true,
        };
        let case = format!("{CASE}, {active} active, {at_zero} at zero");
        let bar = format!("{case}: p99 ms from stat to patch");
        let mut judged = None;
        for attempt in 1..=ATTEMPTS {
            let measured = measure(bench, fleet).await?;
            measured.note(report, &case);
            let (late, p99) = (measured.idle.p99_ms, measured.wakes.p99_ms);
            if late < IDLE_BAR_MS {
                judged = Some(Bar::at_most(&bar, Spread::of(&[p99]), BAR_MS));
                break;
            }
            let why = format!(
                "{p99:.3} ms in attempt {attempt}, while an idle thread's own wake-up took {late:.3} ms"
            );
            judged = Some(Bar::unmeasured(&bar, BAR_MS, &why));
        }
        report.bars.extend(judged);
    }
    Ok(())
}

/// One attempt.
struct Measured {
    wakes: Quantiles,
    idle: Quantiles,
    rss_mib: f64,
}

/// Of a histogram of nanoseconds.
struct Quantiles {
    count: u64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Measured {
    fn note(&self, report: &mut Report, case: &str) {
        for (subject, quantiles, rss_mib) in [
            ("pilotlight", &self.wakes, Some(self.rss_mib)),
            ("idle thread", &self.idle, None),
        ] {
            report.rows.push(Row {
                case: case.to_owned(),
                subject: subject.to_owned(),
                requests: quantiles.count,
                rss_mib,
                p50_ms: Some(quantiles.p50_ms),
                p99_ms: Some(quantiles.p99_ms),
                ..Row::default()
            });
        }
    }
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
        }
    }
}

async fn measure(bench: &Bench, fleet: Fleet) -> anyhow::Result<Measured> {
    let mut running = Running::start(bench, fleet, Idle::Sleep).await?;
    let rss_mib = running.process.rss_mib()?;
    let idle = IdleThread::start()?;
    let wakes = wake(&mut running, &fleet, WAKES).await?;
    Ok(Measured {
        wakes: Quantiles::of(&wakes),
        idle: Quantiles::of(&idle.end()),
        rss_mib,
    })
}

/// Wakes so many revisions one after the other, each once.
pub(crate) async fn wake(
    running: &mut Running,
    fleet: &Fleet,
    count: usize,
) -> anyhow::Result<Histogram<u64>> {
    let mut socket = connect().await?;
    let mut sent = HashMap::new();
    let mut latencies = Histogram::new(3)?;
    let mut next = Instant::now();
    for index in fleet.active..fleet.active + count {
        next += GAP;
        tokio::time::sleep_until(next).await;
        let message = frame(fleet, [index]);
        sent.insert(format!("{}-deployment", name(index)), Instant::now());
        socket.send(message).await?;
    }
    let deadline = Instant::now() + PATIENCE;
    while !sent.is_empty() {
        let received = running.api_server.scaled.recv();
        let Ok(Some(scaled)) = tokio::time::timeout_at(deadline, received).await else {
            bail!("{} of {count} revisions were not scaled", sent.len());
        };
        if let Some(at) = sent.remove(&scaled.name) {
            let latency = scaled.at.duration_since(at).as_nanos();
            latencies.record(u64::try_from(latency)?)?;
        }
    }
    Ok(latencies)
}
