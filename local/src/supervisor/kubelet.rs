//! The kubelet's part: asks a replica's queue-proxy whether the app is ready.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a kubelet sends for the readiness probe that the controller writes.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\nConnection: close\r\n\r\n";

/// A queue-proxy that is asked waits up to ten seconds for the app.
const TIMEOUT: Duration = Duration::from_secs(12);

/// Pauses between probes that fail at once, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Probes at the short pauses; later ones follow the probe's own period.
const EAGER_PROBES: u32 = 200;

/// Failures in a row that take readiness away again, Kubernetes' default.
const FAILURE_THRESHOLD: u32 = 3;

/// Kubernetes' default period.
const DEFAULT_PERIOD: Duration = Duration::from_secs(10);

/// Probes one queue-proxy.
#[derive(Clone, Copy, Debug)]
pub struct Kubelet {
    sidecar: SocketAddr,
    period: Duration,
}

// === impl Kubelet ===

impl Kubelet {
    /// A kubelet for the queue-proxy at `sidecar`; a period of zero is Kubernetes' default.
    pub fn new(sidecar: SocketAddr, period_seconds: i64) -> Self {
        let period = match u64::try_from(period_seconds) {
            Ok(0) | Err(_) => DEFAULT_PERIOD,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        Self { sidecar, period }
    }

    /// Returns when the app is ready.
    pub async fn until_ready(&self) {
        let mut pause = PAUSES.0;
        for number in 0_u32.. {
            if self.probe().await {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = if number < EAGER_PROBES {
                (pause * 2).min(PAUSES.1)
            } else {
                self.period.min(Duration::from_secs(1))
            };
        }
    }

    /// Returns when an app that was ready has failed several probes in a row.
    pub async fn until_unready(&self) {
        let mut failures = 0;
        while failures < FAILURE_THRESHOLD {
            tokio::time::sleep(self.period).await;
            failures = if self.probe().await { 0 } else { failures + 1 };
        }
    }

    async fn probe(&self) -> bool {
        matches!(
            tokio::time::timeout(TIMEOUT, ask(self.sidecar)).await,
            Ok(Ok(true))
        )
    }
}

/// Whether the answer's status is 200; the rest of it does not matter.
async fn ask(sidecar: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(sidecar).await?;
    stream.set_nodelay(true)?;
    stream.write_all(REQUEST).await?;
    let mut status = [0; b"HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await?;
    Ok(status.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answering(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let mut request = vec![0; REQUEST.len()];
                stream.read_exact(&mut request).await.expect("read");
                assert_eq!(request, REQUEST);
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        });
        address
    }

    #[tokio::test]
    async fn probes_until_the_answer_is_200() {
        const REFUSED: &str = "HTTP/1.1 503 Service Unavailable\r\n\r\n";
        let sidecar = answering(&[REFUSED, REFUSED, "HTTP/1.1 200 OK\r\n\r\nqueue"]).await;
        Kubelet::new(sidecar, 0).until_ready().await;
    }
}
