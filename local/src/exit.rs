//! Exit codes of the command line, in one place.

use std::process::ExitCode;

/// All went well, or a drain on request has ended.
pub const OK: u8 = 0;
/// Anything without a code of its own.
pub const FAILED: u8 = 1;
/// The command line is not understood.
pub const USAGE: u8 = 2;
/// `status`: nothing runs there.
pub const NOT_RUNNING: u8 = 3;
/// A manifest or a setting is invalid, or a manifest cannot be read.
pub const INVALID_MANIFEST: u8 = 64;
/// The front port cannot be listened on.
pub const CANNOT_LISTEN: u8 = 69;
/// A command to run does not exist on this machine.
pub const MISSING_COMMAND: u8 = 127;
/// Added to the number of a signal that ended the program at once.
pub const SIGNAL_BASE: u8 = 128;

/// The codes as they are printed in `--help` and the manual page.
pub const HELP: &str = "\
Exit codes:
  0    ended as asked, everything drained
  1    any other failure; simulate --check: a difference
  2    the command line is not understood
  3    status: no pilotlight runs there
  64   a manifest or setting is invalid or cannot be read
  69   the front port cannot be listened on
  127  a command to run does not exist on this machine
  130  a second Ctrl-C ended everything at once (143 for SIGTERM)";

/// A failure with its message and code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// The code of the process.
    pub code: u8,
    /// What, where, and what to do about it; may have several lines; may be empty.
    pub message: String,
}

impl Exit {
    /// A failure with a code of this module.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        for code in [
            OK,
            FAILED,
            USAGE,
            NOT_RUNNING,
            INVALID_MANIFEST,
            CANNOT_LISTEN,
            MISSING_COMMAND,
            SIGNAL_BASE + 2,
        ] {
            assert!(
                HELP.lines()
                    .any(|line| line.trim().starts_with(&format!("{code} "))),
                "{code}"
            );
        }
    }
}
