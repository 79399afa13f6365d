//! What the gateway changes in a request before it goes on.

use http::uri::Authority;
use http::{HeaderValue, Request, Uri, header as http_header};
use serving::forward;
use serving::pool::Protocol;
use serving::{RevisionId, header};

/// The protocol of a Service's port, whatever the client speaks; but an upgrade is one of HTTP/1.1,
/// and would be lost in HTTP/2.
pub(super) fn set_protocol<B>(request: &mut Request<B>, http2: bool) {
    let protocol = if http2 && !forward::asks_upgrade(request.headers()) {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    forward::set_protocol(request, protocol);
}

/// Adds a cookie to those that the client has sent.
pub(super) fn add_cookie<B>(request: &mut Request<B>, pair: HeaderValue) {
    let headers = request.headers_mut();
    headers.append(http_header::COOKIE, pair);
    header::join_cookies(headers);
}

/// The Host that the route wants, before the activator or the backend sees it.
pub(super) fn set_host<B>(request: &mut Request<B>, host: HeaderValue) {
    if let Ok(authority) = Authority::try_from(host.as_bytes())
        && request.uri().authority().is_some()
    {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(authority);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request.headers_mut().insert(http_header::HOST, host);
}

/// What a client said of its own scheme does not count.
pub(super) fn say_scheme<B>(request: &mut Request<B>, tls: bool) {
    let scheme = HeaderValue::from_static(if tls { "https" } else { "http" });
    request
        .headers_mut()
        .insert(&header::X_FORWARDED_PROTO, scheme);
}

/// For which revision the activator is to take a request.
pub(super) fn name_revision<B>(request: &mut Request<B>, id: &RevisionId) {
    let value = |text: &str| HeaderValue::try_from(text).ok();
    let (namespace, name) = (value(&id.namespace), value(&id.name));
    let headers = request.headers_mut();
    if let (Some(namespace), Some(name)) = (namespace, name) {
        headers.insert(&header::REVISION_NAMESPACE, namespace);
        headers.insert(&header::REVISION_NAME, name);
    }
}
