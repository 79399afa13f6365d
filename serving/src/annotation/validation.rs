//! What the admission webhook accepts. Upstream: `pkg/apis/autoscaling/annotation_validation.go`.
//!
//! Comparisons of floats are written so that a NaN passes exactly where it does upstream.

use super::{
    ACTIVATION_SCALE, AGGREGATION_LINEAR, AGGREGATION_WEIGHTED_EXPONENTIAL,
    AGGREGATION_WEIGHTED_EXPONENTIAL_LEGACY, Annotations, CLASS, CLASS_HPA, CLASS_KPA, FieldError,
    FieldErrors, INITIAL_SCALE, Key, MAX_SCALE, METRIC, METRIC_AGGREGATION_ALGORITHM,
    METRIC_CONCURRENCY, METRIC_RPS, MIN_SCALE, PANIC_THRESHOLD_PERCENTAGE,
    PANIC_THRESHOLD_PERCENTAGE_MAX, PANIC_THRESHOLD_PERCENTAGE_MIN, PANIC_WINDOW_PERCENTAGE,
    PANIC_WINDOW_PERCENTAGE_MAX, PANIC_WINDOW_PERCENTAGE_MIN, PROGRESS_DEADLINE, SCALE_DOWN_DELAY,
    SCALE_TO_ZERO_POD_RETENTION_PERIOD, TARGET, TARGET_BURST_CAPACITY, TARGET_MIN,
    TARGET_UTILIZATION_PERCENTAGE, WINDOW, WINDOW_MAX, WINDOW_MIN,
};
use crate::config::Autoscaler;
use crate::go::{
    NumberProblem, duration_from_std, format_duration, is_whole_seconds, parse_duration,
    parse_float, parse_int, quote,
};

const CLASS_DOMAIN: &str = ".knative.dev";
const AUTOSCALING_GROUP: &str = "autoscaling.knative.dev";
const SECOND_PRECISION: &str = "must be specified with at most second precision";

/// Validates the scaling annotations of a revision template and reports everything that is wrong
/// with them. Of the configuration, `pod_autoscaler_class`, `allow_zero_initial_scale` and
/// `max_scale_limit` matter. Upstream: `ValidateAnnotations`.
pub fn validate(config: &Autoscaler, annotations: &Annotations) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::default();
    errors.extend(class(annotations));
    scale_bounds(config, annotations, &mut errors);
    floats(annotations, &mut errors);
    errors.extend(window(annotations));
    errors.extend(pod_retention_period(annotations));
    errors.extend(scale_down_delay(annotations));
    errors.extend(metric(config, annotations));
    errors.extend(aggregation_algorithm(annotations));
    errors.extend(initial_scale(config, annotations));
    errors.into_result()
}

/// Validates [`PROGRESS_DEADLINE`]; an empty value counts as absent.
/// Upstream: `pkg/apis/serving/v1/revision_validation.go`, `validateProgressDeadlineAnnotation`.
pub fn validate_progress_deadline(annotations: &Annotations) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::default();
    if let Some((key, value)) = PROGRESS_DEADLINE.find(annotations)
        && !value.is_empty()
    {
        errors.extend(match parse_duration(value) {
            Err(_) => Some(FieldError::invalid_value(value, key)),
            Ok(nanos) if !is_whole_seconds(nanos) => Some(FieldError::new(
                format!("progress-deadline={value} is not at second precision"),
                key,
            )),
            Ok(nanos) if nanos < 0 => Some(FieldError::new(
                format!("progress-deadline={value} must be positive"),
                key,
            )),
            Ok(_) => None,
        });
    }
    errors.into_result()
}

/// Refuses scaling annotations on objects where they have no effect: everywhere but the revision
/// template. Upstream: `pkg/apis/serving/metadata_validation.go`,
/// `ValidateHasNoAutoscalingAnnotation`.
pub fn validate_absent(annotations: &Annotations) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::default();
    errors.extend(
        annotations
            .keys()
            .filter(|key| key.starts_with(AUTOSCALING_GROUP))
            .map(|key| FieldError {
                message: format!("invalid key name {}", quote(key)),
                details: "autoscaling annotations must be put under \
                          \"spec.template.metadata.annotations\" to work"
                    .to_owned(),
                paths: vec![String::new()],
            }),
    );
    errors.into_result()
}

