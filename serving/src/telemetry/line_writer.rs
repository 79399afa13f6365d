//! Lines for a stream that may block, written by a thread of their own.
//!
//! A stalled reader of standard output must not stop requests: lines go through a bounded queue,
//! and what does not fit is dropped and counted. Each line is one write.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

/// Lines that may wait for the stream.
pub const MAX_QUEUED_LINES: usize = 4096;

/// Bytes of one line; what is longer is cut.
pub const MAX_LINE_BYTES: usize = 256 * 1024;

/// How long [`LineWriter::flush`] waits for a stream that does not take anything.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Clones share one queue and one thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct LineWriter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Option<SyncSender<Message>>,
    dropped: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

// === impl LineWriter ===

impl LineWriter {
    /// A writer to standard output.
    pub fn stdout() -> io::Result<Self> {
        Self::new(io::stdout())
    }

    /// A writer to standard error.
    pub fn stderr() -> io::Result<Self> {
        Self::new(io::stderr())
    }

    /// A writer to `stream` with [`MAX_QUEUED_LINES`]; fails if no thread can be started.
    pub fn new(stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(MAX_QUEUED_LINES);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || write_lines(&lines, stream))?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue: Some(queue),
                dropped: AtomicU64::new(0),
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Queues one line, adding the newline if it is missing. Never blocks.
    pub fn write(&self, mut line: Vec<u8>) {
        line.truncate(MAX_LINE_BYTES);
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let queued = self
            .inner
            .queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(Message::Line(line)).is_ok());
        if !queued {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that did not fit into the queue.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    /// Blocks until every line queued before has been written, or [`FLUSH_TIMEOUT`] has passed.
    /// For the end of a process only.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if let Some(queue) = &self.inner.queue
            && queue.try_send(Message::Flush(done)).is_ok()
        {
            // Either way the process is about to end.
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write_lines(lines: &Receiver<Message>, mut stream: impl Write) {
    while let Ok(message) = lines.recv() {
        match message {
            // A stream that is gone takes nothing more; lines are drained so that nobody blocks.
            Message::Line(line) => {
                let _ = stream.write_all(&line).and_then(|()| stream.flush());
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread ends once the queue is closed and empty. It is not awaited: a stream that
        // blocks for ever must not keep the process from ending.
        self.queue = None;
        drop(self.thread.get_mut().take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_end_in_one_newline_and_keep_their_order() {
        let captured = Captured::default();
        let writer = LineWriter::new(captured.clone()).expect("a thread");
        writer.write(b"one".to_vec());
        writer.write(b"two\n".to_vec());
        writer.flush();
        assert_eq!(captured.0.lock().as_slice(), b"one\ntwo\n");
        assert_eq!(writer.dropped(), 0);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        struct Blocked(Arc<Mutex<()>>);
        impl Write for Blocked {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                drop(self.0.lock());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        let writer = LineWriter::new(Blocked(Arc::clone(&gate))).expect("a thread");
        // One line may already be with the thread.
        for _ in 0..MAX_QUEUED_LINES + 11 {
            writer.write(b"line".to_vec());
        }
        assert!(
            (10..=11).contains(&writer.dropped()),
            "{}",
            writer.dropped()
        );
        drop(closed);
    }
}
