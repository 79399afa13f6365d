//! The identity of a Revision, which is also that of its PodAutoscaler, Metric and ServerlessService.

use std::fmt;
use std::str::FromStr;

/// Namespace and name of a Revision. Printed and parsed as `namespace/name`, the form that keys
/// of work queues, stats and bucket hashes have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionId {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The Revision's name, e.g. `hello-00001`.
    pub name: String,
}

/// The text is not of the form `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not of the form namespace/name")]
pub struct InvalidRevisionId {
    text: String,
}

impl RevisionId {
    /// Names a revision; nothing is validated.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for RevisionId {
    type Err = InvalidRevisionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self::new(namespace, name))
            }
            _ => Err(InvalidRevisionId {
                text: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let id: RevisionId = "default/hello-00001".parse().unwrap();
        assert_eq!(id, RevisionId::new("default", "hello-00001"));
        assert_eq!(id.to_string(), "default/hello-00001");
    }

    #[test]
    fn refuses_other_forms() {
        for text in ["", "hello", "/hello", "default/", "a/b/c"] {
            assert!(text.parse::<RevisionId>().is_err(), "{text:?}");
        }
    }
}
