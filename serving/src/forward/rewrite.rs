//! What changes in a request and a response on their way through.
//!
//! One pass over the names finds what a message has at all; only that costs a look-up.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use crate::body::Body;
use crate::pool::{Protocol, UpstreamBody};
use crate::server::Connection;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Which of the headers that matter here a message has.
#[derive(Clone, Copy, Debug, Default)]
struct Present(u16);

const CONNECTION: u16 = 1;
const UPGRADE: u16 = 1 << 1;
const TE: u16 = 1 << 2;
const TRAILER: u16 = 1 << 3;
const TRANSFER_ENCODING: u16 = 1 << 4;
const FORWARDED_FOR: u16 = 1 << 5;
const USER_AGENT: u16 = 1 << 6;
const KEEP_ALIVE_BIT: u16 = 1 << 7;
const PROXY_CONNECTION_BIT: u16 = 1 << 8;
const PROXY_AUTHENTICATE: u16 = 1 << 9;
const PROXY_AUTHORIZATION: u16 = 1 << 10;
const CONTENT_LENGTH: u16 = 1 << 11;

// === impl Present ===

impl Present {
    fn scan(headers: &HeaderMap) -> Self {
        let bits = headers.keys().map(|name| match name.as_str() {
            "connection" => CONNECTION,
            "upgrade" => UPGRADE,
            "te" => TE,
            "trailer" => TRAILER,
            "transfer-encoding" => TRANSFER_ENCODING,
            "x-forwarded-for" => FORWARDED_FOR,
            "user-agent" => USER_AGENT,
            "keep-alive" => KEEP_ALIVE_BIT,
            "proxy-connection" => PROXY_CONNECTION_BIT,
            "proxy-authenticate" => PROXY_AUTHENTICATE,
            "proxy-authorization" => PROXY_AUTHORIZATION,
            "content-length" => CONTENT_LENGTH,
            _ => 0,
        });
        Self(bits.fold(0, |all, bit| all | bit))
    }

    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

/// The authority of a target, or the `Host` header, as Go's server sees the request's host.
pub fn host<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

/// Makes `host` the request's host, whatever it was before. One that cannot be an HTTP/2 authority
/// leaves an HTTP/2 request without, and the destination's address takes its place.
pub fn set_host<B>(request: &mut Request<B>, host: HeaderValue) {
    if request.version() == Version::HTTP_2 {
        request.headers_mut().remove(header::HOST);
        let authority = Authority::try_from(host.as_bytes()).ok();
        set_authority(request.uri_mut(), authority);
    } else {
        make_origin_form(request.uri_mut());
        request.headers_mut().insert(header::HOST, host);
    }
}

/// Rewrites a received request for its destination: hop-by-hop headers go, `Te: trailers` and an
/// upgrade are put back, the peer is appended to `X-Forwarded-For`; target and version become what
/// the destination's protocol wants. The `User-Agent` is never invented.
pub fn prepare_request(request: Request<Incoming>, connection: &Connection) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    prepare_headers(
        &mut head.headers,
        &head.method,
        connection.peer_ip(),
        &body.size_hint().exact(),
    );
    let is_http2 = head.version == Version::HTTP_2;
    if is_http2 {
        let host = head.headers.remove(header::HOST);
        if head.uri.authority().is_none() {
            let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
            set_authority(&mut head.uri, authority);
        }
    } else {
        if let Some(authority) = head.uri.authority() {
            // Every authority is a header value; it takes the place of what `Host` said.
            if let Ok(host) = HeaderValue::try_from(authority.as_str()) {
                head.headers.insert(header::HOST, host);
            }
            make_origin_form(&mut head.uri);
        }
        head.version = Version::HTTP_11;
    }
    escape_path(&mut head.uri);
    Request::from_parts(head, Body::from(body))
}

