//! Within this process: what a decision costs however many pods and revisions there are, and what a
//! revision's data weighs.

use autoscaler::collection::Collection;
use autoscaler::decider::Decider;
use autoscaler::pod_autoscaler::Reachability;
use autoscaler::pods::PodCounts;
use autoscaler::pods::Supply;
use autoscaler::spec::{Settings, Source};
use benches::process::{own_rss_bytes, thread_cpu_us};
use benches::report::{Bar, Curve, Report, Row};
use benches::sample::Spread;
use serving::UnixTime;

use crate::Options;

const CASE: &str = "decision";
const BAR_US: f64 = 0.5;
const BAR_BYTES: f64 = 4096.0;
/// Evaluations of one round, over all revisions.
const EVALUATIONS: usize = 1_000_000;
const WINDOW_SECONDS: i64 = 60;

type Revision = (Decider, Collection);

pub(super) fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    if !options.wants(CASE) {
        return Ok(());
    }
    let settings = settings();
    let mut by_revisions = Curve::new("microseconds per decision by revisions");
    let mut by_pods = Curve::new("microseconds per decision by pods");
    let before = own_rss_bytes()?;
    let mut all = revisions(&settings, 50_000);
    let each = (own_rss_bytes()? - before) / all.len() as f64;
    report.bars.push(Bar::at_most(
        "bytes of decider and collection per revision, 60 s window",
        Spread::of(&[each]),
        BAR_BYTES,
    ));
    for count in [100, 1_000, 10_000, 50_000] {
        let case = format!("{CASE}, {count} revisions");
        let median = measure(options, report, &case, &settings, &mut all[..count], 1)?;
        by_revisions.add(count as f64, median);
    }
    for pods in [10, 1_000, 100_000] {
        let case = format!("{CASE}, {pods} pods");
        let median = measure(options, report, &case, &settings, &mut all[..1], pods)?;
        by_pods.add(f64::from(pods), median);
    }
    report.curves.extend([by_revisions, by_pods]);
    Ok(())
}

fn measure(
    options: &Options,
    report: &mut Report,
    case: &str,
    settings: &Settings,
    revisions: &mut [Revision],
    pods: u32,
) -> anyhow::Result<f64> {
    let mut costs = Vec::new();
    for _ in 0..options.rounds {
        costs.push(one_round(settings, revisions, pods)?);
    }
    let spread = Spread::of(&costs);
    report.rows.push(Row {
        case: case.to_owned(),
        subject: "pilotlight".to_owned(),
        requests: EVALUATIONS as u64,
        cpu_us_per_request: spread.map(|spread| spread.median),
        ..Row::default()
    });
    let name = format!("{case}: microseconds");
    report.bars.push(Bar::at_most(&name, spread, BAR_US));
    Ok(spread.map_or(f64::NAN, |spread| spread.median))
}

fn one_round(settings: &Settings, revisions: &mut [Revision], pods: u32) -> anyhow::Result<f64> {
    let supply = Supply::of(&PodCounts {
        ready: pods,
        ..PodCounts::default()
    });
    let spec = &settings.decider;
    let rounds = EVALUATIONS / revisions.len();
    let mut wanted = 0_i64;
    let before = thread_cpu_us()?;
    for tick in 0..rounds {
        // All are evaluated in turn, as ticks come; the data is at most a few seconds old.
        let now = UnixTime::from_seconds(WINDOW_SECONDS + (tick % 3) as i64);
        for (decider, collection) in &mut *revisions {
            let observed = collection.observe_for(spec, now);
            if let Some(decision) = decider.decide(spec, observed, supply, now) {
                wanted += i64::from(decision.desired_scale);
            }
        }
    }
    let spent = thread_cpu_us()? - before;
    anyhow::ensure!(wanted > 0, "nothing was decided");
    Ok(spent / (rounds * revisions.len()) as f64)
}

fn settings() -> Settings {
    Settings::derive(&Source {
        annotations: &Default::default(),
        container_concurrency: 0,
        reachability: Reachability::Reachable,
        autoscaler: &Default::default(),
        progress_deadline_ns: 600_000_000_000,
    })
}

/// With a full window each.
fn revisions(settings: &Settings, count: usize) -> Vec<Revision> {
    let mut revisions = Vec::with_capacity(count);
    for index in 0..count {
        let mut collection = Collection::new(&settings.collection);
        for second in 0..=WINDOW_SECONDS {
            let time = UnixTime::from_seconds(second);
            collection.record(time, 50.0 + (index % 100) as f64, 10.0);
        }
        let created = UnixTime::from_seconds(0);
        revisions.push((Decider::new(&settings.decider, 1, created), collection));
    }
    revisions
}
