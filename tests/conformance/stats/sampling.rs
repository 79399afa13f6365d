//! Kinds `sampleSize` and `average`: how many pods are scraped, and what their samples mean for all.

use autoscaler::sample_size::{Sample, sample_size};
use serde_json::{Value, json};

use crate::conformance::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    match case["kind"].as_str() {
        Some("sampleSize") => {
            let sizes: Vec<u32> = rows(&case["populations"])
                .iter()
                .map(|population| {
                    let population = population.as_i64().unwrap_or(0);
                    sample_size(u32::try_from(population).unwrap_or(0))
                })
                .collect();
            Verdict::of(case, json!(sizes))
        }
        Some("average") => Verdict::of(case, average(case)),
        other => Verdict::Missing(other.unwrap_or("sampling").to_owned()),
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn average(case: &Value) -> Value {
    let samples = rows(&case["samples"]);
    let mut sum = Sample::default();
    for sample in samples {
        let column = |index: usize| sample[index].as_f64().unwrap_or(f64::NAN);
        sum.add(&Sample {
            average_concurrent_requests: column(0),
            average_proxied_concurrent_requests: column(1),
            request_count: column(2),
            proxied_request_count: column(3),
        });
    }
    let pods = case["pods"].as_u64().unwrap_or(0) as u32;
    let all = sum.extrapolated(samples.len() as u32, pods);
    json!([
        all.average_concurrent_requests,
        all.average_proxied_concurrent_requests,
        all.request_count,
        all.proxied_request_count
    ])
}
