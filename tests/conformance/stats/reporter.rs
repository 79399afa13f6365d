//! Kind `concurrencyReporter`: the activator's per-revision reports.

use serde_json::Value;

use crate::conformance::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    Verdict::Missing(case["kind"].as_str().unwrap_or("reporter").to_owned())
}
