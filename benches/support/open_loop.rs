//! Open-loop load: requests leave at fixed times whatever became of the earlier ones, and latency
//! counts from the time at which a request *should* have left, so queueing is not hidden.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::{Connection, get};

/// Latencies of one run.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub requests: u64,
}

/// Sends `rate` requests per second over `connections` connections for `duration`.
///
/// # Errors
/// When a connection breaks.
pub async fn run(
    address: SocketAddr,
    connections: usize,
    rate: u64,
    duration: Duration,
) -> anyhow::Result<Latency> {
    let request: Arc<[u8]> = get(address, "/").into();
    let next = Arc::new(AtomicU64::new(0));
    let total = rate * duration.as_secs().max(1);
    let gap_nanos = 1_000_000_000 / rate;
    let mut tasks = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(50);
    for _ in 0..connections {
        let (request, next) = (request.clone(), next.clone());
        tasks.spawn(async move {
            let mut histogram = Histogram::<u64>::new(3)?;
            let mut connection = Connection::open(address).await?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    return anyhow::Ok(histogram);
                }
                let due = start + Duration::from_nanos(index * gap_nanos);
                sleep_until(due).await;
                connection.exchange(&request).await?;
                let late = Instant::now().saturating_duration_since(due);
                histogram.record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX))?;
            }
        });
    }
    let mut sum = Histogram::<u64>::new(3)?;
    while let Some(histogram) = tasks.join_next().await {
        sum.add(histogram??)?;
    }
    let at = |quantile: f64| sum.value_at_quantile(quantile) as f64 / 1e6;
    Ok(Latency {
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        requests: sum.len(),
    })
}

/// The runtime's timers have a resolution of a millisecond; the rest is yielded away, so that the
/// generator's own error stays far below what is measured.
async fn sleep_until(due: Instant) {
    let coarse = due - Duration::from_millis(2);
    if Instant::now() < coarse {
        tokio::time::sleep_until(coarse).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}
