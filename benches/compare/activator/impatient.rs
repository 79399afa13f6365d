//! Clients that give up after a second, two hundred a second, for a service that takes thirty: what
//! has left must not be kept.

use std::time::Duration;

use benches::held::impatient;
use benches::queue_pod::QueuePods;
use benches::report::{Bar, Curve, Report, Row};
use benches::revisions::Revision;
use benches::sample::Spread;
use tokio::time::Instant;

use super::running::{Running, post, request};
use super::{Bench, OURS};

const RATE: u32 = 200;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
const SERVICE_TIME: Duration = Duration::from_secs(30);
const LIMIT: u32 = 2;
const RUN: Duration = Duration::from_secs(60);
/// The first so many seconds fill what is filled once.
const WARM: Duration = Duration::from_secs(20);
/// What may be added over the rest: the Go one's growth of 5.7 MB/s would be 220.
const GROWTH_MIB: f64 = 1.0;
/// More than an activator reads before the body is asked for.
const BODY: usize = 64 << 10;

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let post = post(0, &[b'x'; BODY]);
    for (kind, request) in [("GET", request(0)), ("POST, body unread", post)] {
        let case = format!("impatient clients, {kind}");
        if bench.options.wants(&case) {
            one(bench, report, &case, &request).await?;
        }
    }
    Ok(())
}

async fn one(
    bench: &Bench<'_>,
    report: &mut Report,
    case: &str,
    request: &[u8],
) -> anyhow::Result<()> {
    let pods = QueuePods::start(SERVICE_TIME)?;
    let revision = Revision {
        container_concurrency: LIMIT,
        pods: vec![pods.pod(0)],
    };
    let running = Running::start(&bench.program, &[revision], &[]).await?;
    let start = Instant::now();
    let mut curve = Curve::new(&format!("{case}: MiB by seconds"));
    let load = impatient(running.server.address, request, RATE, CLIENT_TIMEOUT, RUN);
    let watched = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            let at = ticks.tick().await - start;
            let Ok(rss) = running.server.process.rss_mib() else {
                return;
            };
            curve.add(at.as_secs_f64().round(), rss);
        }
    };
    tokio::select! {
        done = load => done?,
        () = watched => {}
    }
    let late: Vec<f64> = curve
        .points
        .iter()
        .filter(|(at, _)| *at >= WARM.as_secs_f64())
        .map(|(_, rss)| *rss)
        .collect();
    // Halves, so that one page more or less says nothing.
    let (first, last) = late.split_at(late.len() / 2);
    let grown = Spread::of(first)
        .zip(Spread::of(last))
        .map(|(first, last)| last.median - first.median);
    report.rows.push(Row {
        case: case.to_owned(),
        subject: OURS.to_owned(),
        requests: u64::from(RATE) * RUN.as_secs(),
        rss_mib: late.last().copied(),
        ..Row::default()
    });
    report.bars.push(Bar::at_most(
        &format!("{case}: MiB of growth after {} s", WARM.as_secs()),
        Spread::of(&Vec::from_iter(grown)),
        GROWTH_MIB,
    ));
    report.curves.push(curve);
    Ok(())
}
