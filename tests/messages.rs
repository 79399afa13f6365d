//! Every message of a warning or an error of the programs, against the pages in `docs`: who finds one
//! in a log looks for it there.

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 4] = ["serving", "queue-proxy", "activator", "autoscaler"];

/// Messages that no page names, each with why.
const UNNAMED: [(&str, &str); 1] = [(
    "The drain was cut short.",
    "only a program that embeds the sidecar ends its drain so, and none does",
)];

/// Shorter pieces of a message say nothing.
const MIN_LENGTH: usize = 8;

/// A warning or an error in the source.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    line: usize,
    message: Option<String>,
}

#[test]
fn every_warning_and_error_is_in_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let docs = files(&root.join("docs"), "md").into_iter().map(read);
    let docs: String = docs.collect();
    let mut found = 0;
    let mut missing = Vec::new();
    let mut unnamed = Vec::new();
    for source in CRATES.map(|name| root.join(name).join("src")) {
        for file in files(&source, "rs") {
            let place = file.strip_prefix(root).expect("a file of it").to_owned();
            for Call { line, message } in calls(&read(file)) {
                found += 1;
                let place = format!("{}:{line}", place.display());
                let message = message.unwrap_or_else(|| panic!("{place}: no message"));
                let quoted = quoted(&message);
                if UNNAMED.iter().any(|(name, _)| *name == message) {
                    unnamed.push(message);
                } else if quoted.len() >= MIN_LENGTH && !docs.contains(&format!("`{quoted}")) {
                    missing.push(format!("{place}: {message}"));
                }
            }
        }
    }
    assert!(found > 50, "only {found} calls were found");
    assert!(missing.is_empty(), "in no page:\n{}", missing.join("\n"));
    for (name, _) in UNNAMED {
        assert!(unnamed.iter().any(|it| it == name), "nobody says {name:?}");
    }
}

#[test]
fn messages_are_found() {
    let source = r##"
        // tracing::warn!("a comment");
        fn f<'a>(quote: char) -> &'a str {
            tracing::warn!(name = "field", %error, "plain: {error}");
            if quote == '"' { error!(
                "two \"lines\" \
                 joined", "argument"
            ) }
            compile_error!("not a log");
            tracing::error!("{problem}"); /* error!("/* nested */") */
            let text = r#"warn!("in a string")"#;
            warn!(of, g("x"));
            text
        }
        #[cfg(test)]
        mod tests {
            fn f() { tracing::warn!("of a test"); }
        }
    "##;
    let call = |line, message: &str| Call {
        line,
        message: Some(message.to_owned()),
    };
    assert_eq!(
        calls(source),
        [
            call(4, "plain: {error}"),
            call(5, "two \"lines\" joined"),
            call(10, "{problem}"),
            Call {
                line: 12,
                message: None
            },
        ]
    );
    assert_eq!(quoted("plain: {error}"), "plain");
    assert_eq!(quoted("failed to export {signal:?}"), "failed to export");
}

/// What a page has of a message at least: all up to its first colon or placeholder.
fn quoted(message: &str) -> &str {
    let end = message.find([':', '{']).unwrap_or(message.len());
    message[..end].trim()
}

fn read(file: PathBuf) -> String {
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All files with this ending that are no tests, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The calls of `warn!` and `error!`, without those of a module of tests at the end of the file.
fn calls(source: &str) -> Vec<Call> {
    let tests = source.match_indices("#[cfg(test)]").find(|(at, _)| {
        let module = source[at + "#[cfg(test)]".len()..].trim_start();
        let head = module.lines().next().unwrap_or_default();
        head.starts_with("mod ") && head.ends_with('{')
    });
    let source = tests.map_or(source, |(at, _)| &source[..at]);
    let mut found = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        let begins = !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name = ["warn!(", "error!("]
            .iter()
            .find(|it| rest.starts_with(**it));
        if let (true, Some(name)) = (begins, name) {
            let line = 1 + source[..at].matches('\n').count();
            let message = message(&rest[name.len()..]);
            found.push(Call { line, message });
        }
        at += token(rest).0;
    }
    found
}

/// The first literal between the parentheses of a call that is neither the value of a field nor an
/// argument of another call.
fn message(arguments: &str) -> Option<String> {
    let (mut at, mut depth, mut is_value) = (0, 0, false);
    while at < arguments.len() {
        let rest = &arguments[at..];
        let (length, literal) = token(rest);
        match rest.chars().next() {
            Some('(' | '[' | '{') => depth += 1,
            Some(')') if depth == 0 => return None,
            Some(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 && !is_value && literal.is_some() {
            return literal;
        }
        if !rest.starts_with(char::is_whitespace) {
            is_value = rest.starts_with('=');
        }
        at += length;
    }
    None
}

/// The length of the comment, literal or other piece that `source` begins with, and the text of a
/// string literal.
fn token(source: &str) -> (usize, Option<String>) {
    if source.starts_with("//") {
        return (source.find('\n').unwrap_or(source.len()), None);
    }
    if source.starts_with("/*") {
        return (comment(source), None);
    }
    if let Some(inner) = source.strip_prefix('"') {
        let (length, text) = string(inner);
        return (1 + length, Some(text));
    }
    if let Some(inner) = source.strip_prefix('r') {
        let text = inner.trim_start_matches('#');
        let end = format!("\"{}", &inner[..inner.len() - text.len()]);
        if let Some(text) = text.strip_prefix('"') {
            let length = text.find(&end).expect("the end of a string");
            let rest = text.len() - length - end.len();
            return (source.len() - rest, Some(text[..length].to_owned()));
        }
    }
    if let Some(inner) = source.strip_prefix('\'') {
        let mut characters = inner.char_indices();
        let first = characters.next().map(|(_, first)| first);
        let end = match first {
            Some('\\') => inner[2..].find('\'').map(|end| 2 + end),
            // What is followed by no quote is a lifetime.
            _ => characters.next().filter(|(_, c)| *c == '\'').map(|it| it.0),
        };
        return (end.map_or(1, |end| end + 2), None);
    }
    (source.chars().next().map_or(0, char::len_utf8), None)
}

/// The length of a comment between stars, which may hold others.
fn comment(source: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The text of a string literal behind its first quote, and the length with the last one.
fn string(inner: &str) -> (usize, String) {
    let mut text = String::new();
    let mut characters = inner.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (at + 1, text),
            '\\' => match characters.next() {
                // The line goes on with the next one's first word.
                Some((_, '\n')) => while characters.next_if(|it| it.1.is_whitespace()).is_some() {},
                Some((_, escaped)) => text.push(escaped),
                None => {}
            },
            other => text.push(other),
        }
    }
    panic!("a string without an end: {inner:.40}");
}
