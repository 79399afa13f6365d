//! A `Forwarded` header from the `X-Forwarded-*` ones, which the runtime contract promises to apps.
//!
//! Upstream: `pkg/queue/forwarded_shim.go`, whose corners (any colon makes an address IPv6, no
//! separator after an empty first node) are kept because apps see them.

use http::{HeaderMap, HeaderValue};

use super::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, value};

/// A header that would be longer is not made: a list of empty nodes grows sevenfold, and a client
/// decides how long the list is.
pub const MAX_FORWARDED_BYTES: usize = 64 * 1024;

/// `ForwardedShimHandler`: sets `Forwarded` unless it has a value or there is nothing to make it of.
///
/// Runs before the peer is appended to `X-Forwarded-For`, so the peer never appears in it.
pub fn shim_forwarded(headers: &mut HeaderMap) {
    let nodes = value(headers, &X_FORWARDED_FOR);
    let proto = value(headers, &X_FORWARDED_PROTO);
    let host = value(headers, &X_FORWARDED_HOST);
    if nodes.is_empty() && proto.is_empty() && host.is_empty() {
        return;
    }
    if !value(headers, &http::header::FORWARDED).is_empty() {
        return;
    }
    if let Some(forwarded) = forwarded(nodes, proto, host) {
        headers.insert(http::header::FORWARDED, forwarded);
    }
}

/// Every node, the first with host and proto; `None` when the result would be too long.
fn forwarded(nodes: &[u8], proto: &[u8], host: &[u8]) -> Option<HeaderValue> {
    let mut out =
        Vec::with_capacity((nodes.len() + proto.len() + host.len() + 32).min(MAX_FORWARDED_BYTES));
    // A trailing empty element is no node, as opposed to one at the front or in the middle.
    let all = nodes.strip_suffix(b",").unwrap_or(nodes);
    let mut rest = all.split(|&byte| byte == b',').map(trim);
    let first = rest.next().unwrap_or_default();
    if !nodes.is_empty() {
        out.extend_from_slice(b"for=");
        write_node(&mut out, first);
    }
    if !host.is_empty() {
        separate(&mut out, !first.is_empty());
        out.extend_from_slice(b"host=");
        out.extend_from_slice(host);
    }
    if !proto.is_empty() {
        separate(&mut out, !first.is_empty() || !host.is_empty());
        out.extend_from_slice(b"proto=");
        out.extend_from_slice(proto);
    }
    for node in rest {
        if out.len() + node.len() > MAX_FORWARDED_BYTES {
            return None;
        }
        out.extend_from_slice(b", for=");
        write_node(&mut out, node);
    }
    if out.len() > MAX_FORWARDED_BYTES {
        return None;
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(out)).ok()
}

fn separate(out: &mut Vec<u8>, needed: bool) {
    if needed {
        out.push(b';');
    }
}

fn write_node(out: &mut Vec<u8>, node: &[u8]) {
    if node.contains(&b':') {
        out.extend_from_slice(b"\"[");
        out.extend_from_slice(node);
        out.extend_from_slice(b"]\"");
    } else {
        out.extend_from_slice(node);
    }
}

/// Go's `strings.TrimSpace`, which knows Unicode's blanks.
fn trim(node: &[u8]) -> &[u8] {
    match std::str::from_utf8(node) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => node.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nodes: &str, host: &str, proto: &str, expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, text) in [
            (&X_FORWARDED_FOR, nodes),
            (&X_FORWARDED_HOST, host),
            (&X_FORWARDED_PROTO, proto),
        ] {
            if !text.is_empty() {
                headers.insert(name.clone(), HeaderValue::from_str(text).unwrap());
            }
        }
        shim_forwarded(&mut headers);
        assert_eq!(
            value(&headers, &http::header::FORWARDED),
            expected.as_bytes(),
            "{nodes:?} {host:?} {proto:?}"
        );
    }

    /// Scenarios of upstream's `TestForwardedShimHandler`.
    #[test]
    fn combines_the_x_forwarded_headers() {
        check("", "", "", "");
        check(
            "127.0.0.1, ::1",
            "h",
            "p",
            "for=127.0.0.1;host=h;proto=p, for=\"[::1]\"",
        );
        check("127.0.0.1, ::1", "", "", "for=127.0.0.1, for=\"[::1]\"");
        check("", "h", "p", "host=h;proto=p");
        check(",,,", "", "", "for=, for=, for=");
        check(", 1.1.1.1", "h", "", "for=host=h, for=1.1.1.1");
        check("1.2.3.4:80", "", "", "for=\"[1.2.3.4:80]\"");
    }

    #[test]
    fn makes_no_header_beyond_the_limit() {
        // `for=` and then `, for=` for every further node but the last, empty one.
        let fits = (MAX_FORWARDED_BYTES - 4) / 6;
        check(&",".repeat(fits + 2), "", "", "");
        let mut headers = HeaderMap::new();
        let nodes = ",".repeat(fits + 1);
        headers.insert(
            X_FORWARDED_FOR.clone(),
            HeaderValue::from_str(&nodes).unwrap(),
        );
        shim_forwarded(&mut headers);
        assert_eq!(
            value(&headers, &http::header::FORWARDED).len(),
            4 + fits * 6
        );
    }

    #[test]
    fn leaves_an_existing_header_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR.clone(), HeaderValue::from_static("a"));
        headers.insert(
            http::header::FORWARDED,
            HeaderValue::from_static("for=other"),
        );
        shim_forwarded(&mut headers);
        assert_eq!(value(&headers, &http::header::FORWARDED), b"for=other");
    }
}
