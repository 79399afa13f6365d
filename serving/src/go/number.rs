//! Integers, floats and booleans: Go's `strconv`, and the two ways `fmt` prints a float.

use super::text::quote;

/// A text that is not the number or boolean it should be, worded like Go's `strconv.NumError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strconv.{function}: parsing {}: {problem}", quote(.text))]
pub struct InvalidNumber {
    /// The Go function that would have failed, e.g. `ParseInt`.
    pub function: &'static str,
    /// What was to be parsed.
    pub text: String,
    /// What is wrong with it.
    pub problem: NumberProblem,
}

/// What is wrong with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberProblem {
    /// Not a number in this notation (Go's `ErrSyntax`).
    #[error("invalid syntax")]
    Syntax,
    /// A number that the type cannot hold (Go's `ErrRange`).
    #[error("value out of range")]
    Range,
}

/// Parses a decimal integer with optional sign that fits into `bits` bits (1 to 64).
/// Upstream: `strconv.ParseInt(text, 10, bits)`.
pub fn parse_int(text: &str, bits: u32) -> Result<i64, InvalidNumber> {
    signed(text, Base::Ten, bits)
}

/// Like [`parse_int`], with the base taken from the text: `0x`, `0b`, `0o`, or octal after a plain
/// leading zero, and `_` allowed between digits. Upstream: `strconv.ParseInt(text, 0, bits)`.
pub fn parse_int_any_base(text: &str, bits: u32) -> Result<i64, InvalidNumber> {
    signed(text, Base::FromPrefix, bits)
}

/// Parses a decimal integer without sign that fits into `bits` bits (1 to 64).
/// Upstream: `strconv.ParseUint(text, 10, bits)`.
pub fn parse_uint(text: &str, bits: u32) -> Result<u64, InvalidNumber> {
    unsigned(text, Base::Ten, bits).map_err(|problem| invalid("ParseUint", text, problem))
}

/// Parses a boolean: `1 t T TRUE true True` or `0 f F FALSE false False`.
/// Upstream: `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, InvalidNumber> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(invalid("ParseBool", text, NumberProblem::Syntax)),
    }
}

/// Parses a float: decimal or hexadecimal, with exponent, `inf`, `infinity` or `nan` in any case,
/// `_` between digits. A number too large for a double is an error, one too small becomes zero.
/// Upstream: `strconv.ParseFloat(text, 64)`.
pub fn parse_float(text: &str) -> Result<f64, InvalidNumber> {
    float(text).map_err(|problem| invalid("ParseFloat", text, problem))
}

/// Prints a float as Go's `%v`: the shortest digits that parse back to the same value, with an
/// exponent (of at least two digits) below 1e-4 and from 1e6.
pub fn format_float(value: f64) -> String {
    if !value.is_finite() {
        return not_finite(value);
    }
    let scientific = shortest(value);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    format!("{value}")
}

/// The shortest digits that parse back to the value, with an exponent. Of two that are equally near,
/// Go chooses the even one and the standard library the larger.
fn shortest(value: f64) -> String {
    let text = format!("{value:e}");
    let digits = text
        .bytes()
        .take_while(|c| *c != b'e')
        .filter(u8::is_ascii_digit)
        .count();
    let nearest = format!("{value:.*e}", digits.saturating_sub(1));
    if nearest.parse() == Ok(value) {
        nearest
    } else {
        text
    }
}

/// Prints a float as Go's `%f`: six digits after the point.
pub fn format_float_fixed(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.6}")
    } else {
        not_finite(value)
    }
}

fn not_finite(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value > 0.0 {
        "+Inf".to_owned()
    } else {
        "-Inf".to_owned()
    }
}

