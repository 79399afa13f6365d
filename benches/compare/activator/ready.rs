//! From the answer to a pod's first probe to the held request at the pod.

use std::time::Duration;

use anyhow::{Context, bail};
use benches::awake::KeepAwake;
use benches::held;
use benches::idle::IdleThread;
use benches::queue_pod::{QueuePods, Seen};
use benches::report::{Bar, Report, Row};
use benches::revisions::Revision;
use benches::sample::Spread;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::running::{Running, request};
use super::{Bench, OURS};

const CASE: &str = "pod ready to request";
const STARTS: usize = 1_000;
const BAR_MS: f64 = 1.0;
/// Above this the machine itself is late.
const IDLE_BAR_MS: f64 = 0.5;
/// After so long a request is held; one that is not makes its latency worse.
const HELD: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants(CASE) {
        return Ok(());
    }
    let awake = KeepAwake::start();
    report
        .circumstances
        .push(format!("{CASE}: {}", awake.circumstance()));
    let mut pods = QueuePods::start(Duration::ZERO)?;
    let revisions = vec![Revision::default(); STARTS];
    let running = Running::start(&bench.program, &revisions, &[]).await?;
    let idle = IdleThread::start()?;
    let mut latencies = Histogram::<u64>::new(3)?;
    for index in 0..STARTS {
        let client = held::open(running.server.address, 1).await?;
        let client = held::send(client, &request(index), 1);
        // A scrape of a thousand revisions would tell, and be most of what the machine does.
        tokio::time::sleep(HELD).await;
        running.list(index, &[pods.pod(index)]).await?;
        let latency = latency(&mut pods).await?;
        latencies.record(u64::try_from(latency.as_nanos())?)?;
        let done = held::answered(client, PATIENCE).await?;
        if done.ok != 1 {
            bail!("a held request was not answered with 200");
        }
    }
    let idle = idle.end();
    let at =
        |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    for (subject, histogram) in [(OURS, &latencies), ("idle thread", &idle)] {
        report.rows.push(Row {
            case: CASE.to_owned(),
            subject: subject.to_owned(),
            requests: histogram.len(),
            p50_ms: Some(at(histogram, 0.5)),
            p99_ms: Some(at(histogram, 0.99)),
            ..Row::default()
        });
    }
    let bar = format!("{CASE}: p99 ms");
    let (late, p99) = (at(&idle, 0.99), at(&latencies, 0.99));
    // A machine that wakes late can only make it look worse.
    report.bars.push(if p99 <= BAR_MS || late < IDLE_BAR_MS {
        Bar::at_most(&bar, Spread::of(&[p99]), BAR_MS)
    } else {
        let why = format!("{p99:.3} ms, while an idle thread's own wake-up took {late:.3} ms");
        Bar::unmeasured(&bar, BAR_MS, &why)
    });
    Ok(())
}

/// From the last probe to the request behind it.
async fn latency(pods: &mut QueuePods) -> anyhow::Result<Duration> {
    let mut passed: Option<Instant> = None;
    loop {
        let seen = tokio::time::timeout(PATIENCE, pods.seen.recv()).await;
        match seen.context("no request came")?.context("the pods ended")? {
            Seen::Probe(at) => passed = Some(at),
            Seen::Request(at) => {
                let passed = passed.context("a request came before any probe")?;
                return Ok(at.saturating_duration_since(passed));
            }
        }
    }
}
