//! Which revision a request is for, by its headers or its Host.
//!
//! Pure. The two headers are trusted as given: who can reach an activator can reach any revision
//! through it. Upstream: `pkg/activator/handler/context_handler.go`.

use http::{HeaderMap, Uri};
use serving::RevisionId;
use serving::header::{self, REVISION_NAME, REVISION_NAMESPACE};

/// The revision a request names; parts that are missing are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// Of a revision that is known.
    pub fn by(id: &'a RevisionId) -> Self {
        Self {
            namespace: id.namespace.as_bytes(),
            name: id.name.as_bytes(),
        }
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
        assert_eq!(named, Named::by(&RevisionId::new("ns", "rev")));
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
