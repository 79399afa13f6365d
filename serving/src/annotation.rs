//! The annotations on revisions that configure scaling: their keys, how the autoscaler reads them,
//! and how an admission webhook validates them.
//!
//! There are two layers. [`validate`] refuses what is wrong, in the webhook's words. The autoscaler
//! reads with [`Key::int`], [`Key::float`] and [`Key::duration`], which are tolerant: a value that
//! cannot be parsed counts as absent, and one that is out of range is used as it is. Upstream:
//! `pkg/apis/autoscaling/register.go`, `annotation_validation.go` and
//! `pkg/apis/autoscaling/v1alpha1/pa_lifecycle.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::go;

mod field_error;
mod validation;

pub use field_error::{FieldError, FieldErrors};
pub use validation::{validate, validate_absent, validate_progress_deadline};

/// The annotations of an object.
pub type Annotations = BTreeMap<String, String>;

/// Class of the pod autoscaler that this project implements (`autoscaling.KPA`).
pub const CLASS_KPA: &str = "kpa.autoscaling.knative.dev";
/// Class that scales with a Kubernetes HorizontalPodAutoscaler (`autoscaling.HPA`).
pub const CLASS_HPA: &str = "hpa.autoscaling.knative.dev";

/// Value of [`METRIC`]: requests in flight.
pub const METRIC_CONCURRENCY: &str = "concurrency";
/// Value of [`METRIC`]: requests per second.
pub const METRIC_RPS: &str = "rps";

/// Value of [`METRIC_AGGREGATION_ALGORITHM`]: all seconds of a window count the same.
pub const AGGREGATION_LINEAR: &str = "linear";
/// Value of [`METRIC_AGGREGATION_ALGORITHM`]: recent seconds count more.
pub const AGGREGATION_WEIGHTED_EXPONENTIAL: &str = "weighted-exponential";
/// Legacy spelling of [`AGGREGATION_WEIGHTED_EXPONENTIAL`].
pub const AGGREGATION_WEIGHTED_EXPONENTIAL_LEGACY: &str = "weightedExponential";

/// The smallest target (`TargetMin`).
pub const TARGET_MIN: f64 = 0.01;
/// The shortest stable window (`WindowMin`).
pub const WINDOW_MIN: Duration = Duration::from_secs(6);
/// The longest stable window (`WindowMax`), also the bound of the delays.
pub const WINDOW_MAX: Duration = Duration::from_secs(3600);
/// The smallest panic window in percent of the stable window (`PanicWindowPercentageMin`).
pub const PANIC_WINDOW_PERCENTAGE_MIN: f64 = 1.0;
/// The largest panic window in percent of the stable window (`PanicWindowPercentageMax`).
pub const PANIC_WINDOW_PERCENTAGE_MAX: f64 = 100.0;
/// The smallest panic threshold in percent (`PanicThresholdPercentageMin`).
pub const PANIC_THRESHOLD_PERCENTAGE_MIN: f64 = 110.0;
/// The largest panic threshold in percent (`PanicThresholdPercentageMax`).
pub const PANIC_THRESHOLD_PERCENTAGE_MAX: f64 = 1000.0;

/// An annotation key, perhaps with a legacy spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key, e.g. `autoscaling.knative.dev/min-scale`.
    pub name: &'static str,
    /// The spelling before kebab case, still accepted.
    pub legacy: Option<&'static str>,
    /// What the annotation does, in one sentence.
    pub effect: &'static str,
}

