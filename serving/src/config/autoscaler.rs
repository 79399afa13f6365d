//! `config-autoscaler`: the cluster-wide defaults and limits of scaling.
//! Upstream: `pkg/autoscaler/config/config.go`.

use std::time::Duration;

use super::{Data, InvalidConfig, Reader};
use crate::annotation::{
    CLASS_KPA, PANIC_WINDOW_PERCENTAGE_MAX, PANIC_WINDOW_PERCENTAGE_MIN, TARGET_MIN, WINDOW_MAX,
    WINDOW_MIN,
};
use crate::go::{
    duration_from_std, duration_to_std, format_duration, format_float, format_float_fixed,
    is_whole_seconds,
};

/// The name of the ConfigMap.
pub const NAME: &str = "config-autoscaler";

/// Every key that is read.
pub const KEYS: [&str; 20] = [
    "activator-capacity",
    "allow-zero-initial-scale",
    "container-concurrency-target-default",
    "container-concurrency-target-percentage",
    "enable-scale-to-zero",
    "initial-scale",
    "max-scale",
    "max-scale-down-rate",
    "max-scale-limit",
    "max-scale-up-rate",
    "min-scale",
    "panic-threshold-percentage",
    "panic-window-percentage",
    "pod-autoscaler-class",
    "requests-per-second-target-default",
    "scale-down-delay",
    "scale-to-zero-grace-period",
    "scale-to-zero-pod-retention-period",
    "stable-window",
    "target-burst-capacity",
];

/// The default share of a target that is aimed at.
const DEFAULT_TARGET_UTILIZATION: f64 = 0.7;

/// Cluster-wide settings of the autoscaler. Annotations on a revision override many of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscaler {
    /// `enable-scale-to-zero`: when false, an intended scale of 0 becomes 1.
    pub enable_scale_to_zero: bool,
    /// `container-concurrency-target-percentage` as a fraction in (0, 1]: the share of the
    /// concurrency target that is aimed at.
    pub container_concurrency_target_fraction: f64,
    /// `container-concurrency-target-default`: concurrent requests per pod aimed at when the
    /// revision sets no limit of its own.
    pub container_concurrency_target_default: f64,
    /// The share of a target in requests per second that is aimed at; not configurable, 0.7.
    pub target_utilization: f64,
    /// `requests-per-second-target-default`: requests per second and pod.
    pub rps_target_default: f64,
    /// `target-burst-capacity`: requests that must fit in beyond the observed load before the
    /// activator leaves the path; -1 keeps it there always.
    pub target_burst_capacity: f64,
    /// `activator-capacity`: concurrent requests that one activator handles.
    pub activator_capacity: f64,
    /// `allow-zero-initial-scale`: whether `initial-scale` may be 0.
    pub allow_zero_initial_scale: bool,
    /// `initial-scale`: pods of a new revision.
    pub initial_scale: i32,
    /// `min-scale`: pods that a reachable revision keeps.
    pub min_scale: i32,
    /// `max-scale`: pods a revision may have, 0 for no limit.
    pub max_scale: i32,
    /// `max-scale-limit`: the largest `max-scale` that validation accepts, 0 for no limit.
    pub max_scale_limit: i32,
    /// `max-scale-up-rate`: the largest factor from ready pods to wanted pods.
    pub max_scale_up_rate: f64,
    /// `max-scale-down-rate`: the largest factor from wanted pods to ready pods.
    pub max_scale_down_rate: f64,
    /// `stable-window`: the span that the stable average covers.
    pub stable_window: Duration,
    /// `panic-window-percentage`: length of the panic window in percent of the stable window.
    pub panic_window_percentage: f64,
    /// `panic-threshold-percentage`: load in percent of the ready pods' target that starts panic.
    pub panic_threshold_percentage: f64,
    /// `scale-to-zero-grace-period`: how long the activator must have been in the path before the
    /// last pod goes.
    pub scale_to_zero_grace_period: Duration,
    /// `scale-to-zero-pod-retention-period`: how long the last pod stays at least.
    pub scale_to_zero_pod_retention_period: Duration,
    /// `scale-down-delay`: how long load must be low before pods are removed.
    pub scale_down_delay: Duration,
    /// `pod-autoscaler-class`: the class of revisions without a class annotation.
    pub pod_autoscaler_class: String,
}

// === impl Autoscaler ===

