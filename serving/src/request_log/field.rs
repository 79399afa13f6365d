//! The fields of a template's input that are plain values.

use std::borrow::Cow;

use http::{HeaderName, Version};

use super::escape::write_float;
use super::url::Url;
use super::{LogInput, write_display};
use crate::header;

/// One of them; [`Field::find`] knows their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Method,
    Uri,
    Url,
    Host,
    Proto,
    ProtoMajor,
    ProtoMinor,
    ContentLength,
    RemoteAddr,
    UserAgent,
    Referer,
    Pattern,
    Tls,
    Code,
    Size,
    Latency,
    Name,
    Namespace,
    Service,
    Configuration,
    PodName,
    PodIp,
    TraceId,
}

/// Owner, name and field.
pub(super) const FIELDS: [(&str, &str, Field); 23] = [
    ("Request", "Method", Field::Method),
    ("Request", "RequestURI", Field::Uri),
    ("Request", "URL", Field::Url),
    ("Request", "Host", Field::Host),
    ("Request", "Proto", Field::Proto),
    ("Request", "ProtoMajor", Field::ProtoMajor),
    ("Request", "ProtoMinor", Field::ProtoMinor),
    ("Request", "ContentLength", Field::ContentLength),
    ("Request", "RemoteAddr", Field::RemoteAddr),
    ("Request", "UserAgent", Field::UserAgent),
    ("Request", "Referer", Field::Referer),
    ("Request", "Pattern", Field::Pattern),
    ("Request", "TLS", Field::Tls),
    ("Response", "Code", Field::Code),
    ("Response", "Size", Field::Size),
    ("Response", "Latency", Field::Latency),
    ("Revision", "Name", Field::Name),
    ("Revision", "Namespace", Field::Namespace),
    ("Revision", "Service", Field::Service),
    ("Revision", "Configuration", Field::Configuration),
    ("Revision", "PodName", Field::PodName),
    ("Revision", "PodIP", Field::PodIp),
    ("", "TraceID", Field::TraceId),
];

/// Where the value of a segment comes from.
#[derive(Debug)]
pub(super) enum Source {
    Field(Field),
    /// The first value of a header, empty when absent.
    Header(HeaderName),
}

/// What a field holds for a request.
pub(super) enum FieldValue<'a> {
    /// Text as it came, perhaps not UTF-8.
    Bytes(&'a [u8]),
    Text(Cow<'a, str>),
    Int(i64),
    Float(f64),
}

// === impl Field ===

impl Field {
    /// The field that `name` stands for in `owner`, which is empty for the input itself.
    pub(super) fn find(owner: &str, name: &str) -> Option<Self> {
        FIELDS
            .iter()
            .find(|field| field.0 == owner && field.1 == name)
            .map(|field| field.2)
    }

    pub(super) fn value<'a>(self, input: &LogInput<'a>) -> FieldValue<'a> {
        let text = |text: &'a str| FieldValue::Bytes(text.as_bytes());
        let revision = input.revision;
        match self {
            Self::Method => text(input.method),
            Self::Uri => text(input.uri),
            Self::Url => FieldValue::Text(Url::of(input.uri).to_string().into()),
            Self::Host => FieldValue::Bytes(input.host),
            Self::Proto => text(proto(input.version).0),
            Self::ProtoMajor => FieldValue::Int(proto(input.version).1),
            Self::ProtoMinor => FieldValue::Int(proto(input.version).2),
            Self::ContentLength => FieldValue::Int(input.content_length),
            Self::RemoteAddr => text(input.remote_addr),
            Self::UserAgent => {
                FieldValue::Bytes(header::value(input.headers, &http::header::USER_AGENT))
            }
            Self::Referer => {
                FieldValue::Bytes(header::value(input.headers, &http::header::REFERER))
            }
            // Neither program matches requests by patterns.
            Self::Pattern => text(""),
            // Operators look for the brace only; what Go prints between them is of no use.
            Self::Tls => text(if input.tls { "{}" } else { "<nil>" }),
            Self::Code => FieldValue::Int(input.code.into()),
            Self::Size => FieldValue::Int(i64::try_from(input.size).unwrap_or(i64::MAX)),
            Self::Latency => FieldValue::Float(input.latency.as_secs_f64()),
            Self::Name => text(revision.name),
            Self::Namespace => text(revision.namespace),
            Self::Service => text(revision.service),
            Self::Configuration => text(revision.configuration),
            Self::PodName => text(revision.pod_name),
            Self::PodIp => text(revision.pod_ip),
            Self::TraceId => FieldValue::Bytes(input.trace_id),
        }
    }
}

/// Go's name of a protocol version, and its two numbers.
fn proto(version: Version) -> (&'static str, i64, i64) {
    match version {
        Version::HTTP_09 => ("HTTP/0.9", 0, 9),
        Version::HTTP_10 => ("HTTP/1.0", 1, 0),
        Version::HTTP_2 => ("HTTP/2.0", 2, 0),
        Version::HTTP_3 => ("HTTP/3.0", 3, 0),
        _ => ("HTTP/1.1", 1, 1),
    }
}

// === impl Source ===

impl Source {
    pub(super) fn value<'a>(&self, input: &LogInput<'a>) -> FieldValue<'a> {
        match self {
            Self::Field(field) => field.value(input),
            Self::Header(name) => FieldValue::Bytes(header::value(input.headers, name)),
        }
    }
}

// === impl FieldValue ===

impl FieldValue<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Int(number) => write_display(number, out),
            Self::Float(number) => write_float(*number, out),
        }
    }
}
