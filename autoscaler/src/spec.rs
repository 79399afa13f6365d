//! What annotations, config-autoscaler, container concurrency and reachability amount to for one
//! revision.
//!
//! Derived once when any of them changes and then passed to the decider, the collection and the
//! reconciler, so that no decision parses an annotation. Durations are nanoseconds and may be
//! negative, because annotations are not validated here: what cannot be parsed counts as absent,
//! what is out of range is used as it is. Behaviour of
//! `pkg/reconciler/autoscaling/{resources/target,kpa/resources/decider}.go`.

/// Everything derived for one revision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub decider: DeciderSpec,
    pub collection: CollectionSpec,
    /// Lower bound of the scale; 0 while unreachable.
    pub min_scale: i32,
    /// Upper bound of the scale; 0: none.
    pub max_scale: i32,
    /// `enable-scale-to-zero`.
    pub scale_to_zero_enabled: bool,
    /// How long activators must have been in the path before the last pod may go.
    pub scale_to_zero_grace_period_ns: i64,
    /// How long the last pod stays in any case; 0 while unreachable.
    pub pod_retention_period_ns: i64,
    /// Progress deadline without the buffer that the reconciler adds.
    pub progress_deadline_ns: i64,
}

/// What the decider needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeciderSpec {
    pub scaling_metric: ScalingMetric,
    /// Largest factor between ready pods and the next scale.
    pub max_scale_up_rate: f64,
    /// Largest divisor between ready pods and the next scale.
    pub max_scale_down_rate: f64,
    /// Wanted value per pod: total times utilization, at least 0.01.
    pub target_value: f64,
    /// Value one pod can take.
    pub total_value: f64,
    /// -1: activators always stay in the path; 0: only while there are no pods.
    pub target_burst_capacity: f64,
    /// Value one activator can take.
    pub activator_capacity: f64,
    /// Panic when pods needed over pods ready reaches this.
    pub panic_threshold: f64,
    pub stable_window_ns: i64,
    /// Fixed when the decider is created.
    pub scale_down_delay_ns: i64,
    pub initial_scale: i32,
    /// Least scale above zero; below 2 it has no effect.
    pub activation_scale: i32,
    pub reachable: bool,
}

/// What the collection needs, that is the Metric without its scrape target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionSpec {
    pub stable_window_ns: i64,
    pub panic_window_ns: i64,
    /// Whether pods are scraped: not when activators always stay in the path.
    pub scrape: bool,
    pub aggregation: Aggregation,
}

/// The stat that is scaled on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ScalingMetric {
    /// `concurrency`, and every other value than `rps`.
    #[default]
    Concurrency,
    Rps,
}

/// How a window is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Aggregation {
    #[default]
    Linear,
    WeightedExponential,
}

// === impl Settings ===

impl Settings {
    /// Pods that must be ready before the revision counts as active.
    pub fn active_threshold(&self, scale_target_initialized: bool) -> i32 {
        if scale_target_initialized {
            self.min_scale.max(1)
        } else {
            self.min_scale.max(self.decider.initial_scale)
        }
    }
}
