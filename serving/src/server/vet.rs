//! Requests that are answered before any handler sees them, as Go's server does.

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::body::{Body, Guard};
use crate::names;

static REASON: HeaderName = HeaderName::from_static(names::REASON_HEADER);

/// Fields of an HTTP/2 request unless the options say otherwise: a small block may decode to a
/// great many. More than HTTP/1 lines, because cookies come in crumbs.
const MAX_HTTP2_FIELDS: usize = 512;

/// The bytes of a host, see [`is_of_host`].
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_of_host(byte as u8);
        byte += 1;
    }
    table
};

/// The answer to a request that no handler should see, with at most `max_headers` header lines.
pub(super) fn refusal<B: http_body::Body, G: Guard>(
    request: &Request<B>,
    max_headers: Option<usize>,
) -> Option<Response<Body<G>>> {
    let uri = request.uri();
    // HTTP/1 heads are counted while they are parsed.
    let is_http2 = request.version() == Version::HTTP_2;
    if is_http2 && request.headers().len() > max_headers.unwrap_or(MAX_HTTP2_FIELDS) {
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
        let mut response = refuse(StatusCode::NOT_IMPLEMENTED, text);
        let reason = HeaderValue::from_static("unsupported transfer encoding");
        response.headers_mut().insert(&REASON, reason);
        return Some(response);
    }
    // After a 2xx nobody could say whether what follows is HTTP, and no app of Knative's is a proxy.
    if request.method() == Method::CONNECT {
        return Some(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "405 Method Not Allowed",
        ));
    }
    if !has_good_target(uri) {
        return Some(refuse(StatusCode::BAD_REQUEST, "400 Bad Request"));
    }
    wrong_host(request).map(|text| refuse(StatusCode::BAD_REQUEST, text))
}

/// Whether the target has an absolute path, alone or in a URI (RFC 9112 section 3.2). A text without
/// a slash would be taken for an authority, which is for CONNECT alone.
fn has_good_target(uri: &Uri) -> bool {
    uri.path().starts_with('/') && (uri.authority().is_none() || uri.scheme().is_some())
}

/// What is wrong with the hosts that a request names, if anything. On HTTP/2, where only the
/// authority goes on, a `Host` beside it must say the same (RFC 9113 section 8.3.1).
fn wrong_host<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    let authority = request.uri().authority().map(|it| it.as_str().as_bytes());
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    if authority.is_none() && host.is_none() && request.version() == Version::HTTP_11 {
        return Some("400 Bad Request: missing required Host header");
    }
    // Only a message in which some name occurs twice needs the look-up.
    let repeats = headers.keys_len() != headers.len();
    if repeats && headers.get_all(header::HOST).iter().count() > 1 {
        return Some("400 Bad Request: too many Host headers");
    }
    let is_host = |host: &[u8]| host.iter().all(|byte| HOST_BYTES[usize::from(*byte)]);
    let differ = match (authority, host) {
        (Some(authority), Some(host)) if request.version() == Version::HTTP_2 => {
            !authority.eq_ignore_ascii_case(host)
        }
        _ => false,
    };
    let good = authority.is_none_or(is_host) && host.is_none_or(is_host) && !differ;
    (!good).then_some("400 Bad Request: malformed Host header")
}

/// The bytes that Go's server takes in a host: those of RFC 3986, without what would end the host
/// or begin a user.
const fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'-'
                | b'.'
                | b':'
                | b';'
                | b'='
                | b'['
                | b']'
                | b'_'
                | b'~'
        )
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
