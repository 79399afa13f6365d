//! Requests per second that this process sends to the API server (client-go's `flowcontrol`): a
//! layer in front of kube's client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};

/// Lets through `qps` requests in a second, and `burst` at once after a pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateLimitLayer {
    interval: Duration,
    burst: u32,
}

/// A service behind a [`RateLimitLayer`]. It becomes ready when a request may start, so that what
/// waits, waits in the client's own queue and in its order.
#[derive(Debug)]
pub(super) struct RateLimit<S> {
    inner: S,
    bucket: Bucket,
    token: Token,
}

/// Tokens as a time: that at which the bucket would be full again.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: u32,
    full_at: Option<Instant>,
}

/// What the next request needs.
#[derive(Debug)]
enum Token {
    None,
    /// Taken, and usable from a time on.
    Due(Pin<Box<Sleep>>),
    Ready,
}

// === impl RateLimitLayer ===

impl RateLimitLayer {
    /// No rate at all, or a negative one, is no limit.
    pub(super) fn new(qps: f64, burst: u32) -> Self {
        let interval = if qps > 0.0 {
            Duration::try_from_secs_f64(1.0 / qps).unwrap_or(Duration::ZERO)
        } else {
            Duration::ZERO
        };
        Self {
            interval,
            burst: burst.max(1),
        }
    }

    fn bucket(self) -> Bucket {
        Bucket {
            interval: self.interval,
            burst: self.burst,
            full_at: None,
        }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            bucket: self.bucket(),
            token: Token::None,
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

impl<S: Service<R>, R> Service<R> for RateLimit<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if matches!(self.token, Token::None) {
            let now = Instant::now();
            let start = self.bucket.take(now);
            self.token = if start > now {
                Token::Due(Box::pin(tokio::time::sleep_until(start)))
            } else {
                Token::Ready
            };
        }
        if let Token::Due(sleep) = &mut self.token {
            ready!(sleep.as_mut().poll(cx));
            self.token = Token::Ready;
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.token = Token::None;
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_rate() {
        let now = Instant::now();
        let mut bucket = RateLimitLayer::new(10.0, 3).bucket();
        let mut delay = || bucket.take(now) - now;
        let tenth = Duration::from_millis(100);
        assert_eq!([delay(), delay(), delay()], [Duration::ZERO; 3]);
        assert_eq!([delay(), delay()], [tenth, 2 * tenth]);
    }

    #[test]
    fn a_pause_fills_the_bucket_and_no_more_than_that() {
        let mut now = Instant::now();
        let mut bucket = RateLimitLayer::new(10.0, 2).bucket();
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
        let mut bucket = RateLimitLayer::new(0.0, 1).bucket();
        for _ in 0..100 {
            assert_eq!(bucket.take(now), now);
        }
    }
}
