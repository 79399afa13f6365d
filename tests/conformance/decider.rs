//! Family `decider`, and the derived values of family `annotations`.

use autoscaler::pod_autoscaler::PodAutoscaler;
use autoscaler::simulation::scenario::{self, Report, Scenario, Tick};
use autoscaler::spec::{Settings, Source, class};
use serde::Serialize;
use serde_json::{Map, Value, json};
use serving::annotation;
use serving::config::Autoscaler;

use super::Verdict;
use super::config::data;

/// Default of `progress-deadline`, which config-deployment would carry.
const PROGRESS_DEADLINE_NS: i64 = 600_000_000_000;

pub(crate) fn replay(case: &Value) -> Verdict {
    let outcome = serde_json::from_value::<Scenario>(case["input"].clone())
        .map_err(|error| error.to_string())
        .and_then(|scenario| scenario::replay(&scenario).map_err(|error| error.to_string()));
    Verdict::of(
        case,
        outcome.map_or_else(Value::String, |report| columns(&report)),
    )
}

/// The derived values of a PodAutoscaler.
pub(crate) fn derive(case: &Value) -> Verdict {
    let pod_autoscaler = pod_autoscaler(case);
    let settings = settings(case, &pod_autoscaler);
    let annotations = &pod_autoscaler.annotations;
    let mut got = object(&scenario::derived(&pod_autoscaler, &settings));
    got.insert(
        "activeThreshold".to_owned(),
        json!(settings.active_threshold(false)),
    );
    got.insert("class".to_owned(), json!(class(annotations)));
    got.insert(
        "podRetentionNs".to_owned(),
        json!(annotation::SCALE_TO_ZERO_POD_RETENTION_PERIOD.duration(annotations)),
    );
    Verdict::of(case, Value::Object(got))
}

/// The PodAutoscaler of a case with fields `annotations`, `containerConcurrency`, `reachability`.
pub(crate) fn pod_autoscaler(case: &Value) -> PodAutoscaler {
    scenario::pod_autoscaler(
        data(&case["annotations"]),
        case["containerConcurrency"].as_i64().unwrap_or(0),
        case["reachability"].as_str().unwrap_or(""),
    )
}

/// What the PodAutoscaler amounts to under the case's `config`.
pub(crate) fn settings(case: &Value, pod_autoscaler: &PodAutoscaler) -> Settings {
    let config = Autoscaler::parse(&data(&case["config"])).expect("vectors have valid config");
    Settings::derive(&Source::of(pod_autoscaler, &config, PROGRESS_DEADLINE_NS))
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        other => panic!("not an object: {other:?}"),
    }
}

/// A report as the vectors have it: one column per field instead of one row per tick.
fn columns(report: &Report) -> Value {
    let mut got = object(report);
    got.remove("ticks");
    if report.updates.is_empty() {
        got.remove("updates");
    }
    if let Some(initial) = got.get_mut("initial") {
        initial["initialized"] = json!(digit(report.initial.lifecycle.initialized));
    }
    let ticks = &report.ticks;
    let mut column = |name: &str, of: &dyn Fn(&Tick) -> Value| {
        got.insert(name.to_owned(), ticks.iter().map(of).collect());
    };
    column("desired", &|tick| json!(tick.desired));
    column("excessBurstCapacity", &|tick| {
        json!(tick.excess_burst_capacity)
    });
    column("stable", &|tick| json!(tick.stable));
    column("panicValue", &|tick| json!(tick.panic_value));
    column("statusDesired", &|tick| json!(tick.status_desired));
    column("statusEbc", &|tick| json!(tick.status_ebc));
    column("numActivators", &|tick| json!(tick.num_activators));
    column("bounded", &|tick| json!(tick.bounded));
    let text = |of: &dyn Fn(&Tick) -> char| ticks.iter().map(of).collect::<String>();
    got.insert("valid".to_owned(), text(&|tick| digit(tick.valid)).into());
    got.insert("panic".to_owned(), text(&|tick| digit(tick.panic)).into());
    let numbers = |of: &dyn Fn(&Tick) -> i32| ticks.iter().map(of).collect::<Vec<_>>();
    got.insert(
        "lifecycle".to_owned(),
        json!({
            "want": numbers(&|tick| tick.lifecycle.want),
            "replicas": numbers(&|tick| tick.lifecycle.replicas),
            "mode": text(&|tick| tick.lifecycle.mode),
            "active": text(&|tick| tick.lifecycle.active),
            "initialized": text(&|tick| digit(tick.lifecycle.initialized)),
        }),
    );
    Value::Object(got)
}

fn digit(value: bool) -> char {
    if value { '1' } else { '0' }
}
