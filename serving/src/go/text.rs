//! Text inside messages: `strconv.Quote` and `html.EscapeString`.

use std::fmt::Write as _;

/// Quotes text the way Go's `%q` does: double quotes, backslash escapes, and `\x`, `\u` or `\U`
/// for what cannot be printed. Upstream: `strconv/quote.go`, `Quote`.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        push_quoted(&mut quoted, c);
    }
    quoted.push('"');
    quoted
}

fn push_quoted(into: &mut String, c: char) {
    match c {
        '"' | '\\' => {
            into.push('\\');
            into.push(c);
        }
        '\x07' => into.push_str("\\a"),
        '\x08' => into.push_str("\\b"),
        '\x0c' => into.push_str("\\f"),
        '\n' => into.push_str("\\n"),
        '\r' => into.push_str("\\r"),
        '\t' => into.push_str("\\t"),
        '\x0b' => into.push_str("\\v"),
        _ if is_printable(c) => into.push(c),
        _ => {
            let code = u32::from(c);
            // Writing to a String cannot fail.
            let _ = match code {
                0..0x20 | 0x7f => write!(into, "\\x{code:02x}"),
                ..0x1_0000 => write!(into, "\\u{code:04x}"),
                _ => write!(into, "\\U{code:08x}"),
            };
        }
    }
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII space: the same classes in Go's
/// `unicode.IsPrint` and in what the standard library leaves unescaped. Marks are only left alone
/// after another character, hence the letter in front.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    let mut pair = [b'a', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut pair[1..]).len();
    let pair = std::str::from_utf8(&pair[..=length]).unwrap_or_default();
    pair.escape_debug().nth(1) == Some(c)
}

/// Replaces the five characters that HTML gives a meaning, with the entities that Go's
/// `html.EscapeString` chooses.
pub fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '\'' => escaped.push_str("&#39;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            _ => escaped.push(c),
        }
    }
    escaped
}
