//! Keeps the machine's cores from going to sleep while something is measured that wakes often.
//!
//! In a virtual machine a core that has nothing to do is given back to the host, and waking it can
//! take longer than everything that is to be measured, and counts as CPU of the process that it wakes
//! for. The kernel's own switch for that is a file that is held open with the longest latency that is
//! acceptable.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

/// See the module; cores may sleep again when this is dropped.
#[derive(Debug)]
pub struct KeepAwake(io::Result<File>);

// === impl KeepAwake ===

impl KeepAwake {
    /// Asks for it, which only root may.
    pub fn start() -> Self {
        Self(hold())
    }

    /// What to say of it beside the figures.
    pub fn circumstance(&self) -> String {
        match &self.0 {
            Ok(_) => "cores were kept from sleeping (/dev/cpu_dma_latency)".to_owned(),
            Err(error) => {
                format!("cores went to sleep whenever they could (/dev/cpu_dma_latency: {error})")
            }
        }
    }
}

fn hold() -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .open("/dev/cpu_dma_latency")?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_it_is() {
        let refused = KeepAwake(Err(io::ErrorKind::PermissionDenied.into()));
        assert!(refused.circumstance().contains("permission denied"));
        let held = tempfile::tempfile().map(|file| KeepAwake(Ok(file)));
        assert!(held.unwrap().circumstance().contains("kept from sleeping"));
    }
}
