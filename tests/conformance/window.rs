//! Family `window`.

use autoscaler::delay_window::DelayWindow;
use autoscaler::spec::Aggregation;
use autoscaler::window::Buckets;
use serde_json::{Value, json};
use serving::UnixTime;

use super::Verdict;

const MILLISECOND_NS: i64 = 1_000_000;

pub(crate) fn replay(case: &Value) -> Verdict {
    match case["kind"].as_str() {
        Some("average") => average(case),
        Some("max") => max(case),
        kind => Verdict::Missing(kind.unwrap_or("window").to_owned()),
    }
}

/// A number of milliseconds in nanoseconds.
fn nanoseconds(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0) * MILLISECOND_NS
}

fn granularity(case: &Value) -> u32 {
    case["granularity"]
        .as_u64()
        .and_then(|milliseconds| u32::try_from(milliseconds / 1000).ok())
        .unwrap_or(1)
}

fn at(case: &Value, offset: &Value) -> UnixTime {
    UnixTime(nanoseconds(&case["start"]) + nanoseconds(offset))
}

fn average(case: &Value) -> Verdict {
    let aggregation = match case["algorithm"].as_str() {
        Some("linear") => Aggregation::Linear,
        Some("exponential") => Aggregation::WeightedExponential,
        other => return Verdict::Missing(format!("average of algorithm {other:?}")),
    };
    let mut buckets =
        Buckets::<1>::new(nanoseconds(&case["window"]), granularity(case), aggregation);
    let mut got = Vec::new();
    for op in case["ops"].as_array().into_iter().flatten() {
        let time = at(case, &op[1]);
        match op[0].as_str() {
            Some("r") => buckets.record(time, [op[2].as_f64().unwrap_or(f64::NAN)]),
            Some("q") => got.push(json!([buckets.average(0, time), buckets.is_empty(time)])),
            Some("w") => buckets.resize(nanoseconds(&op[2]), time),
            other => return Verdict::Missing(format!("average op {other:?}")),
        }
    }
    Verdict::of(case, json!(got))
}

fn max(case: &Value) -> Verdict {
    let mut window = DelayWindow::new(nanoseconds(&case["duration"]), granularity(case));
    let initial = window.current();
    let got: Vec<i32> = case["ops"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|op| {
            window.record(at(case, &op[0]), op[1].as_i64().unwrap_or(0) as i32);
            window.current()
        })
        .collect();
    Verdict::Replayed {
        expected: json!({"initial": case["initial"], "expected": case["expected"]}),
        got: json!({"initial": initial, "expected": got}),
    }
}
