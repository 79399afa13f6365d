//! Kinds `sampleSize` and `average`: how many pods are scraped, and what their samples mean for all.

use serde_json::Value;

use crate::conformance::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    Verdict::Missing(case["kind"].as_str().unwrap_or("sampling").to_owned())
}
