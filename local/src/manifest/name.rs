//! The rules for names that Kubernetes and Knative share.

/// The longest label Kubernetes allows.
const MAX_LABEL: usize = 63;

/// Checks a DNS-1035 label: lower-case letters, digits and `-`, a letter first, no `-` at the end,
/// at most 63 characters. The rule broken is the error.
pub fn dns_1035_label(name: &str) -> Result<(), String> {
    if name.len() > MAX_LABEL {
        return Err(format!(
            "not a DNS 1035 label: {} characters, at most {MAX_LABEL} are allowed",
            name.len()
        ));
    }
    let bytes = name.as_bytes();
    let letter_first = bytes.first().is_some_and(u8::is_ascii_lowercase);
    let alphanumeric_last = bytes
        .last()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let all = bytes
        .iter()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    if letter_first && alphanumeric_last && all {
        return Ok(());
    }
    Err(format!(
        "not a DNS 1035 label: {name:?} must consist of lower-case letters, digits and '-', start with a letter and end with a letter or digit"
    ))
}

/// Checks a DNS-1123 label: as [`dns_1035_label`], but a digit may come first.
pub fn dns_1123_label(name: &str) -> Result<(), String> {
    let with_letter = format!("a{name}");
    if !name.is_empty() && !name.starts_with('-') && dns_1035_label(&with_letter).is_ok() {
        return Ok(());
    }
    Err(format!(
        "not a DNS 1123 label: {name:?} must consist of lower-case letters, digits and '-', start and end with a letter or digit, and have fewer than {MAX_LABEL} characters"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "hello", "hello-00001", "a-1", &"a".repeat(63)] {
            assert_eq!(dns_1035_label(good), Ok(()), "{good}");
            assert_eq!(dns_1123_label("1a"), Ok(()));
        }
        for bad in [
            "",
            "1a",
            "-a",
            "a-",
            "Hello",
            "a.b",
            "a_b",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(dns_1035_label(bad).is_err(), "{bad}");
        }
        assert!(dns_1123_label("").is_err());
        assert!(dns_1123_label("-").is_err());
    }
}
