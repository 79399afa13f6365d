//! Load for a program that was built to record where its time goes, so that the compiler can lay the
//! next build out for it (profile-guided optimisation). Everything that requests usually pass
//! through is passed: what is not counts as cold, and is built for size.

mod activator;
mod autoscaler;
mod queue_proxy;

use std::path::PathBuf;
use std::time::Duration;

/// Requests per kind of load: how often what happens is recorded, not how long it takes.
const REQUESTS: u64 = 30_000;
/// The longest that one kind of load may take.
const BOUND: Duration = Duration::from_secs(120);
/// What it may take a program to drain and to write what it has recorded: the activator goes on for
/// 45 seconds as if nothing were.
const PATIENCE: Duration = Duration::from_secs(75);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Which of our programs it is.
    #[arg(long, value_enum)]
    of: Of,
    /// The program to train; built with `-Cprofile-generate`.
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Of {
    QueueProxy,
    Activator,
    Autoscaler,
}

/// Runs every kind of load, with programs that end in order.
///
/// # Errors
/// When a port is taken, a peer is not installed, a request fails, or the program does not end in
/// time.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    match options.of {
        Of::QueueProxy => queue_proxy::run(&options.program).await,
        Of::Activator => activator::run(&options.program).await,
        Of::Autoscaler => autoscaler::run(&options.program).await,
    }
}
