//! Reads a trace or a scenario whole, up to a limit.

use std::fs::File;
use std::io::Read;

use crate::exit::{self, Exit};

/// The longest file that is read: five million lines of a trace have about that.
const MAX_BYTES: u64 = 256 << 20;

/// The text of the file `path`, or of `stdin` when it is `-`.
pub(super) fn read(path: &str, stdin: &mut dyn Read) -> Result<String, Exit> {
    read_at_most(path, stdin, MAX_BYTES)
}

fn read_at_most(path: &str, stdin: &mut dyn Read, limit: u64) -> Result<String, Exit> {
    let failed = |what: String| Exit::new(exit::INVALID_MANIFEST, format!("{path}: {what}"));
    let unreadable = |error| failed(format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    if path == "-" {
        stdin.take(limit + 1).read_to_end(&mut bytes)
    } else {
        let file = File::open(path).map_err(unreadable)?;
        file.take(limit + 1).read_to_end(&mut bytes)
    }
    .map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(failed(format!("longer than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| failed("not UTF-8 text".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_or_standard_input_up_to_the_limit() {
        let read = |text: &[u8]| read_at_most("-", &mut &*text, 4).map_err(|exit| exit.message);
        assert_eq!(read(b"abcd"), Ok("abcd".to_owned()));
        assert_eq!(read(b"abcde"), Err("-: longer than 4 bytes".to_owned()));
        assert_eq!(read(b"\xff"), Err("-: not UTF-8 text".to_owned()));
        let absent = read_at_most("absent.csv", &mut &b""[..], 4).unwrap_err();
        assert!(absent.message.starts_with("absent.csv: cannot be read: "));
        assert_eq!(absent.code, exit::INVALID_MANIFEST);
    }
}
