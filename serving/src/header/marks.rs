//! Which families of headers a message has at all.

use http::HeaderMap;

/// Found in one pass over the names. Most requests have none of these headers, and a dozen look-ups
/// of what is not there would cost more than everything else that a sidecar adds to a hop.
///
/// A family that is marked may still lack the header that is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

const KNATIVE: u8 = 1;
const REVISION: u8 = 1 << 1;
const FORWARDED: u8 = 1 << 2;
const TRACE: u8 = 1 << 3;
const OURS: u8 = 1 << 4;

// === impl Marks ===

impl Marks {
    /// Looks at every name once.
    pub fn scan(headers: &HeaderMap) -> Self {
        let marks = headers.keys().map(|name| match name.as_str().as_bytes() {
            [b'k', b'-', ..] => KNATIVE,
            [b'k', b'n', b'a', ..] => REVISION,
            [b'x', b'-', b'f', ..] => FORWARDED,
            [b'x', b'-', b'b', ..] | [b'b', b'3' | b'a', ..] | [b't', b'r', b'a', b'c', ..] => {
                TRACE
            }
            [b'p', b'i', b'l', ..] => OURS,
            _ => 0,
        });
        Self(marks.fold(0, |all, mark| all | mark))
    }

    /// `K-*`: probes, the proxy's mark, the original Host.
    pub fn knative(self) -> bool {
        self.0 & KNATIVE != 0
    }

    /// `Knative-Serving-*`: revision and tag.
    pub fn revision(self) -> bool {
        self.0 & REVISION != 0
    }

    /// `X-Forwarded-*`.
    pub fn forwarded(self) -> bool {
        self.0 & FORWARDED != 0
    }

    /// Trace context and baggage, W3C or B3.
    pub fn trace(self) -> bool {
        self.0 & TRACE != 0
    }

    /// `Pilotlight-*`.
    pub fn ours(self) -> bool {
        self.0 & OURS != 0
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::header::*;
    use crate::names::{CAPABILITY_HEADER, LOAD_HEADER, NOT_STARTED_HEADER};

    fn marks(names: &[&str]) -> Marks {
        let mut headers = HeaderMap::new();
        for name in names {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_static("x"));
        }
        Marks::scan(&headers)
    }

    /// A name that is not marked would never be looked up.
    #[test]
    fn every_name_that_is_looked_up_is_marked() {
        for name in [&HASH, &PROBE, &PROXY, &ORIGINAL_HOST, &KUBELET_PROBE] {
            assert!(marks(&["host", name.as_str()]).knative(), "{name}");
        }
        for name in [&REVISION_NAME, &REVISION_NAMESPACE] {
            assert!(marks(&[name.as_str(), "host"]).revision(), "{name}");
        }
        for name in [&X_FORWARDED_FOR, &X_FORWARDED_HOST, &X_FORWARDED_PROTO] {
            assert!(marks(&[name.as_str()]).forwarded(), "{name}");
        }
        for name in [
            "traceparent",
            "tracestate",
            "baggage",
            "b3",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-sampled",
            "x-b3-flags",
        ] {
            assert!(marks(&[name]).trace(), "{name}");
        }
        for name in [CAPABILITY_HEADER, NOT_STARTED_HEADER, LOAD_HEADER] {
            assert!(marks(&[name]).ours(), "{name}");
        }
    }

    #[test]
    fn an_ordinary_request_has_no_marks() {
        let names = [
            "host",
            "user-agent",
            "accept",
            "content-type",
            "x-request-id",
        ];
        assert_eq!(marks(&names), Marks::default());
    }
}
