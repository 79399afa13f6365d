//! Reading a process's configuration from named variables.
//!
//! Driven by the `config` module of each program and by `local`, which passes a map instead of the
//! process's environment. A [`Reader`] collects every problem before anything fails, so that an
//! operator sees all of them at once; upstream stops at the first
//! (`vendor/github.com/kelseyhightower/envconfig/envconfig.go`). Nothing here decides what a
//! variable means.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::go;

/// A source of named string values.
pub trait Environment {
    /// The value of `name`, or `None` when the variable does not exist. A variable that exists
    /// with an empty value is `Some("")`: several required ones are legitimately empty.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

/// Why one variable cannot be used. Displayed with upstream's wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A required variable does not exist.
    #[error("required key {name} missing value")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A number or boolean that does not parse.
    #[error(
        "envconfig.Process: assigning {name} to {field}: converting '{value}' to type {kind}. details: {details}"
    )]
    Convert {
        /// The variable.
        name: &'static str,
        /// The name that upstream's configuration struct gives the value.
        field: &'static str,
        /// The text found.
        value: String,
        /// The type wanted, in Go's words (`int`, `bool`).
        kind: &'static str,
        /// Why it does not convert.
        details: String,
    },
    /// Any other rule that a value breaks.
    #[error("{name}: {message}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// The rule broken.
        message: String,
    },
}

/// All the problems of one configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

/// Reads typed values and remembers what was wrong with them.
pub struct Reader<'a> {
    environment: &'a dyn Environment,
    problems: Vec<Problem>,
}

// === impl Environment ===

impl Environment for ProcessEnvironment {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the process's environment"
    )]
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

impl Environment for HashMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

impl Environment for &[(&str, &str)] {
    fn variable(&self, name: &str) -> Option<String> {
        self.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

// === impl Problems ===

impl Problems {
    /// Each problem, in the order the variables were read.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

// === impl Reader ===

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// A reader of `environment` that has found nothing wrong so far.
    pub fn new(environment: &'a dyn Environment) -> Self {
        Self {
            environment,
            problems: Vec::new(),
        }
    }

    /// The value of an optional variable; absent and empty are both empty.
    pub fn string(&mut self, name: &'static str) -> String {
        self.environment.variable(name).unwrap_or_default()
    }

    /// The value of a variable that must exist; it may be empty.
    pub fn required_string(&mut self, name: &'static str) -> String {
        self.environment.variable(name).unwrap_or_else(|| {
            self.problems.push(Problem::Missing { name });
            String::new()
        })
    }

    /// An integer that must exist, in any of Go's notations. Zero once a problem is recorded.
    pub fn required_integer(&mut self, name: &'static str, field: &'static str) -> i64 {
        match self.environment.variable(name) {
            Some(value) => self.integer_value(name, field, &value),
            None => {
                self.problems.push(Problem::Missing { name });
                0
            }
        }
    }

    /// An integer that is zero when absent. A variable that exists but is empty is a problem, as
    /// it is upstream.
    pub fn integer(&mut self, name: &'static str, field: &'static str) -> i64 {
        match self.environment.variable(name) {
            Some(value) => self.integer_value(name, field, &value),
            None => 0,
        }
    }

    /// A boolean that is false when absent; Go's spellings only.
    pub fn boolean(&mut self, name: &'static str, field: &'static str) -> bool {
        let Some(value) = self.environment.variable(name) else {
            return false;
        };
        go::parse_bool(&value).unwrap_or_else(|error| {
            self.convert(name, field, value, "bool", error.to_string());
            false
        })
    }

    /// Records that `name` breaks a rule of its own.
    pub fn invalid(&mut self, name: &'static str, message: impl Into<String>) {
        self.problems.push(Problem::Invalid {
            name,
            message: message.into(),
        });
    }

    /// `value` when nothing was wrong, else everything that was.
    pub fn finish<T>(self, value: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(Problems(self.problems))
        }
    }

    fn integer_value(&mut self, name: &'static str, field: &'static str, value: &str) -> i64 {
        go::parse_int_any_base(value, i64::BITS).unwrap_or_else(|error| {
            self.convert(name, field, value.to_owned(), "int", error.to_string());
            0
        })
    }

    fn convert(
        &mut self,
        name: &'static str,
        field: &'static str,
        value: String,
        kind: &'static str,
        details: String,
    ) {
        self.problems.push(Problem::Convert {
            name,
            field,
            value,
            kind,
            details,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_in_order() {
        let environment: &[(&str, &str)] = &[("COUNT", "many"), ("FLAG", "yes"), ("EMPTY", "")];
        let mut reader = Reader::new(&environment);
        reader.required_string("ABSENT");
        reader.required_integer("COUNT", "Count");
        reader.boolean("FLAG", "Flag");
        reader.integer("EMPTY", "Empty");
        reader.invalid("COUNT", "too many");
        let problems = reader.finish(()).expect_err("five problems");
        assert_eq!(
            problems.to_string(),
            "required key ABSENT missing value\n\
             envconfig.Process: assigning COUNT to Count: converting 'many' to type int. \
             details: strconv.ParseInt: parsing \"many\": invalid syntax\n\
             envconfig.Process: assigning FLAG to Flag: converting 'yes' to type bool. \
             details: strconv.ParseBool: parsing \"yes\": invalid syntax\n\
             envconfig.Process: assigning EMPTY to Empty: converting '' to type int. \
             details: strconv.ParseInt: parsing \"\": invalid syntax\n\
             COUNT: too many"
        );
        assert_eq!(problems.iter().count(), 5);
    }

    #[test]
    fn integers_may_be_in_any_of_gos_notations() {
        let environment: &[(&str, &str)] = &[("HEX", "0x10"), ("OCTAL", "017"), ("BIG", "1_000")];
        let mut reader = Reader::new(&environment);
        assert_eq!(reader.integer("HEX", "Hex"), 16);
        assert_eq!(reader.integer("OCTAL", "Octal"), 15);
        assert_eq!(reader.required_integer("BIG", "Big"), 1000);
        assert_eq!(reader.finish(()), Ok(()));
    }

    #[test]
    fn empty_is_a_value_and_absent_optional_ones_are_zero() {
        let environment: &[(&str, &str)] = &[("EMPTY", "")];
        let mut reader = Reader::new(&environment);
        assert_eq!(reader.required_string("EMPTY"), "");
        assert_eq!(reader.string("ABSENT"), "");
        assert_eq!(reader.integer("ABSENT", "Absent"), 0);
        assert!(!reader.boolean("ABSENT", "Absent"));
        assert_eq!(reader.finish(1), Ok(1));
    }
}