/// `length` is that of the body, if it is known.
fn prepare_headers(
    headers: &mut HeaderMap,
    method: &Method,
    peer: &HeaderValue,
    length: &Option<u64>,
) {
    let present = Present::scan(headers);
    let upgrade = upgrade_of(headers, present);
    let trailers = present.has(TE) && lists(headers, &header::TE, "trailers");
    remove_hop_by_hop(headers, present, length.is_none());
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if length.is_none() && present.has(TRANSFER_ENCODING) {
        // hyper sends the body of a GET only when it is told to.
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    if present.has(CONTENT_LENGTH) && *length == Some(0) && !says_empty(method) {
        headers.remove(header::CONTENT_LENGTH);
    }
    append_peer(headers, present, peer);
    if present.has(USER_AGENT) {
        keep_first_agent(headers);
    }
}

/// Go sends `Content-Length: 0` for these only.
fn says_empty(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Whether a request asks for an upgrade that is passed on: only HTTP/1.1 can do that.
pub fn asks_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE) && upgrade_of(headers, Present::scan(headers)).is_some()
}

/// The protocol of an upgrade that is passed on.
fn upgrade_of(headers: &HeaderMap, present: Present) -> Option<HeaderValue> {
    let wanted = present.has(UPGRADE)
        && present.has(CONNECTION)
        && lists(headers, &header::CONNECTION, "upgrade");
    if !wanted {
        return None;
    }
    let protocol = headers.get(header::UPGRADE)?;
    // The upgrade to h2c is for this hop, which does not offer it; without the settings header it
    // is no such upgrade but an ordinary one.
    let is_h2c = protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
        && lists(headers, &header::CONNECTION, "http2-settings");
    (!is_h2c).then(|| protocol.clone())
}

/// Whether a header lists a token, in any of its lines.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut tokens = headers.get_all(name).iter().flat_map(tokens);
    tokens.any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
}

/// Removes what belongs to this hop. `Trailer` stays with a body that may have trailers, because
/// hyper sends the announced ones only.
fn remove_hop_by_hop(headers: &mut HeaderMap, present: Present, may_have_trailers: bool) {
    if present.has(CONNECTION) {
        remove_connection(headers);
    }
    let fixed = [
        (UPGRADE, header::UPGRADE),
        (TE, header::TE),
        (TRANSFER_ENCODING, header::TRANSFER_ENCODING),
        (KEEP_ALIVE_BIT, KEEP_ALIVE),
        (PROXY_CONNECTION_BIT, PROXY_CONNECTION),
        (PROXY_AUTHENTICATE, header::PROXY_AUTHENTICATE),
        (PROXY_AUTHORIZATION, header::PROXY_AUTHORIZATION),
    ];
    let rest = !(CONNECTION | FORWARDED_FOR | USER_AGENT | CONTENT_LENGTH);
    if present.has(rest) {
        for (bit, name) in fixed {
            if present.has(bit) {
                headers.remove(name);
            }
        }
        if present.has(TRAILER) && !may_have_trailers {
            headers.remove(header::TRAILER);
        }
    }
}

/// Removes `Connection` and every header that it names.
fn remove_connection(headers: &mut HeaderMap) {
    let repeats = headers.keys_len() != headers.len();
    let others: SmallVec<[HeaderValue; 2]> = if repeats {
        let lines = headers.get_all(header::CONNECTION).iter();
        lines.skip(1).cloned().collect()
    } else {
        SmallVec::new()
    };
    let first = headers.remove(header::CONNECTION);
    for line in first.iter().chain(&others) {
        tokens(line).for_each(|token| remove_named(headers, token));
    }
}

/// Removes a header that `Connection` names, unless it frames or addresses the message.
fn remove_named(headers: &mut HeaderMap, token: &[u8]) {
    // The usual tokens are not names of headers, or are removed anyway.
    let is_usual = [&b"keep-alive"[..], b"close", b"upgrade"]
        .iter()
        .any(|usual| token.eq_ignore_ascii_case(usual));
    if is_usual {
        return;
    }
    if let Ok(name) = HeaderName::from_bytes(token)
        && name != header::HOST
        && name != header::CONTENT_LENGTH
    {
        headers.remove(name);
    }
}

