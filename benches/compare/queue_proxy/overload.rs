//! Twice the load that a CPU quota can bear: what is served, how soon, and what becomes of the rest.

use std::time::Duration;

use benches::load::closed_loop_for;
use benches::overload::{Offer, Outcome, offer};
use benches::peers::Server;
use benches::quota::Quota;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;

use super::Bench;

/// Thousandths of a CPU.
const QUOTAS: [u64; 2] = [50, 100];

/// The capacity is the best of closed loops with so many connections. The larger numbers tell what
/// connections cost in themselves: nothing is refused there.
const CLOSED: [usize; 6] = [8, 16, 32, 64, 256, 1_000];
const CLOSED_FOR: Duration = Duration::from_secs(5);

const OFFERED_FOR: Duration = Duration::from_secs(60);
const MAX_CONNECTIONS: usize = 1_000;

/// One subject under one quota.
struct Result {
    /// Requests per second.
    capacity: f64,
    /// Those of each closed loop.
    closed: [f64; CLOSED.len()],
    outcome: Outcome,
}

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    for milli in QUOTAS {
        let case = format!("overload, quota {milli}m, twice the capacity");
        if !bench.options.wants(&case) {
            continue;
        }
        let quota = match Quota::new(milli) {
            Ok(quota) => quota,
            Err(error) => {
                let why = format!("{error:#}");
                report.bars.push(Bar::unmeasured(&case, 0.8, &why));
                continue;
            }
        };
        let mut ours = None;
        for sidecar in bench.programs(None, bench.backend.address) {
            let server = sidecar.start().await?;
            quota.hold(server.process.pid())?;
            let result = measure(&server).await?;
            note(report, &case, sidecar.name, &result);
            ours.get_or_insert(result);
        }
        if let Some(result) = ours {
            judge(report, &case, &result);
        }
    }
    Ok(())
}

async fn measure(server: &Server) -> anyhow::Result<Result> {
    let mut closed = [0.0; CLOSED.len()];
    for (rate, connections) in closed.iter_mut().zip(CLOSED) {
        let done = closed_loop_for(server.address, connections, CLOSED_FOR).await?;
        *rate = done as f64 / CLOSED_FOR.as_secs_f64();
    }
    let capacity = closed.into_iter().fold(0.0, f64::max);
    let outcome = offer(Offer {
        address: server.address,
        rate: (2.0 * capacity) as u64,
        duration: OFFERED_FOR,
        max_connections: MAX_CONNECTIONS,
    })
    .await?;
    Ok(Result {
        capacity,
        closed,
        outcome,
    })
}

fn note(report: &mut Report, case: &str, name: &str, result: &Result) {
    let Result {
        capacity,
        closed,
        outcome,
    } = result;
    let shares: Vec<String> = CLOSED
        .iter()
        .zip(closed)
        .map(|(connections, rate)| format!("{:.2} with {connections}", rate / capacity.max(1.0)))
        .collect();
    report.circumstances.push(format!(
        "{case}, {name}: closed loops, of the capacity: {}",
        shares.join(", ")
    ));
    report.rows.push(Row {
        case: case.to_owned(),
        subject: name.to_owned(),
        requests: outcome.offered,
        p50_ms: Some(outcome.served_p50_ms),
        p99_ms: Some(outcome.served_p99_ms),
        ..Row::default()
    });
    report.circumstances.push(format!(
        "{case}, {name}: capacity {capacity:.0}/s; {} offered, {} served ({:.2} of the capacity), \
         {} refused with Retry-After (p99 {:.0} ms), {} lost, {} not sent for want of a free connection among {MAX_CONNECTIONS}; {} probes, {} failed",
        outcome.offered,
        outcome.served,
        goodput(result),
        outcome.refused,
        outcome.refused_p99_ms,
        outcome.lost,
        outcome.unsent,
        outcome.probes,
        outcome.failed_probes
    ));
}

fn goodput(result: &Result) -> f64 {
    let possible = result.capacity * OFFERED_FOR.as_secs_f64();
    result.outcome.served as f64 / possible.max(1.0)
}

fn judge(report: &mut Report, case: &str, result: &Result) {
    let outcome = &result.outcome;
    let one = |value: f64| Spread::of(&[value]);
    report.bars.extend([
        Bar::at_least(
            &format!("{case}: goodput by capacity"),
            one(goodput(result)),
            0.8,
        ),
        Bar::at_most(
            &format!("{case}: p99 of what is admitted (ms)"),
            one(outcome.served_p99_ms),
            1_000.0,
        ),
        Bar::at_most(
            &format!("{case}: neither served nor refused with Retry-After"),
            one(outcome.lost as f64),
            0.0,
        ),
        Bar::at_most(
            &format!("{case}: probes that failed"),
            one(outcome.failed_probes as f64),
            0.0,
        ),
    ]);
}
