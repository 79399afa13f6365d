use http::HeaderValue;

use super::*;

/// The built-in template.
const STOCK: &str = crate::config::observability::DEFAULT_REQUEST_LOG_TEMPLATE;

fn headers() -> HeaderMap {
    [
        ("user-agent", "curl/8 \"x\""),
        ("x-custom", "one"),
        ("host", "not shown"),
    ]
    .into_iter()
    .map(|(name, text)| {
        (
            http::HeaderName::from_static(name),
            HeaderValue::from_static(text),
        )
    })
    .collect()
}

fn input(headers: &HeaderMap) -> LogInput<'_> {
    LogInput {
        method: "GET",
        uri: "/a%20b?c=d",
        headers,
        host: b"h.example",
        version: Version::HTTP_11,
        content_length: -1,
        remote_addr: "10.0.0.1:4711",
        tls: false,
        code: 200,
        size: 5,
        latency: Duration::from_nanos(6198),
        revision: LogRevision {
            name: "hello-00001",
            namespace: "default",
            ..LogRevision::default()
        },
        trace_id: b"4bf9",
    }
}

fn line(template: &str, input: &LogInput<'_>) -> String {
    let log = RequestLog::compile(template).unwrap().unwrap();
    let mut out = b"before ".to_vec();
    log.write(input, &mut out);
    let text = String::from_utf8(out).unwrap();
    text.strip_prefix("before ").unwrap().to_owned()
}

#[track_caller]
fn check(template: &str, expected: &str) {
    assert_eq!(line(template, &input(&headers())), format!("{expected}\n"));
}

fn is_direct(template: &str) -> bool {
    let log = RequestLog::compile(template).unwrap().unwrap();
    matches!(log.plan, Plan::Segments(_))
}

/// Scenarios of upstream's `TestRequestLogHandler`.
#[test]
fn writes_lines() {
    check("const template", "const template");
    check("{{.Request.URL}}", "/a%20b?c=d");
    check("{{.Response.Code}}, {{.Response.Size}}", "200, 5");
    check(
        "{{.Revision.Name}}, {{.Revision.Namespace}}, {{.Revision.PodName}}",
        "hello-00001, default, ",
    );
    check("{{.TraceID}} {{.Response.Latency}}", "4bf9 6.198e-06");
}

#[test]
fn the_stock_template_is_written_without_the_interpreter() {
    assert!(is_direct(STOCK));
    assert_eq!(
        line(STOCK, &input(&headers())),
        concat!(
            r#"{"httpRequest": {"requestMethod": "GET", "requestUrl": "/a%20b?c\u003Dd", "#,
            r#""requestSize": "-1", "status": 200, "responseSize": "5", "#,
            r#""userAgent": "curl/8 \"x\"", "remoteIp": "10.0.0.1:4711", "serverIp": "", "#,
            r#""referer": "", "latency": "6.198e-06s", "protocol": "HTTP/1.1"}, "traceId": "4bf9"}"#,
            "\n"
        )
    );
}

/// Both ways of making a line agree wherever a template can take either.
#[test]
fn direct_and_interpreted_lines_are_the_same() {
    let fields = field::FIELDS.map(|(owner, name, _)| {
        let dot = if owner.is_empty() { "" } else { "." };
        format!("{dot}{owner}.{name}")
    });
    let headers = headers();
    for tls in [false, true] {
        let input = LogInput {
            tls,
            ..input(&headers)
        };
        for source in fields.iter().map(String::as_str).chain([
            ".Request.Header.Get \"X-Custom\"",
            ".Request.Header.Get \"y\"",
        ]) {
            for action in [
                format!("{{{{{source}}}}}"),
                format!("{{{{{source} | js}}}}"),
            ] {
                assert!(is_direct(&action), "{action}");
                let interpreted = format!("{action}{{{{if false}}}}{{{{end}}}}");
                assert!(!is_direct(&interpreted));
                assert_eq!(
                    line(&action, &input),
                    line(&interpreted, &input),
                    "{action}"
                );
            }
        }
    }
}

