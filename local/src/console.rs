//! Everything this program and its replicas print, line by line, from one thread of its own.
//!
//! A terminal or pipe that nobody reads must not stop requests: replicas wait for room, as they
//! would with a pipe of their own, and messages of this program are dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::sync::mpsc;

/// Lines that may wait to be written.
const WAITING_LINES: usize = 1024;

/// Colours of prefixes, told apart on dark and light grounds.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// A handle for printing; clones share.
#[derive(Clone, Debug)]
pub struct Console {
    lines: mpsc::Sender<(Stream, Vec<u8>)>,
    dropped: Arc<AtomicU64>,
    colour: bool,
}

/// Waits for the writing thread; see [`Console::start`].
#[derive(Debug)]
pub struct Writer {
    thread: Option<thread::JoinHandle<()>>,
}

// === impl Console ===

impl Console {
    /// Starts the writing thread. The [`Writer`] is to be kept: finishing it writes what waits.
    pub fn start(no_colour: bool) -> io::Result<(Self, Writer)> {
        let (lines, waiting) = mpsc::channel(WAITING_LINES);
        let thread = thread::Builder::new()
            .name("console".into())
            .spawn(move || write_lines(waiting, &mut io::stdout(), &mut io::stderr()))?;
        let console = Self {
            lines,
            dropped: Arc::default(),
            colour: !no_colour && io::stdout().is_terminal() && io::stderr().is_terminal(),
        };
        Ok((
            console,
            Writer {
                thread: Some(thread),
            },
        ))
    }

    /// A console whose lines the caller receives instead of a terminal.
    pub fn to_channel() -> (Self, mpsc::Receiver<(Stream, Vec<u8>)>) {
        let (lines, waiting) = mpsc::channel(WAITING_LINES);
        let console = Self {
            lines,
            dropped: Arc::default(),
            colour: false,
        };
        (console, waiting)
    }

    /// Prints a message of this program.
    pub fn say(&self, message: impl std::fmt::Display) {
        self.try_print(format!("pilotlight | {message}\n").into_bytes());
    }

    /// Prints what must be done about something.
    pub fn complain(&self, message: impl std::fmt::Display) {
        let (on, off) = if self.colour {
            ("\x1b[1;31m", "\x1b[0m")
        } else {
            ("", "")
        };
        self.try_print(format!("pilotlight | {on}error:{off} {message}\n").into_bytes());
    }

    /// Prints bytes that end in a newline to standard error, or counts them as dropped.
    pub fn try_print(&self, line: Vec<u8>) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let line = if dropped == 0 {
            line
        } else {
            let mut with_note = format!("pilotlight | {dropped} messages were dropped here\n");
            with_note.push_str(&String::from_utf8_lossy(&line));
            with_note.into_bytes()
        };
        if self.lines.try_send((Stream::Error, line)).is_ok() {
            self.dropped.fetch_sub(dropped, Ordering::Relaxed);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Prints a line of a replica, waiting for room. Cancel-safe: nothing is printed then.
    pub async fn print(&self, stream: Stream, line: Vec<u8>) {
        // Without a writer the program is ending.
        let _ = self.lines.send((stream, line)).await;
    }

    /// What stands before the lines of a replica.
    pub fn prefix(&self, revision: &str, replica: u64) -> String {
        if self.colour {
            let colour = COLOURS[usize::try_from(replica).unwrap_or(0) % COLOURS.len()];
            format!("\x1b[{colour}m{revision} {replica} |\x1b[0m ")
        } else {
            format!("{revision} {replica} | ")
        }
    }
}

impl Writer {
    /// Writes what waits and ends. To be called when every [`Console`] but those of abandoned tasks
    /// is gone; `console` is the last one.
    pub fn finish(mut self, console: Console) {
        // An empty line that cannot be queued means nobody reads: there is nothing to wait for.
        let ended = console.lines.try_send((Stream::Error, Vec::new())).is_ok();
        drop(console);
        if let Some(thread) = self.thread.take()
            && ended
        {
            let _ = thread.join();
        }
    }
}

/// An empty line ends it.
fn write_lines(
    mut waiting: mpsc::Receiver<(Stream, Vec<u8>)>,
    out: &mut dyn Write,
    error: &mut dyn Write,
) {
    while let Some((stream, line)) = waiting.blocking_recv() {
        if line.is_empty() {
            return;
        }
        // There is nowhere to complain about a broken output.
        let _ = match stream {
            Stream::Out => out.write_all(&line).and_then(|()| out.flush()),
            Stream::Error => error.write_all(&line),
        };
    }
}

/// Lets the log write through a console.
impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Console {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogLine {
            console: self,
            line: Vec::new(),
        }
    }
}

/// One log line being put together.
#[derive(Debug)]
pub struct LogLine<'a> {
    console: &'a Console,
    line: Vec<u8>,
}

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.console.try_print(std::mem::take(&mut self.line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_beyond_the_bound_are_counted_and_told_later() {
        let (console, mut waiting) = Console::to_channel();
        for number in 0..WAITING_LINES + 2 {
            console.say(number);
        }
        for _ in 0..2 {
            waiting.try_recv().expect("a line");
        }
        console.say("after");
        let mut last = Vec::new();
        while let Ok((_, line)) = waiting.try_recv() {
            last = line;
        }
        assert_eq!(
            String::from_utf8_lossy(&last),
            "pilotlight | 2 messages were dropped here\npilotlight | after\n"
        );
    }

    #[test]
    fn lines_are_written_until_the_empty_one() {
        let (console, waiting) = Console::to_channel();
        console.say("one");
        console.try_print(Vec::new());
        console.say("two");
        let (mut out, mut error) = (Vec::new(), Vec::new());
        write_lines(waiting, &mut out, &mut error);
        assert_eq!(String::from_utf8_lossy(&error), "pilotlight | one\n");
        assert!(out.is_empty());
    }
}