fn invalid(function: &'static str, text: &str, problem: NumberProblem) -> InvalidNumber {
    InvalidNumber {
        function,
        text: text.to_owned(),
        problem,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Base {
    Ten,
    FromPrefix,
}

fn signed(text: &str, base: Base, bits: u32) -> Result<i64, InvalidNumber> {
    let fail = |problem| invalid("ParseInt", text, problem);
    let (negative, magnitude) = split_sign(text);
    let magnitude = unsigned(magnitude, base, bits).map_err(fail)?;
    let limit = 1_u64 << (bits - 1);
    let value = if negative {
        0_i64.checked_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).ok()
    };
    let fits = if negative {
        magnitude <= limit
    } else {
        magnitude < limit
    };
    match value {
        Some(value) if fits => Ok(value),
        _ => Err(fail(NumberProblem::Range)),
    }
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// The first problem met from left to right decides, as in Go: a number that is already too large
/// is out of range whatever follows.
fn unsigned(text: &str, base: Base, bits: u32) -> Result<u64, NumberProblem> {
    if text.is_empty() {
        return Err(NumberProblem::Syntax);
    }
    let (radix, digits) = match base {
        Base::Ten => (10, text.as_bytes()),
        Base::FromPrefix => split_prefix(text.as_bytes()),
    };
    let limit = u64::MAX >> (64 - bits);
    let mut underscores = false;
    let mut value = 0_u64;
    for &c in digits {
        if c == b'_' && base == Base::FromPrefix {
            underscores = true;
            continue;
        }
        let digit = char::from(c).to_digit(radix).ok_or(NumberProblem::Syntax)?;
        value = value
            .checked_mul(u64::from(radix))
            .and_then(|shifted| shifted.checked_add(u64::from(digit)))
            .filter(|value| *value <= limit)
            .ok_or(NumberProblem::Range)?;
    }
    if underscores && !underscores_are_placed_well(text.as_bytes()) {
        return Err(NumberProblem::Syntax);
    }
    Ok(value)
}

fn split_prefix(text: &[u8]) -> (u32, &[u8]) {
    match text {
        [b'0', b'b' | b'B', rest @ ..] if !rest.is_empty() => (2, rest),
        [b'0', b'o' | b'O', rest @ ..] if !rest.is_empty() => (8, rest),
        [b'0', b'x' | b'X', rest @ ..] if !rest.is_empty() => (16, rest),
        [b'0', rest @ ..] => (8, rest),
        _ => (10, text),
    }
}

/// Underscores may stand between digits and between a base prefix and a digit. The text has no
/// other faults at this point, or they have been found. Upstream: `strconv.underscoreOK`.
fn underscores_are_placed_well(text: &[u8]) -> bool {
    #[derive(PartialEq)]
    enum Last {
        Digit,
        Underscore,
        Other,
    }
    let text = match text {
        [b'+' | b'-', rest @ ..] => rest,
        _ => text,
    };
    let (mut last, digits, hexadecimal) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (Last::Digit, rest, true),
        [b'0', b'b' | b'B' | b'o' | b'O', rest @ ..] => (Last::Digit, rest, false),
        _ => (Last::Other, text, false),
    };
    for c in digits {
        let is_digit = c.is_ascii_digit() || hexadecimal && c.is_ascii_hexdigit();
        let next = match c {
            _ if is_digit => Last::Digit,
            b'_' if last == Last::Digit => Last::Underscore,
            b'_' => return false,
            _ if last == Last::Underscore => return false,
            _ => Last::Other,
        };
        last = next;
    }
    last != Last::Underscore
}

fn float(text: &str) -> Result<f64, NumberProblem> {
    let (negative, unsigned) = split_sign(text);
    let bytes = unsigned.as_bytes();
    if ["inf", "infinity"]
        .iter()
        .any(|word| unsigned.eq_ignore_ascii_case(word))
    {
        return Ok(if negative {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        });
    }
    // A signed NaN is not a number to Go.
    if text.eq_ignore_ascii_case("nan") {
        return Ok(f64::NAN);
    }
    // As in Go, "0x" alone is not a prefix; it then fails as decimal.
    let value = match bytes {
        [b'0', b'x' | b'X', digits @ ..] if !digits.is_empty() => hexadecimal(digits)?,
        _ => {
            check_decimal(bytes)?;
            let plain: String = unsigned.chars().filter(|c| *c != '_').collect();
            plain.parse().map_err(|_| NumberProblem::Syntax)?
        }
    };
    if bytes.contains(&b'_') && !underscores_are_placed_well(bytes) {
        return Err(NumberProblem::Syntax);
    }
    if value == f64::INFINITY {
        return Err(NumberProblem::Range);
    }
    Ok(if negative { -value } else { value })
}

/// Digits with at most one point, then perhaps `e`, a sign, and digits; underscores are ignored
/// except right after the sign.
fn check_decimal(text: &[u8]) -> Result<(), NumberProblem> {
    let end = text
        .iter()
        .position(|c| matches!(c, b'e' | b'E'))
        .unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(end);
    check_mantissa(mantissa, u8::is_ascii_digit)?;
    match exponent {
        [] => Ok(()),
        [_, digits @ ..] => read_exponent(digits).map(drop),
    }
}

fn check_mantissa(text: &[u8], is_digit: fn(&u8) -> bool) -> Result<(), NumberProblem> {
    let points = text.iter().filter(|c| **c == b'.').count();
    let digits = text.iter().filter(|c| is_digit(c)).count();
    let underscores = text.iter().filter(|c| **c == b'_').count();
    if points <= 1 && digits >= 1 && points + digits + underscores == text.len() {
        Ok(())
    } else {
        Err(NumberProblem::Syntax)
    }
}

/// An exponent without its letter. Far beyond what any double can have, its value no longer counts.
fn read_exponent(text: &[u8]) -> Result<i64, NumberProblem> {
    const CAP: i64 = 10_000;
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        return Err(NumberProblem::Syntax);
    }
    let mut value = 0;
    for c in digits {
        match c {
            b'_' => {}
            b'0'..=b'9' if value < CAP => value = value * 10 + i64::from(c - b'0'),
            b'0'..=b'9' => {}
            _ => return Err(NumberProblem::Syntax),
        }
    }
    Ok(if negative { -value } else { value })
}

