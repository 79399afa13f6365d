use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = HeaderValue::from_str(value).expect("valid");
        headers.append(*name, value);
    }
    headers
}

fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().expect("ASCII").to_owned())
        .collect()
}

fn passed_on(pairs: &[(&'static str, &str)], name: &str) -> Vec<String> {
    let mut headers = headers(pairs);
    pass_on(&mut headers, false);
    texts(&headers, name)
}

#[test]
fn a_traceparent_is_read_as_in_go() {
    for (text, flags) in [
        (format!("00-{TRACE}-{SPAN}-01"), Some(1)),
        (format!("00-{TRACE}-{SPAN}-00"), Some(0)),
        (format!("00-{TRACE}-{SPAN}-03"), Some(3)),
        (format!("00-{TRACE}-{SPAN}-04"), None),
        (format!("00-{TRACE}-{SPAN}-01-"), Some(1)),
        (format!("00-{TRACE}-{SPAN}-01-x"), None),
        (format!("cc-{TRACE}-{SPAN}-ff-what-the-future"), Some(3)),
        (format!("cc-{TRACE}-{SPAN}-01"), Some(1)),
        (format!("ff-{TRACE}-{SPAN}-01"), None),
        (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
        (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
        (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
        (format!("00-{TRACE}-{SPAN}"), None),
        (format!("00-{TRACE}-{SPAN}-1"), None),
        (format!("0-{TRACE}-{SPAN}-01"), None),
        (String::new(), None),
    ] {
        let context = SpanContext::parse(text.as_bytes());
        assert_eq!(context.map(|context| context.flags), flags, "{text}");
    }
}

#[test]
fn of_two_traceparents_the_first_leaves_as_version_00() {
    let (first, second) = (
        format!("cc-{TRACE}-{SPAN}-01-future"),
        format!("00-{}-{SPAN}-01", "1".repeat(32)),
    );
    let got = passed_on(
        &[("traceparent", &first), ("traceparent", &second)],
        "traceparent",
    );
    assert_eq!(got, [format!("00-{TRACE}-{SPAN}-01")]);
}

#[test]
fn an_invalid_context_passes_as_it_came_and_none_is_made() {
    let pairs = [
        ("traceparent", "nonsense"),
        ("traceparent", "more"),
        ("tracestate", "a=1,,"),
    ];
    assert_eq!(passed_on(&pairs, "traceparent"), ["nonsense", "more"]);
    assert_eq!(passed_on(&pairs, "tracestate"), ["a=1,,"]);
    assert!(passed_on(&[("x", "y")], "traceparent").is_empty());
}

#[test]
fn a_tracestate_leaves_in_canonical_form_or_untouched() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let too_many: String = (0..33).map(|i| format!("k{i}=v,")).collect();
    for (state, expected) in [
        ("a=1, b=2 ,, 3c@d=x y", "a=1,b=2,3c@d=x y"),
        ("a=1,a=2", "a=1,a=2"),
        ("A=1", "A=1"),
        ("a=1, b", "a=1, b"),
        ("a= 1", "a= 1"),
        (too_many.as_str(), too_many.as_str()),
    ] {
        let got = passed_on(
            &[("traceparent", &parent), ("tracestate", state)],
            "tracestate",
        );
        assert_eq!(got, [expected], "{state}");
    }
    let two = [
        ("traceparent", parent.as_str()),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    ];
    assert_eq!(passed_on(&two, "tracestate"), ["a=1"]);
}

#[test]
fn baggage_becomes_one_line_of_valid_members() {
    for (lines, expected) in [
        (&["a=1", "b=2"][..], &["a=1,b=2"][..]),
        (&["a = 1 ; p ; q = 2, b=x"], &["a=1;p;q=2,b=x"]),
        (&["a=%41%20,b=%zz,c,=d,e=f"], &["a=A%20,e=f"]),
        (&["a=1,a=2"], &["a=2"]),
        (&["a=%ff"], &["a=%EF%BF%BD"]),
        (&["a=1;"], &["a=1;"]),
        (&["a=1;;p"], &["a=1;p"]),
        (&["a=1; ;p,b=2"], &["b=2"]),
        (&["nonsense", "more"], &["nonsense", "more"]),
    ] {
        let pairs: Vec<_> = lines.iter().map(|line| ("baggage", *line)).collect();
        assert_eq!(passed_on(&pairs, "baggage"), expected, "{lines:?}");
    }
}

#[test]
fn baggage_is_bounded() {
    let members: Vec<_> = (0..70).map(|i| format!("k{i}=v")).collect();
    let got = passed_on(&[("baggage", &members.join(","))], "baggage");
    assert_eq!(got[0].split(',').count(), baggage::MAX_MEMBERS);
    let long = format!("a={}", "x".repeat(baggage::MAX_BYTES - 2));
    assert_eq!(passed_on(&[("baggage", &long)], "baggage")[0], long);
    // Beyond the limit nothing is parsed, so that the invalid member stays.
    let longer = format!("{long},b");
    assert_eq!(passed_on(&[("baggage", &longer)], "baggage")[0], longer);
}

#[test]
fn b3_is_read_and_written_only_when_asked_for() {
    let short = &TRACE[16..];
    let multiple = |sampled| {
        [
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", sampled),
        ]
    };
    let single = format!("{short}-{SPAN}-d-{SPAN}");
    for (pairs, expected) in [
        (&multiple("1")[..], Some((TRACE.to_owned(), 1))),
        (&multiple("0"), Some((TRACE.to_owned(), 0))),
        (
            &[("b3", &*single)],
            Some((format!("{}{short}", "0".repeat(16)), 1)),
        ),
        (&[("b3", "0")], None),
        (&[("x-b3-traceid", TRACE)], None),
    ] {
        let headers = headers(pairs);
        let got = RemoteContext::extract(&headers, true)
            .map(|remote| (remote.context.trace_id.to_string(), remote.context.flags));
        assert_eq!(got, expected, "{pairs:?}");
        assert_eq!(RemoteContext::extract(&headers, false), None);
    }
    let mut headers = headers(&multiple("1"));
    pass_on(&mut headers, true);
    assert_eq!(
        texts(&headers, "traceparent"),
        [format!("00-{TRACE}-{SPAN}-01")]
    );
    assert_eq!(texts(&headers, "x-b3-traceid"), [TRACE]);
    assert_eq!(texts(&headers, "x-b3-sampled"), ["1"]);
}

#[test]
fn w3c_wins_over_b3() {
    let parent = format!("00-{}-{SPAN}-00", "1".repeat(32));
    let headers = headers(&[
        ("traceparent", &parent),
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
    ]);
    let remote = RemoteContext::extract(&headers, true).expect("a context");
    assert_eq!(remote.context.trace_id.to_string(), "1".repeat(32));
}

proptest! {
    #[test]
    fn a_context_survives_its_header(trace: [u8; 16], span: [u8; 8], flags in 0..4_u8) {
        let context = SpanContext { trace_id: TraceId(trace), span_id: SpanId(span), flags };
        let parsed = SpanContext::parse(context.to_header().as_bytes());
        prop_assert_eq!(parsed, context.valid());
    }

    #[test]
    fn any_headers_pass_and_passing_twice_is_passing_once(
        parent: Vec<u8>, state: Vec<u8>, bag: Vec<u8>, b3: bool,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in [("traceparent", parent), ("tracestate", state), ("baggage", bag)] {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        pass_on(&mut headers, b3);
        let once = headers.clone();
        pass_on(&mut headers, b3);
        prop_assert_eq!(headers, once);
    }
}
