//! How late a thread wakes that only sleeps: what the machine itself adds to every latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// A sleeping thread beside a measurement.
#[derive(Debug)]
pub struct IdleThread {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Histogram<u64>>,
}

// === impl IdleThread ===

impl IdleThread {
    /// Begins to sleep.
    ///
    /// # Errors
    /// When no thread is to be had.
    pub fn start() -> anyhow::Result<Self> {
        const PERIOD: Duration = Duration::from_millis(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut late = Histogram::new(3)?;
        let thread = std::thread::Builder::new().spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(PERIOD);
                let beyond = (Instant::now() - before).saturating_sub(PERIOD).as_nanos();
                // Nothing is beyond a histogram of 64 bits.
                let _ = late.record(u64::try_from(beyond).unwrap_or(u64::MAX));
            }
            late
        })?;
        Ok(Self { stop, thread })
    }

    /// Nanoseconds beyond each period.
    pub fn end(self) -> Histogram<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .expect("a thread that only sleeps does not panic")
    }
}
