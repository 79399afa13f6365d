//! Family `window`.

use serde_json::Value;

use super::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    Verdict::Missing(case["kind"].as_str().unwrap_or("window").to_owned())
}
