//! Asks a revision's public service who answers for it: only behind an activator may the last pod
//! go. Upstream: `activatorProbe` in `pkg/reconciler/autoscaling/kpa/scaler.go` and
//! `knative.dev/pkg/network/prober`.

use std::io;
use std::time::Duration;

use http::StatusCode;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::http_client::{self, Connection};
use crate::world::ProbeTarget;

/// The name an activator answers a probe with, and is asked for by (`activator.Name`).
const ACTIVATOR: &str = "activator";
/// Two slashes, as upstream joins it.
const PROBE_PATH: &str = "//healthz";
/// Between two background probes (`probePeriod`).
const PERIOD: Duration = Duration::from_secs(1);
/// How long the background probe goes on (`probeTimeout`).
const BACKGROUND_LIMIT: Duration = Duration::from_secs(45);
/// One probe, all dials included. Upstream has no such limit, and blocks one of two workers.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// First dial; every further one may take this factor longer.
const DIAL_TIMEOUT: Duration = Duration::from_millis(50);
const DIAL_TIMEOUT_FACTOR: f64 = 1.4;
const DIAL_ATTEMPTS: u32 = 15;
/// Pause between dials that timed out, in milliseconds.
const DIAL_PAUSE_MS: std::ops::Range<u64> = 30..60;

/// Probes once: whether an activator answered.
pub(crate) async fn probe(target: &ProbeTarget) -> bool {
    match tokio::time::timeout(PROBE_LIMIT, attempt(target)).await {
        Ok(Ok(activator)) => activator,
        Ok(Err(error)) => {
            tracing::debug!(?target, %error, "activator probe failed");
            false
        }
        Err(_elapsed) => false,
    }
}

/// Probes every second until an activator answers or the limit is reached.
pub(crate) async fn probe_until_success(target: &ProbeTarget) -> bool {
    let end = Instant::now() + BACKGROUND_LIMIT;
    loop {
        if probe(target).await {
            return true;
        }
        if Instant::now() + PERIOD >= end {
            return false;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn attempt(target: &ProbeTarget) -> io::Result<bool> {
    let headers = [
        ("User-Agent", "Knative-Autoscaling-Probe"),
        ("K-Network-Probe", ACTIVATOR),
        ("Connection", "close"),
    ];
    let request = http_client::get(PROBE_PATH, &target.host, &headers)?;
    let mut connection = Connection::over(dial(&target.address).await?);
    let answer = connection
        .exchange(&request, ACTIVATOR.len())
        .await
        .map_err(io::Error::other)?;
    Ok(answer.status == StatusCode::OK && answer.body == ACTIVATOR.as_bytes())
}

/// Dials with growing patience: the service's address may just be changing (`DialWithBackOff`).
async fn dial(address: &str) -> io::Result<TcpStream> {
    let mut timeout = DIAL_TIMEOUT;
    for _ in 0..DIAL_ATTEMPTS {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for resolved in tokio::net::lookup_host(address).await? {
            match tokio::time::timeout(timeout, http_client::connect(resolved)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_elapsed) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        if failure.kind() != io::ErrorKind::TimedOut {
            return Err(failure);
        }
        let jitter = 0.9 + 0.2 * fastrand::f64();
        timeout = timeout.mul_f64(DIAL_TIMEOUT_FACTOR * jitter);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(DIAL_PAUSE_MS))).await;
    }
    Err(io::ErrorKind::TimedOut.into())
}
