//! What annotations, config-autoscaler, container concurrency and reachability amount to for one
//! revision.
//!
//! Derived once when any of them changes and then passed to the decider, the collection and the
//! reconciler, so that no decision parses an annotation. Durations are nanoseconds and may be
//! negative, because annotations are not validated here: what cannot be parsed counts as absent,
//! what is out of range is used as it is. Behaviour of
//! `pkg/reconciler/autoscaling/{resources/target,kpa/resources/decider}.go`.

use serving::annotation::{self, Annotations, Key};
use serving::config;
use serving::go;
use serving::names;

use crate::pod_autoscaler::{PodAutoscaler, Reachability};

/// Shortest panic window: one bucket.
const PANIC_WINDOW_MIN_NS: i64 = SECOND_NS;
/// Most spare pods that an annotation can ask for.
const SCALE_BUFFER_MAX: i64 = 1000;
const SECOND_NS: i64 = 1_000_000_000;

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
    /// Beyond the reference; all off by default.
    pub extensions: Extensions,
}

/// What Knative Serving does not do.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Extensions {
    /// Spare pods on top of every need above zero.
    pub scale_buffer: i32,
    /// Wanted value per pod of the metric that is not the scaling metric; with it the larger need
    /// of the two counts.
    pub second_target_value: Option<f64>,
    /// Pods that are starting count like ready ones where growth is judged: for the limit of the
    /// scale-up rate and for panic.
    pub count_starting_pods: bool,
    /// Start and service times are learned, and a burst is answered by them.
    pub learn_start_time: bool,
    /// Requests that a pod takes at once, where it has a limit.
    pub slots_per_pod: Option<f64>,
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

/// Where the settings of one revision come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub annotations: &'a Annotations,
    /// 0: unlimited.
    pub container_concurrency: i64,
    pub reachability: Reachability,
    /// config-autoscaler.
    pub autoscaler: &'a config::Autoscaler,
    /// `progress-deadline` of config-deployment.
    pub progress_deadline_ns: i64,
}

// === impl Source ===

impl<'a> Source<'a> {
    /// The settings of a PodAutoscaler under these config maps.
    pub fn of(
        pod_autoscaler: &'a PodAutoscaler,
        autoscaler: &'a config::Autoscaler,
        progress_deadline_ns: i64,
    ) -> Self {
        Self {
            annotations: &pod_autoscaler.annotations,
            container_concurrency: pod_autoscaler.spec.container_concurrency,
            reachability: pod_autoscaler.spec.reachability,
            autoscaler,
            progress_deadline_ns,
        }
    }

    fn reachable(&self) -> bool {
        self.reachability != Reachability::Unreachable
    }

    /// A float that is a number: one that is not would make every comparison with it false.
    fn float(&self, key: Key) -> Option<f64> {
        key.float(self.annotations).filter(|value| !value.is_nan())
    }

    fn duration(&self, key: Key, default: std::time::Duration) -> i64 {
        key.duration(self.annotations)
            .unwrap_or_else(|| go::duration_from_std(default))
    }

    fn stable_window_ns(&self) -> i64 {
        self.duration(annotation::WINDOW, self.autoscaler.stable_window)
    }

    fn target_burst_capacity(&self) -> f64 {
        self.float(annotation::TARGET_BURST_CAPACITY)
            .unwrap_or(self.autoscaler.target_burst_capacity)
    }

    fn initial_scale(&self) -> i32 {
        annotation::INITIAL_SCALE
            .int(self.annotations)
            .filter(|&scale| scale != 0 || self.autoscaler.allow_zero_initial_scale)
            .unwrap_or(self.autoscaler.initial_scale)
    }

    /// Wanted value per pod, and the value one pod can take.
    fn target(&self) -> (f64, f64) {
        let metric = scaling_metric_name(self.annotations);
        let limit = self.container_concurrency as f64;
        let (default_total, default_utilization) = self.default_target(self.scaling_metric());
        let total = match self.float(annotation::TARGET) {
            // More than a pod accepts at once would never be reached.
            Some(target)
                if metric == annotation::METRIC_CONCURRENCY && self.container_concurrency != 0 =>
            {
                target.min(limit)
            }
            Some(target) => target,
            None => default_total,
        };
        let utilization = self
            .float(annotation::TARGET_UTILIZATION_PERCENTAGE)
            .map_or(default_utilization, |percentage| percentage / 100.0);
        ((total * utilization).max(annotation::TARGET_MIN), total)
    }

