//! What reading a manifest found: problems that stop the run and warnings that do not.
//!
//! Filled by the readers beside this module, printed by the command line. Says nothing about what
//! the values mean.

use std::fmt;

use crate::exit::{self, Exit};

/// How many findings of one kind are kept; the rest are only counted, so that a hostile manifest
/// cannot fill the memory with complaints about itself.
pub const MAX_FINDINGS: usize = 200;

/// One rule that a manifest breaks, or one field that is not honoured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file as it was given, with `, document N` behind it when the file holds several.
    pub file: String,
    /// Where in the document, in Kubernetes' notation; empty for the document as a whole.
    pub path: String,
    /// The rule broken, or why the field is ignored.
    pub rule: String,
    /// Whether the finding is about a program that this machine does not have.
    pub missing_command: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.file, self.rule)
        } else {
            write!(f, "{}: {}: {}", self.file, self.path, self.rule)
        }
    }
}

/// All findings of one reading, in document order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    file: String,
    /// Reasons not to run.
    pub problems: Vec<Finding>,
    /// Fields that are read past.
    pub warnings: Vec<Finding>,
    /// Findings beyond [`MAX_FINDINGS`], counted only.
    pub left_out: usize,
}

impl Report {
    /// Names the document that the next findings are about.
    pub fn in_file(&mut self, file: &str) {
        file.clone_into(&mut self.file);
    }

    /// Adds a reason not to run.
    pub fn problem(&mut self, path: impl Into<String>, rule: impl Into<String>) {
        let finding = self.finding(path.into(), rule.into());
        Self::keep(&mut self.problems, &mut self.left_out, finding);
    }

    /// Adds a reason not to run: a program this machine does not have.
    pub fn missing_command(&mut self, path: impl Into<String>, rule: impl Into<String>) {
        let mut finding = self.finding(path.into(), rule.into());
        finding.missing_command = true;
        Self::keep(&mut self.problems, &mut self.left_out, finding);
    }

    /// Adds a field that is not honoured.
    pub fn warning(&mut self, path: impl Into<String>, rule: impl Into<String>) {
        let finding = self.finding(path.into(), rule.into());
        Self::keep(&mut self.warnings, &mut self.left_out, finding);
    }

    /// Every problem at once as the reason to end, or nothing.
    pub fn refuse(&self) -> Result<(), Exit> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let only_commands = self.problems.iter().all(|problem| problem.missing_command);
        let mut lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("warning: {warning}")),
        );
        if self.left_out > 0 {
            lines.push(format!("and {} more", self.left_out));
        }
        let code = if only_commands {
            exit::MISSING_COMMAND
        } else {
            exit::INVALID_MANIFEST
        };
        Err(Exit::new(code, lines.join("\n")))
    }

    fn finding(&self, path: String, rule: String) -> Finding {
        Finding {
            file: self.file.clone(),
            path,
            rule,
            missing_command: false,
        }
    }

    fn keep(list: &mut Vec<Finding>, left_out: &mut usize, finding: Finding) {
        if list.len() < MAX_FINDINGS {
            list.push(finding);
        } else {
            *left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_kept_up_to_the_limit_and_counted_beyond() {
        let mut report = Report::default();
        report.in_file("a.yaml");
        for _ in 0..MAX_FINDINGS + 3 {
            report.problem("spec", "is wrong");
        }
        assert_eq!(report.problems.len(), MAX_FINDINGS);
        assert_eq!(report.left_out, 3);
        assert_eq!(report.problems[0].to_string(), "a.yaml: spec: is wrong");
    }
}
