//! Requests per second that this process sends to the API server (client-go's `flowcontrol`): a
//! layer in front of kube's client.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service};

/// Lets through `qps` requests in a second, and `burst` at once after a pause.
#[derive(Clone, Debug)]
pub(super) struct RateLimitLayer {
    bucket: Arc<Mutex<Bucket>>,
}

/// A service behind a [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub(super) struct RateLimit<S> {
    inner: S,
    bucket: Arc<Mutex<Bucket>>,
}

/// Tokens as a time: that at which the bucket would be full again.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: u32,
    full_at: Option<Instant>,
}

// === impl RateLimitLayer ===

impl RateLimitLayer {
    pub(super) fn new(qps: f64, burst: u32) -> Self {
        let interval = if qps > 0.0 {
            Duration::try_from_secs_f64(1.0 / qps).unwrap_or(Duration::ZERO)
        } else {
            Duration::ZERO
        };
        Self {
            bucket: Arc::new(Mutex::new(Bucket {
                interval,
                burst: burst.max(1),
                full_at: None,
            })),
        }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            bucket: Arc::clone(&self.bucket),
        }
    }
}

// === impl Bucket ===

impl Bucket {
    /// Takes a token; the request may start at the returned time.
    fn take(&mut self, now: Instant) -> Instant {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.interval;
        self.full_at = Some(full_at);
        let allowance = self.interval.saturating_mul(self.burst);
        full_at.checked_sub(allowance).map_or(now, |at| at.max(now))
    }
}

// === impl RateLimit ===

impl<S, R> Service<R> for RateLimit<S>
where
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let now = Instant::now();
        let start = self.bucket.lock().take(now);
        // The service that was polled ready is the one to be called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            if start > now {
                tokio::time::sleep_until(start).await;
            }
            inner.call(request).await
        })
    }
}

impl fmt::Display for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket.lock();
        write!(
            f,
            "one request in {:?}, burst {}",
            bucket.interval, bucket.burst
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_rate() {
        let now = Instant::now();
        let layer = RateLimitLayer::new(10.0, 3);
        let mut bucket = layer.bucket.lock();
        let mut delay = || bucket.take(now) - now;
        let tenth = Duration::from_millis(100);
        assert_eq!([delay(), delay(), delay()], [Duration::ZERO; 3]);
        assert_eq!([delay(), delay()], [tenth, 2 * tenth]);
    }

    #[test]
    fn a_pause_fills_the_bucket_and_no_more_than_that() {
        let mut now = Instant::now();
        let layer = RateLimitLayer::new(10.0, 2);
        let mut bucket = layer.bucket.lock();
        for _ in 0..5 {
            bucket.take(now);
        }
        now += Duration::from_secs(60);
        assert_eq!(bucket.take(now), now);
        assert_eq!(bucket.take(now), now);
        assert!(bucket.take(now) > now);
    }

    #[test]
    fn no_rate_is_no_limit() {
        let now = Instant::now();
        let layer = RateLimitLayer::new(0.0, 1);
        for _ in 0..100 {
            assert_eq!(layer.bucket.lock().take(now), now);
        }
    }
}
