//! Numbers, durations and quoted text exactly as Go's `strconv`, `time` and `fmt` read and write them.
//!
//! ConfigMaps, annotations and environment variables were always read by a Go program, so what an
//! operator may write there, and the words of the complaint when it is wrong, are Go's. Everything
//! here is a plain function over strings. Durations are `i64` nanoseconds, Go's `time.Duration`,
//! because they may be negative until somebody has validated them.

mod duration;
mod number;
mod text;

pub use duration::{
    InvalidDuration, duration_from_std, duration_to_std, format_duration, is_whole_seconds,
    parse_duration,
};
pub use number::{
    InvalidNumber, NumberProblem, format_float, format_float_fixed, parse_bool, parse_float,
    parse_int, parse_int_any_base, parse_uint,
};
pub use text::{escape_html, quote};

#[cfg(test)]
mod tests;
