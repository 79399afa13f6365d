//! Finished spans as an export request.

use prost::Message;

use super::message::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, Status, any_value,
};
use crate::clock::UnixTime;
use crate::trace::{self, Attribute, Scope, SpanData};

/// The parent's place is known, and the parent is in another process.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

const STATUS_ERROR: i32 = 2;

/// The conventions that attribute names follow.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";

/// Appends a request with `spans` to `message`; several in a row are one request with all of them.
pub(super) fn encode(spans: Vec<SpanData>, resource: &[Attribute], message: &mut Vec<u8>) {
    let mut scopes: Vec<(Scope, Vec<Span>)> = Vec::new();
    for span in spans {
        let scope = span.scope;
        let span = convert(span);
        match scopes.iter_mut().find(|(known, _)| *known == scope) {
            Some((_, spans)) => spans.push(span),
            None => scopes.push((scope, vec![span])),
        }
    }
    let scope_spans = scopes
        .into_iter()
        .map(|(scope, spans)| ScopeSpans {
            scope: Some(scope_message(scope)),
            spans,
        })
        .collect();
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource_message(resource)),
            scope_spans,
            schema_url: SCHEMA_URL.to_owned(),
        }],
    };
    message.reserve(request.encoded_len());
    // The buffer grows as needed, so encoding cannot fail.
    let _ = request.encode(message);
}

fn convert(span: SpanData) -> Span {
    let (parent_span_id, is_remote) = match span.parent {
        Some((parent, is_remote)) => (parent.span_id.0.to_vec(), is_remote),
        None => (Vec::new(), false),
    };
    Span {
        trace_id: span.context.trace_id.0.to_vec(),
        span_id: span.context.span_id.0.to_vec(),
        trace_state: span
            .state
            .and_then(|state| state.to_str().ok().map(str::to_owned))
            .unwrap_or_default(),
        parent_span_id,
        name: span.name.into_owned(),
        kind: span.kind as i32,
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes.into_iter().map(key_value).collect(),
        dropped_attributes_count: span.dropped_attributes,
        status: Some(match span.status {
            trace::Status::Unset => Status::default(),
            trace::Status::Error(message) => Status {
                message,
                code: STATUS_ERROR,
            },
        }),
        flags: u32::from(span.context.flags)
            | HAS_IS_REMOTE
            | if is_remote { IS_REMOTE } else { 0 },
    }
}

pub(super) fn nanos(at: UnixTime) -> u64 {
    u64::try_from(at.nanos()).unwrap_or(0)
}

pub(super) fn scope_message(scope: Scope) -> InstrumentationScope {
    InstrumentationScope {
        name: scope.name.to_owned(),
        version: scope.version.to_owned(),
    }
}

pub(super) fn resource_message(attributes: &[Attribute]) -> Resource {
    Resource {
        attributes: attributes.iter().cloned().map(key_value).collect(),
    }
}

pub(super) fn key_value(attribute: Attribute) -> KeyValue {
    let value = match attribute.value {
        trace::Value::String(text) => any_value::Value::String(text.into_owned()),
        trace::Value::Integer(number) => any_value::Value::Int(number),
    };
    KeyValue {
        key: attribute.key.into_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
