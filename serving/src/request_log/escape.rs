//! Text the way Go prints it.

use std::io::Write as _;

use crate::go::{format_float, quote};

/// `template.JSEscape`: also an equals sign and everything that cannot be printed; bytes that are not
/// UTF-8 stay as they are.
pub(super) fn write_js(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(|letter: char| !is_plain(letter)) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            let letter = rest[at..].chars().next().unwrap_or_default();
            write_special(letter, out);
            rest = &rest[at + letter.len_utf8()..];
        }
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
}

/// Needs no look: all of ASCII that is not escaped.
fn is_plain(letter: char) -> bool {
    matches!(letter, ' '..='\x7f') && !matches!(letter, '\\' | '\'' | '"' | '<' | '>' | '&' | '=')
}

fn write_special(letter: char, out: &mut Vec<u8>) {
    match letter {
        '\\' | '\'' | '"' => out.extend_from_slice(&[b'\\', letter as u8]),
        other if !other.is_ascii() && is_printable(other) => {
            out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
        }
        other => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "\\u{:04X}", u32::from(other));
        }
    }
}

/// Go's `unicode.IsPrint`, which decides whether quoting a character changes it.
fn is_printable(letter: char) -> bool {
    let mut buffer = [0; 4];
    let text: &str = letter.encode_utf8(&mut buffer);
    quote(text).contains(letter)
}

/// Go's `%v` of a float, without an allocation for ordinary latencies.
pub(super) fn write_float(value: f64, out: &mut Vec<u8>) {
    if value == 0.0 || (1e-4..1e21).contains(&value.abs()) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{value}");
    } else {
        out.extend_from_slice(format_float(value).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn js(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_js(text, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn escapes_as_go_does() {
        assert_eq!(
            js(b"/a?b=c&<'\"\\>"),
            r#"/a?b\u003Dc\u0026\u003C\'\"\\\u003E"#
        );
        assert_eq!(js(b"\t\x00\x7f"), "\\u0009\\u0000\x7f");
        assert_eq!(js("é✓\u{a0}\u{2028}".as_bytes()), "é✓\\u00A0\\u2028");
        let mut out = Vec::new();
        write_js(b"a\xff=b", &mut out);
        assert_eq!(out, b"a\xff\\u003Db");
    }

    #[test]
    fn floats_switch_to_exponents() {
        for (value, text) in [
            (0.0, "0"),
            (61.0, "61"),
            (0.0001, "0.0001"),
            (6.198e-6, "6.198e-06"),
            (1e21, "1e+21"),
            (123_456.789, "123456.789"),
        ] {
            let mut out = Vec::new();
            write_float(value, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
