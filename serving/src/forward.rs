//! The reverse proxy: header rewriting, one exchange with a destination, upgrades, and errors in
//! Go's words. Behaviour of upstream's `pkg/http/proxy.go` and Go's standard reverse proxy.
//!
//! [`forward`] is the whole of it. A caller with several destinations prepares a request once and
//! [`exchange`]s it with one after another, as long as the error hands the request back.
//!
//! A request goes on in the protocol it came in, as upstream's, unless a caller that knows what its
//! destination speaks says so with [`set_protocol`]; the exchange then translates.

mod error;
mod rewrite;

use std::future::Future;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

pub(crate) use self::error::words as io_words;
pub use self::error::{Fault, ForwardError};
pub use self::rewrite::{asks_upgrade, host, prepare_request, set_host};
use crate::body::{Body, Guard};
use crate::pool::{Protocol, Upstream, UpstreamBody};
use crate::server::Connection;
use crate::upgrade::Upgrade;

/// A response to relay, rewritten for the client.
#[derive(Debug)]
pub struct Forwarded {
    /// Turn its body into one of [`Body::upstream`].
    pub response: Response<UpstreamBody>,
    /// Present with a 101: give it to [`crate::upgrade::Tunnels::spawn`] before returning the
    /// response.
    pub upgrade: Option<Upgrade>,
}

/// The protocol in which a request goes on, where that is not the one it came in.
#[derive(Clone, Copy, Debug)]
struct Onward(Protocol);

/// Has [`exchange`] send a request in `protocol`, whatever it came in. The request keeps the version
/// and the form it came in until then, and has them again if it is handed back. One that
/// [`asks_upgrade`] can only be sent over HTTP/1.1.
pub fn set_protocol<B>(request: &mut Request<B>, protocol: Protocol) {
    // Most need no extension, which is an allocation.
    if Protocol::of(version(request)) != protocol {
        request.extensions_mut().insert(Onward(protocol));
    }
}

/// The version in which [`exchange`] sends a request.
pub fn version<B>(request: &Request<B>) -> Version {
    match request.extensions().get::<Onward>() {
        Some(Onward(protocol)) => protocol.version(),
        None => request.version(),
    }
}

/// [`prepare_request`] and [`exchange`].
///
/// # Errors
/// No response came.
pub fn forward(
    upstream: &Rc<Upstream>,
    request: Request<Incoming>,
    connection: &Connection,
) -> impl Future<Output = Result<Forwarded, ForwardError>> + use<> {
    exchange(upstream, prepare_request(request, connection))
}

/// Sends a prepared request in its [`version`], and rewrites the response.
///
/// # Errors
/// No response came, or one that may not be relayed.
pub fn exchange(
    upstream: &Rc<Upstream>,
    request: Request<Body>,
) -> impl Future<Output = Result<Forwarded, ForwardError>> + use<> {
    // Every layer of futures has room for what it is given, twice; a pointer keeps them small.
    exchange_boxed(upstream, Box::new(request))
}

/// As [`exchange`], for who has kept the request for a while.
///
/// # Errors
/// As [`exchange`].
pub fn exchange_boxed(
    upstream: &Rc<Upstream>,
    mut request: Box<Request<Body>>,
) -> impl Future<Output = Result<Forwarded, ForwardError>> + use<> {
    let came_in = request.version();
    let protocol = Protocol::of(version(&request));
    rewrite::translate(&mut request, protocol);
    rewrite::fill_host(&mut request, upstream.host());
    let wanted = wanted_upgrade(&request);
    let upstream = Rc::clone(upstream);
    async move {
        let wanted = wanted?;
        let sent = upstream.send_boxed(request, protocol).await;
        let mut response = sent.map_err(|failed| failed.with_version(came_in))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return switch(response, wanted);
        }
        rewrite::prepare_response(&mut response);
        Ok(Forwarded {
            response,
            upgrade: None,
        })
    }
}

/// An upgrade that the client asks for.
struct Wanted {
    protocol: HeaderValue,
    client: OnUpgrade,
}

fn wanted_upgrade(request: &Request<Body>) -> Result<Option<Wanted>, ForwardError> {
    // hyper leaves this for requests with an `Upgrade` header only, so most need no look-up.
    let Some(client) = request.extensions().get::<OnUpgrade>() else {
        return Ok(None);
    };
    let Some(protocol) = request.headers().get(header::UPGRADE) else {
        return Ok(None);
    };
    if !protocol
        .as_bytes()
        .iter()
        .all(|byte| (0x20..0x7f).contains(byte))
    {
        return Err(ForwardError::invalid_upgrade(protocol));
    }
    Ok(Some(Wanted {
        protocol: protocol.clone(),
        client: client.clone(),
    }))
}

/// A 101 is relayed if it says what was asked for.
fn switch(
    response: Response<UpstreamBody>,
    wanted: Option<Wanted>,
) -> Result<Forwarded, ForwardError> {
    let got = response.headers().get(header::UPGRADE);
    let got = got.map_or(&b""[..], HeaderValue::as_bytes);
    let asked = wanted.as_ref().map(|wanted| wanted.protocol.as_bytes());
    let asked = asked.unwrap_or_default();
    let Some(wanted) = wanted.as_ref().filter(|_| got.eq_ignore_ascii_case(asked)) else {
        return Err(ForwardError::other_protocol(got, asked));
    };
    let is_websocket = got.eq_ignore_ascii_case(b"websocket");
    let (head, body) = response.into_parts();
    let upgrade = body.into_switched().map(|app| Upgrade {
        client: wanted.client.clone(),
        app,
        is_websocket,
    });
    let mut response = Response::from_parts(head, UpstreamBody::empty());
    *response.version_mut() = Version::HTTP_11;
    Ok(Forwarded { response, upgrade })
}

/// What Go's `http.Error` answers: the text and a newline.
pub fn error_response<G: Guard>(status: StatusCode, text: &str, guard: G) -> Response<Body<G>> {
    let mut response = plain(status, Body::full(format!("{text}\n"), guard));
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A short text as it is, without newline: the 504 of a time-out is one.
pub fn text_response<G: Guard>(
    status: StatusCode,
    text: &'static str,
    guard: G,
) -> Response<Body<G>> {
    plain(status, Body::full(text, guard))
}

fn plain<G: Guard>(status: StatusCode, body: Body<G>) -> Response<Body<G>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests;
