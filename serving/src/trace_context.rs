//! The trace context that crosses processes: W3C `traceparent` and `tracestate`, [`baggage`], and
//! behind a switch the older [`b3`] headers.
//!
//! Pure header work, done for every request: nothing is allocated unless a header is there that has
//! to change. The rules are those of Go's propagators, which are stricter than the
//! recommendation in places (upstream: `vendor/go.opentelemetry.io/otel/propagation`). Spans are
//! [`crate::trace`]'s.

mod b3;
pub mod baggage;

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that identifies the caller's span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with the vendors' own positions in the trace.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace is recorded by whoever sends the flag.
pub const SAMPLED: u8 = 1;

/// The trace id is random in its lower half.
pub const RANDOM: u8 = 2;

/// Members of a `tracestate`; one with more is ignored.
pub const MAX_STATE_MEMBERS: usize = 32;

/// Bytes of the value of one member of a `tracestate`.
const MAX_STATE_VALUE_BYTES: usize = 256;

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Identifies a trace; never all zero in a [`SpanContext`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Identifies a span within its trace; never all zero in a [`SpanContext`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// What of a span its children know, in this process or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// [`SAMPLED`] and [`RANDOM`]; other bits are never set.
    pub flags: u8,
}

/// A span context from another process, with the state that travels with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteContext {
    /// The caller's span.
    pub context: SpanContext,
    /// `tracestate` in its canonical form, if a valid one came with it.
    pub state: Option<HeaderValue>,
}

// === impl RemoteContext ===

impl RemoteContext {
    /// The caller's span, from the first `traceparent`; with `b3`, from B3 headers where there is
    /// no valid one.
    pub fn extract(headers: &HeaderMap, b3: bool) -> Option<Self> {
        let w3c = headers
            .get(TRACEPARENT)
            .and_then(|value| SpanContext::parse(value.as_bytes()));
        match w3c {
            Some(context) => Some(Self {
                context,
                state: headers.get(TRACESTATE).and_then(canonical_state),
            }),
            None if b3 => b3::extract(headers).map(|context| Self {
                context,
                state: None,
            }),
            None => None,
        }
    }
}

/// Writes `context` into the headers of an outgoing request, over what came in. Without a valid
/// `state` an incoming `tracestate` stays as it is, as upstream leaves it.
pub fn inject(
    headers: &mut HeaderMap,
    context: &SpanContext,
    state: Option<&HeaderValue>,
    b3: bool,
) {
    if let Some(state) = state {
        headers.insert(TRACESTATE, state.clone());
    }
    headers.insert(TRACEPARENT, context.to_header());
    if b3 {
        b3::inject(headers, context);
    }
}

/// What a proxy without spans of its own does: a valid context leaves in its canonical form, as
/// version 00 and once; baggage likewise. Headers that are in that form already are not touched.
pub fn pass_on(headers: &mut HeaderMap, b3: bool) {
    if (b3 || needs_rewrite(headers))
        && let Some(remote) = RemoteContext::extract(headers, b3)
    {
        inject(headers, &remote.context, remote.state.as_ref(), b3);
    }
    baggage::pass_on(headers);
}

fn needs_rewrite(headers: &HeaderMap) -> bool {
    let Some(first) = headers.get(TRACEPARENT) else {
        return false;
    };
    let is_canonical = first.len() == LENGTH
        && first.as_bytes().starts_with(b"00-")
        && headers.get_all(TRACEPARENT).iter().nth(1).is_none()
        && !headers.contains_key(TRACESTATE);
    !is_canonical
}

// === impl SpanContext ===

impl SpanContext {
    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads a `traceparent`. Versions up to 254 are read as far as version 00 is known.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(5, |byte| *byte == b'-');
        let [version] = hex(parts.next()?)?;
        let trace_id = hex(parts.next()?)?;
        let span_id = hex(parts.next()?)?;
        let [flags] = hex(parts.next()?)?;
        let rest = parts.next();
        // A single hyphen at the end leaves nothing behind it, which Go accepts.
        let has_more = rest.is_some_and(|rest| !rest.is_empty());
        if version == u8::MAX || (version == 0 && (has_more || flags > SAMPLED | RANDOM)) {
            return None;
        }
        Self {
            trace_id: TraceId(trace_id),
            span_id: SpanId(span_id),
            flags: flags & (SAMPLED | RANDOM),
        }
        .valid()
    }

    fn valid(self) -> Option<Self> {
        (self.trace_id.0 != [0; 16] && self.span_id.0 != [0; 8]).then_some(self)
    }

    /// The `traceparent` of version 00.
    pub fn to_header(&self) -> HeaderValue {
        let mut text = [b'-'; LENGTH];
        text[..2].copy_from_slice(b"00");
        write_hex(&mut text[3..35], &self.trace_id.0);
        write_hex(&mut text[36..52], &self.span_id.0);
        write_hex(&mut text[53..], &[self.flags]);
        HeaderValue::from_bytes(&text).expect("hexadecimal digits and hyphens make a header value")
    }
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Capital letters are not accepted.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn fmt_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_hex(f, &self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_hex(f, &self.0)
    }
}

// === tracestate ===

/// The members without the blanks around them, or `None` if any is invalid.
fn canonical_state(value: &HeaderValue) -> Option<HeaderValue> {
    let mut members: Vec<(&[u8], &[u8])> = Vec::new();
    for member in value.as_bytes().split(|byte| *byte == b',') {
        if member.is_empty() {
            continue;
        }
        let (key, value) = state_member(member)?;
        if members.len() == MAX_STATE_MEMBERS || members.iter().any(|(other, _)| *other == key) {
            return None;
        }
        members.push((key, value));
    }
    let (first, rest) = members.split_first()?;
    let mut text = [first.0, b"=", first.1].concat();
    for (key, value) in rest {
        text.extend_from_slice(&[b",", *key, b"=", *value].concat());
    }
    HeaderValue::from_bytes(&text).ok()
}

fn state_member(member: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = member.iter().position(|byte| *byte == b'=')?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = member.iter().position(|byte| !is_blank(byte))?;
    let end = member.iter().rposition(|byte| !is_blank(byte))? + 1;
    let (key, value) = (member.get(start..at)?, member.get(at + 1..end)?);
    (is_state_key(key) && is_state_value(value)).then_some((key, value))
}

fn is_state_value(value: &[u8]) -> bool {
    let is_valid = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'=');
    value.len() <= MAX_STATE_VALUE_BYTES
        && value.iter().all(is_valid)
        && value.last().is_some_and(|last| *last != b' ')
}

/// A simple key, or a tenant and a system around an at sign.
fn is_state_key(key: &[u8]) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let rest_is_valid = |rest: &[u8], most: usize| {
        rest.len() <= most
            && rest
                .iter()
                .all(|byte| is_alphanumeric(*byte) || b"_-*/".contains(byte))
    };
    let is_part = |part: &[u8], most| match part.split_first() {
        Some((first, rest)) => first.is_ascii_lowercase() && rest_is_valid(rest, most),
        None => false,
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => is_part(key, 255),
        Some(at) => {
            let tenant_is_valid = match key[..at].split_first() {
                Some((first, rest)) => is_alphanumeric(*first) && rest_is_valid(rest, 240),
                None => false,
            };
            tenant_is_valid && is_part(&key[at + 1..], 13)
        }
    }
}

#[cfg(test)]
mod tests;
