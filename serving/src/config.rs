//! ConfigMaps as plain structs: `config-autoscaler`, `config-observability` and the others.
//!
//! Each submodule parses the `data` of one ConfigMap into a struct whose `Default` holds the
//! built-in values. What a value may look like, and the words of the complaint, are those of the
//! Go originals (`knative.dev/pkg/configmap/parser`): strings are trimmed, numbers, booleans and
//! durations follow [`crate::go`], unknown keys are ignored, and where a key has a legacy spelling
//! the newer one wins although both must parse. Reading the maps, watching them, and keeping the
//! last good value when an update is refused are the caller's business.

use std::collections::BTreeMap;
use std::fmt;

use crate::go;

pub mod autoscaler;
pub mod deployment;
pub mod features;
pub mod leader_election;
pub mod logging;
pub mod network;
pub mod observability;

pub use autoscaler::Autoscaler;
pub use deployment::Deployment;
pub use features::Features;
pub use leader_election::LeaderElection;
pub use logging::Logging;
pub use network::Network;
pub use observability::Observability;

/// The `data` of a ConfigMap.
pub type Data = BTreeMap<String, String>;

/// A ConfigMap that is refused as a whole. Printed as its first problem, which is all that the Go
/// originals report; [`InvalidConfig::problems`] has the others too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidConfig {
    first: String,
    others: Vec<String>,
}

/// Reads typed values out of a ConfigMap and collects what is wrong with it.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    data: &'a Data,
    problems: Vec<String>,
}

// === impl InvalidConfig ===

impl InvalidConfig {
    /// Everything that is wrong, in the order in which it was checked; at least one entry.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .map(String::as_str)
    }

    fn new(problems: Vec<String>) -> Option<Self> {
        let mut problems = problems.into_iter();
        Some(Self {
            first: problems.next()?,
            others: problems.collect(),
        })
    }

    /// Puts words in front of every problem.
    fn prefixed(self, prefix: &str) -> Self {
        let prefixed = |problem: String| format!("{prefix}{problem}");
        Self {
            first: prefixed(self.first),
            others: self.others.into_iter().map(prefixed).collect(),
        }
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first)
    }
}

impl std::error::Error for InvalidConfig {}

// === impl Reader ===

/// Each method leaves its target alone when the key is absent, and adds a problem when the value
/// cannot be parsed.
impl<'a> Reader<'a> {
    pub(crate) fn new(data: &'a Data) -> Self {
        Self {
            data,
            problems: Vec::new(),
        }
    }

    /// The value as it stands in the map.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a str> {
        self.data.get(key).map(String::as_str)
    }

    pub(crate) fn string(&mut self, key: &str, target: &mut String) {
        if let Some(raw) = self.raw(key) {
            raw.trim().clone_into(target);
        }
    }

    pub(crate) fn boolean(&mut self, key: &str, target: &mut bool) {
        self.parse(key, target, go::parse_bool);
    }

    pub(crate) fn int32(&mut self, key: &str, target: &mut i32) {
        self.parse(key, target, |text| {
            go::parse_int(text, 32).map(|value| i32::try_from(value).unwrap_or(i32::MAX))
        });
    }

    pub(crate) fn int(&mut self, key: &str, target: &mut i64) {
        self.parse(key, target, |text| go::parse_int(text, 64));
    }

    pub(crate) fn uint32(&mut self, key: &str, target: &mut u32) {
        self.parse(key, target, |text| {
            go::parse_uint(text, 32).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
        });
    }

    pub(crate) fn float(&mut self, key: &str, target: &mut f64) {
        self.parse(key, target, go::parse_float);
    }

    /// A duration in nanoseconds.
    pub(crate) fn duration(&mut self, key: &str, target: &mut i64) {
        self.parse(key, target, go::parse_duration);
    }

    pub(crate) fn parse<T, E: fmt::Display>(
        &mut self,
        key: &str,
        target: &mut T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) {
        match self.raw(key).map(parse) {
            None => {}
            Some(Ok(value)) => *target = value,
            Some(Err(error)) => {
                self.problem(format!("failed to parse {}: {error}", go::quote(key)));
            }
        }
    }

    pub(crate) fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// Adds a problem unless `holds`.
    pub(crate) fn require(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.problem(complaint());
        }
    }

    /// Fails when there have been problems so far.
    pub(crate) fn check(&mut self) -> Result<(), InvalidConfig> {
        InvalidConfig::new(std::mem::take(&mut self.problems)).map_or(Ok(()), Err)
    }
}

/// A template that does not parse, worded like Go's `text/template`, which counts lines but not
/// columns.
pub(crate) fn template_problem(name: &str, error: &gotmpl::TemplateError) -> String {
    match error {
        gotmpl::TemplateError::Parse { line, message, .. }
        | gotmpl::TemplateError::Lex { line, message, .. } => {
            format!("template: {name}:{line}: {message}")
        }
        other => format!("template: {name}: {other}"),
    }
}

#[cfg(test)]
mod tests;
