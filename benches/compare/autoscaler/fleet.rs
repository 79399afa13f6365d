//! CPU, memory and missed scrapes with many active revisions that nothing happens to: each pod is
//! scraped every second and each revision decided every two.

use std::time::Duration;

use benches::awake::KeepAwake;
use benches::fleet::Fleet;
use benches::pods::Idle;
use benches::report::{Bar, Curve, Report, Row};
use benches::sample::Spread;
use tokio::time::Instant;

use super::Bench;
use super::running::Running;

pub(super) const CASE: &str = "fleet";

/// How long is measured, each time.
const DURATION: Duration = Duration::from_secs(30);
/// Between two measurements.
const PAUSE: Duration = Duration::from_secs(2);
/// Cost per revision may grow by so much from a thousand to ten thousand: linear, and caches.
const LINEAR: f64 = 1.3;

/// What one run found.
struct Measured {
    cores: f64,
    us_per_scrape: f64,
    /// The same while cores never sleep: what a core costs that is busy all the time, as it is at the
    /// rate that is judged by it. Falling asleep and waking is none of that.
    busy_us_per_scrape: f64,
    rss_mib: f64,
    /// Scrapes that should have been made and were not.
    missed: f64,
}

/// CPU and scrapes of one measurement.
struct Window {
    spent_us: f64,
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
            cpu_us_per_request: Some(measured.us_per_scrape),
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
    let rate = Spread::of(&[1e6 / measured.busy_us_per_scrape]);
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
    let usual = window(&running).await?;
    let rss_mib = running.process.rss_mib()?;
    let awake = KeepAwake::start();
    tokio::time::sleep(PAUSE).await;
    let busy = window(&running).await?;
    drop(awake);
    Ok(Measured {
        cores: usual.spent_us / 1e6 / usual.seconds,
        us_per_scrape: usual.spent_us / f64::from(usual.scrapes),
        busy_us_per_scrape: busy.spent_us / f64::from(busy.scrapes),
        rss_mib,
        missed: f64::from(usual.missed + busy.missed),
    })
}

async fn window(running: &Running) -> anyhow::Result<Window> {
    let (before, cpu, start) = (
        running.pods.scrapes(),
        running.process.cpu()?,
        Instant::now(),
    );
    tokio::time::sleep(DURATION).await;
    let (after, seconds) = (
        running.pods.scrapes(),
        (Instant::now() - start).as_secs_f64(),
    );
    let spent_us = running.process.cpu()?.since(cpu).total_us;
    let made = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before);
    // A period that begins just after one scrape and ends just before another holds one fewer.
    let expected = seconds.floor() as u32 - 1;
    let missed = made.clone().map(|made| expected.saturating_sub(made)).sum();
    Ok(Window {
        spent_us,
        seconds,
        scrapes: made.sum(),
        missed,
    })
}
