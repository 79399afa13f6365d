//! Load for a program that was built to record where its time goes, so that the compiler can lay the
//! next build out for it (profile-guided optimisation). What the load does not pass through counts as
//! cold, and is built for size.

mod queue_proxy;

use std::path::PathBuf;

use crate::autoscaler;

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
    Autoscaler,
}

/// Runs every kind of load, with programs that end in order.
///
/// # Errors
/// When a peer is not installed, a request fails, or the program does not end in time.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    match options.of {
        Of::QueueProxy => queue_proxy::run(&options.program).await,
        Of::Autoscaler => autoscaler::train(&options.program).await,
    }
}
