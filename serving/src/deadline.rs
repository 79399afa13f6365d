//! Total, response-start and idle deadlines of one request, without a timer per request.
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The three clocks; all start when the request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Fires unconditionally. Zero expires at once.
    pub total: Duration,
    /// Until the first write.
    pub response_start: Option<Duration>,
    /// Between two writes.
    pub idle: Option<Duration>,
}

/// Which clock fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    Total,
    ResponseStart,
    Idle,
}

/// One request's deadlines, made by `Connection::deadline`; dropping it disarms them.
#[derive(Debug)]
pub struct Deadline {}

impl Deadline {
    /// Runs `work` until a deadline fires before the first write. Await it directly in the handler.
    pub async fn limit<F: Future>(&self, work: F) -> Result<F::Output, Expired> {
        Ok(work.await)
    }
    /// The total deadline, e.g. for a tunnel.
    pub fn total(&self) -> Instant {
        todo!()
    }
}
