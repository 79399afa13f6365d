//! Ends: signals, drains, and what is left behind.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use api_server::port;
use rustix::process::Signal;
use tests::load::{all_ok, at_once};
use tests::manifest::Service;
use tests::pilotlight::{Pilotlight, binary, processes_with, until_gone};
use tokio::process::Command;

use crate::scaling::ready;

#[tokio::test]
async fn sigterm_under_load_loses_no_request() {
    let service = Service::new("term").autoscaling("min-scale", "2");
    let mut pilotlight = Pilotlight::run(&service.yaml()).await;
    pilotlight
        .until("two ready replicas", |status| {
            ready(status, "term-00001") == 2
        })
        .await;
    let call = pilotlight.call("term.localhost", "/?sleep=1500");
    let requests = tokio::spawn(async move { at_once(&call, 50).await });
    pilotlight
        .until("fifty requests in progress", |status| {
            status["requests"] == 50
        })
        .await;
    pilotlight.signal(Signal::TERM);
    all_ok(&requests.await.unwrap());
    let status = pilotlight.ended(Duration::from_secs(40)).await;
    assert_eq!(status.code(), Some(0), "{}", pilotlight.output());
    until_gone("K_SERVICE=term", Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_second_interrupt_ends_everything_at_once() {
    let service = Service::new("twice").autoscaling("min-scale", "1");
    let mut pilotlight = Pilotlight::run(&service.yaml()).await;
    pilotlight
        .until("a ready replica", |status| {
            ready(status, "twice-00001") == 1
        })
        .await;
    let call = pilotlight.call("twice.localhost", "/?sleep=60s");
    let request = tokio::spawn(call.send());
    pilotlight
        .until("a request in progress", |status| status["requests"] == 1)
        .await;
    pilotlight.signal(Signal::INT);
    pilotlight.until_printed("once more").await;
    pilotlight.signal(Signal::INT);
    let status = pilotlight.ended(Duration::from_secs(3)).await;
    assert_eq!(status.code(), Some(130), "{}", pilotlight.output());
    assert!(request.await.unwrap().is_err());
    until_gone("K_SERVICE=twice", Duration::from_secs(3)).await;
}

#[tokio::test]
async fn nothing_survives_a_kill() {
    // The app starts a child of its own, which takes no notice of SIGTERM.
    let script = format!(
        "trap '' TERM; sleep 600 & exec {:?} sample-app --ignore-sigterm",
        binary()
    );
    let manifest = format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: orphan}}\nspec: {{template: {{\n\
         metadata: {{annotations: {{autoscaling.knative.dev/min-scale: \"2\"}}}},\n\
         spec: {{containers: [{{command: [sh, -c, {script:?}]}}]}}}}}}\n"
    );
    let mut pilotlight = Pilotlight::run(&manifest).await;
    pilotlight
        .until("two ready replicas", |status| {
            ready(status, "orphan-00001") == 2
        })
        .await;
    assert!(
        processes_with("K_SERVICE=orphan").len() >= 4,
        "two apps and two sleeps run"
    );
    pilotlight.signal(Signal::KILL);
    pilotlight.ended(Duration::from_secs(3)).await;
    until_gone("K_SERVICE=orphan", Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_replica_that_ignores_sigterm_is_killed_after_five_seconds() {
    let service = Service::new("stubborn")
        .argument("--ignore-sigterm")
        .autoscaling("min-scale", "1");
    let mut pilotlight = Pilotlight::run(&service.yaml()).await;
    pilotlight
        .until("a ready replica", |status| {
            ready(status, "stubborn-00001") == 1
        })
        .await;
    pilotlight.signal(Signal::TERM);
    let status = pilotlight.ended(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0), "{}", pilotlight.output());
    until_gone("K_SERVICE=stubborn", Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(binary())
        .args(["run", "--listen", &address, "--"])
        .arg(binary())
        .arg("sample-app")
        .output()
        .await
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{message}");
    assert!(message.contains(&address), "{message}");
}

#[tokio::test]
async fn a_missing_command_is_a_clear_error() {
    let port = port().to_string();
    let output = Command::new(binary())
        .args(["run", "--listen", &port, "--", "no-such-program-anywhere"])
        .output()
        .await
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(127), "{message}");
    assert!(message.contains("no-such-program-anywhere"), "{message}");
}

#[tokio::test]
async fn status_says_when_nothing_runs() {
    let port = port().to_string();
    let output = Command::new(binary())
        .args(["status", "--port", &port])
        .output()
        .await
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains(&port), "{message}");
}

#[tokio::test]
async fn the_status_socket_is_the_users_own() {
    let runtime = tempfile::tempdir().unwrap();
    let port = port();
    let mut child = Command::new(binary())
        .env("XDG_RUNTIME_DIR", runtime.path())
        .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--"])
        .arg(binary())
        .arg("sample-app")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let socket = tests::eventually("a socket named by port", async || {
        find(runtime.path(), &port.to_string()).ok_or("no socket yet")
    })
    .await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", socket.display());
    let output = Command::new(binary())
        .env("XDG_RUNTIME_DIR", runtime.path())
        .args(["status", "--port", &port.to_string()])
        .output()
        .await
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && table.contains("app-00001"),
        "{table}"
    );
    child.kill().await.unwrap();
}

/// The file below `folder` whose name contains `part`.
fn find(folder: &std::path::Path, part: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find(&path, part);
        }
        entry
            .file_name()
            .to_string_lossy()
            .contains(part)
            .then_some(path)
    })
}
