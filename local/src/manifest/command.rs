//! Command lines: splitting one text into words as a shell would, and Kubernetes' `$(VAR)`.
//!
//! Pure. Nothing is executed here and no variable of this process is read.

/// Splits a command line into words: blanks separate, single and double quotes hold together, a
/// backslash takes the next character as it is (inside double quotes only before `"` and `\`).
/// Nothing else of a shell is understood.
pub fn split_words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(inner) => word.push(inner),
                        None => return Err("a single quote is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') if matches!(characters.peek(), Some('"' | '\\')) => {
                            word.extend(characters.next());
                        }
                        Some(inner) => word.push(inner),
                        None => return Err("a double quote is not closed"),
                    }
                }
            }
            '\\' => match characters.next() {
                Some(inner) => word.get_or_insert_default().push(inner),
                None => return Err("a backslash at the end has nothing to quote"),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Replaces `$(NAME)` by what `lookup` knows, as the kubelet does in `command`, `args` and `env`:
/// an unknown name stays as written, and `$$` stands for one `$`.
///
/// Counterpart of `Expand` in Kubernetes' `third_party/forked/golang/expansion`.
pub fn expand<'v>(text: &str, lookup: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let split = |line: &str| split_words(line).expect("valid");
        assert_eq!(split("  python  app.py "), ["python", "app.py"]);
        assert_eq!(
            split("sh -c 'echo \"$PORT\"'"),
            ["sh", "-c", "echo \"$PORT\""]
        );
        assert_eq!(split(r#"a "b \"c\" \d" e\ f"#), ["a", r#"b "c" \d"#, "e f"]);
        assert_eq!(split("a '' \"\""), ["a", "", ""]);
        assert!(split("").is_empty());
        for bad in ["'a", "\"a", "a\\"] {
            assert!(split_words(bad).is_err(), "{bad}");
        }
    }

    /// The scenarios of Kubernetes' `TestMapping` (expand_test.go).
    #[test]
    fn expansion() {
        let lookup = |name: &str| match name {
            "A" => Some("one"),
            "EMPTY" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("$(A)", "one"),
            ("x$(A)y$(A)", "xoneyone"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$(NOT)", "$(NOT)"),
            ("[$(EMPTY)]", "[]"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("a$$b", "a$b"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn words_without_quotes_survive_joining(words in proptest::collection::vec("[a-zA-Z0-9/._=-]{1,8}", 0..8)) {
            proptest::prop_assert_eq!(split_words(&words.join(" ")), Ok(words));
        }

        #[test]
        fn no_text_makes_either_function_panic(text in ".*") {
            let _ = split_words(&text);
            let _ = expand(&text, |_| None);
        }
    }
}