fn append_peer(headers: &mut HeaderMap, present: Present, peer: &HeaderValue) {
    if !present.has(FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR, peer.clone());
        return;
    }
    let mut folded = Vec::with_capacity(64);
    for line in headers.get_all(X_FORWARDED_FOR) {
        folded.extend_from_slice(line.as_bytes());
        folded.extend_from_slice(b", ");
    }
    folded.extend_from_slice(peer.as_bytes());
    // Folding valid values with a comma and a blank gives a valid one.
    if let Ok(folded) = HeaderValue::try_from(folded) {
        headers.insert(X_FORWARDED_FOR, folded);
    }
}

/// Of several agents the first is sent, and an empty one not at all.
fn keep_first_agent(headers: &mut HeaderMap) {
    let mut agents = headers.get_all(header::USER_AGENT).iter();
    let Some(first) = agents.next() else {
        return;
    };
    if first.is_empty() {
        headers.remove(header::USER_AGENT);
    } else if agents.next().is_some() {
        let first = first.clone();
        headers.insert(header::USER_AGENT, first);
    }
}

/// Gives a prepared request the form of the protocol in which it goes on.
pub(super) fn translate(request: &mut Request<Body>, protocol: Protocol) {
    if Protocol::of(request.version()) == protocol {
        return;
    }
    let host = match request.uri().authority() {
        Some(authority) => HeaderValue::try_from(authority.as_str()).ok(),
        None => request.headers().get(header::HOST).cloned(),
    };
    *request.version_mut() = protocol.version();
    if protocol == Protocol::Http2 {
        // It frames the body of one hop, and is illegal in HTTP/2.
        request.headers_mut().remove(header::TRANSFER_ENCODING);
    }
    if let Some(host) = host {
        set_host(request, host);
    }
}

/// Gives a prepared request without a host that of its destination.
pub(super) fn fill_host(request: &mut Request<Body>, address: &HeaderValue) {
    if request.version() == Version::HTTP_2 {
        if request.uri().authority().is_none() {
            let authority = Authority::try_from(address.as_bytes()).ok();
            set_authority(request.uri_mut(), authority);
        }
    } else if request
        .headers()
        .get(header::HOST)
        .is_none_or(HeaderValue::is_empty)
    {
        request.headers_mut().insert(header::HOST, address.clone());
    }
}

/// The scheme goes with the authority: a URI has both or none.
fn set_authority(uri: &mut Uri, authority: Option<Authority>) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = authority.is_some().then_some(Scheme::HTTP);
    parts.authority = authority;
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

fn make_origin_form(uri: &mut Uri) {
    if uri.authority().is_some() {
        set_authority(uri, None);
    }
}

/// Percent-encodes what Go does not send raw in a path; the query passes as it is.
fn escape_path(uri: &mut Uri) {
    if !uri.path().bytes().any(is_escaped) {
        return;
    }
    let mut target = String::with_capacity(uri.path().len() + 16);
    for byte in uri.path().bytes() {
        if is_escaped(byte) {
            target.push_str(&format!("%{byte:02X}"));
        } else {
            target.push(char::from(byte));
        }
    }
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

fn is_escaped(byte: u8) -> bool {
    !byte.is_ascii_graphic()
        || matches!(
            byte,
            b'^' | b'|' | b'{' | b'}' | b'"' | b'<' | b'>' | b'`' | b'\\'
        )
}

/// Rewrites an app's response for the client: hop-by-hop headers go, the reason phrase is Go's.
pub(super) fn prepare_response(response: &mut Response<UpstreamBody>) {
    let may_have_trailers = response.body().size_hint().exact().is_none();
    let present = Present::scan(response.headers());
    remove_hop_by_hop(response.headers_mut(), present, may_have_trailers);
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
    if response.status().canonical_reason().is_none() {
        let reason = format!("status code {}", response.status().as_u16());
        if let Ok(reason) = ReasonPhrase::try_from(reason.into_bytes()) {
            response.extensions_mut().insert(reason);
        }
    }
}
