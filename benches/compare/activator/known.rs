//! What each further known revision takes, of those that nobody asks for.

use std::time::Duration;

use benches::report::{Bar, Report, Row};
use benches::revisions::Revision;
use benches::sample::Spread;

use super::running::Running;
use super::{Bench, OURS};

const CASE: &str = "known revisions";
/// Few enough to be the base, and many enough for a slope.
const COUNTS: [usize; 2] = [1_000, 11_000];
/// What listing took is given back within so long.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants(CASE) {
        return Ok(());
    }
    let mut resident = Vec::new();
    for count in COUNTS {
        let revisions = vec![Revision::default(); count];
        let running = Running::start(&bench.program, &revisions, &[]).await?;
        tokio::time::sleep(SETTLE).await;
        let rss = running.server.process.rss_mib()?;
        resident.push(rss);
        report.rows.push(Row {
            case: format!("{CASE}, {count}"),
            subject: OURS.to_owned(),
            rss_mib: Some(rss),
            ..Row::default()
        });
    }
    let further = (COUNTS[1] - COUNTS[0]) as f64;
    let each = (resident[1] - resident[0]) * 1024.0 / further;
    let bar = format!("{CASE}: kB for each further one");
    report
        .bars
        .push(Bar::at_most(&bar, Spread::of(&[each]), 2.0));
    Ok(())
}
