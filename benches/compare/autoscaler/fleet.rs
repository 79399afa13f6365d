//! CPU, memory and missed scrapes with many active revisions that nothing happens to: each pod is
//! scraped every second and each revision decided every two.

use std::time::Duration;

use benches::awake::KeepAwake;
use benches::fleet::Fleet;
use benches::pods::Idle;
use benches::process::Cpu;
use benches::report::{Bar, Curve, Report, Row};
use benches::sample::Spread;
use tokio::time::Instant;

use super::Bench;
use super::running::Running;

pub(super) const CASE: &str = "fleet";

/// How long CPU in cores is measured.
const DURATION: Duration = Duration::from_secs(30);
/// How long the rate of a busy core is measured, each of so many times: the median is judged.
const ROUND: Duration = Duration::from_secs(5);
const ROUNDS: usize = 9;
/// Between two measurements.
const PAUSE: Duration = Duration::from_secs(2);
/// Cost per revision may grow by so much from a thousand to ten thousand: linear, and caches.
const LINEAR: f64 = 1.3;

/// What one run found.
struct Measured {
    cores: f64,
    per_scrape: Cpu,
    /// The same while cores never sleep: what a core costs that is busy all the time, as it is at the
    /// rate that is judged by it. Falling asleep and waking is none of that.
    busy_us_per_scrape: Vec<f64>,
    rss_mib: f64,
    /// Scrapes that should have been made and were not.
    missed: f64,
}

/// What a process and its pods have counted at a time.
struct Mark {
    scrapes: Vec<u32>,
    cpu: Cpu,
    at: Instant,
}

/// CPU and scrapes between two marks.
struct Window {
    spent: Cpu,
    seconds: f64,
    scrapes: u32,
    missed: u32,
}

pub(super) async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    report.circumstances.push(format!(
        "{CASE}: the pods' thread never sleeps, as waking it would be charged to who asks"
    ));
    report.circumstances.push(format!(
        "{CASE}, scrapes/s per core: measured apart, {}",
        KeepAwake::start().circumstance()
    ));
    let mut cpu = Curve::new("CPU in cores by active revisions");
    let mut memory = Curve::new("resident MiB by active revisions");
    for (active, namespaces) in [(100, 10), (1_000, 100), (10_000, 1_000), (10_000, 1)] {
        let measured = measure(bench, active, namespaces).await?;
        let place = if namespaces == 1 {
            "one namespace"
        } else {
            "many namespaces"
        };
        let case = format!("{CASE}, {active} active, {place}");
        report.rows.push(Row {
            case: format!("{case}: {:.3} cores", measured.cores),
            subject: "pilotlight".to_owned(),
            requests: active as u64 * DURATION.as_secs(),
            cpu_us_per_request: Some(measured.per_scrape.total_us),
            user_us: Some(measured.per_scrape.user_us),
            system_us: Some(measured.per_scrape.system_us),
            rss_mib: Some(measured.rss_mib),
            ..Row::default()
        });
        if namespaces > 1 {
            cpu.add(active as f64, measured.cores);
            memory.add(active as f64, measured.rss_mib);
        }
        if active == 10_000 {
            judge(report, &case, &measured);
        }
    }
    let growth = cpu.growth_per_unit(1_000.0, 10_000.0);
    report.bars.push(Bar::at_most(
        "CPU per active revision: 10,000 to 1,000",
        growth.and_then(|growth| Spread::of(&[growth])),
        LINEAR,
    ));
    report.curves.extend([cpu, memory]);
    Ok(())
}

fn judge(report: &mut Report, case: &str, measured: &Measured) {
    let mut at_most = |name: &str, value: f64, bar: f64| {
        let name = format!("{case}: {name}");
        let value = Spread::of(&[value]);
        report.bars.push(Bar::at_most(&name, value, bar));
    };
    at_most("cores", measured.cores, 0.3);
    at_most("resident MiB", measured.rss_mib, 200.0);
    at_most("scrapes missed", measured.missed, 0.0);
    let rates: Vec<_> = measured
        .busy_us_per_scrape
        .iter()
        .map(|us| 1e6 / us)
        .collect();
    let rate = Spread::of(&rates);
    let name = format!("{case}: scrapes/s per core, decisions included");
    report.bars.push(Bar::at_least(&name, rate, 40_000.0));
}

async fn measure(bench: &Bench, active: usize, namespaces: usize) -> anyhow::Result<Measured> {
    let fleet = Fleet {
        active,
        at_zero: 0,
        namespaces,
        scraped: true,
    };
    let running = Running::start(bench, fleet, Idle::Spin).await?;
    let started = mark(&running)?;
    tokio::time::sleep(DURATION).await;
    let usual = started.until(&mark(&running)?);
    let rss_mib = running.process.rss_mib()?;
    let awake = KeepAwake::start();
    tokio::time::sleep(PAUSE).await;
    let mut marks = vec![mark(&running)?];
    for _ in 0..ROUNDS {
        tokio::time::sleep(ROUND).await;
        marks.push(mark(&running)?);
    }
    drop(awake);
    let rounds = marks.windows(2).map(|pair| pair[0].until(&pair[1]));
    let all = marks[0].until(&marks[ROUNDS]);
    Ok(Measured {
        cores: usual.spent.total_us / 1e6 / usual.seconds,
        per_scrape: usual.per_scrape(),
        busy_us_per_scrape: rounds.map(|round| round.per_scrape().total_us).collect(),
        rss_mib,
        missed: f64::from(usual.missed + all.missed),
    })
}

fn mark(running: &Running) -> anyhow::Result<Mark> {
    Ok(Mark {
        scrapes: running.pods.scrapes(),
        cpu: running.process.cpu()?,
        at: Instant::now(),
    })
}

// === impl Mark ===

impl Mark {
    fn until(&self, later: &Self) -> Window {
        let seconds = (later.at - self.at).as_secs_f64();
        let pods = self.scrapes.iter().zip(&later.scrapes);
        let made = pods.map(|(before, after)| after - before);
        // A period that begins just after one scrape and ends just before another holds one fewer.
        let expected = seconds.floor() as u32 - 1;
        Window {
            spent: later.cpu.since(self.cpu),
            seconds,
            scrapes: made.clone().sum(),
            missed: made.map(|made| expected.saturating_sub(made)).sum(),
        }
    }
}

// === impl Window ===

impl Window {
    fn per_scrape(&self) -> Cpu {
        self.spent.per(self.scrapes.into())
    }
}
