//! `baggage`: name–value pairs that travel with a request. A proxy only passes them on, but as
//! Go's propagator does: the lines become one, members that do not parse are dropped, values are
//! percent-encoded anew. Go writes the members in no particular order; here they keep theirs.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Members that are passed on; the rest is dropped.
pub const MAX_MEMBERS: usize = 64;

/// Bytes of all lines together. More than that is neither read nor changed.
pub const MAX_BYTES: usize = 8192;

/// One member in its canonical form.
struct Member<'h> {
    key: &'h [u8],
    text: Vec<u8>,
}

/// Rewrites the headers' baggage. Without a single valid member everything stays as it came.
pub fn pass_on(headers: &mut HeaderMap) {
    if !headers.contains_key(BAGGAGE) {
        return;
    }
    if let Some(value) = canonical(headers) {
        headers.insert(BAGGAGE, value);
    }
}

fn canonical(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(BAGGAGE);
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    if bytes > MAX_BYTES + 1 {
        return None;
    }
    let mut members: Vec<Member<'_>> = Vec::new();
    let mut length = 0;
    for member in lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
    {
        let Some(member) = parse_member(member) else {
            continue;
        };
        length += member.text.len() + 1;
        // Encoding may have made it longer than what came in.
        if length > MAX_BYTES + 1 {
            break;
        }
        // Of several with one name the last counts.
        match members.iter().position(|other| other.key == member.key) {
            Some(at) => members[at] = member,
            None if members.len() < MAX_MEMBERS => members.push(member),
            None => break,
        }
    }
    let texts: Vec<&[u8]> = members.iter().map(|member| &*member.text).collect();
    if texts.is_empty() {
        return None;
    }
    HeaderValue::try_from(texts.join(&b',')).ok()
}

fn parse_member(member: &[u8]) -> Option<Member<'_>> {
    let mut parts = member.split(|byte| *byte == b';');
    let (key, value) = split_pair(parts.next()?)?;
    if !is_key(key) {
        return None;
    }
    let mut text = [key, b"="].concat();
    push_escaped(&mut text, &unescape(value)?);
    let mut has_properties = false;
    for property in parts {
        has_properties = true;
        // An empty property is accepted and left out.
        if property.is_empty() {
            continue;
        }
        text.push(b';');
        push_property(&mut text, property)?;
    }
    if has_properties && !text.contains(&b';') {
        text.push(b';');
    }
    Some(Member { key, text })
}

fn push_property(text: &mut Vec<u8>, property: &[u8]) -> Option<()> {
    match split_pair(property) {
        None => {
            let key = trim(property);
            if !is_key(key) {
                return None;
            }
            text.extend_from_slice(key);
        }
        Some((key, value)) => {
            if !is_key(key) {
                return None;
            }
            text.extend_from_slice(key);
            text.push(b'=');
            push_escaped(text, &unescape(value)?);
        }
    }
    Some(())
}

fn split_pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((trim(&text[..at]), trim(&text[at + 1..])))
}

fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// A token of HTTP.
fn is_key(key: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !key.is_empty() && key.iter().all(is_token)
}

fn is_value_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

/// The value that percent-encoding stands for, with replacement characters for what is no UTF-8;
/// `None` if the value is malformed.
fn unescape(value: &[u8]) -> Option<Vec<u8>> {
    if !value.iter().all(|byte| is_value_byte(*byte)) {
        return None;
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.push(*byte);
        }
    }
    Some(match String::from_utf8_lossy(&bytes) {
        std::borrow::Cow::Borrowed(_) => bytes,
        std::borrow::Cow::Owned(text) => text.into_bytes(),
    })
}

fn push_escaped(text: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        if is_value_byte(*byte) && *byte != b'%' {
            text.push(*byte);
        } else {
            text.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}
