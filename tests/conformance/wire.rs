//! Family `wire`: everything that crosses a process boundary.

mod hashing;
mod headers;
mod names;
mod probe;
mod request_log;
mod sidecar;
mod stat;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    match case["kind"].as_str().unwrap_or_default() {
        "constants" => names::constants(case),
        "stat" => stat::single(case),
        "wireStatMessage" => stat::message(case),
        "wireStatMessages" => stat::messages(case),
        "decode" => stat::decode(case),
        "queueStat" => stat::queue_stat(case),
        "probeEncode" => probe::encode(case),
        "probeDecode" => probe::decode(case),
        "queueEnv" => sidecar::environment(case),
        "forwarded" => headers::forwarded(case),
        "routeTag" => headers::route_tag(case),
        "isProbe" => headers::is_probe(case),
        "hostRewrite" => headers::host_rewrite(case),
        "traceId" => headers::trace_id(case),
        "requestLog" => request_log::line(case),
        "buckets" => hashing::buckets(case),
        "subset" => hashing::subset(case),
        "bucketName" => hashing::bucket_name(case),
        "isBucketHost" => hashing::is_bucket_host(case),
        "leaseHolder" => hashing::lease_holder(case),
        "leaseNames" => hashing::lease_names(case),
        other => Verdict::Missing(other.to_owned()),
    }
}

/// The headers of a case, a list of `[name, value]`.
fn header_map(list: &Value) -> HeaderMap {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|pair| {
            (
                HeaderName::from_bytes(text(&pair[0]).as_bytes()).expect("a header name"),
                HeaderValue::from_bytes(text(&pair[1]).as_bytes()).expect("a header value"),
            )
        })
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// How Go writes a header name: each word with a capital.
fn canonical(name: &HeaderName) -> String {
    let mut start = true;
    name.as_str()
        .chars()
        .map(|letter| {
            let out = if start {
                letter.to_ascii_uppercase()
            } else {
                letter
            };
            start = letter == '-';
            out
        })
        .collect()
}
