//! The B3 headers of Zipkin, which Knative read and wrote before 1.19: one `b3` header, or several
//! that begin with `X-B3-`. Written as several, which both generations of readers know.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{SAMPLED, SpanContext, SpanId, TraceId, hex};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const IS_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// The caller's span, from the single header first.
pub(super) fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let single = headers.get(SINGLE).and_then(|b3| parse(b3.as_bytes()));
    single.or_else(|| {
        let value = |name: HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let state = if value(FLAGS) == b"1" {
            b"d"
        } else {
            value(IS_SAMPLED)
        };
        context(value(TRACE_ID), value(SPAN_ID), state)
    })
}

/// `{trace id}-{span id}`, then perhaps the sampling state, then perhaps the parent's span id.
fn parse(b3: &[u8]) -> Option<SpanContext> {
    let mut parts = b3.split(|byte| *byte == b'-');
    let (trace_id, span_id) = (parts.next()?, parts.next()?);
    context(trace_id, span_id, parts.next().unwrap_or_default())
}

fn context(trace_id: &[u8], span_id: &[u8], state: &[u8]) -> Option<SpanContext> {
    let lower = trace_id.to_ascii_lowercase();
    let trace_id = match lower.len() {
        // A trace id of 64 bits is the lower half.
        16 => {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&hex::<8>(&lower)?);
            id
        }
        _ => hex(&lower)?,
    };
    let is_sampled = matches!(state, b"1" | b"d" | b"true");
    SpanContext {
        trace_id: TraceId(trace_id),
        span_id: SpanId(hex(&span_id.to_ascii_lowercase())?),
        flags: if is_sampled { SAMPLED } else { 0 },
    }
    .valid()
}

/// Replaces whatever B3 headers came in.
pub(super) fn inject(headers: &mut HeaderMap, context: &SpanContext) {
    for name in [SINGLE, PARENT_SPAN_ID, FLAGS] {
        headers.remove(name);
    }
    let sampled = if context.is_sampled() { "1" } else { "0" };
    headers.insert(IS_SAMPLED, HeaderValue::from_static(sampled));
    let ids = [
        (TRACE_ID, context.trace_id.to_string()),
        (SPAN_ID, context.span_id.to_string()),
    ];
    for (name, id) in ids {
        let id = HeaderValue::try_from(id).expect("hexadecimal digits make a header value");
        headers.insert(name, id);
    }
}
