//! Family `annotations`: validation here, derived values with the decider's replay.

use serde_json::{Value, json};
use serving::annotation::{self, FieldErrors};
use serving::config::Autoscaler;

use super::Verdict;
use super::config::data;

pub(crate) fn replay(case: &Value) -> Verdict {
    match case["kind"].as_str() {
        Some("validate") => validate(case),
        Some("derive") => super::decider::derive(case),
        other => Verdict::Missing(other.unwrap_or("?").to_owned()),
    }
}

fn validate(case: &Value) -> Verdict {
    let given = &case["config"];
    let config = Autoscaler {
        pod_autoscaler_class: given["podAutoscalerClass"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        allow_zero_initial_scale: given["allowZeroInitialScale"].as_bool().unwrap_or_default(),
        max_scale_limit: given["maxScaleLimit"]
            .as_i64()
            .and_then(|limit| i32::try_from(limit).ok())
            .unwrap_or_default(),
        ..Autoscaler::default()
    };
    let errors: FieldErrors = annotation::validate(&config, &data(&case["annotations"]))
        .err()
        .unwrap_or_default();
    let list: Vec<_> = errors
        .to_list()
        .into_iter()
        .map(|error| {
            json!({
                "message": error.message,
                "paths": error.paths,
                "details": error.details,
            })
        })
        .collect();
    Verdict::of(case, json!({ "error": errors.to_string(), "errors": list }))
}