impl Default for Autoscaler {
    /// The built-in values (`defaultConfig`).
    fn default() -> Self {
        Self {
            enable_scale_to_zero: true,
            container_concurrency_target_fraction: DEFAULT_TARGET_UTILIZATION,
            container_concurrency_target_default: 100.0,
            target_utilization: DEFAULT_TARGET_UTILIZATION,
            rps_target_default: 200.0,
            target_burst_capacity: 211.0,
            activator_capacity: 100.0,
            allow_zero_initial_scale: false,
            initial_scale: 1,
            min_scale: 0,
            max_scale: 0,
            max_scale_limit: 0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            stable_window: Duration::from_secs(60),
            panic_window_percentage: 10.0,
            panic_threshold_percentage: 200.0,
            scale_to_zero_grace_period: Duration::from_secs(30),
            scale_to_zero_pod_retention_period: Duration::ZERO,
            scale_down_delay: Duration::ZERO,
            pod_autoscaler_class: CLASS_KPA.to_owned(),
        }
    }
}

/// The durations before validation: nanoseconds that may be negative.
struct RawDurations {
    stable_window: i64,
    scale_down_delay: i64,
    grace_period: i64,
    pod_retention_period: i64,
}

impl Autoscaler {
    /// Parses and validates the ConfigMap's data on top of the defaults.
    /// Upstream: `NewConfigFromMap`.
    pub fn parse(data: &Data) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        let mut reader = Reader::new(data);
        let durations = config.read(&mut reader);
        reader
            .check()
            .map_err(|error| error.prefixed("failed to parse data: "))?;

        // Percentages are meant, but fractions up to 1 have always been accepted.
        if config.container_concurrency_target_fraction > 1.0 {
            config.container_concurrency_target_fraction /= 100.0;
        }
        config.validate(&durations, &mut reader);
        reader.check()?;

        config.stable_window = duration_to_std(durations.stable_window);
        config.scale_down_delay = duration_to_std(durations.scale_down_delay);
        config.scale_to_zero_grace_period = duration_to_std(durations.grace_period);
        config.scale_to_zero_pod_retention_period = duration_to_std(durations.pod_retention_period);
        Ok(config)
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> RawDurations {
        reader.string("pod-autoscaler-class", &mut self.pod_autoscaler_class);

        reader.boolean("enable-scale-to-zero", &mut self.enable_scale_to_zero);
        reader.boolean(
            "allow-zero-initial-scale",
            &mut self.allow_zero_initial_scale,
        );

        for (key, target) in [
            ("max-scale-up-rate", &mut self.max_scale_up_rate),
            ("max-scale-down-rate", &mut self.max_scale_down_rate),
            (
                "container-concurrency-target-percentage",
                &mut self.container_concurrency_target_fraction,
            ),
            (
                "container-concurrency-target-default",
                &mut self.container_concurrency_target_default,
            ),
            (
                "requests-per-second-target-default",
                &mut self.rps_target_default,
            ),
            ("target-burst-capacity", &mut self.target_burst_capacity),
            ("panic-window-percentage", &mut self.panic_window_percentage),
            ("activator-capacity", &mut self.activator_capacity),
            (
                "panic-threshold-percentage",
                &mut self.panic_threshold_percentage,
            ),
        ] {
            reader.float(key, target);
        }

        reader.int32("initial-scale", &mut self.initial_scale);
        reader.int32("min-scale", &mut self.min_scale);
        reader.int32("max-scale", &mut self.max_scale);
        reader.int32("max-scale-limit", &mut self.max_scale_limit);

        let mut durations = RawDurations {
            stable_window: duration_from_std(self.stable_window),
            scale_down_delay: duration_from_std(self.scale_down_delay),
            grace_period: duration_from_std(self.scale_to_zero_grace_period),
            pod_retention_period: duration_from_std(self.scale_to_zero_pod_retention_period),
        };
        reader.duration("stable-window", &mut durations.stable_window);
        reader.duration("scale-down-delay", &mut durations.scale_down_delay);
        reader.duration("scale-to-zero-grace-period", &mut durations.grace_period);
        reader.duration(
            "scale-to-zero-pod-retention-period",
            &mut durations.pod_retention_period,
        );
        durations
    }

    /// The rules in the order of `validate`, since the first broken one is what gets printed.
    /// Comparisons are written so that a NaN passes exactly where it does upstream.
    fn validate(&self, durations: &RawDurations, reader: &mut Reader<'_>) {
        self.validate_delays(durations, reader);
        self.validate_targets(reader);
        self.validate_windows(durations, reader);
        self.validate_scales(reader);
    }

