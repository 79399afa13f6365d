use proptest::prelude::*;

use super::*;

/// What is accepted, as in `TestParseDuration` (time/time_test.go), with the ends of the range.
#[test]
fn durations_are_parsed_like_go() {
    for (text, nanos) in [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("5s", 5_000_000_000),
        ("-5s", -5_000_000_000),
        ("5.s", 5_000_000_000),
        (".5s", 500_000_000),
        ("1.0040s", 1_004_000_000),
        ("100.00100s", 100_001_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12\u{b5}s", 12_000),
        ("12\u{3bc}s", 12_000),
        ("13ms", 13_000_000),
        ("3h30m", 12_600_000_000_000),
        ("-1m2.3s", -62_300_000_000),
        ("10.5s4m", 250_500_000_000),
        ("1h2m3s4ms5us6ns", 3_723_004_005_006),
        ("52763797000ns", 52_763_797_000),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("0.100000000000000000000h", 360_000_000_000),
        ("0.830103483285477580700h", 2_988_372_539_827),
        ("9007199254740993ns", 9_007_199_254_740_993),
        ("9223372036854775807ns", i64::MAX),
        ("9223372036s854ms775us807ns", i64::MAX),
        ("-9223372036854775808ns", i64::MIN),
        ("-9223372036854775.808us", i64::MIN),
        ("0.9223372036854775807h", 3_320_413_933_267),
    ] {
        assert_eq!(parse_duration(text), Ok(nanos), "{text:?}");
    }
}

#[test]
fn bad_durations_are_complained_about_like_go() {
    for (text, complaint) in [
        ("", "time: invalid duration \"\""),
        ("3", "time: missing unit in duration \"3\""),
        ("-", "time: invalid duration \"-\""),
        ("s", "time: invalid duration \"s\""),
        (".", "time: invalid duration \".\""),
        (".s", "time: invalid duration \".s\""),
        ("1s ", "time: unknown unit \"s \" in duration \"1s \""),
        ("1d", "time: unknown unit \"d\" in duration \"1d\""),
        (" 1s", "time: invalid duration \" 1s\""),
        (
            "1\u{e9}",
            "time: unknown unit \"\\xc3\\xa9\" in duration \"1\\xc3\\xa9\"",
        ),
        (
            "1\"\\\n",
            "time: unknown unit \"\\\"\\\\\\x0a\" in duration \"1\\\"\\\\\\x0a\"",
        ),
        (
            "9223372036854775808ns",
            "time: invalid duration \"9223372036854775808ns\"",
        ),
        ("3000000h", "time: invalid duration \"3000000h\""),
        (
            "-9223372036854775809ns",
            "time: invalid duration \"-9223372036854775809ns\"",
        ),
        ("1e3s", "time: unknown unit \"e\" in duration \"1e3s\""),
        ("1_0s", "time: unknown unit \"_\" in duration \"1_0s\""),
    ] {
        let error = parse_duration(text).expect_err(text);
        assert_eq!(error.to_string(), complaint);
    }
}

/// The table of `TestDurationString` (time/time_test.go).
#[test]
fn durations_are_printed_like_go() {
    for (nanos, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1\u{b5}s"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (245_000_000_000, "4m5s"),
        (245_001_000_000, "4m5.001s"),
        (18_367_001_000_000, "5h6m7.001s"),
        (480_000_000_001, "8m0.000000001s"),
        (100_000_000_000, "1m40s"),
        (3_600_000_000_000, "1h0m0s"),
        (-1_500_000_000, "-1.5s"),
        (i64::MAX, "2562047h47m16.854775807s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        assert_eq!(format_duration(nanos), text);
    }
}

#[test]
fn rounding_to_seconds_saturates_at_the_ends() {
    assert!(is_whole_seconds(0));
    assert!(is_whole_seconds(-3_000_000_000));
    assert!(!is_whole_seconds(1));
    assert!(!is_whole_seconds(1_500_000_000));
    assert!(is_whole_seconds(i64::MAX));
    assert!(!is_whole_seconds(i64::MAX - 1));
    assert!(is_whole_seconds(i64::MIN));
}

#[test]
fn integers_are_parsed_like_go() {
    for (text, bits, value) in [
        ("0", 32, 0),
        ("-0", 32, 0),
        ("+12", 32, 12),
        ("007", 32, 7),
        ("2147483647", 32, 2_147_483_647),
        ("-2147483648", 32, -2_147_483_648),
        ("9223372036854775807", 64, i64::MAX),
        ("-9223372036854775808", 64, i64::MIN),
    ] {
        assert_eq!(parse_int(text, bits), Ok(value), "{text:?}");
    }
    for (text, bits, complaint) in [
        ("", 32, "parsing \"\": invalid syntax"),
        ("-", 32, "parsing \"-\": invalid syntax"),
        ("+-1", 32, "parsing \"+-1\": invalid syntax"),
        (" 1", 32, "parsing \" 1\": invalid syntax"),
        ("1.0", 32, "parsing \"1.0\": invalid syntax"),
        ("0x1", 32, "parsing \"0x1\": invalid syntax"),
        ("1_000", 32, "parsing \"1_000\": invalid syntax"),
        (
            "2147483648",
            32,
            "parsing \"2147483648\": value out of range",
        ),
        (
            "-2147483649",
            32,
            "parsing \"-2147483649\": value out of range",
        ),
        (
            "99999999999x",
            32,
            "parsing \"99999999999x\": value out of range",
        ),
        (
            "9223372036854775808",
            64,
            "parsing \"9223372036854775808\": value out of range",
        ),
    ] {
        let error = parse_int(text, bits).expect_err(text);
        assert_eq!(error.to_string(), format!("strconv.ParseInt: {complaint}"));
    }
}

#[test]
fn the_base_can_come_from_the_text() {
    for (text, value) in [
        ("0x10", 16),
        ("-0X_1f", -31),
        ("0b11", 3),
        ("0o17", 15),
        ("017", 15),
        ("0", 0),
        ("1_000", 1000),
        ("0_7", 7),
    ] {
        assert_eq!(parse_int_any_base(text, 64), Ok(value), "{text:?}");
    }
    for text in ["0x", "08", "_1", "1_", "1__0", "0b2", "0xg", "0x1_"] {
        let error = parse_int_any_base(text, 64).expect_err(text);
        assert_eq!(error.problem, NumberProblem::Syntax, "{text:?}");
    }
}

#[test]
fn unsigned_integers_have_no_sign() {
    assert_eq!(parse_uint("4294967295", 32), Ok(4_294_967_295));
    let error = parse_uint("-1", 32).expect_err("a sign");
    assert_eq!(
        error.to_string(),
        "strconv.ParseUint: parsing \"-1\": invalid syntax"
    );
}

#[test]
fn floats_are_parsed_like_go() {
    for (text, value) in [
        ("1", 1.0),
        ("+1.", 1.0),
        (".5", 0.5),
        ("1.e2", 100.0),
        ("1E-2", 0.01),
        ("1_0", 10.0),
        ("1_2.5_0e+1_2", 12.5e12),
        ("0x1p6", 64.0),
        ("0x_1p4", 16.0),
        ("0x1.8p-1", 0.75),
        ("0X.8P1", 1.0),
        ("0x1p-1074", 5e-324),
        ("0x1.00000000000008p0", 1.0),
        ("0x1.000000000000081p0", 1.000_000_000_000_000_2),
        ("1e-400", 0.0),
        ("Inf", f64::INFINITY),
        ("-iNFINITY", f64::NEG_INFINITY),
    ] {
        assert_eq!(parse_float(text), Ok(value), "{text:?}");
    }
    assert!(parse_float("nAn").is_ok_and(f64::is_nan));
    for text in [
        "", "+", ".", "e1", "1e", "1e+", "+nan", "infinit", "0x1", "0xp1", " 1", "1 ", "1f",
        "1__0", "_1", "1_", "1e_1", "1.2.3", "0b1", "1e400x",
    ] {
        let error = parse_float(text).expect_err(text);
        assert_eq!(error.problem, NumberProblem::Syntax, "{text:?}");
    }
    for text in ["1e400", "-1e309", "0x1p1024", "0x1.fffffffffffff8p1023"] {
        let error = parse_float(text).expect_err(text);
        assert_eq!(
            error.to_string(),
            format!("strconv.ParseFloat: parsing \"{text}\": value out of range")
        );
    }
}

#[test]
fn floats_are_printed_like_go() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (70.0, "70"),
        (0.01, "0.01"),
        (0.0001, "0.0001"),
        (0.000_012_5, "1.25e-05"),
        (999_999.0, "999999"),
        (123_456.789, "123456.789"),
        (1e6, "1e+06"),
        (5_276_320.0, "5.27632e+06"),
        (1e20, "1e+20"),
        // Halfway between two shortest forms.
        (3_689_684_667_548_133.0 / 4.0, "9.224211668870332e+14"),
        (1.5e300, "1.5e+300"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(format_float(value), text);
    }
    assert_eq!(format_float_fixed(-1.5), "-1.500000");
    assert_eq!(format_float_fixed(f64::NEG_INFINITY), "-Inf");
}

#[test]
fn booleans_have_twelve_spellings() {
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(parse_bool(text), Ok(true));
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(parse_bool(text), Ok(false));
    }
    for text in ["", "yes", "tRUE", " true"] {
        let error = parse_bool(text).expect_err(text);
        assert_eq!(
            error.to_string(),
            format!("strconv.ParseBool: parsing {text:?}: invalid syntax")
        );
    }
}

