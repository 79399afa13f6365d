//! The headers of a request while it waits for a slot: kept as they are, they would be most of what
//! it holds.

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use serving::body::Body;
use serving::{header, names};

pub(crate) static CAPABILITY: HeaderName = HeaderName::from_static(names::CAPABILITY_HEADER);
/// What every request says to a queue-proxy.
pub(crate) static SAID: [(&HeaderName, &str); 2] = [
    (&header::PROXY, header::ACTIVATOR_NAME),
    (&CAPABILITY, names::CAPABLE),
];

/// Headers that a request gets when it has a destination, at most.
const ADDED_HEADERS: usize = 4;

/// The headers of a request while it waits, in their order: a map has room for more of them than
/// there are, and each takes half as much again in it. What we say to every queue-proxy is left out.
pub(crate) struct Stowed {
    headers: Box<[(Option<HeaderName>, HeaderValue)]>,
    /// Which of [`SAID`] were there: a client may have called them hop-by-hop.
    said: [bool; SAID.len()],
}

// === impl Stowed ===

impl Stowed {
    pub(crate) fn take(request: &mut Request<Body>) -> Self {
        let headers = std::mem::take(request.headers_mut());
        let said = SAID.map(|(name, value)| headers.get(name).is_some_and(|it| it == value));
        // Each was inserted, so no second value follows it.
        let is_left_out = |name: &HeaderName| {
            let mut all = SAID.iter().zip(said);
            all.any(|((ours, _), said)| said && *ours == name)
        };
        let left_out = said.into_iter().filter(|said| *said).count();
        let mut kept = Vec::with_capacity(headers.len() - left_out);
        let all = headers.into_iter();
        kept.extend(all.filter(|(name, _)| !name.as_ref().is_some_and(is_left_out)));
        Self {
            headers: kept.into_boxed_slice(),
            said,
        }
    }

    pub(crate) fn put_back(self, request: &mut Request<Body>) {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + ADDED_HEADERS);
        headers.extend(self.headers);
        for ((name, value), said) in SAID.iter().zip(self.said) {
            if said {
                headers.insert(*name, HeaderValue::from_static(value));
            }
        }
        *request.headers_mut() = headers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(headers: &[(&str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty(()));
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(name, value);
        }
        let stowed = Stowed::take(&mut request);
        assert!(request.headers().is_empty());
        stowed.put_back(&mut request);
        request
    }

    fn pairs(request: &Request<Body>) -> Vec<(&str, &str)> {
        let headers = request.headers().iter();
        headers
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn stowed_headers_come_back_in_their_order() {
        let headers = [
            ("user-agent", "bench"),
            ("cookie", "a=1"),
            ("x-own", "first"),
            ("cookie", "b=2"),
            ("accept", "*/*"),
        ];
        let request = round_trip(&headers);
        let expected = [
            ("user-agent", "bench"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-own", "first"),
            ("accept", "*/*"),
        ];
        assert_eq!(pairs(&request), expected);
    }

    /// Neither invented, if it was not there, nor taken for the usual, if it said something else.
    #[test]
    fn what_was_said_is_said_again() {
        assert_eq!(
            pairs(&round_trip(&[("accept", "*/*")])),
            [("accept", "*/*")]
        );
        let other = [("accept", "*/*"), (names::CAPABILITY_HEADER, "no-wait")];
        assert_eq!(pairs(&round_trip(&other)), other);
        let said = SAID.map(|(name, value)| (name.as_str(), value));
        assert_eq!(pairs(&round_trip(&said)), said);
    }
}