#[test]
fn structs_maps_and_methods_are_those_of_go() {
    check(
        "{{.Response}} {{printf \"%v\" .Revision}}",
        "{200 5 6.198e-06} {hello-00001 default    }",
    );
    check(
        "{{.Request.Header.Nope}}|{{index .Request.Header \"Nope\"}}",
        "<no value>|[]",
    );
    check(
        "{{.Request.Header}}",
        "map[User-Agent:[curl/8 \"x\"] X-Custom:[one]]",
    );
    check(
        "{{with .Request.URL}}{{.Path}}?{{.RawQuery}} {{.String}}{{end}}",
        "/a b?c=d /a%20b?c=d",
    );
    check(
        "{{$r := .Request}}{{$r.Method}} {{$.Response.Code}}",
        "GET 200",
    );
    check(
        "{{(.Request.Header.Values \"x-custom\")}} {{len .Request.Header}}",
        "[one] 2",
    );
    check(
        "{{if .Request.ProtoAtLeast 1 1}}new{{end}}{{if .Request.TLS}}tls{{end}}",
        "new",
    );
    check(
        "{{printf \"%v\" .Request.TLS}} {{.Request.TransferEncoding}}",
        "<nil> [chunked]",
    );
    check(
        "{{js .Request.Method \"&\" 1}}|{{.Request.Method | html \"<\"}}",
        "GET\\u00261|&lt;GET",
    );
    check(
        "{{define \"m\"}}<{{.}}>{{end}}{{template \"m\" .Request.Method}}",
        "<GET>",
    );
}

#[test]
fn a_template_that_fails_makes_the_fixed_line() {
    let fixed = "Invalid request log template: method: GET, response code: 200, \
                 latency: 6.198e-06, url: /a%20b?c=d";
    for template in [
        "before {{.NoSuchField}}",
        "{{.Request.NoSuch}}",
        "{{.Request.Method.More}}",
        "{{.Request.UserAgent 1}}",
        "{{.Request.Header.Get}}",
        "{{.Request.Header.Del \"x\"}}",
        "{{.Request.TLS.Version}}",
        "{{range .Response}}{{end}}",
        "{{len .Response}}",
        "{{call .Response}}",
        "{{index .Request.Header 3}}",
        "{{nil}}",
        "{{.}}",
        "{{template \"nowhere\"}}",
        "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}",
        "{{range 1000000000}}{{end}}",
    ] {
        check(template, fixed);
    }
}

#[test]
fn broken_templates_are_rejected_when_compiled() {
    for template in [
        "{{.Request.Method",
        "{{end}}",
        "{{else}}",
        "a{{if .TraceID}}b{{end}}{{end}} c",
        "{{define \"a\"}}{{else}}{{end}}",
        "{{nope}}",
        "{{$x}}",
        "{{if $x := 1}}{{end}}{{$x}}",
        "{{break}}",
        "{{.TraceID | 1}}",
        "{{if}}{{end}}",
    ] {
        assert!(RequestLog::compile(template).is_err(), "{template}");
    }
    assert!(RequestLog::compile("").unwrap().is_none());
}

#[test]
fn a_line_has_a_limit() {
    let long = "x".repeat(MAX_LINE_BYTES);
    let headers = headers();
    let at = |uri: &str, template: &str| {
        let input = LogInput {
            uri,
            ..input(&headers)
        };
        line(template, &input)
    };
    let templates = [
        "{{.Request.RequestURI}}",
        "{{if true}}{{.Request.RequestURI}}{{end}}",
    ];
    for template in templates {
        let fits = &long[1..];
        assert_eq!(at(fits, template), format!("{fits}\n"));
        let fixed = at(&long, template);
        assert!(fixed.starts_with("Invalid request log template") && fixed.ends_with("x\n"));
        assert_eq!(fixed.len(), MAX_LINE_BYTES);
    }
}

#[test]
fn bytes_that_are_no_text_stay_in_direct_lines() {
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_bytes(b"a\xff=").unwrap());
    let log = RequestLog::compile("{{js .Request.UserAgent}}")
        .unwrap()
        .unwrap();
    let mut out = Vec::new();
    log.write(&input(&headers), &mut out);
    assert_eq!(out, b"a\xff\\u003D\n");
}

#[test]
fn loops_have_a_limit() {
    check("{{range 10000}}{{end}}done", "done");
    let failed = line(
        "{{range 100}}{{range 100}}{{end}}{{end}}",
        &input(&headers()),
    );
    assert!(failed.starts_with("Invalid request log template"));
    assert_eq!(MAX_ITERATIONS, 10_000);
}
