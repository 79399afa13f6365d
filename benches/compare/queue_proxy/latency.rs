//! Latency that the hop adds at a fixed rate far below saturation.

use std::time::Duration;

use benches::awake::KeepAwake;
use benches::open_loop::{self, Latency};
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;

use super::Bench;

const RATE: u64 = 2_000;
const CONNECTIONS: usize = 50;
const DURATION: Duration = Duration::from_secs(3);

/// A round in which the backend alone is slower than this says nothing about a proxy.
const QUIET_P99_MS: f64 = 0.5;

/// How many noisy rounds are repeated before the case is given up.
const REPEATS: u32 = 30;

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let case = "latency, 2000/s over 50 connections";
    if !bench.options.wants(case) {
        return Ok(());
    }
    let mut lineup = bench.lineup(None).await?;
    let awake = KeepAwake::start();
    let mut added: Vec<Vec<(f64, f64)>> = vec![Vec::new(); lineup.len()];
    let mut noisy = 0;
    let mut round = 0;
    while round < bench.options.rounds && noisy < REPEATS {
        let direct = once(bench.backend.address).await?;
        if direct.p99_ms > QUIET_P99_MS {
            noisy += 1;
            continue;
        }
        let mut these = Vec::new();
        for index in 0..lineup.len() {
            let through = once(lineup.turn(index).await?.address).await?;
            these.push((
                through.p50_ms - direct.p50_ms,
                through.p99_ms - direct.p99_ms,
            ));
        }
        for (index, figures) in these.into_iter().enumerate() {
            added[index].push(figures);
        }
        round += 1;
    }
    report.circumstances.push(format!(
        "{case}: {}; {noisy} rounds repeated, the backend alone was too slow in them",
        awake.circumstance()
    ));
    let names = [
        "ours minus HAProxy's added p50 (ms)",
        "ours minus HAProxy's added p99 (ms)",
    ];
    if round < bench.options.rounds {
        for name in names {
            report.bars.push(Bar::unmeasured(
                &format!("{case}: {name}"),
                0.0,
                "the machine is too noisy",
            ));
        }
        return Ok(());
    }
    for (index, added) in added.iter().enumerate() {
        let (p50, p99): (Vec<f64>, Vec<f64>) = added.iter().copied().unzip();
        report.rows.push(Row {
            case: case.to_owned(),
            subject: lineup.name(index).to_owned(),
            requests: RATE * DURATION.as_secs(),
            p50_ms: Spread::of(&p50).map(|spread| spread.median),
            p99_ms: Spread::of(&p99).map(|spread| spread.median),
            ..Row::default()
        });
    }
    let difference = |figure: fn(&(f64, f64)) -> f64| {
        let pairs: Vec<f64> = added[1]
            .iter()
            .zip(&added[0])
            .map(|(ours, peer)| figure(ours) - figure(peer))
            .collect();
        Spread::of(&pairs)
    };
    report.bars.push(Bar::at_most(
        &format!("{case}: {}", names[0]),
        difference(|f| f.0),
        0.0,
    ));
    report.bars.push(Bar::at_most(
        &format!("{case}: {}", names[1]),
        difference(|f| f.1),
        0.1,
    ));
    Ok(())
}

async fn once(address: std::net::SocketAddr) -> anyhow::Result<Latency> {
    open_loop::run(address, CONNECTIONS, RATE, DURATION).await
}
