//! One case of CPU per unit of work: every subject in turns, medians of each, and the ratio of
//! ours to the peer pair by pair.

use anyhow::bail;
use benches::load::Done;
use benches::peers::Server;
use benches::process::Cpu;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;

use crate::Options;
use crate::lineup::Lineup;

/// What is measured and what the ratio must not exceed.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    /// Of what the bar's ratio is taken, in the bar's name.
    pub(crate) peer: &'a str,
    pub(crate) bar: f64,
}

/// Runs all rounds of `case`. `load(server, index, units)` puts that many requests or messages on
/// the subject at `index`.
pub(crate) async fn cpu(
    options: &Options,
    report: &mut Report,
    case: &Case<'_>,
    lineup: &mut Lineup<'_>,
    load: impl AsyncFn(&Server, usize, u64) -> anyhow::Result<Done>,
) -> anyhow::Result<()> {
    let count = lineup.len();
    let mut rounds: Vec<Vec<Cpu>> = vec![Vec::new(); count];
    let mut memory = vec![0.0; count];
    for round in 0..options.rounds as usize {
        for turn in 0..count {
            // Each round starts with another subject, so that none always runs after the same one.
            let index = (round + turn) % count;
            let server = lineup.turn(index).await?;
            rounds[index].push(one_round(options, server, index, &load).await?);
            memory[index] = server.process.rss_mib()?;
        }
    }
    let series = |index: usize, figure: fn(&Cpu) -> f64| -> Vec<f64> {
        rounds[index].iter().map(figure).collect()
    };
    for (index, rss_mib) in memory.into_iter().enumerate() {
        let median = |figure| Spread::of(&series(index, figure)).map(|spread| spread.median);
        report.rows.push(Row {
            case: case.name.to_owned(),
            subject: lineup.name(index).to_owned(),
            requests: options.requests,
            cpu_us_per_request: median(|cpu| cpu.total_us),
            user_us: median(|cpu| cpu.user_us),
            system_us: median(|cpu| cpu.system_us),
            rss_mib: Some(rss_mib),
            ..Row::default()
        });
    }
    let total = |cpu: &Cpu| cpu.total_us;
    report.bars.push(Bar::at_most(
        &format!("{}: ratio to {}", case.name, case.peer),
        Spread::of_ratios(&series(1, total), &series(0, total)),
        case.bar,
    ));
    Ok(())
}

/// A tenth warms connections and caches up, the rest counts.
async fn one_round(
    options: &Options,
    server: &Server,
    index: usize,
    load: &impl AsyncFn(&Server, usize, u64) -> anyhow::Result<Done>,
) -> anyhow::Result<Cpu> {
    load(server, index, options.requests / 10).await?;
    let before = server.process.cpu()?;
    let done = load(server, index, options.requests).await?;
    let spent = server.process.cpu()?.since(before);
    if done.other > 0 || done.ok == 0 {
        bail!(
            "{}: {} of {} answers were not 200",
            server.process.name,
            done.other,
            done.ok + done.other
        );
    }
    Ok(spent.per(done.ok))
}
