//! From the stat that wakes a revision at zero to the scale patch at the API server.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use benches::fleet::{Fleet, name};
use benches::idle::IdleThread;
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
/// Between two wakes; not a divisor of any of the autoscaler's periods.
const GAP: Duration = Duration::from_micros(13_700);
/// A patch that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants(CASE) {
        return Ok(());
    }
    for (active, at_zero) in [(100, 2_000), (10_000, 2_000), (100, 50_000)] {
        let fleet = Fleet {
            active,
            at_zero,
            namespaces: 100,
            scraped: true,
        };
        let running = Running::start(bench, fleet).await?;
        let rss = running.process.rss_mib()?;
        let idle = IdleThread::start()?;
        let wakes = wake(running, &fleet).await?;
        let idle = idle.end();
        let case = format!("{CASE}, {active} active, {at_zero} at zero");
        let at = |histogram: &Histogram<u64>, quantile| {
            histogram.value_at_quantile(quantile) as f64 / 1e6
        };
        for (subject, histogram) in [("pilotlight", &wakes), ("idle thread", &idle)] {
            report.rows.push(Row {
                case: case.clone(),
                subject: subject.to_owned(),
                requests: histogram.len(),
                rss_mib: (subject == "pilotlight").then_some(rss),
                p50_ms: Some(at(histogram, 0.5)),
                p99_ms: Some(at(histogram, 0.99)),
                ..Row::default()
            });
        }
        let bar = format!("{case}: p99 ms from stat to patch");
        let (late, p99) = (at(&idle, 0.99), at(&wakes, 0.99));
        report.bars.push(if late < IDLE_BAR_MS {
            Bar::at_most(&bar, Spread::of(&[p99]), BAR_MS)
        } else {
            let why = format!("{p99:.3} ms, while an idle thread's own wake-up took {late:.3} ms");
            Bar::unmeasured(&bar, BAR_MS, &why)
        });
    }
    Ok(())
}

/// Wakes revisions one after the other, each once.
async fn wake(mut running: Running, fleet: &Fleet) -> anyhow::Result<Histogram<u64>> {
    let mut socket = connect().await?;
    let mut sent = HashMap::new();
    let mut latencies = Histogram::new(3)?;
    let mut next = Instant::now();
    for index in fleet.active..fleet.active + WAKES {
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
            bail!("{} of {WAKES} revisions were not scaled", sent.len());
        };
        if let Some(at) = sent.remove(&scaled.name) {
            let latency = scaled.at.duration_since(at).as_nanos();
            latencies.record(u64::try_from(latency)?)?;
        }
    }
    Ok(latencies)
}
