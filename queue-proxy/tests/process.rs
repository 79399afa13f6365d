//! The binary as kubelet runs it: environment in, exit code and log lines out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::Value;

/// How long a condition may take to hold.
const PATIENCE: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(20);

/// Tells the loopback addresses of tests of one process apart; each instance has one of its own,
/// since most ports of a sidecar are fixed.
static NEXT: AtomicU8 = AtomicU8::new(1);

fn own_address() -> Ipv4Addr {
    let [low, high, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn environment(address: Ipv4Addr, app: u16) -> BTreeMap<&'static str, String> {
    [
        ("CONTAINER_CONCURRENCY", "0".to_owned()),
        ("QUEUE_SERVING_PORT", "8012".to_owned()),
        ("QUEUE_SERVING_TLS_PORT", "8112".to_owned()),
        ("USER_PORT", app.to_string()),
        ("REVISION_TIMEOUT_SECONDS", "10".to_owned()),
        ("SERVING_LOGGING_CONFIG", "{}".to_owned()),
        ("SERVING_LOGGING_LEVEL", String::new()),
        ("SERVING_NAMESPACE", "default".to_owned()),
        ("SERVING_CONFIGURATION", "hello".to_owned()),
        ("SERVING_REVISION", "hello-00001".to_owned()),
        ("SERVING_POD", "hello-00001-abc".to_owned()),
        ("SERVING_POD_IP", "10.0.0.7".to_owned()),
        ("PILOTLIGHT_BIND_ADDRESS", address.to_string()),
        ("PILOTLIGHT_QUIET_PERIOD", "50ms".to_owned()),
    ]
    .into_iter()
    .collect()
}

fn spawn(environment: &BTreeMap<&'static str, String>) -> Child {
    Command::new(env!("CARGO_BIN_EXE_queue-proxy"))
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

fn run(environment: &BTreeMap<&'static str, String>) -> Output {
    spawn(environment).wait_with_output().expect("it ends")
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}

fn wait_until_listening(address: SocketAddr) {
    for _ in 0..PATIENCE {
        if TcpStream::connect(address).is_ok() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("nothing listens on {address}");
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("listening");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("writable");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("readable");
    answer
}

/// An app that answers `ok` once per connection, on a thread that ends with the test process.
fn app() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            // A client that has left is no failure of the app.
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    port
}

#[test]
fn every_missing_variable_has_a_line_and_the_exit_code_is_1() {
    let output = run(&BTreeMap::from([("USER_PORT", "x".to_owned())]));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let lines = lines(&output.stderr);
    assert_eq!(lines.len(), 12, "{lines:?}");
    assert_eq!(
        lines[0]["message"],
        "required key CONTAINER_CONCURRENCY missing value"
    );
    assert!(lines.iter().all(|line| line["severity"] == "ERROR"));
    assert!(
        lines
            .iter()
            .any(|line| line["message"] == "USER_PORT: \"x\" is not a port number")
    );
}

#[test]
fn what_cannot_be_used_stops_the_start_with_1() {
    for (variable, value) in [
        ("SERVING_READINESS_PROBE", "\"text\""),
        ("OBSERVABILITY_CONFIG", r#"{"tracing":{"protocol":""}}"#),
        (
            "OBSERVABILITY_CONFIG",
            r#"{"runtime":{"exportInterval":"60s"}}"#,
        ),
        ("CONTAINER_CONCURRENCY", ""),
    ] {
        let mut environment = environment(own_address(), 1);
        environment.insert(variable, value.to_owned());
        let output = run(&environment);
        assert_eq!(output.status.code(), Some(1), "{variable}");
        let lines = lines(&output.stderr);
        let last = lines.last().expect("a line");
        assert_eq!(last["severity"], "ERROR");
        assert_eq!(last["logger"], "queueproxy");
        assert_eq!(last["knative.dev/key"], "default/hello-00001");
        assert_eq!(last["knative.dev/pod"], "hello-00001-abc");
    }
}

#[test]
fn a_port_that_is_taken_ends_the_start_and_names_the_server() {
    for (port, name) in [(8012, "main"), (8022, "admin"), (9090, "metrics")] {
        let address = own_address();
        let _taken = TcpListener::bind((address, port)).expect("free");
        let output = run(&environment(address, 1));
        assert_eq!(output.status.code(), Some(1));
        let lines = lines(&output.stderr);
        let last = lines.last().expect("a line");
        assert_eq!(
            last["message"],
            "Failed to bring up queue-proxy, shutting down."
        );
        let error = last["error"].as_str().expect("text");
        assert!(
            error.starts_with(&format!("{name} server failed to serve: ")),
            "{error}"
        );
    }
}

#[test]
fn row_49_a_metrics_port_that_is_taken_stops_nothing() {
    let address = own_address();
    let _taken = TcpListener::bind((address, 9091)).expect("free");
    let mut environment = environment(address, app());
    environment.insert(
        "OBSERVABILITY_CONFIG",
        r#"{"requestMetrics":{"protocol":"prometheus"},"enableProbeRequestLog":true}"#.to_owned(),
    );
    let child = spawn(&environment);
    let data = SocketAddr::from((address, 8012));
    wait_until_listening(data);
    assert!(get(data, "/", "").ends_with("\r\n\r\nok"));
    signal(&child, "TERM");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    // The switch for probes alone turns no log on.
    assert!(output.stdout.is_empty());
    let lines = lines(&output.stderr);
    assert!(
        lines.iter().any(|line| {
            let message = line["message"].as_str().expect("text");
            message.starts_with("metrics server error: ")
        }),
        "{lines:?}"
    );
}

#[test]
fn a_request_has_a_line_on_standard_output_and_a_probe_has_none() {
    let address = own_address();
    let mut environment = environment(address, app());
    environment.insert(
        "OBSERVABILITY_CONFIG",
        r#"{"enableRequestLog":true}"#.to_owned(),
    );
    let child = spawn(&environment);
    let data = SocketAddr::from((address, 8012));
    wait_until_listening(data);
    let probe = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";
    assert!(get(data, "/", probe).ends_with("queue"));
    let traced = "User-Agent: test\r\ntraceparent: 00-abc-def-01\r\nReferer: <r>\r\n";
    assert!(get(data, "/path?x=1", traced).ends_with("ok"));
    signal(&child, "INT");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let lines = lines(&output.stdout);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let request = &lines[0]["httpRequest"];
    for (key, expected) in [
        ("requestMethod", "GET"),
        ("requestUrl", "/path?x=1"),
        ("requestSize", "0"),
        ("responseSize", "2"),
        ("userAgent", "test"),
        ("serverIp", "10.0.0.7"),
        ("referer", "<r>"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(request[key], expected, "{key}");
    }
    assert_eq!(request["status"], 200);
    assert_eq!(lines[0]["traceId"], "abc");
}

#[test]
fn probes_are_logged_when_asked_for_and_a_bad_template_only_turns_the_log_off() {
    for (config, expected) in [
        (
            r#"{"enableRequestLog":true,"enableProbeRequestLog":true,"requestLogTemplate":"{{.Response.Code}} {{.Request.Method}}"}"#,
            "200 GET\n",
        ),
        (r#"{"enableRequestLog":true,"requestLogTemplate":"{{"}"#, ""),
    ] {
        let address = own_address();
        let mut environment = environment(address, app());
        environment.insert("OBSERVABILITY_CONFIG", config.to_owned());
        let child = spawn(&environment);
        let data = SocketAddr::from((address, 8012));
        wait_until_listening(data);
        let probe = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";
        assert!(get(data, "/", probe).ends_with("queue"));
        signal(&child, "TERM");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

#[test]
fn spans_are_printed_one_per_line_before_the_end() {
    let address = own_address();
    let mut environment = environment(address, app());
    let config = r#"{"tracing":{"protocol":"stdout"}}"#;
    environment.insert("OBSERVABILITY_CONFIG", config.to_owned());
    let child = spawn(&environment);
    let data = SocketAddr::from((address, 8012));
    wait_until_listening(data);
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
    assert!(get(data, "/", parent).ends_with("ok"));
    signal(&child, "TERM");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let spans = lines(&output.stdout);
    let names: Vec<_> = spans.iter().map(|span| &span["Name"]).collect();
    assert_eq!(names, ["HTTP GET", "kn.queueproxy.proxy", "GET"]);
    let server = &spans[2];
    assert_eq!(server["SpanKind"], 2);
    assert_eq!(server["Status"]["Code"], "Unset");
    let (context, parent) = (&server["SpanContext"], &server["Parent"]);
    assert_eq!(context["TraceID"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(context["TraceFlags"], "01");
    assert_eq!(parent["SpanID"], "00f067aa0ba902b7");
    assert_eq!(parent["Remote"], true);
    assert_eq!(spans[1]["Parent"]["SpanID"], context["SpanID"]);
    let resource = server["Resource"].as_array().expect("a list");
    let container = serde_json::json!(
        {"Key": "container.name", "Value": {"Type": "STRING", "Value": "queue-proxy"}}
    );
    assert!(resource.contains(&container), "{resource:?}");
}

#[test]
fn row_50_a_second_signal_exits_at_once_with_1() {
    let address = own_address();
    let mut environment = environment(address, app());
    environment.insert("PILOTLIGHT_QUIET_PERIOD", "1h".to_owned());
    let child = spawn(&environment);
    let data = SocketAddr::from((address, 8012));
    wait_until_listening(data);
    signal(&child, "TERM");
    let probe = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";
    for attempt in 0.. {
        if get(data, "/", probe).starts_with("HTTP/1.1 503") {
            break;
        }
        assert!(attempt < PATIENCE, "never draining");
        std::thread::sleep(PAUSE);
    }
    signal(&child, "TERM");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_unusable_logging_configuration_does_not_stop_the_start() {
    let address = own_address();
    let mut environment = environment(address, app());
    environment.insert("SERVING_LOGGING_CONFIG", "{".to_owned());
    let child = spawn(&environment);
    wait_until_listening(SocketAddr::from((address, 8012)));
    signal(&child, "TERM");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let lines = lines(&output.stderr);
    assert_eq!(lines[0]["logger"], "fallback-logger.queueproxy");
    assert_eq!(lines[0]["severity"], "WARNING");
}

#[test]
fn arguments_are_for_people() {
    let binary = env!("CARGO_BIN_EXE_queue-proxy");
    let ask = |argument| {
        Command::new(binary)
            .arg(argument)
            .output()
            .expect("it runs")
    };
    let version = ask("--version");
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("queue-proxy "));
    assert!(String::from_utf8_lossy(&ask("--help").stdout).contains("PILOTLIGHT_QUEUE_DEPTH"));
    assert_eq!(ask("--bogus").status.code(), Some(2));
}
