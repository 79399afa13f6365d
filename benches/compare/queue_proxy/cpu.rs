//! CPU per request, closed loop, with and without a concurrency limit.

use std::time::Duration;

use anyhow::bail;
use benches::load::closed_loop;
use benches::process::Cpu;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;

use super::{Bench, LIMIT, Subject};

/// Requests that warm connections and caches before each measured round.
const WARM_UP: u64 = 2_000;

/// The longest one round may take.
const BOUND: Duration = Duration::from_secs(120);

/// The rounds of one subject in one case.
#[derive(Default)]
struct Rounds {
    cpu: Vec<Cpu>,
}

impl Rounds {
    fn series(&self, figure: impl Fn(&Cpu) -> f64) -> Vec<f64> {
        self.cpu.iter().map(figure).collect()
    }

    fn median(&self, figure: impl Fn(&Cpu) -> f64) -> Option<f64> {
        Spread::of(&self.series(figure)).map(|spread| spread.median)
    }
}

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    for (limit, bar) in [(None, 1.0), (Some(LIMIT), 1.1)] {
        for connections in [64, 1_000] {
            let kind = if limit.is_some() {
                "limit 10"
            } else {
                "no limit"
            };
            let case = format!("cpu, {kind}, {connections} connections");
            if bench.options.wants(&case) {
                measure(bench, report, &case, connections, limit, bar).await?;
            }
        }
    }
    Ok(())
}

async fn measure(
    bench: &Bench<'_>,
    report: &mut Report,
    case: &str,
    connections: usize,
    limit: Option<u32>,
    bar: f64,
) -> anyhow::Result<()> {
    let subjects = bench.subjects(limit).await?;
    let mut rounds: Vec<Rounds> = subjects.iter().map(|_| Rounds::default()).collect();
    for round in 0..bench.options.rounds as usize {
        for turn in 0..subjects.len() {
            // Each round starts with another subject, so that none always runs after the same one.
            let index = (round + turn) % subjects.len();
            rounds[index]
                .cpu
                .push(one_round(&subjects[index], connections, bench.options.requests).await?);
        }
    }
    for (subject, rounds) in subjects.iter().zip(&rounds) {
        report.rows.push(Row {
            case: case.to_owned(),
            subject: subject.name.clone(),
            requests: bench.options.requests,
            cpu_us_per_request: rounds.median(|cpu| cpu.total_us),
            user_us: rounds.median(|cpu| cpu.user_us),
            system_us: rounds.median(|cpu| cpu.system_us),
            rss_mib: Some(subject.server.process.rss_mib()?),
            ..Row::default()
        });
    }
    let [peer, ours, ..] = rounds.as_slice() else {
        bail!("a comparison needs two subjects")
    };
    let ratios = Spread::of_ratios(
        &ours.series(|cpu| cpu.total_us),
        &peer.series(|cpu| cpu.total_us),
    );
    report.bars.push(Bar::at_most(
        &format!("{case}: ratio to HAProxy"),
        ratios,
        bar,
    ));
    Ok(())
}

async fn one_round(subject: &Subject, connections: usize, requests: u64) -> anyhow::Result<Cpu> {
    let server = &subject.server;
    closed_loop(
        server.address,
        connections,
        WARM_UP.max(connections as u64),
        BOUND,
    )
    .await?;
    let before = server.process.cpu()?;
    let done = closed_loop(server.address, connections, requests, BOUND).await?;
    let spent = server.process.cpu()?.since(before);
    if done.other > 0 {
        bail!(
            "{}: {} of {} answers were not 200",
            subject.name,
            done.other,
            done.ok + done.other
        );
    }
    Ok(spent.per(done.ok))
}
