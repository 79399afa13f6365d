//! Requests that are answered before any handler sees them, as Go's server does.

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};

use crate::body::{Body, Guard};

/// The answer to a request that no handler should see.
pub(super) fn refusal<B: http_body::Body, G: Guard>(
    request: &Request<B>,
) -> Option<Response<Body<G>>> {
    let uri = request.uri();
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
