//! A request target taken apart as Go's `url.ParseRequestURI` does, for templates that name `.URL`
//! and for the line of a template that fails.

use std::fmt::{self, Write as _};

/// The parts of a target; an empty one is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) scheme: &'a str,
    /// Host and port.
    pub(super) host: &'a str,
    /// The path as it came.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    /// A question mark with nothing behind it.
    pub(super) force_query: bool,
}

// === impl Url ===

impl<'a> Url<'a> {
    /// Takes any text apart: what is no URL is a path.
    pub(super) fn of(target: &'a str) -> Self {
        let mut url = Self::default();
        let rest = match target.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => {
                url.scheme = scheme;
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                url.host = &rest[..end];
                &rest[end..]
            }
            _ => target,
        };
        match rest.split_once('?') {
            Some((path, query)) => {
                url.path = path;
                url.query = query;
                url.force_query = query.is_empty();
            }
            None => url.path = rest,
        }
        url
    }

    /// `Path`: with its percent escapes decoded.
    pub(super) fn decoded_path(&self) -> String {
        String::from_utf8_lossy(&decode(self.path)).into_owned()
    }

    /// `EscapedPath`: as it came if every character may stand in a path, else escaped anew.
    pub(super) fn escaped_path(&self) -> String {
        if self.path == "*" || self.path.bytes().all(may_stand_in_path) {
            return self.path.to_owned();
        }
        escape(&decode(self.path))
    }

    /// `RawPath`: the path as it came, if escaping the decoded one gives another text.
    pub(super) fn raw_path(&self) -> &'a str {
        if self.path == escape(&decode(self.path)) {
            ""
        } else {
            self.path
        }
    }

    /// `Hostname`: the host without port and brackets.
    pub(super) fn hostname(&self) -> &'a str {
        let host = self.split_port().0;
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// `Port`: empty when the host has none.
    pub(super) fn port(&self) -> &'a str {
        self.split_port().1
    }

    fn split_port(&self) -> (&'a str, &'a str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            _ => (self.host, ""),
        }
    }
}

/// `String`.
impl fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            // Go keeps the scheme in lower case.
            write!(f, "{}://{}", self.scheme.to_ascii_lowercase(), self.host)?;
        }
        f.write_str(&self.escaped_path())?;
        if self.force_query || !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        Ok(())
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)
}

/// What Go's `validEncoded` leaves alone.
fn may_stand_in_path(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,/;=:@[]%".contains(&byte)
}

/// Escapes what Go's `escape` does in a path.
fn escape(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for &byte in path {
        if is_unreserved(byte) || b"$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Decodes percent escapes; one that is malformed stays, since a server would have refused it.
fn decode(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail
            .first_chunk::<2>()
            .filter(|_| byte == b'%')
            .and_then(|digits| {
                let high = char::from(digits[0]).to_digit(16)?;
                let low = char::from(digits[1]).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()
            });
        match escaped {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_printed_as_go_prints_them() {
        for (target, printed) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b?c=d&e=f", "/a/b?c=d&e=f"),
            ("/x%20y?q=%22quoted%22", "/x%20y?q=%22quoted%22"),
            ("/caf\u{e9}?\u{2028}=1", "/caf%C3%A9?\u{2028}=1"),
            ("/a%2fb(c)!", "/a%2fb(c)!"),
            ("/a%2f b", "/a/%20b"),
            ("/p?", "/p?"),
            ("//x//y", "//x//y"),
            ("HTTP://h.example:81/p?q", "http://h.example:81/p?q"),
        ] {
            assert_eq!(Url::of(target).to_string(), printed, "{target}");
        }
    }

    #[test]
    fn parts_are_found() {
        let url = Url::of("http://[::1]:81/caf%C3%A9%zz?a=%20");
        assert_eq!(
            (url.scheme, url.host, url.query),
            ("http", "[::1]:81", "a=%20")
        );
        assert_eq!((url.hostname(), url.port()), ("::1", "81"));
        assert_eq!(url.decoded_path(), "/caf\u{e9}%zz");
        assert_eq!(Url::of("/x?u=http://h/p").path, "/x");
    }
}
