//! One attempt at one probe, and why it failed (upstream: `pkg/queue/health/probe.go`).

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Action, grpc, http_get};

/// The user agent of our probes. The version that belongs between the slashes is never filled in
/// upstream either.
pub(super) const USER_AGENT: &str = "kube-probe//";

/// Why an attempt or a round failed; the text is for the operator and no program parses it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("dial tcp {address}: {}", connect_text(.source))]
    Connect { address: String, source: io::Error },
    #[error("dial tcp {0}: i/o timeout")]
    ConnectTimeout(String),
    #[error("Get \"{url}\": {reason}")]
    Http { url: String, reason: String },
    #[error("HTTP probe did not respond Ready, got status code: {0}")]
    Status(u16),
    #[error("error constructing probe request {0}")]
    Request(String),
    #[error("failed to run HTTP protocol probe with error: {0}")]
    Detection(Box<ProbeError>),
    #[error("{0}")]
    Grpc(String),
    #[error("exec probe not supported")]
    Exec,
    #[error("no probe found")]
    Missing,
    #[error("context deadline exceeded")]
    RoundExpired,
}

/// The texts that operators know from Go, without the system's number.
fn connect_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer".to_owned(),
        _ => error.to_string(),
    }
}

/// Tries `action` once within `limit`.
pub(super) async fn attempt(action: &Action, limit: Duration) -> Result<(), ProbeError> {
    match action {
        Action::HttpGet(get) => http_get::probe(get, limit).await,
        Action::TcpSocket { host, port } => tcp(host, *port, limit).await,
        Action::Grpc { port, service } => grpc::probe(*port, service, limit).await,
        Action::Exec => Err(ProbeError::Exec),
        Action::Missing => Err(ProbeError::Missing),
    }
}

/// Connects and closes.
async fn tcp(host: &str, port: u16, limit: Duration) -> Result<(), ProbeError> {
    timeout(limit, connect(host, port))
        .await
        .map_err(|_| ProbeError::ConnectTimeout(format!("{host}:{port}")))?
        .map(drop)
}

/// A connection to the app; an empty host is this machine, as in Go's dialer.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, ProbeError> {
    let target = if host.is_empty() { "127.0.0.1" } else { host };
    let connected = TcpStream::connect((target, port)).await;
    let stream = connected.map_err(|source| ProbeError::Connect {
        address: format!("{host}:{port}"),
        source,
    })?;
    // Only latency is at stake if the kernel refuses.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
