//! When a crashed app is started again, and when its revision stops promising that it will.
//!
//! Pure.

use std::time::Duration;

/// The pause after the first exit.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause; the kubelet's is five minutes, which nobody waits for at a terminal.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Exits in a row of one revision's replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    exits: u32,
}

// === impl BackOff ===

impl BackOff {
    /// An app exited without having been ready; how long to wait before it is started again.
    pub fn exited_early(&mut self) -> Duration {
        self.exits = self.exits.saturating_add(1);
        self.pause()
    }

    /// The pause that the exits so far call for.
    pub fn pause(&self) -> Duration {
        let doublings = self.exits.saturating_sub(1).min(16);
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    }

    /// An app was ready: what came before is forgiven.
    pub fn ready(&mut self) {
        self.exits = 0;
    }

    /// Exits in a row before readiness.
    pub const fn exits(&self) -> u32 {
        self.exits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_readiness_forgives() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..8)
            .map(|_| back_off.exited_early().as_millis())
            .collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(back_off.exits(), 8);
        back_off.ready();
        assert_eq!(back_off.exits(), 0);
        assert_eq!(back_off.exited_early(), FIRST_PAUSE);
        for _ in 0..1000 {
            assert!(back_off.exited_early() <= LONGEST_PAUSE);
        }
    }
}