macro_rules! keys {
    ($(#[doc = $doc:literal] $konst:ident = $name:literal $(or $legacy:literal)? => $effect:literal;)*) => {
        $(
            #[doc = $doc]
            pub const $konst: Key = Key {
                name: $name,
                legacy: keys!(@legacy $($legacy)?),
                effect: $effect,
            };
        )*

        /// Every annotation that configures scaling.
        pub const ALL: &[Key] = &[$($konst),*];
    };
    (@legacy) => { None };
    (@legacy $legacy:literal) => { Some($legacy) };
}

keys! {
    /// Which autoscaler is responsible (`ClassAnnotation`).
    CLASS = "autoscaling.knative.dev/class"
        => "Chooses the autoscaler: kpa.autoscaling.knative.dev or hpa.autoscaling.knative.dev.";
    /// What is measured (`MetricAnnotation`).
    METRIC = "autoscaling.knative.dev/metric"
        => "Chooses what is scaled on: concurrency or rps for the KPA class, any metric for HPA.";
    /// Metric value per pod (`TargetAnnotation`).
    TARGET = "autoscaling.knative.dev/target"
        => "The value of the metric that each pod is meant to bear, at least 0.01.";
    /// Share of the target that is aimed at (`TargetUtilizationPercentageAnnotation`).
    TARGET_UTILIZATION_PERCENTAGE = "autoscaling.knative.dev/target-utilization-percentage"
        or "autoscaling.knative.dev/targetUtilizationPercentage"
        => "The share of the target that scaling aims at, in percent from 1 to 100.";
    /// Spare requests (`TargetBurstCapacityAnnotation`).
    TARGET_BURST_CAPACITY = "autoscaling.knative.dev/target-burst-capacity"
        or "autoscaling.knative.dev/targetBurstCapacity"
        => "Requests beyond the observed load that the pods must be able to take before the activator leaves the path; -1 keeps it there, 0 keeps it only at zero pods.";
    /// Lower bound (`MinScaleAnnotation`).
    MIN_SCALE = "autoscaling.knative.dev/min-scale"
        or "autoscaling.knative.dev/minScale"
        => "The fewest pods of the revision while it is reachable.";
    /// Upper bound (`MaxScaleAnnotation`).
    MAX_SCALE = "autoscaling.knative.dev/max-scale"
        or "autoscaling.knative.dev/maxScale"
        => "The most pods of the revision, 0 for no limit.";
    /// Pods at creation (`InitialScaleAnnotation`).
    INITIAL_SCALE = "autoscaling.knative.dev/initial-scale"
        or "autoscaling.knative.dev/initialScale"
        => "The pods that a new revision starts with and must reach before it is ready.";
    /// Pods when scaling from zero (`ActivationScale`).
    ACTIVATION_SCALE = "autoscaling.knative.dev/activation-scale"
        => "The fewest pods whenever there are any, at least 2; scaling to zero stays possible.";
    /// The stable window (`WindowAnnotation`).
    WINDOW = "autoscaling.knative.dev/window"
        => "The span over which the metric is averaged, whole seconds from 6s to 1h.";
    /// The panic window (`PanicWindowPercentageAnnotation`).
    PANIC_WINDOW_PERCENTAGE = "autoscaling.knative.dev/panic-window-percentage"
        or "autoscaling.knative.dev/panicWindowPercentage"
        => "The length of the panic window in percent of the stable window, from 1 to 100.";
    /// When panic begins (`PanicThresholdPercentageAnnotation`).
    PANIC_THRESHOLD_PERCENTAGE = "autoscaling.knative.dev/panic-threshold-percentage"
        or "autoscaling.knative.dev/panicThresholdPercentage"
        => "The load in percent of what the ready pods are meant to bear at which panic mode begins, from 110 to 1000.";
    /// The delay window (`ScaleDownDelayAnnotation`).
    SCALE_DOWN_DELAY = "autoscaling.knative.dev/scale-down-delay"
        or "autoscaling.knative.dev/scaleDownDelay"
        => "How long fewer pods must have sufficed before any are removed, whole seconds from 0s to 1h.";
    /// The last pod (`ScaleToZeroPodRetentionPeriodAnnotation`).
    SCALE_TO_ZERO_POD_RETENTION_PERIOD = "autoscaling.knative.dev/scale-to-zero-pod-retention-period"
        or "autoscaling.knative.dev/scaleToZeroPodRetentionPeriod"
        => "How long the last pod stays at least after the decision to scale to zero, from 0s to 1h.";
    /// The kind of average (`MetricAggregationAlgorithmAnnotation`).
    METRIC_AGGREGATION_ALGORITHM = "autoscaling.knative.dev/metric-aggregation-algorithm"
        or "autoscaling.knative.dev/metricAggregationAlgorithm"
        => "How values are averaged over a window: linear or weighted-exponential.";
    /// How long a revision may take (`serving.ProgressDeadlineAnnotation`).
    PROGRESS_DEADLINE = "serving.knative.dev/progress-deadline"
        => "How long the revision may take to become ready, whole seconds; activation from zero may take 30s longer.";
}

// === impl Key ===

impl Key {
    /// The spelling that is present and its value. The newer spelling wins, whatever its value.
    /// Upstream: `kmap.KeyPriority.Get`.
    pub fn find<'a>(&self, annotations: &'a Annotations) -> Option<(&'static str, &'a str)> {
        std::iter::once(self.name)
            .chain(self.legacy)
            .find_map(|key| Some((key, annotations.get(key)?.as_str())))
    }

    /// The value as it stands.
    pub fn get<'a>(&self, annotations: &'a Annotations) -> Option<&'a str> {
        self.find(annotations).map(|(_, value)| value)
    }

    /// The value as a decimal integer of 32 bits; none when absent or not parsable.
    pub fn int(&self, annotations: &Annotations) -> Option<i32> {
        let value = go::parse_int(self.get(annotations)?, 32).ok()?;
        i32::try_from(value).ok()
    }

    /// The value as a float, which may be infinite or NaN; none when absent or not parsable.
    pub fn float(&self, annotations: &Annotations) -> Option<f64> {
        go::parse_float(self.get(annotations)?).ok()
    }

    /// The value as a duration in nanoseconds, which may be negative; none when absent or not
    /// parsable.
    pub fn duration(&self, annotations: &Annotations) -> Option<i64> {
        go::parse_duration(self.get(annotations)?).ok()
    }
}

#[cfg(test)]
mod tests;
