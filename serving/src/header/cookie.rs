//! Cookies in one line.
//!
//! A client of HTTP/2 may send each cookie as a field of its own, to compress it better (RFC 9113
//! section 8.2.3). Apps know one line, so Go's server joins them whatever the request goes on in.

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// Joins all `Cookie` lines to one. Costs one comparison where no name occurs twice.
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.keys_len() == headers.len() {
        return;
    }
    let lines = headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let length = lines.iter().map(|line| line.len() + 2).sum();
    let mut joined = Vec::with_capacity(length);
    for line in &lines {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(line.as_bytes());
    }
    let is_sensitive = lines.iter().any(HeaderValue::is_sensitive);
    // Joining valid values with a semicolon and a blank gives a valid one.
    if let Ok(mut joined) = HeaderValue::try_from(joined) {
        joined.set_sensitive(is_sensitive);
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        join_cookies(&mut headers);
        let pair = |(name, value): (&http::HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        headers.iter().map(pair).collect()
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn only_cookies_are_joined() {
        let crumbs = [("cookie", "a=1"), ("x", "1"), ("cookie", "b=2; c=3")];
        let whole = [("cookie", "a=1; b=2; c=3"), ("x", "1")];
        assert_eq!(joined(&crumbs), pairs(&whole));
        assert_eq!(joined(&whole), pairs(&whole));
        let others = [("cookie", "a=1"), ("x", "1"), ("x", "2")];
        assert_eq!(joined(&others), pairs(&others));
    }

    #[test]
    fn what_is_sensitive_stays_so() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        let mut secret = HeaderValue::from_static("b=2");
        secret.set_sensitive(true);
        headers.append(COOKIE, secret);
        join_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=1; b=2");
        assert!(headers[COOKIE].is_sensitive());
    }
}
