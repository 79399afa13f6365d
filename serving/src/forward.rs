//! The reverse proxy: header rewriting, one exchange with a destination, errors in Go's words.
use std::net::IpAddr;
use std::rc::Rc;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::body::{Body, Guard};
use crate::pool::{Upstream, UpstreamBody};
use crate::upgrade::Upgrade;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Upstream,
    Downstream,
    Internal,
}

/// No response came. `Display` is the text upstream's proxy would answer with, without newline.
#[derive(Debug)]
pub struct ForwardError {
    text: String,
    fault: Fault,
    /// The request, when nothing of it was written: another destination may be tried.
    request: Option<Box<Request<Body>>>,
}

impl std::fmt::Display for ForwardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
impl std::error::Error for ForwardError {}

impl ForwardError {
    pub fn fault(&self) -> Fault {
        self.fault
    }
    /// Nothing reached the destination.
    pub fn nothing_written(&self) -> bool {
        self.request.is_some()
    }
    /// The (already rewritten) request, to be given to [`exchange`] with another destination.
    pub fn into_request(self) -> Option<Request<Body>> {
        self.request.map(|request| *request)
    }
    /// 502 with the text, as upstream answers.
    pub fn response<G: Guard>(&self, guard: G) -> Response<Body<G>> {
        error_response(StatusCode::BAD_GATEWAY, &self.text, guard)
    }
}

/// A response to relay (already rewritten), and the upgrade to run once it is a 101.
#[derive(Debug)]
pub struct Forwarded {
    pub response: Response<UpstreamBody>,
    /// Give it to `upgrade::Tunnels::spawn` before returning the response.
    pub upgrade: Option<Upgrade>,
}

/// Rewrites a received request in place for the destination: hop-by-hop headers, `Te`, `Upgrade`,
/// `X-Forwarded-For`, `User-Agent`, target, version; Host as `host` or as received, or the
/// destination's address when empty.
pub fn prepare_request(_request: Request<Incoming>, _peer: IpAddr) -> Request<Body> {
    todo!()
}

/// Sends a prepared request, rewrites the response's headers, checks a 101.
pub async fn exchange(
    _upstream: &Rc<Upstream>,
    _request: Request<Body>,
) -> Result<Forwarded, ForwardError> {
    todo!()
}

/// [`prepare_request`] and [`exchange`].
pub async fn forward(
    upstream: &Rc<Upstream>,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Result<Forwarded, ForwardError> {
    exchange(upstream, prepare_request(request, peer)).await
}

/// Go's `http.Error`: text and a newline.
pub fn error_response<G: Guard>(status: StatusCode, text: &str, guard: G) -> Response<Body<G>> {
    let mut response = Response::new(Body::full(format!("{text}\n"), guard));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        http::HeaderValue::from_static("nosniff"),
    );
    response
}

/// A response with `text` as it is (no newline, no nosniff), e.g. 504 `request timeout`.
pub fn text_response<G: Guard>(
    status: StatusCode,
    text: &'static str,
    guard: G,
) -> Response<Body<G>> {
    let mut response = Response::new(Body::full(text, guard));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
