//! Load for a program that was built to record where its time goes, so that the compiler can lay the
//! next build out for it (profile-guided optimisation). Everything that requests usually pass
//! through is passed: what is not counts as cold, and is built for size.

mod activator;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use benches::peers::{Server, Sidecar, nginx_backend, own_loopback};
use benches::websocket::{self, Echo};
use benches::{h2c, load};

/// Requests per kind of load: how often what happens is recorded, not how long it takes.
const REQUESTS: u64 = 30_000;
/// The longest that one kind of load may take.
const BOUND: Duration = Duration::from_secs(120);
/// What it may take a program to drain and to write what it has recorded: the activator goes on for
/// 45 seconds as if nothing were.
const PATIENCE: Duration = Duration::from_secs(75);

/// A recording build is slow: what it would refuse would be taken for usual.
const PLAIN: [(&str, &str); 3] = [
    ("PILOTLIGHT_QUEUE_DEPTH", "2000"),
    ("PILOTLIGHT_OVERLOAD_DELAY", "0"),
    ("PILOTLIGHT_QUIET_PERIOD", "1ms"),
];
const OBSERVED: [(&str, &str); 4] = [
    PLAIN[0],
    PLAIN[1],
    PLAIN[2],
    (
        "OBSERVABILITY_CONFIG",
        r#"{"requestMetrics":{"protocol":"prometheus"},"enableRequestLog":true}"#,
    ),
];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Which program it is.
    #[arg(long, value_enum, default_value_t = Trainee::QueueProxy)]
    of: Trainee,
    /// The program to train; built with `-Cprofile-generate`.
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Trainee {
    QueueProxy,
    Activator,
}

/// Runs every kind of load, and ends the program in order.
///
/// # Errors
/// When nginx is not installed, a request fails, or the program does not end in time.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    match options.of {
        Trainee::QueueProxy => sidecar(&options.program).await,
        Trainee::Activator => activator::run(&options.program).await,
    }
}

/// Each kind of load with a sidecar of its own.
async fn sidecar(program: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let app = nginx_backend(folder.path(), false).await?;
    let sidecar = |limit, app: &Server, extra| Sidecar {
        name: "the sidecar",
        program,
        container_concurrency: limit,
        backend: app.address,
        bind: Some(own_loopback()),
        extra,
    };
    for (limit, connections, body, extra) in [
        (0, 64, "", &PLAIN[..]),
        (0, 1_000, "", &PLAIN),
        (10, 64, "", &PLAIN),
        (0, 16, "a request's body", &PLAIN),
        (0, 16, "", &OBSERVED),
    ] {
        let server = sidecar(limit, &app, extra).start().await?;
        let request = match body {
            "" => load::get(server.address, "/"),
            body => load::post(server.address, "/", body),
        };
        load::closed_loop_of(request, server.address, connections, REQUESTS, BOUND).await?;
        server.process.terminate(PATIENCE).await?;
    }
    let app = nginx_backend(folder.path(), true).await?;
    let server = sidecar(0, &app, &PLAIN).start().await?;
    h2c::closed_loop(server.address, 10, 10, REQUESTS, BOUND).await?;
    server.process.terminate(PATIENCE).await?;

    let echo = Echo::start()?;
    let server = Sidecar {
        backend: echo.address,
        ..sidecar(0, &app, &PLAIN)
    };
    let server = server.start().await?;
    websocket::closed_loop(server.address, 16, REQUESTS, BOUND).await?;
    server.process.terminate(PATIENCE).await
}
