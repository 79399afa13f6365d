//! The annotations of a revision template that are ours and concern the activator.
//!
//! Pure. A cluster ignores what cannot be read, and says so in the log; one machine refuses the
//! manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use serving::{go, names};

use crate::affinity::Affinity;

/// What `pilotlight.dev/max-wait` must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration above zero")]
pub struct InvalidMaxWait;

/// How long a request may wait for a pod.
///
/// # Errors
/// It is no duration in Go's syntax, or not above zero.
pub fn max_wait(value: &str) -> Result<Duration, InvalidMaxWait> {
    match go::parse_duration(value) {
        Ok(nanos) if nanos > 0 => Ok(go::duration_to_std(nanos)),
        _ => Err(InvalidMaxWait),
    }
}

/// Every problem, by the annotation that has it.
pub fn validate(annotations: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    let mut check = |key: &'static str, read: fn(&str) -> Option<String>| {
        if let Some(value) = annotations.get(key)
            && let Some(error) = read(value)
        {
            problems.push((key, format!("invalid value: {value}: {error}")));
        }
    };
    check(names::MAX_WAIT_ANNOTATION, |value| {
        max_wait(value).err().map(|error| error.to_string())
    });
    check(names::SESSION_AFFINITY_ANNOTATION, |value| {
        Affinity::parse(value).err().map(|error| error.to_string())
    });
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_found() {
        let annotations = |max_wait: &str, affinity: &str| {
            BTreeMap::from([
                (names::MAX_WAIT_ANNOTATION.to_owned(), max_wait.to_owned()),
                (
                    names::SESSION_AFFINITY_ANNOTATION.to_owned(),
                    affinity.to_owned(),
                ),
            ])
        };
        assert_eq!(validate(&annotations("1m30s", "header:X-User")), []);
        assert_eq!(validate(&BTreeMap::new()), []);
        assert_eq!(max_wait("1m30s"), Ok(Duration::from_secs(90)));
        for wait in ["0s", "-1s", "soon", ""] {
            let problems = validate(&annotations(wait, "ip"));
            assert_eq!(problems.len(), 2, "{wait}");
            assert_eq!(problems[0].0, names::MAX_WAIT_ANNOTATION);
            assert!(problems[1].1.contains("header:<name>"), "{problems:?}");
        }
    }
}
