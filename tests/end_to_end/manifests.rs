//! What is read, what is refused, and how either is said.

use std::io::Write;
use std::process::Stdio;

use api_server::port;
use tests::manifest::Service;
use tests::pilotlight::{Options, Pilotlight, binary};

/// Runs `pilotlight run -f FILE` on a manifest that must be refused; exit code and message.
fn refused(manifest: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, manifest).unwrap();
    let output = std::process::Command::new(binary())
        .args(["run", "--listen", &port().to_string(), "-f"])
        .arg(path)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn every_problem_of_a_manifest_is_reported_at_once() {
    let (code, message) = refused(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: Bad_Name}\nspec:\n  template:\n    \
         metadata: {annotations: {autoscaling.knative.dev/min-scale: \"-1\"}}\n    \
         spec:\n      containerConcurrency: -5\n      timeoutSeconds: 100000\n      containers: [{image: example.com/app}]\n  \
         traffic: [{latestRevision: true, percent: 50}]\n",
    );
    assert_eq!(code, Some(64), "{message}");
    for part in [
        "bad.yaml",
        "metadata.name",
        "autoscaling.knative.dev/min-scale",
        "containerConcurrency",
        "timeoutSeconds",
        "containers[0]",
        "pilotlight.dev/local-command",
        "traffic",
    ] {
        assert!(message.contains(part), "{part} is missing in:\n{message}");
    }
}

#[test]
fn what_is_not_yaml_or_not_a_service_is_refused() {
    for (manifest, part) in [
        ("{", "bad.yaml"),
        ("", "bad.yaml"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "Pod"),
    ] {
        let (code, message) = refused(manifest);
        assert_eq!(code, Some(64), "{manifest:?}: {message}");
        assert!(message.contains(part), "{manifest:?}: {message}");
    }
}

#[test]
fn an_unknown_revision_name_lists_those_known() {
    let first = Service::new("known").revision("known-one");
    let second = Service::new("known")
        .revision("known-two")
        .traffic("{revisionName: known-six, percent: 100}");
    let (code, message) = refused(&format!("{}{}", first.yaml(), second.yaml()));
    assert_eq!(code, Some(64), "{message}");
    for part in ["known-six", "known-one", "known-two"] {
        assert!(message.contains(part), "{part} is missing in:\n{message}");
    }
}

#[tokio::test]
async fn fields_that_cannot_be_honoured_are_named() {
    let service = Service::new("warned")
        .spec("serviceAccountName: someone")
        .container("resources: {limits: {memory: 1Gi}}");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    assert_eq!(pilotlight.get("warned.localhost", "/").await.status, 200);
    let output = pilotlight.output();
    assert!(output.contains("serviceAccountName"), "{output}");
    assert!(output.contains("resources"), "{output}");
}

#[tokio::test]
async fn an_annotation_stands_for_an_image() {
    let manifest = format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: both}}\nspec: {{template: {{\n\
         metadata: {{annotations: {{pilotlight.dev/local-command: \"{} sample-app --message=local\"}}}},\n\
         spec: {{containers: [{{image: example.com/both}}]}}}}}}\n",
        binary().display()
    );
    let pilotlight = Pilotlight::run(&manifest).await;
    assert_eq!(
        pilotlight.get("both.localhost", "/").await.text().trim(),
        "local"
    );
}

#[tokio::test]
async fn json_on_standard_input_is_read() {
    let manifest = serde_json::json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "piped"},
        "spec": {"template": {"spec": {"containers": [{"command": [binary()], "args": ["sample-app"]}]}}},
    });
    let port = port();
    let mut child = std::process::Command::new(binary())
        .args(["run", "--listen", &format!("127.0.0.1:{port}"), "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(manifest.to_string().as_bytes())
        .unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answer = tests::eventually("an answer", async || {
        tests::client::Call::get(address, "piped.localhost", "/")
            .send()
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer.text(), "Hello from piped-00001!\n");
}

#[tokio::test]
async fn a_bare_command_runs_under_a_name() {
    let program = binary().to_str().unwrap();
    let arguments = [
        "--name",
        "bare",
        "--annotation",
        "autoscaling.knative.dev/max-scale=1",
        "--",
        program,
        "sample-app",
    ];
    let pilotlight = Pilotlight::start(Options {
        manifest: "",
        arguments: &arguments,
    })
    .await;
    assert_eq!(
        pilotlight.get("bare.localhost", "/").await.text(),
        "Hello from bare-00001!\n"
    );
    let status = pilotlight.status().await;
    assert!(status.to_string().contains("bare-00001"), "{status:#}");
}

#[tokio::test]
async fn a_readiness_probe_decides_when_requests_go_through() {
    let service = Service::new("probed")
        .argument("--start-delay=500ms")
        .container("ports: [{containerPort: 8080}]")
        .container("readinessProbe: {httpGet: {path: /env, port: 8080}}");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    assert_eq!(pilotlight.get("probed.localhost", "/").await.status, 200);
    let never = Service::new("unready")
        .container("readinessProbe: {httpGet: {path: \"/?status=500\"}}")
        .spec("timeoutSeconds: 3");
    let pilotlight = Pilotlight::run(&never.yaml()).await;
    assert_eq!(pilotlight.get("unready.localhost", "/").await.status, 504);
}

#[tokio::test]
async fn the_revision_timeout_ends_a_slow_request() {
    let service = Service::new("slow")
        .spec("timeoutSeconds: 2")
        .autoscaling("min-scale", "1");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    assert_eq!(pilotlight.get("slow.localhost", "/").await.status, 200);
    let answer = pilotlight.get("slow.localhost", "/?sleep=10s").await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.text().contains("request timeout"), "{answer:?}");
}
