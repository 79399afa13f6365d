//! Which revision a request is for, by its headers or its Host.
//!
//! Pure. The two headers are trusted as given: who can reach an activator can reach any revision
//! through it. Upstream: `pkg/activator/handler/context_handler.go`.

use http::{HeaderMap, Uri};
use serving::header::{self, REVISION_NAME, REVISION_NAMESPACE};
use smallvec::SmallVec;

/// `namespace/name` as bytes: the key of the table of revisions. Long enough for usual names to
/// need no allocation.
pub type Key = SmallVec<[u8; 128]>;

/// The revision a request names; parts that are missing are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// The namespace.
    pub namespace: &'a [u8],
    /// The revision's name.
    pub name: &'a [u8],
}

// === impl Named ===

impl<'a> Named<'a> {
    /// Reads both headers; if either is empty, a Host of the form `name.namespace.svc.domain`
    /// replaces both.
    pub fn of(uri: &'a Uri, headers: &'a HeaderMap, cluster_domain: &str) -> Self {
        let named = Self {
            namespace: header::value(headers, &REVISION_NAMESPACE),
            name: header::value(headers, &REVISION_NAME),
        };
        if named.namespace.is_empty() || named.name.is_empty() {
            Self::from_host(header::host(uri, headers), cluster_domain).unwrap_or(named)
        } else {
            named
        }
    }

    fn from_host(host: &'a [u8], cluster_domain: &str) -> Option<Self> {
        let mut parts = host.splitn(4, |&byte| byte == b'.');
        let (name, namespace) = (parts.next()?, parts.next()?);
        let (service, rest) = (parts.next()?, parts.next()?);
        let domain = rest.split(|&byte| byte == b':').next()?;
        (service == b"svc" && domain == cluster_domain.as_bytes())
            .then_some(Self { namespace, name })
    }

    /// The key in the table of revisions.
    pub fn key(&self) -> Key {
        let mut key = Key::with_capacity(self.namespace.len() + 1 + self.name.len());
        key.extend_from_slice(self.namespace);
        key.push(b'/');
        key.extend_from_slice(self.name);
        key
    }

    /// Upstream's text for a revision that is not known.
    pub fn not_found(&self) -> String {
        format!(
            "Error getting active endpoint: revision.serving.knative.dev {:?} not found",
            String::from_utf8_lossy(self.name)
        )
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn named(host: &str, name: &str, namespace: &str) -> (String, String) {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, HeaderValue::from_str(host).unwrap());
        headers.insert(&REVISION_NAME, HeaderValue::from_str(name).unwrap());
        headers.insert(
            &REVISION_NAMESPACE,
            HeaderValue::from_str(namespace).unwrap(),
        );
        let uri = Uri::from_static("/");
        let named = Named::of(&uri, &headers, "cluster.local");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(named.name), text(named.namespace))
    }

    fn pair(name: &str, namespace: &str) -> (String, String) {
        (name.to_owned(), namespace.to_owned())
    }

    /// Upstream's `TestContextHandler`.
    #[test]
    fn headers_win() {
        assert_eq!(
            named("other.ns.svc.cluster.local", "rev", "default"),
            pair("rev", "default")
        );
    }

    /// Edge case 6: one header alone counts for nothing if Host names a revision.
    #[test]
    fn edge_case_6_one_header() {
        assert_eq!(
            named("rev.ns.svc.cluster.local", "", "default"),
            pair("rev", "ns")
        );
        assert_eq!(named("example.com", "", "default"), pair("", "default"));
        assert_eq!(named("rev.ns.svc", "", ""), pair("", ""));
        assert_eq!(named("rev.ns.svc.example.com", "", ""), pair("", ""));
    }

    /// Edge case 7: a port is no part of the domain.
    #[test]
    fn edge_case_7_port() {
        assert_eq!(
            named("rev.ns.svc.cluster.local:80", "rev", ""),
            pair("rev", "ns")
        );
    }

    #[test]
    fn authority_of_http_2() {
        let uri = Uri::from_static("http://rev.ns.svc.cluster.local/path");
        let headers = HeaderMap::new();
        let named = Named::of(&uri, &headers, "cluster.local");
        assert_eq!(&named.key()[..], b"ns/rev");
    }

    #[test]
    fn text_of_an_unknown_revision() {
        let named = Named {
            namespace: b"default",
            name: b"nope",
        };
        assert_eq!(
            named.not_found(),
            "Error getting active endpoint: revision.serving.knative.dev \"nope\" not found"
        );
    }
}
