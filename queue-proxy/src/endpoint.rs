//! The small servers beside the data ports: each has one path and answers like Go's `ServeMux`.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serving::body::Body;
use serving::forward::error_response;

/// How a request's path relates to the only path a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Found,
    /// Another spelling of the path.
    Redirect,
    NotFound,
    /// `OPTIONS *`, which Go's server answers before any handler.
    AnyTarget,
}

/// Compares a request's target with `path` as Go's mux does.
pub(crate) fn route<B>(request: &Request<B>, path: &str) -> Route {
    let target = request.uri().path();
    if is_any_target(request) {
        Route::AnyTarget
    } else if target == path {
        Route::Found
    } else if clean(target) == path {
        Route::Redirect
    } else {
        Route::NotFound
    }
}

/// Whether the request is `OPTIONS *`.
pub(crate) fn is_any_target<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.uri().path() == "*"
}

/// The answer to everything but [`Route::Found`].
pub(crate) fn elsewhere(route: Route, path: &'static str, method: &Method) -> Response<Body> {
    match route {
        Route::Found | Route::AnyTarget => Response::new(Body::empty(())),
        Route::NotFound => not_found(),
        Route::Redirect => {
            let is_get = method == Method::GET || method == Method::HEAD;
            let text = if is_get {
                format!("<a href=\"{path}\">Temporary Redirect</a>.\n\n")
            } else {
                String::new()
            };
            let mut response = Response::new(Body::full(text, ()));
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let headers = response.headers_mut();
            headers.insert(header::LOCATION, HeaderValue::from_static(path));
            if is_get {
                let html = HeaderValue::from_static("text/html; charset=utf-8");
                headers.insert(header::CONTENT_TYPE, html);
            }
            response
        }
    }
}

/// Go's answer to an unknown path.
pub(crate) fn not_found() -> Response<Body> {
    error_response(StatusCode::NOT_FOUND, "404 page not found", ())
}

/// 200 with a body of the given type.
pub(crate) fn content(content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body, ()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Go's `path.Clean`, keeping a slash at the end.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut cleaned = format!("/{}", segments.join("/"));
    if path.ends_with('/') && cleaned.len() > 1 {
        cleaned.push('/');
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_redirected_and_a_slash_at_the_end_is_another_path() {
        for (target, expected) in [
            ("/metrics", Route::Found),
            ("/metrics?x=1", Route::Found),
            ("//metrics", Route::Redirect),
            ("/x/../metrics", Route::Redirect),
            ("/./metrics", Route::Redirect),
            ("/metrics/", Route::NotFound),
            ("/", Route::NotFound),
            ("/metrics/x", Route::NotFound),
        ] {
            let request = Request::builder().uri(target).body(()).expect("valid");
            assert_eq!(route(&request, "/metrics"), expected, "{target}");
        }
    }
}