fn class(annotations: &Annotations) -> Option<FieldError> {
    let (key, value) = CLASS.find(annotations)?;
    let unknown = value.ends_with(CLASS_DOMAIN) && value != CLASS_KPA && value != CLASS_HPA;
    unknown.then(|| FieldError::invalid_value(value, key))
}

/// A scale that is wrong or absent counts as 0 in the comparisons that follow.
fn scale(key: Key, annotations: &Annotations, errors: &mut FieldErrors) -> i64 {
    let Some((key, value)) = key.find(annotations) else {
        return 0;
    };
    let out_of_bounds = || FieldError::out_of_bounds(value, 0, i32::MAX, key);
    let error = match parse_int(value, 32) {
        Ok(scale) if scale >= 0 => return scale,
        Ok(_) => out_of_bounds(),
        Err(error) if error.problem == NumberProblem::Range => out_of_bounds(),
        Err(_) => FieldError::invalid_value(value, key),
    };
    errors.push(error);
    0
}

fn scale_bounds(config: &Autoscaler, annotations: &Annotations, errors: &mut FieldErrors) {
    let min = scale(MIN_SCALE, annotations, errors);
    let max = scale(MAX_SCALE, annotations, errors);
    if max != 0 && max < min {
        errors.push(FieldError {
            message: format!("max-scale={max} is less than min-scale={min}"),
            details: String::new(),
            paths: vec![MAX_SCALE.name.to_owned(), MIN_SCALE.name.to_owned()],
        });
    }
    if let Some((key, _)) = MAX_SCALE.find(annotations) {
        max_scale_limit(key, max, i64::from(config.max_scale_limit), errors);
    }
    errors.extend(activation_scale(annotations, min, max));
}

fn max_scale_limit(key: &str, max: i64, limit: i64, errors: &mut FieldErrors) {
    if limit == 0 {
        return;
    }
    if max > limit {
        errors.push(FieldError::out_of_bounds(max, 1, limit, key));
    }
    if max == 0 {
        errors.push(FieldError::new(
            format!("max-scale=0 (unlimited), must be less than {limit}"),
            key,
        ));
    }
}

fn activation_scale(annotations: &Annotations, min: i64, max: i64) -> Option<FieldError> {
    let (key, value) = ACTIVATION_SCALE.find(annotations)?;
    let Ok(scale) = parse_int(value, 32) else {
        return Some(FieldError::invalid_value(value, key));
    };
    let message = if min > scale {
        format!("min-scale={min} is greater than activation-scale={scale}")
    } else if max < scale && max != 0 {
        format!("max-scale={max} is less than activation-scale={scale}")
    } else if scale < 2 {
        format!("activation-scale={scale} must be greater than 1")
    } else {
        return None;
    };
    Some(FieldError::new(message, key))
}

fn floats(annotations: &Annotations, errors: &mut FieldErrors) {
    for (key, min, max) in [
        (
            PANIC_WINDOW_PERCENTAGE,
            PANIC_WINDOW_PERCENTAGE_MIN,
            PANIC_WINDOW_PERCENTAGE_MAX,
        ),
        (
            PANIC_THRESHOLD_PERCENTAGE,
            PANIC_THRESHOLD_PERCENTAGE_MIN,
            PANIC_THRESHOLD_PERCENTAGE_MAX,
        ),
        (TARGET_UTILIZATION_PERCENTAGE, 1.0, 100.0),
    ] {
        if let Some((key, value)) = key.find(annotations) {
            match parse_float(value) {
                Err(_) => errors.push(FieldError::invalid_value(value, key)),
                Ok(float) if float < min || float > max => {
                    errors.push(FieldError::out_of_bounds(value, min, max, key));
                }
                Ok(_) => {}
            }
        }
    }
    if let Some((key, value)) = TARGET.find(annotations) {
        match parse_float(value) {
            Err(_) => errors.push(FieldError::invalid_value(value, key)),
            Ok(float) if float < TARGET_MIN => errors.push(FieldError::new(
                format!("target {value} should be at least {TARGET_MIN}"),
                key,
            )),
            Ok(_) => {}
        }
    }
    if let Some((key, value)) = TARGET_BURST_CAPACITY.find(annotations) {
        let refused = parse_float(value).map_or(true, |float| float < 0.0 && float != -1.0);
        if refused {
            errors.push(FieldError::invalid_value(value, key));
        }
    }
}

