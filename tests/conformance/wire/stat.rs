//! Kinds about the Stat and its messages.

use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use serving::header::PROTOBUF_MIME_TYPE;
use serving::request_stats::RequestStatsReport;
use serving::stat::{Stat, StatBatch, WireStatMessage, WireStatMessages};

use super::text;
use crate::conformance::Verdict;

pub(super) fn single(case: &Value) -> Verdict {
    let stat = read_stat(&case["stat"]);
    Verdict::of(case, json!(hex(&stat.encode_to_vec())))
}

pub(super) fn message(case: &Value) -> Verdict {
    let message = read_message(&case["message"]);
    Verdict::of(case, json!(hex(&message.encode_to_vec())))
}

/// Encoded twice: from messages, and by the batch that writes without building them.
pub(super) fn messages(case: &Value) -> Verdict {
    let list = case["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let messages: Vec<_> = list.iter().map(read_message).collect();
    let mut batch = StatBatch::new();
    let mut complete = true;
    for message in &messages {
        match &message.stat {
            Some(stat) => batch
                .push(&message.namespace, &message.name, &stat.borrowed())
                .expect("a case fits a frame"),
            // A batch has no way to leave the Stat out: receivers would skip the message.
            None => complete = false,
        }
    }
    let built = hex(&WireStatMessages { messages }.encode_to_vec());
    let written = hex(&batch.take());
    if complete && written != built {
        return Verdict::of(case, json!({"built": built, "written": written}));
    }
    Verdict::of(case, json!(built))
}

/// The text of an error is informative.
pub(super) fn decode(case: &Value) -> Verdict {
    let mut expected = case["expected"].clone();
    if let Some(fields) = expected.as_object_mut() {
        fields.remove("message");
    }
    let got = match WireStatMessages::from_frame(&unhex(text(&case["hex"]))) {
        Ok(frame) => {
            let messages: Vec<_> = frame.messages.iter().map(write_message).collect();
            json!({"error": false, "messages": messages})
        }
        Err(_) => json!({"error": true}),
    };
    Verdict::Replayed { expected, got }
}

pub(super) fn queue_stat(case: &Value) -> Verdict {
    let pod = text(&case["podName"]);
    let millis = |name: &str| Duration::from_millis(case[name].as_u64().unwrap_or_default());
    let report = &case["report"];
    let report = RequestStatsReport {
        average_concurrency: number(&report["averageConcurrency"]),
        average_proxied_concurrency: number(&report["averageProxiedConcurrency"]),
        request_count: number(&report["requestCount"]),
        proxied_request_count: number(&report["proxiedRequestCount"]),
    };
    let after = report.to_stat(pod, millis("reportingPeriodMs"), millis("uptimeMs"));
    Verdict::of(
        case,
        json!({
            "beforeFirstReport": hex(&Stat::of_pod(pod).encode_to_vec()),
            "afterReport": hex(&after.encode_to_vec()),
            "contentType": PROTOBUF_MIME_TYPE,
        }),
    )
}

fn read_stat(value: &Value) -> Stat {
    Stat {
        pod_name: text(&value["podName"]).to_owned(),
        average_concurrent_requests: number(&value["averageConcurrentRequests"]),
        average_proxied_concurrent_requests: number(&value["averageProxiedConcurrentRequests"]),
        request_count: number(&value["requestCount"]),
        proxied_request_count: number(&value["proxiedRequestCount"]),
        process_uptime: number(&value["processUptime"]),
        timestamp: value["timestamp"].as_i64().unwrap_or_default(),
    }
}

fn read_message(value: &Value) -> WireStatMessage {
    let stat = &value["stat"];
    WireStatMessage {
        namespace: text(&value["namespace"]).to_owned(),
        name: text(&value["name"]).to_owned(),
        stat: (!stat.is_null()).then(|| read_stat(stat)),
    }
}

fn write_message(message: &WireStatMessage) -> Value {
    let stat = message.stat.as_ref().map(|stat| {
        json!({
            "podName": stat.pod_name,
            "averageConcurrentRequests": stat.average_concurrent_requests,
            "averageProxiedConcurrentRequests": stat.average_proxied_concurrent_requests,
            "requestCount": stat.request_count,
            "proxiedRequestCount": stat.proxied_request_count,
            "processUptime": stat.process_uptime,
            "timestamp": stat.timestamp,
        })
    });
    json!({"namespace": message.namespace, "name": message.name, "stat": stat})
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}