    fn decider(&self) -> DeciderSpec {
        let config = self.autoscaler;
        let (target_value, total_value) = self.target();
        let panic_threshold_percentage = self
            .float(annotation::PANIC_THRESHOLD_PERCENTAGE)
            .unwrap_or(config.panic_threshold_percentage);
        DeciderSpec {
            scaling_metric: self.scaling_metric(),
            max_scale_up_rate: config.max_scale_up_rate,
            max_scale_down_rate: config.max_scale_down_rate,
            target_value,
            total_value,
            target_burst_capacity: self.target_burst_capacity(),
            activator_capacity: config.activator_capacity,
            panic_threshold: panic_threshold_percentage / 100.0,
            stable_window_ns: self.stable_window_ns(),
            scale_down_delay_ns: self
                .duration(annotation::SCALE_DOWN_DELAY, config.scale_down_delay),
            initial_scale: self.initial_scale(),
            activation_scale: annotation::ACTIVATION_SCALE
                .int(self.annotations)
                .unwrap_or(0),
            reachable: self.reachable(),
            extensions: self.extensions(),
        }
    }

    fn extensions(&self) -> Extensions {
        let (_, second_utilization) = match self.scaling_metric() {
            ScalingMetric::Rps => self.default_target(ScalingMetric::Concurrency),
            ScalingMetric::Concurrency => self.default_target(ScalingMetric::Rps),
        };
        let learn_start_time = self.switched_on(names::LEARN_START_TIME_ANNOTATION);
        Extensions {
            learn_start_time,
            slots_per_pod: (self.container_concurrency > 0)
                .then_some(self.container_concurrency as f64),
            scale_buffer: scale_buffer(self.annotations).ok().flatten().unwrap_or(0),
            second_target_value: second_target(self.annotations)
                .ok()
                .flatten()
                .map(|target| (target * second_utilization).max(annotation::TARGET_MIN)),
            // What has been ordered with its start time in mind must not be ordered again.
            count_starting_pods: learn_start_time
                || self.switched_on(names::COUNT_STARTING_PODS_ANNOTATION),
        }
    }

    fn switched_on(&self, key: &str) -> bool {
        matches!(switch(self.annotations, key), Ok(Some(true)))
    }

    fn scaling_metric(&self) -> ScalingMetric {
        if scaling_metric_name(self.annotations) == annotation::METRIC_RPS {
            ScalingMetric::Rps
        } else {
            ScalingMetric::Concurrency
        }
    }

    /// Value one pod can take and the share that is aimed at, without annotations.
    fn default_target(&self, metric: ScalingMetric) -> (f64, f64) {
        let config = self.autoscaler;
        match metric {
            ScalingMetric::Rps => (config.rps_target_default, config.target_utilization),
            ScalingMetric::Concurrency if self.container_concurrency == 0 => (
                config.container_concurrency_target_default,
                config.container_concurrency_target_fraction,
            ),
            ScalingMetric::Concurrency => (
                self.container_concurrency as f64,
                config.container_concurrency_target_fraction,
            ),
        }
    }

    fn collection(&self) -> CollectionSpec {
        let stable_window_ns = self.stable_window_ns();
        let percentage = self
            .float(annotation::PANIC_WINDOW_PERCENTAGE)
            .unwrap_or(self.autoscaler.panic_window_percentage);
        CollectionSpec {
            stable_window_ns,
            panic_window_ns: panic_window_ns(stable_window_ns, percentage),
            scrape: self.target_burst_capacity() != -1.0,
            aggregation: Aggregation::of(self.annotations),
        }
    }

    fn bounds(&self) -> (i32, i32) {
        let min_scale = if self.reachable() {
            annotation::MIN_SCALE
                .int(self.annotations)
                .unwrap_or(self.autoscaler.min_scale)
        } else {
            0
        };
        let max_scale = annotation::MAX_SCALE
            .int(self.annotations)
            .unwrap_or(self.autoscaler.max_scale);
        (min_scale, max_scale)
    }

    fn pod_retention_period_ns(&self) -> i64 {
        if self.reachable() {
            self.duration(
                annotation::SCALE_TO_ZERO_POD_RETENTION_PERIOD,
                self.autoscaler.scale_to_zero_pod_retention_period,
            )
        } else {
            0
        }
    }
}

// === impl Settings ===

