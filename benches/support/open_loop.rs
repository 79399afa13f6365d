//! Open-loop load: requests leave at fixed times whatever became of the earlier ones, and latency
//! counts from the time at which a request *should* have left, so queueing is not hidden.
//!
//! One thread sends everything, woken by a timer of the kernel's: a generator that spins until a
//! request is due takes from the proxy and the backend the core that they would have run on.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
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

/// Sends `rate` requests per second over `connections` connections for `duration`, from a thread of
/// its own. A request that finds every connection busy waits for the first one that is free.
///
/// # Errors
/// When a connection breaks or the kernel gives no timer.
pub async fn run(
    address: SocketAddr,
    connections: usize,
    rate: u64,
    duration: Duration,
) -> anyhow::Result<Latency> {
    let load = move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(send(address, connections, rate, duration))
    };
    tokio::task::spawn_blocking(load)
        .await
        .context("the load's thread panicked")?
}

async fn send(
    address: SocketAddr,
    connections: usize,
    rate: u64,
    duration: Duration,
) -> anyhow::Result<Latency> {
    let request: Arc<[u8]> = get(address, "/").into();
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let schedule = Arc::new(Schedule::start(rate, duration)?);
    let mut tasks = JoinSet::new();
    for mut connection in open {
        let (request, schedule) = (request.clone(), schedule.clone());
        tasks.spawn(async move {
            let mut histogram = Histogram::<u64>::new(3)?;
            while let Some(due) = schedule.next().await {
                connection.exchange(&request).await?;
                let late = Instant::now().saturating_duration_since(due);
                histogram.record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX))?;
            }
            anyhow::Ok(histogram)
        });
    }
    schedule.run().await?;
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

/// When requests are due, and how many of those times have come.
struct Schedule {
    timer: AsyncFd<OwnedFd>,
    start: Instant,
    gap: Duration,
    total: u32,
    taken: AtomicU32,
    /// One permit for each time that has come and that no connection has taken.
    come: Semaphore,
}

// === impl Schedule ===

impl Schedule {
    /// The first request is due one gap from now.
    fn start(rate: u64, duration: Duration) -> anyhow::Result<Self> {
        let gap = Duration::from_nanos(1_000_000_000 / rate);
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let spec = Timespec {
            tv_sec: i64::try_from(gap.as_secs())?,
            tv_nsec: i64::from(gap.subsec_nanos()),
        };
        let every = Itimerspec {
            it_interval: spec,
            it_value: spec,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        #[expect(
            deprecated,
            reason = "it is unsound for values that close or change their descriptor; an OwnedFd is owned by the AsyncFd until both end"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self {
            timer,
            start: Instant::now(),
            gap,
            total: u32::try_from(rate * duration.as_secs().max(1))?,
            taken: AtomicU32::new(0),
            come: Semaphore::new(0),
        })
    }

    /// The time at which the next request was due, once it has come; nothing after the last.
    async fn next(&self) -> Option<Instant> {
        self.come.acquire().await.ok()?.forget();
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.start + self.gap * (taken + 1))
    }

    /// Lets requests go as their times come, until the last has been taken.
    async fn run(&self) -> anyhow::Result<()> {
        let mut come = 0;
        while come < self.total {
            let mut ready = self.timer.readable().await?;
            let mut count = [0; 8];
            let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut count)?)) else {
                continue;
            };
            read?;
            let new = u64::from_ne_bytes(count).min(u64::from(self.total - come));
            come += u32::try_from(new)?;
            self.come.add_permits(usize::try_from(new)?);
        }
        while self.taken.load(Ordering::Relaxed) < self.total {
            self.timer.readable().await?.clear_ready();
        }
        self.come.close();
        Ok(())
    }
}
