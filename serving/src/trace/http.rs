//! What spans say of HTTP requests, in the words of upstream's vendored `otelhttp`. Used by the
//! programs that begin them.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use super::{Span, Value};
use crate::forward;
use crate::http_metrics::{OTHER_METHOD, method_name, server_address, version_name};
use crate::server::Connection;

/// Upstream's instrumentation calls a span of a method that it does not know so.
const UNKNOWN_METHOD: &str = "HTTP";

/// The name of a server's span.
pub fn server_span_name<B>(request: &Request<B>) -> &'static str {
    match method_name(request.method()) {
        OTHER_METHOD => UNKNOWN_METHOD,
        known => known,
    }
}

/// A request that came in.
pub fn describe_request<B>(span: &mut Span, request: &Request<B>, connection: &Connection) {
    let headers = request.headers();
    let host = crate::header::host(request.uri(), headers);
    let host = String::from_utf8_lossy(host);
    let (address, port) = server_address(&host, connection.is_tls());
    span.set("server.address", address.to_owned());
    span.set("http.request.method", method_name(request.method()));
    span.set(
        "url.scheme",
        if connection.is_tls() { "https" } else { "http" },
    );
    if let Some(port) = port {
        span.set("server.port", port);
    }
    if method_name(request.method()) == OTHER_METHOD {
        let original = request.method().as_str().to_owned();
        span.set("http.request.method_original", original);
    }
    let peer = connection.peer();
    let peer_ip = peer.ip().to_canonical().to_string();
    span.set("network.peer.address", peer_ip.clone());
    span.set("network.peer.port", peer.port());
    let text = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let Some(agent) = text(header::USER_AGENT).filter(|agent| !agent.is_empty()) {
        span.set("user_agent.original", agent);
    }
    let forwarded = text(HeaderName::from_static("x-forwarded-for"));
    let first = forwarded
        .as_deref()
        .and_then(|list| list.split(',').next())
        .filter(|first| !first.is_empty());
    span.set("client.address", first.map_or(peer_ip, str::to_owned));
    span.set("url.path", request.uri().path().to_owned());
    span.set("network.protocol.version", version_name(request.version()));
}

/// The response to it, with the sizes of both bodies where they have one.
pub fn describe_response(span: &mut Span, status: StatusCode, request_bytes: u64, bytes: u64) {
    if request_bytes > 0 {
        span.set("http.request.body.size", request_bytes);
    }
    if bytes > 0 {
        span.set("http.response.body.size", bytes);
    }
    span.set("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.fail("");
    }
}

/// A request that is sent to `dest`.
pub fn describe_sent<B>(span: &mut Span, request: &Request<B>, dest: SocketAddr) {
    let target = request.uri().path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    span.set("http.request.method", method_name(request.method()));
    span.set("url.full", format!("http://{dest}{target}"));
    span.set("server.address", dest.ip().to_string());
    if dest.port() != 80 {
        span.set("server.port", dest.port());
    }
    let version = forward::version(request);
    span.set("network.protocol.version", version_name(version));
}

/// The head of the answer to a request that was sent.
pub fn describe_answer(span: &mut Span, status: StatusCode) {
    span.set("http.response.status_code", status.as_u16());
    if status.as_u16() >= 400 {
        span.set("error.type", Value::from(status.as_u16().to_string()));
        span.fail("");
    }
}

/// The length that a request says its body has.
pub fn content_length(headers: &HeaderMap) -> u64 {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}