/// A hexadecimal float after its `0x`; the binary exponent is obligatory.
fn hexadecimal(text: &[u8]) -> Result<f64, NumberProblem> {
    let end = text
        .iter()
        .position(|c| matches!(c, b'p' | b'P'))
        .ok_or(NumberProblem::Syntax)?;
    let (mantissa, exponent) = text.split_at(end);
    check_mantissa(mantissa, u8::is_ascii_hexdigit)?;
    let mut exponent = read_exponent(&exponent[1..])?;
    let mut value = 0_u64;
    let mut lost = false;
    let mut after_point = false;
    for c in mantissa {
        let Some(digit) = char::from(*c).to_digit(16) else {
            after_point |= *c == b'.';
            continue;
        };
        let room = value >> 60 == 0;
        if room {
            value = value << 4 | u64::from(digit);
        } else {
            lost |= digit != 0;
        }
        exponent += match (room, after_point) {
            (true, true) => -4,
            (false, false) => 4,
            _ => 0,
        };
    }
    Ok(compose(value, exponent, lost))
}

/// The double nearest to `mantissa * 2^exponent`, ties to even; `lost` says that the true mantissa
/// is a little larger.
fn compose(mantissa: u64, exponent: i64, lost: bool) -> f64 {
    const MANTISSA_BITS: i64 = 52;
    const MIN_EXPONENT: i64 = -1022;
    const MAX_EXPONENT: i64 = 1023;
    if mantissa == 0 {
        return 0.0;
    }
    let leading = mantissa.leading_zeros();
    let mantissa = mantissa << leading;
    // The value is mantissa / 2^63 * 2^magnitude.
    let magnitude = exponent + 63 - i64::from(leading);
    if magnitude > MAX_EXPONENT {
        return f64::INFINITY;
    }
    let missing = (MIN_EXPONENT - magnitude).max(0);
    let kept = MANTISSA_BITS + 1 - missing;
    if kept < 0 {
        return 0.0;
    }
    let dropped = 64 - kept;
    let wide = u128::from(mantissa);
    let quotient = wide >> dropped;
    let rest = wide & ((1 << dropped) - 1);
    let half = 1_u128 << (dropped - 1);
    let up = rest > half || rest == half && (lost || quotient & 1 == 1);
    // At most 2^53, so nothing is cut off.
    let rounded = u64::try_from(quotient).unwrap_or(u64::MAX) + u64::from(up);
    // A carry out of the mantissa correctly raises the exponent, also from the largest subnormal
    // to the smallest normal and from the largest double to infinity.
    let biased = if missing > 0 {
        0
    } else {
        u64::try_from(magnitude - MIN_EXPONENT).unwrap_or(0)
    };
    f64::from_bits((biased << MANTISSA_BITS) + rounded)
}
