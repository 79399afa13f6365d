//! Ten thousand requests held for one cold revision: what they take, how the next one is refused,
//! and how soon all are answered once there are pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use benches::held;
use benches::load::Connection;
use benches::peers::{HaproxyMode, haproxy};
use benches::report::{Bar, Report, Row};
use benches::revisions::Revision;
use benches::sample::Spread;
use tokio::time::Instant;

use super::running::{Running, host, request};
use super::{Bench, OURS};

const HELD: usize = 10_000;
/// Connections and streams on each.
const H2C: (usize, usize) = (100, 100);
const BOUND: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(2);
/// Connections through which HAProxy gets as many requests.
const PEER_CONNECTIONS: usize = 1_000;
/// Rounds of the burst; each needs a revision that is cold.
const BURSTS: u32 = 5;
/// Requests that are one too many.
const REFUSED: usize = 200;
/// Pods of the revision with a limit, and the limit.
const LIMITED: (usize, u32) = (10, 100);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    http1(bench, report).await?;
    h2c(bench, report).await?;
    burst(bench, report, None).await?;
    burst(bench, report, Some(LIMITED.1)).await
}

async fn http1(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let case = format!("held, {HELD} HTTP/1.1 connections");
    if !bench.options.wants(&case) {
        return Ok(());
    }
    let limit = HELD.to_string();
    let limits = [("PILOTLIGHT_MAX_QUEUED_PER_REVISION", limit.as_str())];
    let running = Running::start(&bench.program, &[Revision::default()], &limits).await?;
    tokio::time::sleep(SETTLE).await;
    let before = running.server.process.rss_mib()?;
    let clients = held::open(running.server.address, HELD).await?;
    let clients = held::send(clients, &request(0), 1);
    running.holds(HELD).await?;
    let bar = format!("{case}: kB of growth for each");
    growth(report, &case, &running, before, Some((bar.as_str(), 16.0)))?;
    refusals(report, &running).await?;
    running.list(0, &[bench.pods.address]).await?;
    let done = held::answered(clients, BOUND).await?;
    if done.ok != HELD as u64 {
        bail!("{} of {HELD} held requests were answered", done.ok);
    }
    let peak = running.server.process.peak_rss_mib()?;
    report
        .rows
        .push(row(format!("{case}, highest until answered"), peak));
    Ok(())
}

async fn h2c(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let (connections, streams) = H2C;
    let case = format!("held, {connections} x {streams} h2c streams");
    if !bench.options.wants(&case) {
        return Ok(());
    }
    let running = Running::start(&bench.program, &[Revision::default()], &[]).await?;
    tokio::time::sleep(SETTLE).await;
    let before = running.server.process.rss_mib()?;
    let address = running.server.address;
    let clients = held::send_h2c(address, &host(0), connections, streams).await?;
    running.holds(connections * streams).await?;
    let bar = format!("{case}: kB of growth for each");
    growth(report, &case, &running, before, Some((bar.as_str(), 3.0)))?;
    drop(clients);
    Ok(())
}

fn growth(
    report: &mut Report,
    case: &str,
    running: &Running,
    before: f64,
    bar: Option<(&str, f64)>,
) -> anyhow::Result<()> {
    let after = running.server.process.rss_mib()?;
    report.rows.push(row(format!("{case}, before"), before));
    report.rows.push(row(case.to_owned(), after));
    if let Some((name, bar)) = bar {
        let each = (after - before) * 1024.0 / HELD as f64;
        report
            .bars
            .push(Bar::at_most(name, Spread::of(&[each]), bar));
    }
    Ok(())
}

fn row(case: String, rss: f64) -> Row {
    Row {
        case,
        subject: OURS.to_owned(),
        requests: HELD as u64,
        rss_mib: Some(rss),
        ..Row::default()
    }
}

/// The queue is full: each further request is told so.
async fn refusals(report: &mut Report, running: &Running) -> anyhow::Result<()> {
    let request = request(0);
    let mut taken = Vec::new();
    let mut connection = Connection::open(running.server.address).await?;
    for _ in 0..REFUSED {
        let start = Instant::now();
        let status = connection.exchange(&request).await?;
        taken.push((Instant::now() - start).as_secs_f64() * 1e3);
        if status != 503 || !connection.has_header("retry-after") {
            bail!("a request beyond the limit got {status}, or no Retry-After");
        }
    }
    let spread = Spread::of(&taken);
    let slowest = spread.map(|spread| spread.max);
    report.bars.push(Bar::at_most(
        "refusal past a limit: slowest of 200 (ms)",
        Spread::of(&Vec::from_iter(slowest)),
        10.0,
    ));
    Ok(())
}

/// From the listing of the pods to the last answer, beside HAProxy with as many requests.
async fn burst(bench: &Bench<'_>, report: &mut Report, limit: Option<u32>) -> anyhow::Result<()> {
    let kind = match limit {
        None => "no limit, 1 pod".to_owned(),
        Some(limit) => format!("limit {limit}, {} pods", LIMITED.0),
    };
    let case = format!("burst of {HELD}, {kind}");
    if !bench.options.wants(&case) {
        return Ok(());
    }
    let pods = pods(bench, if limit.is_some() { LIMITED.0 } else { 1 });
    let mode = HaproxyMode::Http { limit: None };
    let (mut ours, mut peer, mut peak) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..bench.options.rounds.min(BURSTS) {
        let haproxy = haproxy(bench.folder, bench.pods.address, mode).await?;
        peer.push(haproxy_time(haproxy.address).await?);
        drop(haproxy);
        let revision = Revision {
            container_concurrency: limit.unwrap_or(0),
            pods: Vec::new(),
        };
        let running = Running::start(&bench.program, &[revision], &[]).await?;
        let clients = held::open(running.server.address, HELD).await?;
        let clients = held::send(clients, &request(0), 1);
        running.holds(HELD).await?;
        let start = Instant::now();
        running.list(0, &pods).await?;
        let done = held::answered(clients, BOUND).await?;
        ours.push((Instant::now() - start).as_secs_f64());
        if done.ok != HELD as u64 {
            bail!("{} of {HELD} held requests were answered", done.ok);
        }
        peak = peak.max(running.server.process.peak_rss_mib()?);
    }
    for (subject, seconds, rss_mib) in [("haproxy", &peer, None), (OURS, &ours, Some(peak))] {
        report.rows.push(Row {
            case: format!("{case}, time to the last answer"),
            subject: subject.to_owned(),
            requests: HELD as u64,
            p50_ms: Spread::of(seconds).map(|spread| spread.median * 1e3),
            rss_mib,
            ..Row::default()
        });
    }
    report.bars.push(Bar::at_most(
        &format!("{case}: time by HAProxy's for as many"),
        Spread::of_ratios(&ours, &peer),
        2.0,
    ));
    Ok(())
}

/// Seconds for as many requests over connections that are open.
async fn haproxy_time(address: SocketAddr) -> anyhow::Result<f64> {
    let clients = held::open(address, PEER_CONNECTIONS).await?;
    let start = Instant::now();
    let clients = held::send(clients, &request(0), HELD / PEER_CONNECTIONS);
    let done = held::answered(clients, BOUND).await?;
    if done.ok != HELD as u64 {
        bail!("HAProxy answered {} of {HELD} requests", done.ok);
    }
    Ok((Instant::now() - start).as_secs_f64())
}

fn pods(bench: &Bench<'_>, count: usize) -> Vec<SocketAddr> {
    let port = bench.pods.address.port();
    let address = |index| SocketAddr::from((benches::pods::address(index), port));
    (0..count).map(address).collect()
}