/// The duration of a key when it lies within bounds, or the complaint.
fn bounded(key: &str, value: &str, min: i64, max: i64) -> Result<i64, FieldError> {
    let nanos = parse_duration(value).map_err(|_| FieldError::invalid_value(value, key))?;
    if (min..=max).contains(&nanos) {
        Ok(nanos)
    } else {
        Err(FieldError::out_of_bounds(
            value,
            format_duration(min),
            format_duration(max),
            key,
        ))
    }
}

fn bounded_whole_seconds(key: &str, value: &str, min: i64, max: i64) -> Option<FieldError> {
    match bounded(key, value, min, max) {
        Err(error) => Some(error),
        Ok(nanos) if is_whole_seconds(nanos) => None,
        Ok(_) => Some(FieldError::new(SECOND_PRECISION, key)),
    }
}

fn window(annotations: &Annotations) -> Option<FieldError> {
    let (key, value) = WINDOW.find(annotations)?;
    bounded_whole_seconds(
        key,
        value,
        duration_from_std(WINDOW_MIN),
        duration_from_std(WINDOW_MAX),
    )
}

fn pod_retention_period(annotations: &Annotations) -> Option<FieldError> {
    let (key, value) = SCALE_TO_ZERO_POD_RETENTION_PERIOD.find(annotations)?;
    bounded(key, value, 0, duration_from_std(WINDOW_MAX)).err()
}

fn scale_down_delay(annotations: &Annotations) -> Option<FieldError> {
    let (key, value) = SCALE_DOWN_DELAY.find(annotations)?;
    bounded_whole_seconds(key, value, 0, duration_from_std(WINDOW_MAX))
}

fn metric(config: &Autoscaler, annotations: &Annotations) -> Option<FieldError> {
    let (key, value) = METRIC.find(annotations)?;
    let class = CLASS
        .get(annotations)
        .unwrap_or(&config.pod_autoscaler_class);
    let accepted = match class {
        CLASS_KPA => value == METRIC_CONCURRENCY || value == METRIC_RPS,
        CLASS_HPA => !value.is_empty(),
        // Other autoscalers have metrics of their own.
        _ => true,
    };
    (!accepted).then(|| FieldError::invalid_value(value, key))
}

/// Only where the class is written out, since other autoscalers may have algorithms of their own.
fn aggregation_algorithm(annotations: &Annotations) -> Option<FieldError> {
    if CLASS.get(annotations) != Some(CLASS_KPA) {
        return None;
    }
    let (key, value) = METRIC_AGGREGATION_ALGORITHM.find(annotations)?;
    let accepted = [
        "",
        AGGREGATION_LINEAR,
        AGGREGATION_WEIGHTED_EXPONENTIAL,
        AGGREGATION_WEIGHTED_EXPONENTIAL_LEGACY,
    ];
    (!accepted.contains(&value)).then(|| FieldError::invalid_value(value, key))
}

/// The reason is part of the path, oddly, and so it stays.
fn initial_scale(config: &Autoscaler, annotations: &Annotations) -> Option<FieldError> {
    let (key, value) = INITIAL_SCALE.find(annotations)?;
    match parse_int(value, 64) {
        Err(_) => Some(FieldError::invalid_value(value, key)),
        Ok(scale) if scale < 0 => Some(FieldError::invalid_value(
            value,
            format!("{key} must be greater than 0"),
        )),
        Ok(0) if !config.allow_zero_initial_scale => Some(FieldError::invalid_value(
            value,
            format!("{key}=0 not allowed by cluster"),
        )),
        Ok(_) => None,
    }
}
