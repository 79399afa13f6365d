//! `time.Duration`: its parser, its printed form, its rounding.

use std::fmt::Write as _;
use std::time::Duration;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The magnitude of the most negative duration; one more than the largest.
const MAGNITUDE_LIMIT: u64 = 1 << 63;

/// A text that is no duration, worded like Go's `time` package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not a sequence of numbers with units, or too long for 64 bits of nanoseconds.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number at the end, or before another number, without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit other than `ns us µs μs ms s m h`.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit that is not known.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Parses a duration such as `1h15m30.918s`, `-1.5ms` or `0`, in nanoseconds.
/// Upstream: `time.ParseDuration`.
pub fn parse_duration(text: &str) -> Result<i64, InvalidDuration> {
    let invalid = || InvalidDuration::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let term = Term::read(rest).ok_or_else(invalid)?;
        rest = term.rest;
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, after) = rest.split_at(end);
        if unit.is_empty() {
            return Err(InvalidDuration::MissingUnit(text.to_owned()));
        }
        let nanos = unit_nanos(unit).ok_or_else(|| InvalidDuration::UnknownUnit {
            unit: unit.to_owned(),
            text: text.to_owned(),
        })?;
        rest = after;
        total = term
            .times(nanos)
            .and_then(|nanos| total.checked_add(nanos))
            .filter(|total| *total <= MAGNITUDE_LIMIT)
            .ok_or_else(invalid)?;
    }
    if negative {
        0_i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    }
    .ok_or_else(invalid)
}

fn unit_nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// One number of a duration; `rest` is what follows it.
struct Term<'a> {
    whole: u64,
    fraction: u64,
    /// The power of ten that `fraction` is to be divided by.
    scale: f64,
    rest: &'a str,
}

// === impl Term ===

impl<'a> Term<'a> {
    /// Reads `123`, `123.`, `123.45` or `.45`; none when there is no number or it is too large.
    fn read(text: &'a str) -> Option<Self> {
        let (digits, mut rest) = split_digits(text);
        let mut whole = 0_u64;
        for digit in digits.bytes() {
            if whole > MAGNITUDE_LIMIT / 10 {
                return None;
            }
            whole = whole * 10 + u64::from(digit - b'0');
            if whole > MAGNITUDE_LIMIT {
                return None;
            }
        }
        let mut decimals = "";
        if let Some(after) = rest.strip_prefix('.') {
            (decimals, rest) = split_digits(after);
        }
        if digits.is_empty() && decimals.is_empty() {
            return None;
        }
        let mut fraction = 0_u64;
        let mut scale = 1.0;
        for digit in decimals.bytes() {
            // Digits beyond what 63 bits hold are dropped.
            if fraction > (MAGNITUDE_LIMIT - 1) / 10 {
                break;
            }
            let next = fraction * 10 + u64::from(digit - b'0');
            if next > MAGNITUDE_LIMIT {
                break;
            }
            fraction = next;
            scale *= 10.0;
        }
        Some(Self {
            whole,
            fraction,
            scale,
            rest,
        })
    }

    /// This many units; none when that is too large.
    fn times(&self, unit: u64) -> Option<u64> {
        let mut nanos = self
            .whole
            .checked_mul(unit)
            .filter(|nanos| *nanos <= MAGNITUDE_LIMIT)?;
        if self.fraction > 0 {
            // In doubles and in this order, as the reference does it; less than one unit.
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "rounding is part of the format; the product lies within [0, 3.6e12]"
            )]
            let part = (self.fraction as f64 * (unit as f64 / self.scale)) as u64;
            nanos += part;
        }
        (nanos <= MAGNITUDE_LIMIT).then_some(nanos)
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Prints nanoseconds in Go's form: `1h0m30s`, `1.5s`, `250ms`, `1µs`, `0s`.
/// Upstream: `time.Duration.String`.
pub fn format_duration(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let mut text = String::new();
    if nanos < 0 {
        text.push('-');
    }
    // Writing to a String cannot fail.
    let _ = match magnitude {
        0 => write!(text, "0s"),
        1..MICROSECOND => write!(text, "{magnitude}ns"),
        MICROSECOND..MILLISECOND => write!(text, "{}\u{b5}s", decimal(magnitude, MICROSECOND)),
        MILLISECOND..SECOND => write!(text, "{}ms", decimal(magnitude, MILLISECOND)),
        SECOND..MINUTE => write!(text, "{}s", decimal(magnitude, SECOND)),
        MINUTE..HOUR => write!(
            text,
            "{}m{}s",
            magnitude / MINUTE,
            decimal(magnitude % MINUTE, SECOND)
        ),
        _ => write!(
            text,
            "{}h{}m{}s",
            magnitude / HOUR,
            magnitude % HOUR / MINUTE,
            decimal(magnitude % MINUTE, SECOND)
        ),
    };
    text
}

/// `value / unit` without trailing zeros; the unit is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{whole}.{rest:0width$}")
        .trim_end_matches('0')
        .to_owned()
}

/// Whether Go's `d.Round(time.Second) == d`. That is so for whole seconds and, because rounding
/// saturates, for the few durations at the far ends of the range.
pub fn is_whole_seconds(nanos: i64) -> bool {
    const SECOND: i64 = 1_000_000_000;
    let rest = nanos.unsigned_abs() % SECOND.unsigned_abs();
    if rest == 0 {
        return true;
    }
    let saturates = if nanos < 0 {
        nanos == i64::MIN
    } else {
        nanos == i64::MAX
    };
    saturates && rest * 2 >= SECOND.unsigned_abs()
}

/// Nanoseconds as a [`Duration`]; negative ones become zero.
pub fn duration_to_std(nanos: i64) -> Duration {
    u64::try_from(nanos).map_or(Duration::ZERO, Duration::from_nanos)
}

/// A [`Duration`] in nanoseconds, at most [`i64::MAX`] (292 years).
pub fn duration_from_std(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The `time` package quotes by itself, with every byte outside ASCII as `\x..`.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            ' '..='\x7f' => quoted.push(c),
            _ => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(quoted, "\\x{byte:02x}");
                }
            }
        }
    }
    quoted.push('"');
    quoted
}
