//! What an autoscaler usually does, for one that records where its time goes.

use std::path::Path;
use std::time::Duration;

use benches::fleet::Fleet;
use benches::pods::Idle;
use futures_util::SinkExt as _;

use super::PATIENCE;
use crate::autoscaler::running::Running;
use crate::autoscaler::stats::{connect, frames};
use crate::autoscaler::wake::wake;
use crate::autoscaler::{Bench, ports_are_free};

/// Scraped and decided for so long.
const STEADY: Duration = Duration::from_secs(40);
const WAKES: usize = 300;
/// Frames of stats. What runs far less often than the rest counts as cold: no more stats than
/// scrapes, although an autoscaler could take a million in that time.
const FRAMES: usize = 300;

/// Scrapes and decides for active revisions, takes stats of them, and wakes some that are at zero.
pub(super) async fn run(program: &Path) -> anyhow::Result<()> {
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
    let mut running = Running::start(&bench, fleet, Idle::Sleep).await?;
    tokio::time::sleep(STEADY).await;
    wake(&mut running, &fleet, WAKES).await?;
    let mut socket = connect().await?;
    for frame in frames(&fleet).iter().cycle().take(FRAMES) {
        socket.send(frame.clone()).await?;
    }
    running.process.terminate(PATIENCE).await
}
