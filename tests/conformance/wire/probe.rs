//! Kinds about the readiness probes in queue-proxy's environment.

use serde_json::{Value, json};
use serving::probe_spec::{self, Probe};

use super::text;
use crate::conformance::Verdict;

pub(super) fn encode(case: &Value) -> Verdict {
    match read(&case["probe"]) {
        Some(probe) => Verdict::of(case, json!(probe_spec::encode(&probe))),
        None => Verdict::of(case, json!("the case has no probe")),
    }
}

/// The text of an error is informative.
pub(super) fn decode(case: &Value) -> Verdict {
    let mut expected = case["expected"].clone();
    if let Some(fields) = expected.as_object_mut() {
        fields.remove("message");
    }
    let multi = case["multi"].as_bool().unwrap_or_default();
    let got = match probe_spec::decode(text(&case["json"]), multi) {
        Ok(probes) => json!({"error": false, "probes": probes}),
        Err(_) => json!({"error": true}),
    };
    Verdict::Replayed { expected, got }
}

/// A probe in a case's input, which is written as Kubernetes writes it.
pub(super) fn read(value: &Value) -> Option<Probe> {
    let probes = probe_spec::decode(&value.to_string(), false).expect("a case has a valid probe");
    probes.into_iter().flatten().next()
}
