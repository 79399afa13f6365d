//! Dialling a destination with upstream's patience, `dialWithBackOff` of knative.dev/pkg's
//! `network/transports.go` (only time-outs are tried again), or with the caller's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{Patience, Upstream};
use crate::forward::ForwardError;

/// The first attempt, and the base of the further ones.
const FIRST_ATTEMPT: Duration = Duration::from_millis(50);
/// Attempts after the first.
const RETRIES: u32 = 15;
/// How much longer each retry may take than the one before.
const GROWTH: f64 = 1.4;
/// Up to this share is added to a retry's time at random.
const JITTER: f64 = 0.1;
/// Between two attempts: from the first to the second, at random.
const PAUSE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(60));
/// TCP keep-alive, idle time and interval.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A connection, with the socket options that upstream's transport sets.
pub(super) async fn dial(
    upstream: &Upstream,
    patience: Patience,
) -> Result<TcpStream, ForwardError> {
    let _one_of_the_dials = upstream.dials.acquire().await;
    let address = upstream.address;
    let connect = || TcpStream::connect(address);
    let stream = match patience {
        Patience::Upstreams => with_back_off(address, connect).await?,
        Patience::Callers => connect()
            .await
            .map_err(|error| ForwardError::dial(address, &error))?,
    };
    // Failing to set an option leaves a slower connection, not a broken one.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE);
    let _ = sockopt::set_tcp_keepintvl(&stream, KEEP_ALIVE);
    if let Some(silence) = upstream.options.max_silence {
        limit_silence(&stream, Some(silence));
    }
    Ok(stream)
}

/// How long the peer may be silent; `None` leaves it to the kernel, which is about a quarter of an
/// hour with bytes on the way and 50 s without. The kernel applies the limit also to a peer that says
/// that it has no room.
pub(super) fn limit_silence(stream: &TcpStream, silence: Option<Duration>) {
    let millis = silence.map_or(0, |it| u32::try_from(it.as_millis()).unwrap_or(u32::MAX));
    let _ = sockopt::set_tcp_user_timeout(stream, millis);
}

async fn with_back_off<T, F>(
    address: SocketAddr,
    connect: impl Fn() -> F,
) -> Result<T, ForwardError>
where
    F: Future<Output = io::Result<T>>,
{
    let start = Instant::now();
    let mut limit = FIRST_ATTEMPT;
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            sleep(pause()).await;
        }
        match timeout(limit, connect()).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => {
                return Err(ForwardError::dial(address, &error));
            }
            Ok(Err(_)) | Err(_) => limit = next_limit(attempt),
        }
    }
    let waited = Instant::now().duration_since(start);
    Err(ForwardError::dial_timed_out(address, waited))
}

/// How long the attempt after `attempt` may take.
fn next_limit(attempt: u32) -> Duration {
    let grown = FIRST_ATTEMPT.mul_f64(GROWTH.powi(i32::try_from(attempt).unwrap_or(i32::MAX)));
    grown.mul_f64(1.0 + JITTER * fastrand::f64())
}

fn pause() -> Duration {
    PAUSE.0 + (PAUSE.1 - PAUSE.0).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 12 row 27: about 20 seconds in all.
    #[test]
    fn the_patience_adds_up_to_upstreams() {
        for _ in 0..100 {
            let limits: Duration = (0..RETRIES).map(next_limit).sum();
            let pauses: Duration = (0..RETRIES).map(|_| pause()).sum();
            let total = FIRST_ATTEMPT + limits + pauses;
            assert!(total > Duration::from_secs(19), "{total:?}");
            assert!(total < Duration::from_secs(23), "{total:?}");
        }
    }
    /// Upstream's attempts grow until one is long enough, up to round trips of seconds; each that
    /// was not has been for nothing.
    #[tokio::test(start_paused = true)]
    async fn the_back_off_gets_through_any_round_trip() {
        let address = SocketAddr::from(([10, 0, 0, 1], 8012));
        for (round_trip, attempts) in [(1, 1), (49, 1), (70, 4), (600, 10), (1_000, 11)] {
            let made = std::cell::Cell::new(0);
            let connect = || {
                made.set(made.get() + 1);
                async move {
                    sleep(Duration::from_millis(round_trip)).await;
                    Ok(())
                }
            };
            with_back_off(address, connect).await.expect("a connection");
            assert!(made.get() <= attempts, "{round_trip}: {}", made.get());
            assert_eq!(made.get() == 1, round_trip < 50);
        }
    }
}
