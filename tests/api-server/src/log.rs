//! What programs and replicas of a test program write.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

use super::eventually;

/// What was written so far.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

// === impl Log ===

impl Log {
    /// All of it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }

    /// How many lines contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.text().lines().filter(|it| it.contains(text)).count()
    }

    /// Waits for a line.
    pub async fn says(&self, text: &str) {
        let what = format!("line with {text:?}");
        eventually(&what, async || (self.count(text) > 0).then_some(())).await;
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
