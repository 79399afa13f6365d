//! Load for a sidecar: everything that requests usually pass through.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use benches::peers::{Server, Sidecar, nginx_backend, own_loopback};
use benches::websocket::{self, Echo};
use benches::{h2c, load};

/// Requests per kind of load: how often what happens is recorded, not how long it takes.
const REQUESTS: u64 = 30_000;
/// The longest that one kind of load may take.
const BOUND: Duration = Duration::from_secs(120);
/// What it may take the sidecar to drain and to write what it has recorded.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Runs every kind of load, each with a sidecar of its own that ends in order.
///
/// # Errors
/// When nginx is not installed, a request fails, or the sidecar does not end in time.
pub(super) async fn run(program: &Path) -> anyhow::Result<()> {
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
