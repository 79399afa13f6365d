//! From exec to the first answer, and the size of the binary.

use std::time::Duration;

use anyhow::bail;
use benches::load::{Connection, get};
use benches::process::Process;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;
use tokio::time::Instant;

use super::{Bench, OURS};

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants("start") {
        return Ok(());
    }
    let mut times = Vec::new();
    for _ in 0..bench.options.rounds {
        times.push(first_answer(bench).await?.as_secs_f64() * 1e3);
    }
    let spread = Spread::of(&times);
    report.rows.push(Row {
        case: "start, exec to first answer".to_owned(),
        subject: OURS.to_owned(),
        requests: u64::from(bench.options.rounds),
        p50_ms: spread.map(|spread| spread.median),
        ..Row::default()
    });
    report.bars.push(Bar::at_most(
        "start: exec to first answer (ms)",
        spread,
        5.0,
    ));
    let bytes = std::fs::metadata(bench.ours())?.len();
    let mib = bytes as f64 / (1024.0 * 1024.0);
    report.bars.push(Bar::at_most(
        "start: size of the binary as built (MiB)",
        Spread::of(&[mib]),
        8.0,
    ));
    Ok(())
}

async fn first_answer(bench: &Bench<'_>) -> anyhow::Result<Duration> {
    let (mut command, address) = bench
        .sidecar(bench.ours(), OURS, None, bench.backend.address)
        .command()?;
    let request = get(address, "/");
    let start = Instant::now();
    let _process = Process::start(OURS, &mut command)?;
    loop {
        if let Ok(mut connection) = Connection::open(address).await {
            let status = connection.exchange(&request).await?;
            let taken = Instant::now() - start;
            if status != 200 {
                bail!("the first answer was {status}");
            }
            return Ok(taken);
        }
        if Instant::now() - start > Duration::from_secs(10) {
            bail!("no answer within 10 s of the start");
        }
        tokio::task::yield_now().await;
    }
}
