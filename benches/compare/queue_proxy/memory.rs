//! Resident memory when idle and at a thousand connections, and wake-ups of an idle process.

use std::time::Duration;

use benches::load::closed_loop;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;

use super::Bench;

const CONNECTIONS: usize = 1_000;
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants("memory") {
        return Ok(());
    }
    let subjects = bench.subjects(None).await?;
    let before: Vec<f64> = subjects
        .iter()
        .map(|s| s.server.process.wakeups())
        .collect::<anyhow::Result<_>>()?;
    tokio::time::sleep(IDLE).await;
    let mut idle = Vec::new();
    for (subject, before) in subjects.iter().zip(before) {
        let wakeups = (subject.server.process.wakeups()? - before) / IDLE.as_secs_f64();
        let rss = subject.server.process.rss_mib()?;
        idle.push((rss, wakeups));
        report.rows.push(Row {
            case: format!("memory, idle ({wakeups:.1} wake-ups/s)"),
            subject: subject.name.clone(),
            rss_mib: Some(rss),
            ..Row::default()
        });
    }
    let mut peaks = Vec::new();
    for subject in &subjects {
        closed_loop(
            subject.server.address,
            CONNECTIONS,
            bench.options.requests,
            Duration::from_secs(120),
        )
        .await?;
        let peak = subject.server.process.peak_rss_mib()?;
        peaks.push(peak);
        report.rows.push(Row {
            case: "memory, 1000 connections, highest".to_owned(),
            subject: subject.name.clone(),
            requests: bench.options.requests,
            rss_mib: Some(peak),
            ..Row::default()
        });
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
