//! The decider of one revision.

use crate::scale::UNKNOWN_SCALE;
use crate::spec::DeciderSpec;

/// What a decider last decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeciderStatus {
    /// -1 before the first valid decision.
    pub desired_scale: i32,
    /// Negative: not enough capacity to take a burst without activators.
    pub excess_burst_capacity: i32,
}

// === impl DeciderStatus ===

impl DeciderStatus {
    /// The status of a decider before its first valid decision. The excess burst capacity is
    /// truncated toward zero here and rounded down by decisions, as in the reference.
    pub fn initial(spec: &DeciderSpec) -> Self {
        let capacity = spec.target_burst_capacity;
        let excess = if capacity == -1.0 || capacity == 0.0 {
            capacity
        } else {
            (f64::from(spec.initial_scale) * spec.total_value - capacity).trunc()
        };
        Self {
            desired_scale: UNKNOWN_SCALE,
            excess_burst_capacity: excess as i32,
        }
    }
}
