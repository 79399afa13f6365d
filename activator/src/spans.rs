//! The spans of one request: server, `throttler_try`, `activator_proxy` and client, as upstream
//! nests them; the last three once more for each further pod.
//!
//! They live in the request's guard and end with it, however the request ends. Without a tracer
//! nothing of this exists, and a context that came in goes on as it came. Upstream:
//! `pkg/activator/handler/handler.go` and its vendored `otelhttp`.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use serving::forward::ForwardError;
use serving::http_metrics::{HTTP_SCOPE, error_type};
use serving::server::Connection;
use serving::trace::http::{
    content_length, describe_answer, describe_request, describe_response, describe_sent,
    server_span_name,
};
use serving::trace::{Parent, Scope, Span, SpanKind, Tracer};
use serving::trace_context::{self, RemoteContext};
use tokio::time::Instant;

use crate::world::Revision;

/// Upstream's own spans.
const OWN_SCOPE: Scope = Scope {
    name: "knative.dev/serving/pkg/activator",
    version: "",
};

/// Begins the spans of requests.
#[derive(Clone, Debug)]
pub(crate) struct Tracing {
    pub(crate) tracer: Tracer,
    /// Whether B3 headers are read and written too.
    pub(crate) b3: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RequestSpans {
    tracing: Tracing,
    server: Span,
    /// Waits for a slot.
    trying: Option<Span>,
    proxy: Option<Span>,
    client: Option<Span>,
    request_bytes: u64,
    status: StatusCode,
    response_bytes: u64,
    /// The stream broke, and nothing more is said of the request.
    is_aborted: bool,
}

// === impl Tracing ===

impl Tracing {
    /// The spans of a request that arrived at `now`.
    pub(crate) fn begin<B>(
        &self,
        request: &Request<B>,
        connection: &Connection,
        now: Instant,
    ) -> Box<RequestSpans> {
        let remote = RemoteContext::extract(request.headers(), self.b3);
        let parent = remote.as_ref().map_or(Parent::None, Parent::Remote);
        let name = server_span_name(request);
        let tracer = &self.tracer;
        let mut server = tracer.span(HTTP_SCOPE, name, SpanKind::Server, parent, now);
        if server.is_recorded() {
            describe_request(&mut server, request, connection);
        }
        Box::new(RequestSpans {
            tracing: self.clone(),
            server,
            trying: None,
            proxy: None,
            client: None,
            request_bytes: content_length(request.headers()),
            status: StatusCode::OK,
            response_bytes: 0,
            is_aborted: false,
        })
    }
}

// === impl RequestSpans ===

impl RequestSpans {
    /// Whose request it is.
    pub(crate) fn belongs_to(&mut self, revision: &Revision) {
        let server = &mut self.server;
        if server.is_recorded() {
            server.set("kn.service.name", revision.service.clone());
            server.set("kn.configuration.name", revision.configuration.clone());
            server.set("kn.revision.name", revision.id.name.clone());
            server.set("k8s.namespace.name", revision.id.namespace.clone());
        }
    }

    /// Asks for a slot from now on.
    pub(crate) fn trying(&mut self, now: Instant) {
        self.end_below(now);
        self.trying = Some(self.own("throttler_try", now));
    }

    /// Has one.
    pub(crate) fn obtained(&mut self, now: Instant) {
        if let Some(trying) = &mut self.trying {
            trying.end(now);
        }
        self.proxy = Some(self.own("activator_proxy", now));
    }

    /// Gets none.
    pub(crate) fn refused(&mut self, why: &str) {
        if let Some(trying) = &mut self.trying {
            trying.fail(why);
        }
    }

    fn own(&self, name: &'static str, now: Instant) -> Span {
        let parent = Parent::Local(&self.server);
        let tracer = &self.tracing.tracer;
        tracer.span(OWN_SCOPE, name, SpanKind::Internal, parent, now)
    }

    /// Asks a queue-proxy, and tells it whose child its spans are.
    pub(crate) fn asking<B>(&mut self, request: &mut Request<B>, dest: SocketAddr, now: Instant) {
        let parent = Parent::Local(self.proxy.as_ref().unwrap_or(&self.server));
        let name = format!("{} {}", request.method(), request.uri().path());
        let tracer = &self.tracing.tracer;
        let mut client = tracer.span(HTTP_SCOPE, name, SpanKind::Client, parent, now);
        if client.is_recorded() {
            describe_sent(&mut client, request, dest);
        }
        let headers = request.headers_mut();
        trace_context::inject(headers, client.context(), client.state(), self.tracing.b3);
        trace_context::baggage::pass_on(headers);
        self.client = Some(client);
    }

    /// The queue-proxy's answer has its head.
    pub(crate) fn answered(&mut self, answer: Result<StatusCode, &ForwardError>) {
        let Some(client) = &mut self.client else {
            return;
        };
        match answer {
            Ok(status) => describe_answer(client, status),
            Err(error) => {
                client.set("error.type", error_type(error));
                client.fail(error.to_string());
                client.end(Instant::now());
            }
        }
    }

    /// The request got no answer of its revision in time.
    pub(crate) fn abandoned(&mut self) {
        if let Some(client) = &mut self.client {
            client.set("error.type", "errors.errorString");
            client.fail("context canceled");
        }
        self.end_below(Instant::now());
    }

    /// What the client gets.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// The response is over.
    pub(crate) fn ended(&mut self, bytes: u64, is_aborted: bool) {
        self.response_bytes = bytes;
        self.is_aborted = is_aborted;
        if is_aborted && let Some(client) = &mut self.client {
            client.set("error.type", "errors.errorString");
            client.fail("unexpected EOF");
        }
    }

    fn end_below(&mut self, now: Instant) {
        let below = [&mut self.client, &mut self.proxy, &mut self.trying];
        below.into_iter().flatten().for_each(|span| span.end(now));
    }
}

impl Drop for RequestSpans {
    fn drop(&mut self) {
        // The fate of a trace is that of its first span here.
        if !self.server.is_recorded() {
            return;
        }
        let now = Instant::now();
        self.end_below(now);
        if !self.is_aborted {
            let (sent, received) = (self.request_bytes, self.response_bytes);
            describe_response(&mut self.server, self.status, sent, received);
        }
        self.server.end(now);
    }
}
