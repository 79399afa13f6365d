//! Heads of HTTP/1.1 messages, from and to bytes. Pure.

use std::io::Write as _;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;

use super::Broken;
use super::decoder::{Chunked, Decoder};
use crate::body::Body;

/// Header lines of a response, unless the options say otherwise.
pub(super) const MAX_HEADERS: usize = 100;

/// How a request's body is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// So many bytes are left to be sent.
    Length(u64),
    /// In chunks; of its trailers those that `Trailer` announced.
    Chunked(Vec<HeaderName>),
}

/// A response's head, understood.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) body: Decoder,
    /// Whether the connection can be used again after the body.
    pub(super) keep_alive: bool,
    /// Its bytes.
    pub(super) length: usize,
}

// === requests ===

/// Appends the head of `request` to `out`. Names are written in Go's canonical case.
pub(super) fn encode(request: &Request<Body>, out: &mut Vec<u8>) -> Framing {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    match request.uri().path_and_query() {
        Some(target) if request.uri().authority().is_none() => {
            out.extend_from_slice(target.as_str().as_bytes());
        }
        // Writing to memory does not fail.
        _ => {
            let _ = write!(out, "{}", request.uri());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let framing = framing(request);
    let is_chunked = matches!(framing, Framing::Chunked(_));
    let mut says_length = false;
    for (name, value) in request.headers() {
        // Both are written below, as the body needs them.
        if name == header::TRANSFER_ENCODING || (is_chunked && name == header::CONTENT_LENGTH) {
            continue;
        }
        says_length |= name == header::CONTENT_LENGTH;
        put(out, name.as_str(), value.as_bytes());
    }
    match framing {
        Framing::Chunked(_) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) if !says_length => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        Framing::Length(_) | Framing::None => {}
    }
    out.extend_from_slice(b"\r\n");
    framing
}

fn framing(request: &Request<Body>) -> Framing {
    let body = request.body();
    match body.size_hint().exact() {
        Some(0) => return Framing::None,
        Some(length) => return Framing::Length(length),
        None if body.is_end_stream() => return Framing::None,
        None => {}
    }
    let lines = request.headers().get_all(header::TRAILER).iter();
    let names = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    Framing::Chunked(names.collect())
}

/// Appends one header line.
pub(super) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    // Go's canonical case: a capital at the start and after every hyphen.
    let mut is_start = true;
    for byte in &mut out[start..] {
        if is_start {
            byte.make_ascii_uppercase();
        }
        is_start = *byte == b'-';
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

// === responses ===

/// Whether `received`, of which the first `seen` bytes have been looked at before, may hold a whole
/// head: parsing a head that arrives byte by byte again with every byte would cost its square.
pub(super) fn may_be_whole(received: &[u8], seen: usize) -> bool {
    let fresh = &received[seen.saturating_sub(3)..];
    fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|it| it == b"\n\r\n")
}

/// The head at the start of `received`, of at most `max_headers` lines; `is_head` when it answers
/// a HEAD request. `None` while it is incomplete.
pub(super) fn parse(
    received: &Bytes,
    is_head: bool,
    max_headers: Option<usize>,
) -> Result<Option<Head>, Broken> {
    let max = max_headers.unwrap_or(MAX_HEADERS);
    if max <= MAX_HEADERS {
        let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
        parse_into(received, &mut space[..max], is_head)
    } else {
        let mut space = vec![httparse::EMPTY_HEADER; max];
        parse_into(received, &mut space, is_head)
    }
}

fn parse_into<'a>(
    received: &'a Bytes,
    space: &mut [httparse::Header<'a>],
    is_head: bool,
) -> Result<Option<Head>, Broken> {
    let mut parsed = httparse::Response::new(space);
    let length = match parsed.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::TooLarge),
        Err(error) => {
            return Err(Broken::Malformed(format!(
                "malformed HTTP response ({error})"
            )));
        }
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let Some(status) = status else {
        return Err(Broken::Malformed("malformed HTTP status code".to_owned()));
    };
    let is_http11 = parsed.version == Some(1);
    let mut facts = Facts::default();
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for line in parsed.headers.iter() {
        // The parser lets through only what makes a name and a value, but for control characters.
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(received.slice_ref(line.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Broken::Malformed(format!("invalid header {:?}", line.name)));
        };
        facts.note(&name, value.as_bytes())?;
        headers.append(name, value);
    }
    let keep_alive = !facts.close && (is_http11 || facts.keep_alive);
    let body = facts.body(status, is_head, is_http11)?;
    if facts.chunked {
        // A length beside chunks is at best wrong, and at worst an attack on whoever comes next.
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if is_http11 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    *response.headers_mut() = headers;
    Ok(Some(Head {
        keep_alive: keep_alive && !matches!(body, Decoder::UntilClose),
        response,
        body,
        length,
    }))
}

/// What a response's headers say of its body and connection.
#[derive(Debug, Default)]
struct Facts {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

// === impl Facts ===

impl Facts {
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Broken> {
        if name == header::CONTENT_LENGTH {
            let length =
                parse_length(value).ok_or_else(|| unusable("bad Content-Length", value))?;
            if self.length.is_some_and(|other| other != length) {
                return Err(unusable(
                    "http: message cannot contain multiple Content-Length headers; got",
                    value,
                ));
            }
            self.length = Some(length);
        } else if name == header::TRANSFER_ENCODING {
            // As in Go, nothing but chunks is understood, and only once.
            if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(unusable("unsupported transfer encoding:", value));
            }
            self.chunked = true;
        } else if name == header::CONNECTION {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    fn body(&self, status: StatusCode, is_head: bool, is_http11: bool) -> Result<Decoder, Broken> {
        let never = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_head || never || status.is_informational() {
            return Ok(Decoder::Ended);
        }
        if self.chunked {
            if !is_http11 {
                return Err(unusable("unsupported transfer encoding:", b"chunked"));
            }
            return Ok(Decoder::Chunked(Chunked::default()));
        }
        Ok(self.length.map_or(Decoder::UntilClose, Decoder::length))
    }
}

/// Digits and nothing else, not even a sign.
fn parse_length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|length| is_number && *length <= i64::MAX as u64)
}

fn unusable(what: &str, value: &[u8]) -> Broken {
    Broken::Malformed(format!("{what} {:?}", String::from_utf8_lossy(value)))
}
