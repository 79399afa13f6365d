//! Requests that are answered before any handler sees them, as Go's server does.

use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::body::{Body, Guard};

/// The answer to a request that no handler should see, with at most `max_headers` header lines.
pub(super) fn refusal<B: http_body::Body, G: Guard>(
    request: &Request<B>,
    max_headers: usize,
) -> Option<Response<Body<G>>> {
    let uri = request.uri();
    // HTTP/1 heads are counted while they are parsed.
    if request.version() == Version::HTTP_2 && request.headers().len() > max_headers {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(refuse(status, "431 Request Header Fields Too Large"));
    }
    if uri.path() == "*" && request.method() == Method::OPTIONS {
        return Some(Response::new(Body::unguarded("")));
    }
    if has_bad_escape(uri.path()) {
        return Some(refuse(StatusCode::BAD_REQUEST, "400 Bad Request"));
    }
    if !request.body().is_end_stream() && has_other_coding(request) {
        let text = "501 Not Implemented: unsupported transfer encoding";
        return Some(refuse(StatusCode::NOT_IMPLEMENTED, text));
    }
    // After a 2xx nobody could say whether what follows is HTTP, and no app of Knative's is a proxy.
    if request.method() == Method::CONNECT {
        return Some(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "405 Method Not Allowed",
        ));
    }
    if !has_good_target(uri) {
        return Some(bad_request("400 Bad Request"));
    }
    if !has_good_hosts(request) {
        return Some(bad_request("400 Bad Request: malformed Host header"));
    }
    if request.version() == Version::HTTP_11 {
        let headers = request.headers();
        if uri.authority().is_none() && !headers.contains_key(header::HOST) {
            let text = "400 Bad Request: missing required Host header";
            return Some(refuse(StatusCode::BAD_REQUEST, text));
        }
        // Only a message in which some name occurs twice needs the look-up.
        let repeats = headers.keys_len() != headers.len();
        if repeats && headers.get_all(header::HOST).iter().count() > 1 {
            let text = "400 Bad Request: too many Host headers";
            return Some(refuse(StatusCode::BAD_REQUEST, text));
        }
    }
    None
}

/// Whether the target has an absolute path, alone or in a URI (RFC 9112 section 3.2). A text without
/// a slash would be taken for an authority, which is for CONNECT alone.
fn has_good_target(uri: &Uri) -> bool {
    uri.path().starts_with('/') && (uri.authority().is_none() || uri.scheme().is_some())
}

/// Whether every host that the request names is made of what a host is made of. On HTTP/2, where
/// only the authority goes on, a `Host` beside it must say the same (RFC 9113 section 8.3.1).
fn has_good_hosts<B>(request: &Request<B>) -> bool {
    let authority = request.uri().authority().map(Authority::as_str);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_http2 = request.version() == Version::HTTP_2;
    authority.is_none_or(|authority| authority.bytes().all(is_of_host))
        && hosts.all(|host| {
            let differs =
                |authority: &str| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
            host.as_bytes().iter().copied().all(is_of_host)
                && !(is_http2 && authority.is_some_and(differs))
        })
}

/// The bytes that Go's server takes in a host: those of RFC 3986, without what would end the host
/// or begin a user.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

/// A percent sign in the path that is not followed by two hexadecimal digits.
fn has_bad_escape(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        *byte == b'%' && !(is_digit(at + 1) && is_digit(at + 2))
    })
}

/// A transfer coding other than the `chunked` that hyper has decoded, such as `gzip, chunked`.
fn has_other_coding<B>(request: &Request<B>) -> bool {
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(|first| !chunked(first)) || codings.next().is_some()
}

fn refuse<G: Guard>(status: StatusCode, text: &'static str) -> Response<Body<G>> {
    let mut response = Response::new(Body::unguarded(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
