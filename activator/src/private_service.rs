//! The name of a revision's private Service.
//!
//! Pure. Upstream: `ChildName` in `knative.dev/pkg/kmeta/names.go`.

use std::fmt::Write;

use http::HeaderValue;
use md5::{Digest, Md5};
use serving::RevisionId;

/// The longest name Kubernetes takes for a Service.
const LONGEST: usize = 63;
/// Hexadecimal digits of an MD5 sum.
const DIGEST_LENGTH: usize = 32;
const SUFFIX: &str = "-private";

/// `<revision>-private`, shortened with an MD5 sum when that is too long.
pub fn private_service(revision: &str) -> String {
    if revision.len() + SUFFIX.len() <= LONGEST {
        return format!("{revision}{SUFFIX}");
    }
    let kept = LONGEST - DIGEST_LENGTH - SUFFIX.len();
    // Names are ASCII; should one not be, it is cut after a whole character.
    let mut name: String = revision.chars().take(kept).collect();
    for byte in Md5::digest(revision.as_bytes()) {
        let _ = write!(name, "{byte:02x}");
    }
    name + SUFFIX
}

/// The Host by which a mesh knows a revision's pods: `<private service>.<namespace>`.
pub fn private_host(revision: &RevisionId) -> Option<HeaderValue> {
    let service = private_service(&revision.name);
    HeaderValue::from_str(&format!("{service}.{}", revision.namespace)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edge case 63.
    #[test]
    fn edge_case_63_long_names() {
        assert_eq!(private_service("hello-00001"), "hello-00001-private");
        let fits = "a".repeat(55);
        assert_eq!(private_service(&fits), format!("{fits}-private"));
        let long = "a".repeat(56);
        // md5sum of 56 times "a".
        let expected = format!("{}3b0c8ac703f828b04c6c197006d17218-private", "a".repeat(23));
        assert_eq!(private_service(&long), expected);
        assert_eq!(private_service(&long).len(), LONGEST);
    }
}
