//! Every message of a warning or an error of the programs, against the pages in `docs`: who finds one
//! in a log looks for it there.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

const CRATES: [&str; 4] = ["serving", "queue-proxy", "activator", "autoscaler"];

/// Messages that no page names, each with why.
const UNNAMED: [(&str, &str); 1] = [(
    "The drain was cut short.",
    "only a program that embeds the sidecar ends its drain so, and none does",
)];

/// Shorter pieces of a message say nothing.
const MIN_LENGTH: usize = 8;

#[test]
fn every_warning_and_error_is_in_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let docs = files(&root.join("docs"), "md").into_iter();
    let docs: String = docs.map(|file| read(&file)).collect();
    let mut found = 0;
    let mut missing = Vec::new();
    let mut unnamed = Vec::new();
    for source in CRATES.map(|name| root.join(name).join("src")) {
        for file in files(&source, "rs") {
            for message in messages(&read(&file)) {
                found += 1;
                let quoted = quoted(&message);
                if UNNAMED.iter().any(|(name, _)| *name == message) {
                    unnamed.push(message);
                } else if quoted.len() >= MIN_LENGTH && !docs.contains(&format!("`{quoted}")) {
                    missing.push(format!("{}: {message}", file.display()));
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
        fn f() {
            tracing::warn!(name = "field", %error, "plain: {error}");
            select! { _ = a => error!(f("x"), "two \"lines\" \
                 joined", "argument") }
            compile_error!("not a log");
            let text = r#"warn!("in a string")"#;
        }
        #[cfg(test)]
        mod tests {
            fn f() { tracing::warn!("of a test"); }
        }
    "##;
    assert_eq!(messages(source), ["plain: {error}", "two \"lines\" joined"]);
    assert_eq!(quoted("plain: {error}"), "plain");
    assert_eq!(quoted("failed to export {signal:?}"), "failed to export");
}

/// What a page has of a message at least: all up to its first colon or placeholder.
fn quoted(message: &str) -> &str {
    let end = message.find([':', '{']).unwrap_or(message.len());
    message[..end].trim()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
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

/// The messages of all calls of `warn!` and `error!`, without those of modules of tests.
fn messages(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(source.parse().expect("Rust"), &mut found);
    found
}

fn collect(tokens: TokenStream, found: &mut Vec<String>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut rest = &tokens[..];
    while let [first, others @ ..] = rest {
        rest = others;
        match rest {
            [
                TokenTree::Group(attribute),
                TokenTree::Ident(module),
                _,
                TokenTree::Group(_),
                next @ ..,
            ] if module == "mod" && attribute.stream().to_string() == "cfg (test)" => {
                rest = next;
            }
            [TokenTree::Punct(mark), TokenTree::Group(arguments), ..]
                if mark.as_char() == '!' && is_log(first) =>
            {
                found.push(message(arguments.stream()));
            }
            _ => {}
        }
        if let TokenTree::Group(group) = first {
            collect(group.stream(), found);
        }
    }
}

fn is_log(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(name) if name == "warn" || name == "error")
}

/// The first literal of a call's arguments that is not the value of a field.
fn message(arguments: TokenStream) -> String {
    let mut is_value = false;
    for token in arguments {
        if let TokenTree::Literal(literal) = &token
            && !is_value
        {
            return text(&literal.to_string());
        }
        is_value = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == '=');
    }
    panic!("a call without a message");
}

/// A string literal's text. An escaped end of a line leaves out the blanks that follow.
fn text(literal: &str) -> String {
    let inner = literal.trim_start_matches('r').trim_matches('#');
    let inner = &inner[1..inner.len() - 1];
    let mut lines = inner.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let joined = lines.fold(first, |text, line| text + line.trim_start());
    joined.replace("\\\"", "\"").replace("\\\\", "\\")
}