impl Settings {
    /// Reads annotations and config maps.
    pub fn derive(source: &Source<'_>) -> Self {
        let (min_scale, max_scale) = source.bounds();
        Self {
            decider: source.decider(),
            collection: source.collection(),
            min_scale,
            max_scale,
            scale_to_zero_enabled: source.autoscaler.enable_scale_to_zero,
            scale_to_zero_grace_period_ns: go::duration_from_std(
                source.autoscaler.scale_to_zero_grace_period,
            ),
            pod_retention_period_ns: source.pod_retention_period_ns(),
            progress_deadline_ns: annotation::PROGRESS_DEADLINE
                .duration(source.annotations)
                .unwrap_or(source.progress_deadline_ns),
        }
    }

    /// Pods that must be ready before the revision counts as active.
    pub fn active_threshold(&self, scale_target_initialized: bool) -> i32 {
        if scale_target_initialized {
            self.min_scale.max(1)
        } else {
            self.min_scale.max(self.decider.initial_scale)
        }
    }
}

// === impl Aggregation ===

impl Aggregation {
    /// Reads the annotations of a Metric; what is unknown is linear.
    pub fn of(annotations: &Annotations) -> Self {
        match annotation::METRIC_AGGREGATION_ALGORITHM.get(annotations) {
            Some(
                annotation::AGGREGATION_WEIGHTED_EXPONENTIAL
                | annotation::AGGREGATION_WEIGHTED_EXPONENTIAL_LEGACY,
            ) => Self::WeightedExponential,
            _ => Self::Linear,
        }
    }
}

/// The class of a PodAutoscaler with these annotations. The reconciler is stricter: it handles
/// only objects that name its class.
pub fn class(annotations: &Annotations) -> &str {
    annotation::CLASS
        .get(annotations)
        .unwrap_or(annotation::CLASS_KPA)
}

/// What is wrong with the annotations of ours, each with its key: a value that cannot be used
/// counts as absent, as it does with Knative's own.
pub fn validate_extensions(annotations: &Annotations) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    let mut add = |key, outcome: Result<(), &str>| {
        if let Err(expected) = outcome {
            let value = annotations.get(key).map_or("", String::as_str);
            problems.push((key, format!("invalid value: {value}: expected {expected}")));
        }
    };
    add(
        names::SCALE_BUFFER_ANNOTATION,
        scale_buffer(annotations).map(drop),
    );
    add(
        names::SECOND_TARGET_ANNOTATION,
        second_target(annotations).map(drop),
    );
    for key in [
        names::COUNT_STARTING_PODS_ANNOTATION,
        names::LEARN_START_TIME_ANNOTATION,
    ] {
        add(key, switch(annotations, key).map(drop));
    }
    problems
}

fn scale_buffer(annotations: &Annotations) -> Result<Option<i32>, &'static str> {
    let Some(text) = annotations.get(names::SCALE_BUFFER_ANNOTATION) else {
        return Ok(None);
    };
    match go::parse_int(text, 32) {
        Ok(pods) if (0..=SCALE_BUFFER_MAX).contains(&pods) => Ok(Some(pods as i32)),
        _ => Err("a whole number of pods from 0 to 1000"),
    }
}

fn second_target(annotations: &Annotations) -> Result<Option<f64>, &'static str> {
    let Some(text) = annotations.get(names::SECOND_TARGET_ANNOTATION) else {
        return Ok(None);
    };
    match go::parse_float(text) {
        Ok(target) if target >= annotation::TARGET_MIN && target.is_finite() => Ok(Some(target)),
        _ => Err("a number of at least 0.01"),
    }
}

fn switch(annotations: &Annotations, key: &str) -> Result<Option<bool>, &'static str> {
    let parsed = annotations.get(key).map(|text| go::parse_bool(text));
    parsed.transpose().map_err(|_| "true or false")
}

/// The name of the metric to scale on, as the annotation or the default of the class has it.
pub fn scaling_metric_name(annotations: &Annotations) -> &str {
    annotation::METRIC
        .get(annotations)
        .unwrap_or_else(|| match class(annotations) {
            annotation::CLASS_KPA => annotation::METRIC_CONCURRENCY,
            annotation::CLASS_HPA => "cpu",
            _ => "",
        })
}

/// A share of the stable window in whole seconds, rounded half away from zero.
fn panic_window_ns(stable_window_ns: i64, percentage: f64) -> i64 {
    let exact = stable_window_ns as f64 * percentage / 100.0;
    let seconds = (exact.trunc() / SECOND_NS as f64).round();
    // The reference's conversion of what does not fit gives the least number.
    if seconds.abs() < (i64::MAX / SECOND_NS) as f64 {
        (seconds as i64 * SECOND_NS).max(PANIC_WINDOW_MIN_NS)
    } else {
        PANIC_WINDOW_MIN_NS
    }
}

#[cfg(test)]
mod tests;
