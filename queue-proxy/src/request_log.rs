//! Request log lines: what one of them needs to know of its request, and where it goes.
//!
//! Written when a request has ended, however it has; the template itself is
//! [`serving::request_log`]'s (upstream: `pkg/http/request_log.go`).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use serving::request_log::{LogInput, LogRevision, RequestLog};
use serving::server::Connection;
use serving::telemetry::LineWriter;

use crate::config::{Config, Identity};

/// The request log of one revision.
#[derive(Debug)]
pub(crate) struct RequestLogger {
    template: RequestLog,
    identity: Identity,
    output: Output,
    /// Whether probes have lines too.
    pub(crate) probes: bool,
}

#[derive(Debug)]
enum Output {
    /// Standard output, through a bounded queue.
    Stdout(LineWriter),
    /// This process's own log.
    Log,
}

/// One request's line in the making.
#[derive(Debug)]
pub(crate) struct Entry {
    logger: Rc<RequestLogger>,
    method: Method,
    uri: String,
    host: Vec<u8>,
    version: Version,
    content_length: i64,
    remote: SocketAddr,
    tls: bool,
    trace_id: Vec<u8>,
    headers: HeaderMap,
}

// === impl RequestLogger ===

impl RequestLogger {
    /// The logger of a configuration that asks for one. A template that cannot be used turns the
    /// log off with an error line, as upstream does.
    pub(crate) fn new(config: &Config) -> io::Result<Option<Rc<Self>>> {
        let settings = &config.observability;
        if !settings.request_log {
            return Ok(None);
        }
        let template = match RequestLog::compile(&settings.request_log_template) {
            Ok(Some(template)) => template,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::error!(error = %error, "Error setting up request logger. Request logs will be unavailable.");
                return Ok(None);
            }
        };
        let output = if config.options.raw_output {
            Output::Stdout(LineWriter::stdout()?)
        } else {
            Output::Log
        };
        Ok(Some(Rc::new(Self {
            template,
            identity: config.identity.clone(),
            output,
            probes: settings.probe_request_log,
        })))
    }

    /// Waits for the lines written so far, at the end of the process.
    pub(crate) fn flush(&self) {
        if let Output::Stdout(writer) = &self.output {
            writer.flush();
            let dropped = writer.dropped();
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "request log lines were lost to a slow standard output"
                );
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    pub(crate) fn new(
        logger: &Rc<RequestLogger>,
        request: &Request<Incoming>,
        connection: &Connection,
    ) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let target = match uri.path_and_query() {
            // HTTP/2 has no authority in its path, and an absolute form keeps it.
            Some(path) if request.version() == Version::HTTP_2 => path.to_string(),
            _ => uri.to_string(),
        };
        Self {
            logger: Rc::clone(logger),
            method: request.method().clone(),
            uri: target,
            host: serving::header::host(uri, headers).to_vec(),
            version: request.version(),
            content_length: content_length(request),
            remote: connection.peer(),
            tls: connection.is_tls(),
            trace_id: serving::header::trace_id(headers).to_vec(),
            headers: headers.clone(),
        }
    }

    /// The proxy has changed the headers, and the log shows them changed.
    pub(crate) fn rewritten(&mut self, headers: &HeaderMap) {
        self.headers.clone_from(headers);
    }

    pub(crate) fn write(&self, status: StatusCode, size: u64, latency: Duration) {
        let identity = &self.logger.identity;
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
            latency,
            revision: LogRevision {
                name: &identity.revision,
                namespace: &identity.namespace,
                service: &identity.service,
                configuration: &identity.configuration,
                pod_name: &identity.pod,
                pod_ip: &identity.pod_ip,
            },
            trace_id: &self.trace_id,
        };
        let mut line = Vec::with_capacity(512);
        self.logger.template.write(&input, &mut line);
        match &self.logger.output {
            Output::Stdout(writer) => writer.write(line),
            Output::Log => {
                let line = String::from_utf8_lossy(&line);
                tracing::info!("{}", line.trim_end());
            }
        }
    }
}

/// As Go's server counts: -1 for a body of unknown length.
fn content_length(request: &Request<Incoming>) -> i64 {
    if request.body().is_end_stream() {
        return 0;
    }
    request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(-1)
}