/// From the table of `TestQuote` (strconv/quote_test.go).
#[test]
fn text_is_quoted_like_go() {
    for (text, quoted) in [
        ("\x07\x08\x0c\r\n\t\x0b", r#""\a\b\f\r\n\t\v""#),
        ("\\", r#""\\""#),
        ("say \"hi\" it's", r#""say \"hi\" it's""#),
        ("\x00\x7f", r#""\x00\x7f""#),
        (
            "\u{263a}\u{10ffff}\u{feff}",
            "\"\u{263a}\\U0010ffff\\ufeff\"",
        ),
        ("\u{a0}\u{ad}\u{301}", "\"\\u00a0\\u00ad\u{301}\""),
    ] {
        assert_eq!(quote(text), quoted);
    }
    assert_eq!(
        escape_html("<a b='c' d=\"&\">"),
        "&lt;a b=&#39;c&#39; d=&#34;&amp;&#34;&gt;"
    );
}

proptest! {
    #[test]
    fn every_duration_survives_printing(nanos: i64) {
        prop_assert_eq!(parse_duration(&format_duration(nanos)), Ok(nanos));
    }

    #[test]
    fn short_durations_survive_printing(nanos in -4_000_000_000_000_i64..4_000_000_000_000) {
        prop_assert_eq!(parse_duration(&format_duration(nanos)), Ok(nanos));
    }

    #[test]
    fn every_float_survives_printing(bits: u64) {
        let value = f64::from_bits(bits);
        let parsed = parse_float(&format_float(value)).expect("a printed float");
        prop_assert!(parsed == value || parsed.is_nan() && value.is_nan());
    }

    #[test]
    fn every_finite_float_survives_hexadecimal(mantissa in 0_u64..1 << 53, exponent in -1074_i32..=971) {
        // 2^exponent as two factors, each of which is a normal double.
        let (half, rest) = (exponent / 2, exponent - exponent / 2);
        #[allow(clippy::cast_precision_loss, reason = "below 2^53")]
        let value = mantissa as f64 * 2_f64.powi(half) * 2_f64.powi(rest);
        prop_assert_eq!(parse_float(&format!("0x{mantissa:x}p{exponent}")), Ok(value));
    }

    #[test]
    fn every_integer_survives_printing(value: i64) {
        prop_assert_eq!(parse_int(&value.to_string(), 64), Ok(value));
        let in_range = i32::try_from(value).is_ok();
        prop_assert_eq!(parse_int(&value.to_string(), 32).is_ok(), in_range);
        prop_assert_eq!(parse_int_any_base(&format!("{value}"), 64), Ok(value));
    }
}

fn durations_hold(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse_duration(&text) {
        Ok(nanos) => assert_eq!(parse_duration(&format_duration(nanos)), Ok(nanos)),
        Err(error) => assert!(error.to_string().is_ascii()),
    }
}

fn numbers_hold(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse_float(&text) {
        Ok(value) => {
            let again = parse_float(&format_float(value)).expect("a printed float");
            assert!(again == value || again.is_nan() && value.is_nan());
        }
        Err(error) => assert_eq!(error.function, "ParseFloat"),
    }
    let wide = parse_int(&text, 64);
    if let Ok(narrow) = parse_int(&text, 32) {
        assert_eq!(wide, Ok(narrow));
        // Integers are floats too, if not always exactly.
        assert!(parse_float(&text).is_ok());
    }
    let digits = text.trim_start_matches(['+', '-']);
    if wide.is_ok() && !digits.starts_with('0') {
        assert_eq!(parse_int_any_base(&text, 64), wide);
    }
}

fn quoting_holds(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let quoted = quote(&text);
    assert!(quoted.len() >= text.len() + 2);
    assert!(!quoted.chars().any(char::is_control));
    assert!(!escape_html(&text).contains(['<', '>', '"', '\'']));
}

#[test]
fn mutated_durations_hold() {
    let seeds: [&[u8]; 6] = [
        b"1h15m30.918s",
        b"-9223372036854775808ns",
        b"0.9223372036854775807h",
        "12\u{b5}s".as_bytes(),
        b".5ms",
        b"0",
    ];
    crate::fuzz::mutate(&seeds, 6000, durations_hold);
}

#[test]
fn mutated_numbers_hold() {
    let seeds: [&[u8]; 7] = [
        b"-1_2.5_0e+1_2",
        b"0x1.fffffffffffff8p1023",
        b"0x_1p-1074",
        b"infinity",
        b"2147483648",
        b"0.1e-400",
        b"NaN",
    ];
    crate::fuzz::mutate(&seeds, 6000, numbers_hold);
}

#[test]
fn mutated_text_is_quoted() {
    let seed = "a\"b\\c\n\u{7f}\u{feff}\u{301}\u{10ffff}<&'>";
    crate::fuzz::mutate(&[b"plain", seed.as_bytes()], 3000, quoting_holds);
}

/// No parser takes more than a few passes over its input: a quadratic one would not end here.
#[test]
fn a_megabyte_of_digits_is_no_trouble() {
    let digits = "7".repeat(1 << 20);
    for text in [
        digits.clone(),
        format!("0.{digits}"),
        format!("1e{digits}"),
        format!("0x{digits}p1"),
        format!("0.{digits}s"),
        "1_".repeat(1 << 19),
        "1h".repeat(1 << 19),
    ] {
        durations_hold(text.as_bytes());
        numbers_hold(text.as_bytes());
    }
}
