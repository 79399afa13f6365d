//! Kinds about request headers.

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use serving::header;

use super::{canonical, header_map, text};
use crate::conformance::Verdict;

pub(super) fn forwarded(case: &Value) -> Verdict {
    let mut headers = header_map(&case["headers"]);
    header::shim_forwarded(&mut headers);
    let values: Vec<_> = headers
        .get_all(http::header::FORWARDED)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    Verdict::of(case, json!(values))
}

pub(super) fn route_tag(case: &Value) -> Verdict {
    let headers = header_map(&case["headers"]);
    Verdict::of(case, json!(header::route_tag(&headers)))
}

pub(super) fn is_probe(case: &Value) -> Verdict {
    let headers = header_map(&case["headers"]);
    Verdict::of(
        case,
        json!({
            "isKubeletProbe": header::is_kubelet_probe(&headers),
            "isProbe": header::is_probe(&headers),
            "knativeProbeValue": String::from_utf8_lossy(header::probe_value(&headers)),
            "knativeProxyValue": String::from_utf8_lossy(header::proxy_value(&headers)),
        }),
    )
}

/// Go keeps the Host apart from the headers; here it is one of them, as on the wire. A `Host` entry
/// among the headers of a case is a second one, which Go would not have put there.
pub(super) fn host_rewrite(case: &Value) -> Verdict {
    let mut headers = header_map(&case["headers"]);
    let host = HeaderValue::from_str(text(&case["host"])).expect("a host");
    let host = if case["direction"] == "in" {
        header::hide_host(&mut headers, host);
        String::new()
    } else {
        let seen = header::restore_host(&mut headers).unwrap_or(host);
        String::from_utf8_lossy(seen.as_bytes()).into_owned()
    };
    Verdict::of(case, json!({"headers": sorted(&headers), "host": host}))
}

pub(super) fn trace_id(case: &Value) -> Verdict {
    let headers = header_map(&case["headers"]);
    let id = String::from_utf8_lossy(header::trace_id(&headers)).into_owned();
    Verdict::of(case, json!(id))
}

fn sorted(headers: &HeaderMap) -> Vec<[String; 2]> {
    let mut list: Vec<_> = headers
        .iter()
        .map(|(name, value)| {
            [
                canonical(name),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            ]
        })
        .collect();
    list.sort();
    list
}
