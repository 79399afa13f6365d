//! Complaints about fields, merged, sorted and printed as an admission webhook does.
//! Upstream: `knative.dev/pkg/apis/field_error.go`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// One complaint about one or more fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// What is wrong.
    pub message: String,
    /// A longer explanation, often empty.
    pub details: String,
    /// The fields it is about; sorted once it is part of [`FieldErrors`].
    pub paths: Vec<String>,
}

/// All complaints about an object: those with the same message and details are one with several
/// paths, and they are sorted by message and details. Never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors {
    errors: BTreeMap<(String, String), Vec<String>>,
}

// === impl FieldError ===

impl FieldError {
    /// A complaint in its own words.
    pub fn new(message: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            details: String::new(),
            paths: vec![path.into()],
        }
    }

    /// The value of a field is not acceptable (`ErrInvalidValue`).
    pub fn invalid_value(value: &str, path: impl Into<String>) -> Self {
        Self::new(format!("invalid value: {value}"), path)
    }

    /// The value of a field is out of range (`ErrOutOfBoundsValue`).
    pub fn out_of_bounds(
        value: impl fmt::Display,
        lower: impl fmt::Display,
        upper: impl fmt::Display,
        path: impl Into<String>,
    ) -> Self {
        Self::new(format!("expected {lower} <= {value} <= {upper}"), path)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.paths.join(", "))?;
        if !self.details.is_empty() {
            write!(f, "\n{}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldError {}

// === impl FieldErrors ===

impl FieldErrors {
    /// Whether there is nothing to complain about.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds a complaint.
    pub fn push(&mut self, error: FieldError) {
        match self.errors.entry((error.message, error.details)) {
            Entry::Vacant(entry) => {
                let mut paths = error.paths;
                paths.sort();
                entry.insert(paths);
            }
            Entry::Occupied(mut entry) => {
                let paths = entry.get_mut();
                for path in error.paths {
                    if !paths.contains(&path) {
                        paths.push(path);
                    }
                }
                paths.sort();
            }
        }
    }

    /// The complaints, sorted and merged.
    pub fn to_list(&self) -> Vec<FieldError> {
        self.errors
            .iter()
            .map(|((message, details), paths)| FieldError {
                message: message.clone(),
                details: details.clone(),
                paths: paths.clone(),
            })
            .collect()
    }

    /// Ok when there is nothing to complain about.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Extend<FieldError> for FieldErrors {
    fn extend<T: IntoIterator<Item = FieldError>>(&mut self, errors: T) {
        for error in errors {
            self.push(error);
        }
    }
}

impl fmt::Display for FieldErrors {
    /// One complaint per line, or two when it has details.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.to_list().iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldErrors {}