    fn validate_delays(&self, durations: &RawDurations, reader: &mut Reader<'_>) {
        let RawDurations {
            grace_period,
            scale_down_delay,
            pod_retention_period,
            ..
        } = *durations;
        reader.require(grace_period > 0, || {
            format!(
                "scale-to-zero-grace-period must be positive, was: {}",
                format_duration(grace_period)
            )
        });
        reader.require(scale_down_delay >= 0, || {
            format!(
                "scale-down-delay cannot be negative, was: {}",
                format_duration(scale_down_delay)
            )
        });
        reader.require(is_whole_seconds(scale_down_delay), || {
            format!(
                "scale-down-delay = {}, must be specified with at most second precision",
                format_duration(scale_down_delay)
            )
        });
        reader.require(pod_retention_period >= 0, || {
            format!(
                "scale-to-zero-pod-retention-period cannot be negative, was: {}",
                format_duration(pod_retention_period)
            )
        });
    }

    fn validate_targets(&self, reader: &mut Reader<'_>) {
        let burst = self.target_burst_capacity;
        if burst < 0.0 && burst != -1.0 {
            reader.problem(format!(
                "target-burst-capacity must be either non-negative or -1 (for unlimited), was: {}",
                format_float_fixed(burst)
            ));
        }
        let fraction = self.container_concurrency_target_fraction;
        if fraction <= 0.0 || fraction > 1.0 {
            reader.problem(format!(
                "container-concurrency-target-percentage = {} is outside of valid range of (0, 100]",
                format_float_fixed(fraction)
            ));
        }
        let target = fraction * self.container_concurrency_target_default;
        if target < TARGET_MIN {
            reader.problem(format!(
                "container-concurrency-target-percentage and container-concurrency-target-default \
                 yield target concurrency of {}, can't be less than {TARGET_MIN}",
                format_float(target)
            ));
        }
        if self.rps_target_default < TARGET_MIN {
            reader.problem(format!(
                "requests-per-second-target-default must be at least {TARGET_MIN}, was: {}",
                format_float(self.rps_target_default)
            ));
        }
        if self.activator_capacity < 1.0 {
            reader.problem(format!(
                "activator-capacity = {}, must be at least 1",
                format_float(self.activator_capacity)
            ));
        }
        for (key, rate) in [
            ("max-scale-up-rate", self.max_scale_up_rate),
            ("max-scale-down-rate", self.max_scale_down_rate),
        ] {
            if rate <= 1.0 {
                reader.problem(format!(
                    "{key} = {}, must be greater than 1.0",
                    format_float(rate)
                ));
            }
        }
    }

    #[allow(
        clippy::manual_range_contains,
        reason = "a NaN lies in no range, yet it passes both comparisons"
    )]
    fn validate_windows(&self, durations: &RawDurations, reader: &mut Reader<'_>) {
        let stable_window = durations.stable_window;
        let (shortest, longest) = (duration_from_std(WINDOW_MIN), duration_from_std(WINDOW_MAX));
        reader.require((shortest..=longest).contains(&stable_window), || {
            format!(
                "stable-window = {}, must be in [{}; {}] range",
                format_duration(stable_window),
                format_duration(shortest),
                format_duration(longest)
            )
        });
        reader.require(is_whole_seconds(stable_window), || {
            format!(
                "stable-window = {}, must be specified with at most second precision",
                format_duration(stable_window)
            )
        });
        let percentage = self.panic_window_percentage;
        if percentage < PANIC_WINDOW_PERCENTAGE_MIN || percentage > PANIC_WINDOW_PERCENTAGE_MAX {
            reader.problem(format!(
                "panic-window-percentage = {}, must be in [{PANIC_WINDOW_PERCENTAGE_MIN}, \
                 {PANIC_WINDOW_PERCENTAGE_MAX}] interval",
                format_float(percentage)
            ));
        }
    }

    fn validate_scales(&self, reader: &mut Reader<'_>) {
        let (initial, min, max, limit) = (
            self.initial_scale,
            self.min_scale,
            self.max_scale,
            self.max_scale_limit,
        );
        let least_initial = i32::from(!self.allow_zero_initial_scale);
        reader.require(initial >= least_initial, || {
            format!(
                "initial-scale = {initial}, must be at least 0 (or at least 1 when \
                 allow-zero-initial-scale is false)"
            )
        });
        reader.require(min >= 0, || {
            format!("min-scale = {min}, must be at least 0")
        });
        // With a limit, the default must be a limit too.
        let least_max = i32::from(limit > 0);
        reader.require(max >= least_max && (limit <= 0 || max <= limit), || {
            format!("max-scale = {max}, must be in [{least_max}, max-scale-limit({limit})] range")
        });
        reader.require(limit >= 0, || {
            format!("max-scale-limit = {limit}, must be at least 0")
        });
        reader.require(max <= 0 || min <= max, || {
            format!("min-scale ({min}) must be less than max-scale ({max})")
        });
    }
}
