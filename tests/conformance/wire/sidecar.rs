//! Not replayed yet.

use serde_json::Value;

use crate::conformance::Verdict;

pub(super) fn environment(case: &Value) -> Verdict {
    Verdict::Missing(case["kind"].as_str().unwrap_or_default().to_owned())
}
