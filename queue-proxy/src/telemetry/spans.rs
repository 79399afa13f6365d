//! The spans of one request: server, `kn.queueproxy.proxy`, `kn.queueproxy.wait` and client, as
//! upstream nests them.
//!
//! They live in the request's guard and end with it, however the request ends; what each of them
//! says of status and sizes is what upstream's instrumentation says.

use std::net::SocketAddr;

use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use serving::forward::ForwardError;
use serving::server::Connection;
use serving::trace::http::{
    content_length, describe_answer, describe_request, describe_response, describe_sent,
    server_span_name,
};
use serving::trace::{Parent, Span, SpanKind, Tracer};
use serving::trace_context::{self, RemoteContext};
use tokio::time::Instant;

use super::{HTTP_SCOPE, OWN_SCOPE};
use crate::metrics::error_type;

/// Begins the spans of requests, or passes on what came in.
#[derive(Debug)]
pub(crate) struct Tracing {
    pub(crate) tracer: Option<Tracer>,
    pub(crate) b3: bool,
    pub(crate) app: SocketAddr,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct RequestSpans {
    tracer: Tracer,
    b3: bool,
    app: SocketAddr,
    /// Absent for what upstream's instrumentation leaves out.
    server: Option<Span>,
    proxy: Option<Span>,
    wait: Option<Span>,
    client: Option<Span>,
    request_bytes: u64,
    status: StatusCode,
    response_bytes: u64,
    /// The connection is aborted, and nothing more is said of the request.
    is_aborted: bool,
}

// === impl Tracing ===

impl Tracing {
    /// The spans of a request that arrived at `now`, if there is a tracer. `is_instrumented` is
    /// false for probes that are forwarded: they have neither a server span nor a parent.
    pub(crate) fn begin(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
        is_instrumented: bool,
        now: Instant,
    ) -> Option<Box<RequestSpans>> {
        let tracer = self.tracer.as_ref()?;
        let server = is_instrumented.then(|| {
            let remote = RemoteContext::extract(request.headers(), self.b3);
            let parent = remote.as_ref().map_or(Parent::None, Parent::Remote);
            let name = server_span_name(request);
            let mut span = tracer.span(HTTP_SCOPE, name, SpanKind::Server, parent, now);
            if span.is_recorded() {
                describe_request(&mut span, request, connection);
            }
            span
        });
        Some(Box::new(RequestSpans {
            tracer: tracer.clone(),
            b3: self.b3,
            app: self.app,
            server,
            proxy: None,
            wait: None,
            client: None,
            request_bytes: content_length(request.headers()),
            status: StatusCode::OK,
            response_bytes: 0,
            is_aborted: false,
        }))
    }

    /// Without spans a valid context goes on as it came.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        trace_context::pass_on(headers, self.b3);
    }
}

// === impl RequestSpans ===

impl RequestSpans {
    /// The proxy handler has begun.
    pub(crate) fn proxying(&mut self, now: Instant) {
        let parent = self.server.as_ref().map_or(Parent::None, Parent::Local);
        let name = "kn.queueproxy.proxy";
        self.proxy = Some(
            self.tracer
                .span(OWN_SCOPE, name, SpanKind::Internal, parent, now),
        );
    }

    /// Waits for a place from now on.
    pub(crate) fn waiting(&mut self, now: Instant) {
        let parent = self.proxy.as_ref().map_or(Parent::None, Parent::Local);
        let name = "kn.queueproxy.wait";
        self.wait = Some(
            self.tracer
                .span(OWN_SCOPE, name, SpanKind::Internal, parent, now),
        );
    }

    /// Has a place.
    pub(crate) fn admitted(&mut self, now: Instant) {
        if let Some(wait) = &mut self.wait {
            wait.end(now);
        }
    }

    /// Asks the app, and tells it whose child its spans are.
    pub(crate) fn asking<B>(
        &mut self,
        request: &mut Request<B>,
        is_instrumented: bool,
        now: Instant,
    ) {
        let above = self.wait.as_ref().or(self.proxy.as_ref());
        let parent = above
            .or(self.server.as_ref())
            .map_or(Parent::None, Parent::Local);
        let name = format!("HTTP {}", request.method());
        let mut span = self
            .tracer
            .span(HTTP_SCOPE, name, SpanKind::Client, parent, now);
        if span.is_recorded() {
            describe_sent(&mut span, request, self.app);
        }
        let headers = request.headers_mut();
        trace_context::inject(headers, span.context(), span.state(), self.b3);
        if is_instrumented {
            trace_context::baggage::pass_on(headers);
        }
        self.client = Some(span);
    }

    /// The app's answer has its head.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if let Some(client) = &mut self.client {
            describe_answer(client, status);
        }
    }

    /// There is no answer.
    pub(crate) fn failed(&mut self, error: &ForwardError) {
        if let Some(client) = &mut self.client {
            client.set("error.type", error_type(error));
            client.fail(error.to_string());
            client.end(Instant::now());
        }
    }

    /// A deadline answers in the app's stead: everything below the server span is over.
    pub(crate) fn abandoned(&mut self) {
        let now = Instant::now();
        if let Some(client) = &mut self.client {
            client.set("error.type", "errors.errorString");
            client.fail("context canceled");
        }
        let below = [&mut self.client, &mut self.wait, &mut self.proxy];
        below.into_iter().flatten().for_each(|span| span.end(now));
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

    /// The route tag of the request, which upstream notes when the request has passed the probes.
    pub(crate) fn tag(&mut self, headers: &HeaderMap) {
        if let Some(server) = self.server.as_mut().filter(|span| span.is_recorded()) {
            let tag = serving::header::route_tag(headers).into_owned();
            server.set("kn.route.tag", tag);
        }
    }
}

impl Drop for RequestSpans {
    fn drop(&mut self) {
        let is_recorded = |span: &Option<Span>| span.as_ref().is_some_and(Span::is_recorded);
        let spans = [&self.client, &self.wait, &self.proxy, &self.server];
        if !spans.into_iter().any(is_recorded) {
            return;
        }
        let now = Instant::now();
        if let Some(server) = self.server.as_mut().filter(|_| !self.is_aborted) {
            describe_response(server, self.status, self.request_bytes, self.response_bytes);
        }
        let spans = [
            &mut self.client,
            &mut self.wait,
            &mut self.proxy,
            &mut self.server,
        ];
        spans.into_iter().flatten().for_each(|span| span.end(now));
    }
}
