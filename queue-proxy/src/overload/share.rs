//! Which share of new requests is refused, as a controller over measured delays; pure.
//!
//! The shape is that of PIE (RFC 8033): the share rises while work waits for longer than the limit
//! and the faster the longer the wait grows, and falls below. A queue that is merely refused when
//! full would swing between empty and far too long, because the delay is known only once work has
//! waited for that long.
//!
//! Refusals must be cheap for that: one that costs the part `c` of a request leaves at twice the
//! capacity `(1 - 2c) / (1 - c)` of it to what is served.

use std::time::Duration;

use tokio::time::Instant;

/// Added to the share per second and per limit by which the delay exceeds the limit.
const GAIN: f64 = 4.0;

/// Added to the share per limit by which the delay has grown since the last look.
const DAMPING: f64 = 0.5;

/// What is left of the share at each look that finds less than half of the limit.
const RECOVERY: f64 = 0.7;

/// A share below this is none.
const LEAST: f64 = 0.001;

/// The longest time that one look may stand for.
const LONGEST: f64 = 1.0;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    limit: f64,
    /// Of new requests, between 0 and 1.
    share: f64,
    /// How much of a refusal has accumulated; at 1 the next request is refused.
    due: f64,
    last: Option<Look>,
}

/// What was seen last.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    delay: f64,
    /// The delay that counted: the smaller of two in a row.
    standing: f64,
}

// === impl Share ===

impl Share {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit: limit.as_secs_f64(),
            share: 0.0,
            due: 0.0,
            last: None,
        }
    }

    /// Work that became ready `delay` ago runs at `now`.
    ///
    /// Only the smaller of two delays in a row counts. A process at rest behind its quota, or one
    /// that the kernel put aside for a moment, is late once and on time again; where a queue
    /// stands, everything is late.
    pub(crate) fn look(&mut self, delay: Duration, now: Instant) {
        let delay = delay.as_secs_f64();
        let last = self.last.unwrap_or(Look {
            at: now,
            delay: 0.0,
            standing: 0.0,
        });
        let standing = delay.min(last.delay);
        let elapsed = now.saturating_duration_since(last.at).as_secs_f64();
        if self.share > 0.0 || standing >= self.limit {
            let excess = standing / self.limit - 1.0;
            let growth = (standing - last.standing) / self.limit;
            self.share += GAIN * excess * elapsed.min(LONGEST) + DAMPING * growth;
        }
        if standing < self.limit / 2.0 {
            self.share *= RECOVERY;
        }
        self.share = self.share.clamp(0.0, 1.0);
        if self.share < LEAST {
            self.share = 0.0;
            self.due = 0.0;
        }
        self.last = Some(Look {
            at: now,
            delay,
            standing,
        });
    }

    /// Nothing arrives: the next look begins anew.
    pub(crate) fn rest(&mut self) {
        self.share = 0.0;
        self.due = 0.0;
        self.last = None;
    }

    /// Whether the next request is refused. Refusals are spread evenly.
    pub(crate) fn refuses(&mut self) -> bool {
        if self.share <= 0.0 {
            return false;
        }
        self.due += self.share;
        let refuses = self.due >= 1.0;
        if refuses {
            self.due -= 1.0;
        }
        refuses
    }

    /// Of new requests, between 0 and 1.
    pub(crate) fn share(&self) -> f64 {
        self.share
    }

    /// Whether `delay` is long enough to count for anything but an end.
    pub(crate) fn is_delayed(&self, delay: Duration) -> bool {
        delay.as_secs_f64() >= self.limit / 2.0
    }

    /// Whether any requests are refused.
    pub(crate) fn is_refusing(&self) -> bool {
        self.share > 0.0
    }
}

#[cfg(test)]
mod tests;
