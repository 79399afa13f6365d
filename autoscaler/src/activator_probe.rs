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
    until_success(|| probe(target)).await
}

async fn until_success<F: Future<Output = bool>>(mut probe: impl FnMut() -> F) -> bool {
    let end = Instant::now() + BACKGROUND_LIMIT;
    loop {
        if probe().await {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const HOST: &str = "hello-00001.default.svc.cluster.local:80";

    fn target(address: impl ToString) -> ProbeTarget {
        ProbeTarget {
            address: address.to_string(),
            host: HOST.to_owned(),
        }
    }

    /// The outcome of a probe that is answered so, and the request.
    async fn answered(status: &str, body: &str) -> (bool, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        tokio::join!(probe(&target), answering)
    }

    /// Covers upstream's `TestActivatorProbe`.
    #[tokio::test]
    async fn only_an_activator_will_do() {
        let (activator, request) = answered("200 OK", "activator").await;
        assert!(activator);
        let mut lines = request.lines();
        assert_eq!(lines.next(), Some("GET //healthz HTTP/1.1"));
        let headers: Vec<_> = lines.collect();
        for expected in [
            format!("Host: {HOST}"),
            "User-Agent: Knative-Autoscaling-Probe".to_owned(),
            "K-Network-Probe: activator".to_owned(),
        ] {
            assert!(headers.contains(&expected.as_str()), "{request}");
        }
        for (status, body) in [
            ("200 OK", "queue"),
            ("200 OK", "activato"),
            ("200 OK", "activatorX"),
            ("200 OK", ""),
            ("400 Bad Request", "activator"),
            ("503 Service Unavailable", "activator"),
            ("201 Created", "activator"),
        ] {
            assert!(!answered(status, body).await.0, "{status} {body:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_no_activator() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(listener.local_addr().unwrap());
        drop(listener);
        assert!(!probe(&target).await);
    }

    /// How often was probed in how many seconds, and with what outcome, when the probe so numbered is
    /// the first to succeed.
    async fn in_background(success: u32, probe_takes: Duration) -> (u32, u64, bool) {
        let began = Instant::now();
        let mut probes = 0;
        let outcome = until_success(|| {
            probes += 1;
            let success = probes == success;
            async move {
                tokio::time::sleep(probe_takes).await;
                success
            }
        });
        let outcome = outcome.await;
        let seconds = Instant::now().duration_since(began).as_secs();
        (probes, seconds, outcome)
    }

    /// Upstream polls at once and then each second, for 45 s.
    #[tokio::test(start_paused = true)]
    async fn the_background_probe_ends_with_success_or_in_time() {
        let instant = Duration::ZERO;
        assert_eq!(in_background(1, instant).await, (1, 0, true));
        assert_eq!(in_background(4, instant).await, (4, 3, true));
        assert_eq!(in_background(45, instant).await, (45, 44, true));
        assert_eq!(in_background(46, instant).await, (45, 44, false));
        // No probe begins after the limit.
        assert_eq!(in_background(0, PROBE_LIMIT).await, (5, 54, false));
    }
}
