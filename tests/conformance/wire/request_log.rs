//! Kind `requestLog`.

use std::time::Duration;

use http::Version;
use serde_json::{Value, json};
use serving::header;
use serving::request_log::{LogInput, LogRevision, RequestLog};

use super::{header_map, text};
use crate::conformance::Verdict;

/// The text of a template error is informative.
pub(super) fn line(case: &Value) -> Verdict {
    let input = &case["input"];
    let mut expected = case["expected"].clone();
    if let Some(error) = expected.get_mut("templateError") {
        *error = json!(true);
    }
    let got = match RequestLog::compile(text(&input["template"])) {
        Ok(Some(log)) => json!({"log": write(&log, input)}),
        Ok(None) => json!({"log": ""}),
        Err(_) => json!({"templateError": true}),
    };
    Verdict::Replayed { expected, got }
}

fn write(log: &RequestLog, input: &Value) -> String {
    let (request, response, revision) = (&input["request"], &input["response"], &input["revision"]);
    let headers = header_map(&request["headers"]);
    if input["enableProbeRequestLog"] != true && header::is_probe(&headers) {
        return String::new();
    }
    let panicked = response["panic"] == true;
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let log_input = LogInput {
        method: text(&request["method"]),
        uri: text(&request["uri"]),
        headers: &headers,
        host: text(&request["host"]).as_bytes(),
        version: match text(&request["proto"]) {
            "HTTP/1.0" => Version::HTTP_10,
            "HTTP/2.0" => Version::HTTP_2,
            _ => Version::HTTP_11,
        },
        content_length: request["contentLength"].as_i64().unwrap_or_default(),
        remote_addr: text(&request["remoteAddr"]),
        tls: false,
        code: if panicked {
            500
        } else {
            number(&response["code"]) as u16
        },
        size: if panicked {
            0
        } else {
            number(&response["size"])
        },
        latency: Duration::from_nanos(number(&response["latencyNs"])),
        revision: LogRevision {
            name: text(&revision["name"]),
            namespace: text(&revision["namespace"]),
            service: text(&revision["service"]),
            configuration: text(&revision["configuration"]),
            pod_name: text(&revision["podName"]),
            pod_ip: text(&revision["podIP"]),
        },
        trace_id: header::trace_id(&headers),
    };
    let mut out = Vec::new();
    log.write(&log_input, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
