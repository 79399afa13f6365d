//! Request log lines: an operator's Go `text/template`, expanded once per request.
//!
//! A template is compiled once. One that only names fields, as the built-in one does, becomes a list
//! of segments that write straight into the line. Any other is interpreted, with those parts of the
//! request built that it names. Upstream: `pkg/http/request_log.go`.
//!
//! What templates can reach: all of `.Response`, `.Revision` and `.TraceID`; of `.Request` the fields
//! `Method`, `URL`, `RequestURI`, `Host`, `Proto`, `ProtoMajor`, `ProtoMinor`, `ContentLength`,
//! `RemoteAddr`, `Header`, `Trailer`, `TransferEncoding`, `Form`, `PostForm`, `Pattern` and `TLS` and
//! the methods `UserAgent`, `Referer`, `ProtoAtLeast`, with the methods of `Header` and `URL` that
//! only read. The rest of Go's request fails when executed, as a misspelt name does.

mod compile;
mod escape;
mod field;
mod interpret;
mod url;

use std::io::Write as _;
use std::time::Duration;

use http::{HeaderMap, Version};

use compile::{Plan, Segment};
use escape::{write_float, write_js};
use url::Url;

/// A line that would be longer is replaced by the line for templates that fail. Runtimes cut lines
/// far shorter than this.
pub const MAX_LINE_BYTES: usize = 256 * 1024;

/// How often the loops of a template may turn for one line.
const MAX_ITERATIONS: u64 = 10_000;

/// A compiled template.
#[derive(Debug)]
pub struct RequestLog {
    plan: Plan,
}

/// The template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid request log template: {problem}")]
pub struct InvalidTemplate {
    problem: String,
}

/// What a template can name, borrowed from the proxy that handled the request.
#[derive(Clone, Copy, Debug)]
pub struct LogInput<'a> {
    /// `.Request.Method`.
    pub method: &'a str,
    /// `.Request.RequestURI`: the target as it stood in the request line, or HTTP/2's `:path`.
    pub uri: &'a str,
    /// `.Request.Header`. Shared with the proxy, so a log sees `Forwarded` added and
    /// `K-Original-Host` removed. A Host header in it is not shown, as in Go.
    pub headers: &'a HeaderMap,
    /// `.Request.Host`: as received, before any rewriting.
    pub host: &'a [u8],
    /// `.Request.Proto`.
    pub version: Version,
    /// `.Request.ContentLength`: -1 when unknown.
    pub content_length: i64,
    /// `.Request.RemoteAddr`: address and port.
    pub remote_addr: &'a str,
    /// `.Request.TLS` is set.
    pub tls: bool,
    /// `.Response.Code`: 200 for an upgraded connection, 500 when handling the request panicked.
    pub code: u16,
    /// `.Response.Size`: bytes of the response body, 0 when handling the request panicked.
    pub size: u64,
    /// `.Response.Latency`, shown in seconds.
    pub latency: Duration,
    /// `.Revision`.
    pub revision: LogRevision<'a>,
    /// `.TraceID`: see [`crate::header::trace_id`].
    pub trace_id: &'a [u8],
}

/// `RequestLogRevision`: what is the same for all requests to a revision.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogRevision<'a> {
    /// `.Revision.Name`.
    pub name: &'a str,
    /// `.Revision.Namespace`.
    pub namespace: &'a str,
    /// `.Revision.Service`.
    pub service: &'a str,
    /// `.Revision.Configuration`.
    pub configuration: &'a str,
    /// `.Revision.PodName`: empty in an activator.
    pub pod_name: &'a str,
    /// `.Revision.PodIP`: empty in an activator.
    pub pod_ip: &'a str,
}

// === impl RequestLog ===

impl RequestLog {
    /// Compiles a template; `None` if it is empty, which turns request logs off. A newline is added
    /// at the end unless there is one.
    pub fn compile(template: &str) -> Result<Option<Self>, InvalidTemplate> {
        if template.is_empty() {
            return Ok(None);
        }
        let newline = if template.ends_with('\n') { "" } else { "\n" };
        let plan = compile::compile(&format!("{template}{newline}"))?;
        Ok(Some(Self { plan }))
    }

    /// Appends the line for a request. Never fails: a template that cannot be executed, or whose
    /// line is longer than [`MAX_LINE_BYTES`], makes a fixed line that says so.
    ///
    /// To be written at once, so that lines of several requests do not mix.
    pub fn write(&self, input: &LogInput<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        let complete = match &self.plan {
            Plan::Segments(segments) => {
                for segment in segments {
                    segment.write(input, out);
                }
                true
            }
            Plan::Interpreted(template) => template.write(input, out),
        };
        if !complete || out.len() - start > MAX_LINE_BYTES {
            out.truncate(start);
            write_failure(input, out);
        }
    }
}

/// The line of upstream's `write` for templates that cannot be executed.
fn write_failure(input: &LogInput<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"Invalid request log template: method: ");
    out.extend_from_slice(input.method.as_bytes());
    out.extend_from_slice(b", response code: ");
    write_display(input.code, out);
    out.extend_from_slice(b", latency: ");
    write_float(input.latency.as_secs_f64(), out);
    out.extend_from_slice(b", url: ");
    out.extend_from_slice(Url::of(input.uri).to_string().as_bytes());
    out.truncate(start + MAX_LINE_BYTES - 1);
    out.push(b'\n');
}

fn write_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

// === impl InvalidTemplate ===

impl InvalidTemplate {
    fn new(problem: impl ToString) -> Self {
        Self {
            problem: problem.to_string(),
        }
    }
}

// === impl Segment ===

impl Segment {
    fn write(&self, input: &LogInput<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Value(source) => source.value(input).write(out),
            Self::Escaped(source) => match source.value(input) {
                field::FieldValue::Bytes(bytes) => write_js(bytes, out),
                field::FieldValue::Text(text) => write_js(text.as_bytes(), out),
                // Digits, signs and points need no escaping.
                number => number.write(out),
            },
        }
    }
}

#[cfg(test)]
mod tests;
