//! What an app prints: read line by line with a bound, prefixed, handed to the console.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::console::{Console, Stream};

/// A longer line is printed in pieces of this many bytes.
pub const MAX_LINE: usize = 16 * 1024;

/// Copies a stream to the console until it ends.
pub async fn copy(mut from: impl AsyncRead + Unpin, to: Console, stream: Stream, prefix: String) {
    let mut lines = Lines::default();
    let mut chunk = vec![0; 8 * 1024];
    loop {
        // An error of a pipe means the same as its end.
        let read = from.read(&mut chunk).await.unwrap_or(0);
        if read == 0 {
            break;
        }
        for line in lines.push(&chunk[..read]) {
            to.print(stream, prefixed(&prefix, &line)).await;
        }
    }
    if let Some(rest) = lines.finish() {
        to.print(stream, prefixed(&prefix, &rest)).await;
    }
}

fn prefixed(prefix: &str, line: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(prefix.len() + line.len() + 1);
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(line);
    text.push(b'\n');
    text
}

/// Splits a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, tail) = bytes.split_at(at);
            self.take(line, &mut lines);
            let mut line = std::mem::take(&mut self.rest);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            lines.push(line);
            bytes = &tail[1..];
        }
        self.take(bytes, &mut lines);
        lines
    }

    /// Keeps bytes, putting out full pieces.
    fn take(&mut self, mut bytes: &[u8], lines: &mut Vec<Vec<u8>>) {
        while self.rest.len() + bytes.len() > MAX_LINE {
            let (piece, tail) = bytes.split_at(MAX_LINE - self.rest.len());
            self.rest.extend_from_slice(piece);
            lines.push(std::mem::take(&mut self.rest));
            bytes = tail;
        }
        self.rest.extend_from_slice(bytes);
    }

    fn finish(self) -> Option<Vec<u8>> {
        (!self.rest.is_empty()).then_some(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let mut lines = Lines::default();
        assert!(lines.push(b"one").is_empty());
        assert_eq!(
            lines.push(b" and\r\n\ntwo\nthr"),
            [&b"one and"[..], b"", b"two"]
        );
        assert_eq!(lines.finish(), Some(b"thr".to_vec()));
    }

    #[test]
    fn long_lines_are_printed_in_pieces() {
        let mut lines = Lines::default();
        let long = vec![b'x'; 2 * MAX_LINE + 5];
        let mut out = lines.push(&long);
        out.extend(lines.push(b"\n"));
        let lengths: Vec<_> = out.iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 5]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(text in "[a-c\n]{0,40}", cut in 0_usize..40) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut lines = Lines::default();
            let mut out = lines.push(head);
            out.extend(lines.push(tail));
            out.extend(lines.finish());
            let expected: Vec<_> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            proptest::prop_assert_eq!(out, expected);
        }
    }
}
