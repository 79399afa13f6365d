//! Spans as JSON, one per line, in the form of Go's `stdouttrace` exporter: the protocol `stdout`.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Attribute, SpanData, Status, Tracer, Value};
use crate::clock::UnixTime;
use crate::telemetry::LineWriter;
use crate::trace_context::SpanContext;

/// How long a span waits at most before it is printed, as with Go's batches.
pub const DELAY: Duration = Duration::from_secs(5);

/// Spans for which nothing is waited any longer.
const BATCH: usize = 512;

/// Spans that are printed without letting requests go on.
const MAX_PRINTED_AT_ONCE: usize = 16;

/// Prints spans as they finish, for ever. Cancel safe; spans that were not printed yet stay with
/// the tracer for [`flush`].
pub async fn export(tracer: Tracer, resource: Vec<Attribute>, output: LineWriter) {
    loop {
        tracer.filled(1).await;
        // A full batch does not wait.
        let _ = tokio::time::timeout(DELAY, tracer.filled(BATCH)).await;
        while tracer.queued() > 0 {
            print(&tracer, &resource, &output);
            // Requests go on in between.
            tokio::task::yield_now().await;
        }
    }
}

/// Prints what is left, at the end of the process.
pub fn flush(tracer: &Tracer, resource: &[Attribute], output: &LineWriter) {
    while tracer.queued() > 0 {
        print(tracer, resource, output);
    }
    output.flush();
}

fn print(tracer: &Tracer, resource: &[Attribute], output: &LineWriter) {
    for span in tracer.take(MAX_PRINTED_AT_ONCE) {
        output.write(line(&span, resource).to_string().into_bytes());
    }
}

fn line(span: &SpanData, resource: &[Attribute]) -> Json {
    let (code, description) = match &span.status {
        Status::Unset => ("Unset", ""),
        Status::Error(reason) => ("Error", reason.as_str()),
    };
    let state = span
        .state
        .as_ref()
        .and_then(|state| state.to_str().ok())
        .unwrap_or_default();
    let scope = json!({
        "Name": span.scope.name,
        "Version": span.scope.version,
        "SchemaURL": "",
        "Attributes": null,
    });
    json!({
        "Name": span.name,
        "SpanContext": context(Some((&span.context, false)), state),
        "Parent": context(span.parent.as_ref().map(|(parent, remote)| (parent, *remote)), state),
        "SpanKind": span.kind as u8,
        "StartTime": time(span.start),
        "EndTime": time(span.end),
        "Attributes": attributes(&span.attributes),
        "Events": null,
        "Links": null,
        "Status": {"Code": code, "Description": description},
        "DroppedAttributes": span.dropped_attributes,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": attributes(resource),
        "InstrumentationScope": scope.clone(),
        "InstrumentationLibrary": scope,
    })
}

fn time(at: UnixTime) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.nanos()))
        .map(|at| at.to_string())
        .unwrap_or_default()
}

fn context(span: Option<(&SpanContext, bool)>, state: &str) -> Json {
    match span {
        Some((span, is_remote)) => json!({
            "TraceID": span.trace_id.to_string(),
            "SpanID": span.span_id.to_string(),
            "TraceFlags": format!("{:02x}", span.flags),
            "TraceState": state,
            "Remote": is_remote,
        }),
        None => json!({
            "TraceID": "0".repeat(32),
            "SpanID": "0".repeat(16),
            "TraceFlags": "00",
            "TraceState": "",
            "Remote": false,
        }),
    }
}

fn attributes(attributes: &[Attribute]) -> Json {
    let value = |value: &Value| match value {
        Value::String(text) => json!({"Type": "STRING", "Value": text}),
        Value::Integer(number) => json!({"Type": "INT64", "Value": number}),
    };
    attributes
        .iter()
        .map(|attribute| json!({"Key": attribute.key, "Value": value(&attribute.value)}))
        .collect()
}
