//! Resident memory when idle and at a thousand connections, and wake-ups of an idle process.

use std::time::Duration;

use benches::load;
use benches::process::Process;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;

use super::Bench;

const CONNECTIONS: usize = 1_000;
const IDLE: Duration = Duration::from_secs(10);
/// After the start, before anything is counted.
const SETTLE: Duration = Duration::from_secs(1);
/// The longest a run of load may take.
const BOUND: Duration = Duration::from_secs(120);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants("memory") {
        return Ok(());
    }
    let mut lineup = bench.lineup(None).await?;
    let mut idle = Vec::new();
    let mut peaks = Vec::new();
    for index in 0..lineup.len() {
        let server = lineup.turn(index).await?;
        let (rss, wakeups) = at_rest(&server.process).await?;
        idle.push((rss, wakeups));
        load::closed_loop(server.address, CONNECTIONS, bench.options.requests, BOUND).await?;
        let peak = server.process.peak_rss_mib()?;
        peaks.push(peak);
        let row = |case: String, requests, rss| Row {
            case,
            subject: lineup.name(index).to_owned(),
            requests,
            rss_mib: Some(rss),
            ..Row::default()
        };
        let case = format!("memory, idle ({wakeups:.1} wake-ups/s)");
        report.rows.push(row(case, 0, rss));
        let case = format!("memory, {CONNECTIONS} connections, highest");
        report.rows.push(row(case, bench.options.requests, peak));
    }
    report.bars.push(Bar::at_most(
        "memory, idle (MiB)",
        Spread::of(&[idle[1].0]),
        6.0,
    ));
    // One report a second is the contract's; beyond it the process sleeps.
    report.bars.push(Bar::at_most(
        "wake-ups per second when idle",
        Spread::of(&[idle[1].1]),
        2.0,
    ));
    report.bars.push(Bar::at_most(
        "memory, 1000 connections: ratio to HAProxy's highest",
        Spread::of_ratios(&[peaks[1]], &[peaks[0]]),
        1.0,
    ));
    Ok(())
}

/// Resident memory and wake-ups per second of a process that nobody asks anything.
async fn at_rest(process: &Process) -> anyhow::Result<(f64, f64)> {
    tokio::time::sleep(SETTLE).await;
    let before = process.wakeups()?;
    tokio::time::sleep(IDLE).await;
    let wakeups = (process.wakeups()? - before) / IDLE.as_secs_f64();
    Ok((process.rss_mib()?, wakeups))
}
