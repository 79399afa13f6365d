//! Request log lines of the activator: one per request that was routed to a revision, written when
//! its response ends.
//!
//! The template is [`serving::request_log`]'s. Where lines go is given by whoever starts the
//! activator; without that, or without a template, nothing is collected. Upstream:
//! `pkg/http/request_log.go`, with the activator's choice of inputs in `cmd/activator/request_log.go`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body::Body;
use serving::header;
use serving::request_log::{InvalidTemplate, LogInput, LogRevision, RequestLog};
use serving::server::Connection;
use serving::telemetry::LineWriter;

use crate::world::Revision;

/// Why a template was not taken; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum TemplateRefused {
    /// The log was turned on without one.
    #[error("request log template is empty")]
    Empty,
    /// It cannot be compiled.
    #[error("request log template is invalid")]
    Invalid(#[source] InvalidTemplate),
}

/// The template in use and the way out.
#[derive(Debug, Default)]
pub(crate) struct RequestLogger {
    template: ArcSwapOption<RequestLog>,
    output: ArcSwapOption<LineWriter>,
}

/// A line in the making: the request as it came in.
#[derive(Debug)]
pub(crate) struct Line {
    template: Arc<RequestLog>,
    output: Arc<LineWriter>,
    method: Method,
    uri: String,
    headers: HeaderMap,
    host: Vec<u8>,
    version: Version,
    content_length: i64,
    remote: SocketAddr,
    tls: bool,
}

// === impl RequestLogger ===

impl RequestLogger {
    pub(crate) fn write_to(&self, output: LineWriter) {
        self.output.store(Some(Arc::new(output)));
    }

    pub(crate) fn set_template(&self, template: Option<&str>) -> Result<(), TemplateRefused> {
        let compiled = match template {
            None => None,
            Some(text) => match RequestLog::compile(text) {
                Ok(Some(compiled)) => Some(Arc::new(compiled)),
                Ok(None) => return Err(TemplateRefused::Empty),
                Err(error) => return Err(TemplateRefused::Invalid(error)),
            },
        };
        self.template.store(compiled);
        Ok(())
    }

    /// `None` while nothing is logged, which is the usual case and costs nothing more.
    pub(crate) fn line<B: Body>(
        &self,
        request: &Request<B>,
        connection: &Connection,
    ) -> Option<Box<Line>> {
        let template = self.template.load_full()?;
        let output = self.output.load_full()?;
        let (uri, headers) = (request.uri(), request.headers());
        let target = match uri.path_and_query() {
            // HTTP/2 has no authority in its path; an absolute form keeps it.
            Some(path) if request.version() == Version::HTTP_2 => path.to_string(),
            _ => uri.to_string(),
        };
        Some(Box::new(Line {
            template,
            output,
            method: request.method().clone(),
            uri: target,
            host: header::host(uri, headers).to_vec(),
            version: request.version(),
            content_length: content_length(request),
            remote: connection.peer(),
            tls: connection.is_tls(),
            headers: headers.clone(),
        }))
    }
}

// === impl Line ===

impl Line {
    /// Pod and trace id stay empty: only a queue-proxy knows them.
    pub(crate) fn write(&self, revision: &Revision, status: StatusCode, size: u64, took: Duration) {
        let remote_addr = self.remote.to_string();
        let input = LogInput {
            method: self.method.as_str(),
            uri: &self.uri,
            headers: &self.headers,
            host: &self.host,
            version: self.version,
            content_length: self.content_length,
            remote_addr: &remote_addr,
            tls: self.tls,
            code: status.as_u16(),
            size,
            latency: took,
            revision: LogRevision {
                name: &revision.id.name,
                namespace: &revision.id.namespace,
                service: &revision.service,
                configuration: &revision.configuration,
                pod_name: "",
                pod_ip: "",
            },
            trace_id: b"",
        };
        let mut line = Vec::with_capacity(512);
        self.template.write(&input, &mut line);
        self.output.write(line);
    }
}

/// As Go's server counts: -1 for a body of unknown length.
fn content_length<B: Body>(request: &Request<B>) -> i64 {
    if request.body().is_end_stream() {
        return 0;
    }
    let length = request.headers().get(http::header::CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(-1)
}
