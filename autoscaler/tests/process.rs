//! How the process starts, or says why it does not, and how it ends.
#![cfg(feature = "kubernetes")]
#![allow(
    clippy::unwrap_used,
    reason = "a test, helpers included, fails by panicking"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};

const ENVIRONMENT: [(&str, &str); 3] = [
    ("POD_NAME", "autoscaler-0"),
    ("POD_IP", "127.0.0.1"),
    ("SYSTEM_NAMESPACE", "knative-serving"),
];

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoscaler"));
    command
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A replica with a kubeconfig for this API server.
fn replica(api_server: SocketAddr) -> (Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         clusters: [{{name: a, cluster: {{server: 'http://{api_server}'}}}}]\n\
         users: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let child = command()
        .envs(ENVIRONMENT)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .spawn()
        .unwrap();
    (child, folder)
}

/// An API server of this version that knows no object at all.
fn empty_api_server(version: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test program.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut first = String::new();
            reader.read_line(&mut first).unwrap();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let (status, body) = if first.starts_with("GET /version ") {
                let body = format!(
                    r#"{{"major":"1","minor":"0","gitVersion":"{version}","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}}"#
                );
                ("200 OK", body)
            } else {
                let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not found","reason":"NotFound","code":404}"#;
                ("404 Not Found", body.to_owned())
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            );
            // Whoever left has had enough.
            let _ = reader.into_inner().write_all(answer.as_bytes());
        }
    });
    address
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let kill = Command::new("kill").args(["-s", name, &id]).status();
    assert!(kill.unwrap().success());
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let output = command().arg("--no-such-flag").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output);
    assert!(text.contains("no-such-flag"), "{text}");
    assert!(text.contains("--kubeconfig"), "the flags: {text}");
}

#[test]
fn a_missing_variable_is_named() {
    for (missing, _) in ENVIRONMENT {
        let others = ENVIRONMENT.into_iter().filter(|(name, _)| *name != missing);
        let output = command().envs(others).output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(missing), "{text}");
    }
}

#[test]
fn an_old_api_server_is_refused() {
    let (child, _folder) = replica(empty_api_server("v1.9.3"));
    let output = child.wait_with_output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("API server has version v1.9.3"), "{text}");
}

/// Without what it is to do there is nothing to go on with.
#[test]
fn missing_config_maps_end_the_start() {
    let (child, _folder) = replica(empty_api_server("v1.99.0"));
    let output = child.wait_with_output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("config-"), "names one: {text}");
}

/// One signal ends it in order also while the API server does not answer.
#[test]
fn a_signal_ends_the_start() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut child, _folder) = replica(silent.local_addr().unwrap());
    // It listens to signals before it asks anybody anything.
    let _connection = silent.accept().unwrap();
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
