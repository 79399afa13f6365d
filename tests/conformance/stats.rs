//! Family `stats`: request statistics, sample sizes and extrapolation.

mod reporter;
mod sampling;

use serde_json::{Value, json};
use serving::UnixTime;
use serving::request_stats::{RequestStats, RequestStatsReport};

use super::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    match case["kind"].as_str() {
        Some("requestStats") => Verdict::of(case, request_stats(case)),
        Some("concurrencyReporter") => reporter::replay(case),
        Some("sampleSize" | "average") => sampling::replay(case),
        other => Verdict::Missing(other.unwrap_or("stats").to_owned()),
    }
}

fn request_stats(case: &Value) -> Value {
    let start = case["startNs"].as_i64().unwrap_or_default();
    let stats = RequestStats::new(UnixTime(start));
    let mut reports = Vec::new();
    for op in case["ops"].as_array().into_iter().flatten() {
        let now = UnixTime(start + op[1].as_i64().unwrap_or_default());
        match op[0].as_str().unwrap_or_default() {
            "in" => stats.arrive(now, false),
            "out" => stats.depart(now, false),
            "proxiedIn" => stats.arrive(now, true),
            "proxiedOut" => stats.depart(now, true),
            _ => reports.push(row(&stats.report(now))),
        }
    }
    Value::Array(reports)
}

fn row(report: &RequestStatsReport) -> Value {
    json!([
        report.average_concurrency,
        report.average_proxied_concurrency,
        report.request_count,
        report.proxied_request_count,
    ])
}
