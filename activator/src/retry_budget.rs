//! How many requests of a revision may be sent once more: a share of all its requests, and a few a
//! second besides, so that retries never become the load that keeps a revision down.
//!
//! Pure; each revision's throttler has one.

use std::time::Duration;

use tokio::time::Instant;

/// Retries that each request allows.
const PER_REQUEST: f64 = 0.2;
/// Retries that each second allows, however few the requests.
const PER_SECOND: f64 = 10.0;
/// Retries that can be saved up.
const MAX_SAVED: f64 = 100.0;

/// See the module.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    saved: f64,
    /// When the last second's share was added.
    refilled: Option<Instant>,
}

// === impl RetryBudget ===

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            saved: PER_SECOND,
            refilled: None,
        }
    }
}

impl RetryBudget {
    /// A request has come.
    pub fn deposit(&mut self) {
        self.saved = (self.saved + PER_REQUEST).min(MAX_SAVED);
    }

    /// Whether one more retry is allowed, which is then used.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let since = self
            .refilled
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.refilled = Some(now);
        self.saved = (self.saved + PER_SECOND * since.as_secs_f64()).min(MAX_SAVED);
        if self.saved < 1.0 {
            return false;
        }
        self.saved -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawals(budget: &mut RetryBudget, now: Instant) -> usize {
        (0..1_000).filter(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_and_ten_a_second() {
        let mut budget = RetryBudget::default();
        let start = Instant::now();
        assert_eq!(withdrawals(&mut budget, start), 10);
        for _ in 0..101 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&mut budget, start), 20);
        let later = start + Duration::from_secs(2);
        assert_eq!(withdrawals(&mut budget, later), 20);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!(withdrawals(&mut budget, much_later), 100);
    }
}
