//! Wall-clock time for windows, statistics and conditions, taken from one anchored clock.
//!
//! Deadlines use [`tokio::time::Instant`]. Windows need multiples of a granularity of *Unix* time,
//! conditions need RFC 3339 times; both take a [`UnixTime`] as a parameter and never read a clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Nanoseconds since the Unix epoch; covers the years 1678 to 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// A time given in whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Whole seconds, rounded down (also before 1970).
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds since the epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        let nanos = self.0.saturating_sub(earlier.0);
        if nanos <= 0 {
            Duration::ZERO
        } else {
            Duration::from_nanos(nanos.unsigned_abs())
        }
    }

    /// This time moved into the future, saturating.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.seconds(),
            self.0.rem_euclid(1_000_000_000)
        )
    }
}

/// A clock that advances with the monotonic clock from one reading of the wall clock, so that
/// windows and deadlines never disagree, steps of the wall clock change nothing, and a paused
/// tokio clock pauses this one too.
#[derive(Clone, Copy, Debug)]
pub struct AnchoredClock {
    wall: UnixTime,
    monotonic: Instant,
}

impl AnchoredClock {
    /// Anchors a clock at the present moment.
    pub fn new() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self::at(UnixTime::default().after(since_epoch), Instant::now())
    }

    /// A clock that shows `wall` at `monotonic`.
    pub const fn at(wall: UnixTime, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// The present.
    pub fn now(&self) -> UnixTime {
        self.unix(Instant::now())
    }

    /// What this clock shows at `instant`.
    pub fn unix(&self, instant: Instant) -> UnixTime {
        match instant.checked_duration_since(self.monotonic) {
            Some(later) => self.wall.after(later),
            None => {
                let earlier = self.monotonic.duration_since(instant);
                UnixTime(
                    self.wall
                        .0
                        .saturating_sub(i64::try_from(earlier.as_nanos()).unwrap_or(i64::MAX)),
                )
            }
        }
    }
}

impl Default for AnchoredClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_down_before_the_epoch() {
        assert_eq!(UnixTime(-1).seconds(), -1);
        assert_eq!(UnixTime(1_999_999_999).seconds(), 1);
        assert_eq!(UnixTime::from_seconds(-3).seconds(), -3);
    }

    #[test]
    fn since_is_never_negative() {
        assert_eq!(UnixTime(5).since(UnixTime(9)), Duration::ZERO);
        assert_eq!(UnixTime(9).since(UnixTime(5)), Duration::from_nanos(4));
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_monotonic_clock_in_both_directions() {
        let start = Instant::now();
        let clock = AnchoredClock::at(UnixTime::from_seconds(100), start);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now(), UnixTime::from_seconds(107));
        let later = AnchoredClock::at(UnixTime::from_seconds(100), Instant::now());
        assert_eq!(later.unix(start), UnixTime::from_seconds(93));
    }
}
