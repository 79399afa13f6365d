//! What an autoscaler usually does, for one that records where its time goes.

use std::path::Path;
use std::time::Duration;

use benches::fleet::Fleet;

use super::running::Running;
use super::stats::{connect, frames, one_round};
use super::wake::wake;
use super::{Bench, ports_are_free};

/// Scraped and decided for so long.
const STEADY: Duration = Duration::from_secs(15);
const WAKES: usize = 300;
/// What it may take to end, and to write what was recorded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Scrapes and decides for active revisions, takes stats of them, and wakes some that are at zero.
///
/// # Errors
/// When a port is taken, or the program does not do its work or end in time.
pub(crate) async fn train(program: &Path) -> anyhow::Result<()> {
    ports_are_free()?;
    let bench = Bench {
        program: program.to_owned(),
    };
    let fleet = Fleet {
        active: 1_000,
        at_zero: 1_000,
        namespaces: 100,
        scraped: true,
    };
    let mut running = Running::start(&bench, fleet).await?;
    tokio::time::sleep(STEADY).await;
    wake(&mut running, &fleet, WAKES).await?;
    let mut socket = connect().await?;
    one_round(&running, &mut socket, &frames(&fleet)).await?;
    running.process.terminate(PATIENCE).await
}
