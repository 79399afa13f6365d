use std::time::Duration;

use super::probe::ProbeAction;
use super::*;

/// A machine that has every program but `missing`, and only the directory `/srv`.
struct Fake;

impl Machine for Fake {
    fn has_program(&self, program: &str, _: Option<&str>) -> bool {
        program != "missing"
    }

    fn is_directory(&self, path: &str) -> bool {
        path == "/srv"
    }
}

fn read(text: &str) -> (Manifest, Report) {
    let source = SourceText {
        name: "hello.yaml".into(),
        text: text.into(),
    };
    Manifest::read(&[source], &Fake)
}

fn shown(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn problems(text: &str, expected: &[&str]) {
    let (_, report) = read(text);
    assert_eq!(shown(&report.problems), expected);
}

/// A Service whose template spec ends in `extra`, written at the depth of `containers`.
fn service(extra: &str) -> String {
    format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: hello}}\nspec:\n  template:\n    spec:\n      containers: [{{image: i, command: [app]}}]\n{extra}"
    )
}

#[test]
fn a_service_as_kubectl_apply_takes_it() {
    let (manifest, report) = read(
        r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: hello
  namespace: shop
spec:
  template:
    metadata:
      name: hello-first
      annotations: {autoscaling.knative.dev/max-scale: "10", my.org/x: "y"}
      labels: {team: a}
    spec:
      containerConcurrency: 1
      timeoutSeconds: 400
      responseStartTimeoutSeconds: 7
      idleTimeoutSeconds: 8
      containers:
        - image: example/hello
          command: [python, app.py]
          args: ["--port=$(PORT)"]
          workingDir: /srv
          env: [{name: A, value: "1"}, {name: B}]
          ports: [{name: h2c, containerPort: 9000}]
          readinessProbe: {httpGet: {path: /up, port: 9000}, periodSeconds: 2}
  traffic:
    - {revisionName: hello-first, percent: 80}
    - {latestRevision: true, percent: 20, tag: next}
"#,
    );
    assert_eq!(shown(&report.problems), [""; 0]);
    assert_eq!(shown(&report.warnings), [""; 0]);
    let service = &manifest.services[0];
    assert_eq!((&*service.namespace, &*service.name), ("shop", "hello"));
    let template = &service.template;
    assert_eq!(template.name.as_deref(), Some("hello-first"));
    assert_eq!(template.container_concurrency, 1);
    assert_eq!(template.timeout, Duration::from_secs(400));
    assert_eq!(template.response_start_timeout, Duration::from_secs(7));
    assert_eq!(template.idle_timeout, Duration::from_secs(8));
    let container = &template.container;
    assert_eq!(container.command, ["python", "app.py", "--port=$(PORT)"]);
    assert_eq!(container.protocol, Protocol::H2c);
    assert_eq!(container.readiness.port, None);
    assert!(matches!(
        container.readiness.action,
        ProbeAction::HttpGet { .. }
    ));
    assert_eq!(
        container.env,
        [("A".into(), "1".into()), ("B".into(), String::new())]
    );
    assert_eq!(service.traffic[0].percent, 80);
    assert_eq!(service.traffic[1].revision_name, None);
    assert_eq!(service.traffic[1].tag.as_deref(), Some("next"));
}

/// The defaults of upstream's `RevisionSpec.SetDefaults` (revision_defaults_test.go).
#[test]
fn defaults_are_knatives() {
    for (given, timeout, response_start) in [
        ("", 300, 0),
        ("      timeoutSeconds: 0\n", 300, 0),
        ("      timeoutSeconds: 301\n", 301, 300),
        ("      timeoutSeconds: 20\n", 20, 0),
    ] {
        let (manifest, report) = read(&service(given));
        assert_eq!(shown(&report.problems), [""; 0]);
        let template = &manifest.services[0].template;
        assert_eq!(template.timeout, Duration::from_secs(timeout), "{given}");
        assert_eq!(
            template.response_start_timeout,
            Duration::from_secs(response_start)
        );
        assert_eq!(template.idle_timeout, Duration::ZERO);
        assert_eq!(template.container_concurrency, 0);
        assert_eq!(manifest.services[0].traffic, [TrafficTarget::latest()]);
    }
}

#[test]
fn an_image_without_a_command_says_what_to_add() {
    let text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\nspec: {template: {spec: {containers: [{image: example/hello}]}}}";
    problems(
        text,
        &[
            "hello.yaml: spec.template.spec.containers[0].image: no command to run locally; add command: [...] or the annotation pilotlight.dev/local-command",
        ],
    );
}

#[test]
fn the_local_command_stands_for_the_image_and_its_arguments() {
    for metadata in [
        "metadata: {name: hello, annotations: {pilotlight.dev/local-command: \"sh -c 'a b'\"}}\nspec: {template: {spec: {containers: [{image: i, command: [missing], args: [x]}]}}}",
        "metadata: {name: hello}\nspec: {template: {metadata: {annotations: {pilotlight.dev/local-command: \"sh -c 'a b'\"}}, spec: {containers: [{image: i}]}}}",
    ] {
        let (manifest, report) = read(&format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\n{metadata}"
        ));
        assert_eq!(shown(&report.problems), [""; 0]);
        let template = &manifest.services[0].template;
        assert_eq!(template.container.command, ["sh", "-c", "a b"]);
        assert!(template.annotations.is_empty());
    }
}

#[test]
fn annotations_for_the_activator_are_known_and_checked() {
    let with = |affinity: &str, wait: &str| {
        format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: hello}}\nspec:\n  template:\n    metadata: {{annotations: {{pilotlight.dev/session-affinity: \"{affinity}\", pilotlight.dev/max-wait: \"{wait}\"}}}}\n    spec: {{containers: [{{image: i, command: [app]}}]}}"
        )
    };
    let (manifest, report) = read(&with("header:X-User", "30s"));
    assert_eq!(shown(&report.problems), [""; 0]);
    assert_eq!(shown(&report.warnings), [""; 0]);
    assert_eq!(manifest.services[0].template.annotations.len(), 2);
    let at = "hello.yaml: spec.template.metadata.annotations";
    let problem = |name: &str, rule: &str| format!("{at}[\"pilotlight.dev/{name}\"]: {rule}");
    let (_, report) = read(&with("ip", "soon"));
    let shown = shown(&report.problems);
    assert_eq!(shown.len(), 2, "{shown:?}");
    for (shown, expected) in shown.iter().zip([
        problem(
            "max-wait",
            "invalid value: soon: expected a duration above zero",
        ),
        problem(
            "session-affinity",
            "invalid value: ip: expected cookie, mcp or header:<name>",
        ),
    ]) {
        let rule = expected.rsplit_once("]: ").expect("has a rule").1;
        assert!(shown.starts_with(at) && shown.ends_with(rule), "{shown}");
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    problems(
        r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: Hello
  annotations: {autoscaling.knative.dev/min-scale: "1"}
spec:
  template:
    metadata: {name: other-1}
    spec:
      containerConcurrency: 1001
      timeoutSeconds: 601
      containers:
        - command: [missing]
          workingDir: /nowhere
          lifecycle: {}
          env: [{name: PORT, value: "1"}, {value: "2"}, {name: N, value: 3}]
          ports: [{containerPort: 8012, name: grpc, protocol: UDP}]
          readinessProbe: {httpGet: {path: /, port: 9}, timeoutSeconds: 3}
  traffic:
    - {tag: a, percent: 50}
    - {tag: a, percent: 101, revisionName: r, latestRevision: true}
    - {tag: 1b, url: x}
"#,
        &[
            "hello.yaml: metadata.name: not a DNS 1035 label: \"Hello\" must consist of lower-case letters, digits and '-', start with a letter and end with a letter or digit",
            "hello.yaml: metadata.annotations[autoscaling.knative.dev/min-scale]: invalid key name: autoscaling annotations must be put under \"spec.template.metadata.annotations\" to work",
            "hello.yaml: spec.template.metadata.name: invalid value: \"other-1\" must have prefix \"Hello-\"",
            "hello.yaml: spec.template.spec.containerConcurrency: expected 0 <= 1001 <= 1000",
            "hello.yaml: spec.template.spec.timeoutSeconds: expected 0 <= 601 <= 600",
            "hello.yaml: spec.template.spec.containers[0].ports[0].containerPort: 8012 is a reserved port, please use a different value",
            "hello.yaml: spec.template.spec.containers[0].ports[0].name: Port name grpc is not allowed; must be empty, or one of: 'h2c', 'http1'",
            "hello.yaml: spec.template.spec.containers[0].ports[0].protocol: invalid value: UDP",
            "hello.yaml: spec.template.spec.containers[0].env[0].name: \"PORT\" is a reserved environment variable",
            "hello.yaml: spec.template.spec.containers[0].env[1].name: missing field",
            "hello.yaml: spec.template.spec.containers[0].env[2].value: must be a string; write it as \"3\"",
            "hello.yaml: spec.template.spec.containers[0].workingDir: /nowhere is no directory on this machine",
            "hello.yaml: spec.template.spec.containers[0].command[0]: missing: no such program on this machine; install it, or correct the path",
            "hello.yaml: spec.template.spec.containers[0].readinessProbe.timeoutSeconds: timeoutSeconds is disallowed when periodSeconds is zero",
            "hello.yaml: spec.template.spec.containers[0].lifecycle: must not set the field",
            "hello.yaml: spec.traffic[1].latestRevision: may not set revisionName \"r\" when latestRevision is true",
            "hello.yaml: spec.traffic[1].percent: expected 0 <= 101 <= 100",
            "hello.yaml: spec.traffic[1].tag: Multiple definitions for \"a\", the other is spec.traffic[0]",
            "hello.yaml: spec.traffic[2].tag: not a DNS 1035 label: \"1b\" must consist of lower-case letters, digits and '-', start with a letter and end with a letter or digit",
            "hello.yaml: spec.traffic[2].url: must not set the field",
            "hello.yaml: spec.traffic: Traffic targets sum to 151, want 100",
        ],
    );
}

#[test]
fn what_only_a_cluster_can_do_is_named() {
    let (manifest, report) = read(
        r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: hello}
spec:
  template:
    metadata: {annotations: {autoscaling.knative.dev/class: hpa.autoscaling.knative.dev}}
    spec:
      volumes: [{name: v, emptyDir: {}}]
      containers:
        - image: i
          command: [app]
          ports: [{containerPort: 8080}]
          resources: {limits: {cpu: "1"}}
          env: [{name: S, valueFrom: {secretKeyRef: {name: s, key: k}}}]
          livenessProbe: {tcpSocket: {}}
          tty_: true
        - {name: logger, image: l}
  extra: 1
"#,
    );
    assert_eq!(shown(&report.problems), [""; 0]);
    assert_eq!(manifest.services.len(), 1);
    let paths: Vec<_> = report.warnings.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "spec.template.metadata.annotations[autoscaling.knative.dev/class]",
            "spec.template.spec.containers[0].env[0].valueFrom",
            "spec.template.spec.containers[0].livenessProbe",
            "spec.template.spec.containers[0].resources",
            "spec.template.spec.containers[0].tty_",
            "spec.template.spec.containers[1]",
            "spec.template.spec.volumes",
            "spec.extra",
        ]
    );
}

#[test]
fn several_serving_ports_are_refused() {
    problems(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\nspec: {template: {spec: {containers: [{name: a, image: i, command: [app], ports: [{containerPort: 1}]}, {name: a, image: i, command: [app], ports: [{containerPort: 2}]}]}}}",
        &[
            "hello.yaml: spec.template.spec.containers[*].ports: more than one container port is set; only a single port is allowed across all containers",
            "hello.yaml: spec.template.spec.containers[1].name: duplicate container name \"a\"",
        ],
    );
}

#[test]
fn config_maps_are_read_before_services() {
    let text = format!(
        "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-autoscaler}}\ndata: {{stable-window: 10s, _example: x}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-defaults}}\ndata: {{revision-timeout-seconds: \"100\", container-concurrency: \"5\", other: x}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-features}}\ndata: {{tag-header-based-routing: Enabled}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: mine}}\n",
        service("")
    );
    let (manifest, report) = read(&text);
    assert_eq!(shown(&report.problems), [""; 0]);
    let template = &manifest.services[0].template;
    assert_eq!(template.timeout, Duration::from_secs(100));
    assert_eq!(template.container_concurrency, 5);
    assert_eq!(
        manifest.settings.autoscaler.stable_window,
        Duration::from_secs(10)
    );
    assert!(manifest.settings.tag_header_based_routing);
    assert_eq!(
        shown(&report.warnings),
        [
            "hello.yaml, document 3: data[other]: not honoured on one machine; ignored",
            "hello.yaml, document 5: ConfigMap \"mine\" is not read on one machine; ignored",
        ]
    );
}

#[test]
fn json_and_lists_are_read() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "hello"}, "spec": {"template": {"spec": {"containers": [{"image": "i", "command": ["app"]}]}}}}]}"#;
    let (manifest, report) = read(text);
    assert_eq!(shown(&report.problems), [""; 0]);
    assert_eq!(manifest.services[0].name, "hello");
}

#[test]
fn other_kinds_are_named_and_unfinished_documents_refused() {
    let (_, report) = read("apiVersion: v1\nkind: Secret\n---\nkind: Service\n---\n- 1\n");
    assert_eq!(
        shown(&report.warnings),
        ["hello.yaml, document 1: Secret of v1 is not read on one machine; ignored"]
    );
    assert_eq!(
        shown(&report.problems),
        [
            "hello.yaml, document 2: apiVersion: missing field",
            "hello.yaml, document 3: apiVersion: missing field",
        ]
    );
}

#[test]
fn broken_text_names_the_place() {
    for text in ["a: [1", "a: b: c", "{\"a\": ", "&a [*a, *a]"] {
        let (_, report) = read(text);
        let shown = shown(&report.problems);
        assert_eq!(shown.len(), 1, "{text}: {shown:?}");
        assert!(
            shown[0].starts_with("hello.yaml: not valid YAML: "),
            "{shown:?}"
        );
        assert!(!shown[0].contains('\n'));
    }
}

#[test]
fn yaml_1_1_booleans_stay_text() {
    let (manifest, report) = read(&service("").replace("image: i", "image: on, workingDir: /srv"));
    assert_eq!(shown(&report.problems), [""; 0]);
    assert_eq!(manifest.services.len(), 1);
}

#[test]
fn hostile_input_is_refused_at_the_limits() {
    let deep = "[".repeat(MAX_DEPTH + 2) + &"]".repeat(MAX_DEPTH + 2);
    let many = "a: 1\n---\n".repeat(MAX_DOCUMENTS + 1);
    let wide = format!("[{}]", "1,".repeat(MAX_NODES + 1));
    for text in [deep, many, wide] {
        let (_, report) = read(&text);
        assert!(!report.problems.is_empty());
        assert!(report.problems.len() <= finding::MAX_FINDINGS);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "(?s).{0,200}") {
        let _ = read(&text);
    }
}

#[test]
fn scaling_settings_are_checked_with_the_webhooks_rules() {
    problems(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\nspec: {template: {metadata: {annotations: {autoscaling.knative.dev/window: 5s, autoscaling.knative.dev/min-scale: \"3\", autoscaling.knative.dev/max-scale: \"2\", serving.knative.dev/progress-deadline: 1ms}}, spec: {containers: [{image: i, command: [app]}]}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-autoscaler}\ndata: {stable-window: 1s, max-scale: x}",
        &[
            "hello.yaml, document 2: data: failed to parse data: failed to parse \"max-scale\": strconv.ParseInt: parsing \"x\": invalid syntax",
            "hello.yaml, document 1: spec.template.metadata.annotations[autoscaling.knative.dev/window]: expected 6s <= 5s <= 1h0m0s",
            "hello.yaml, document 1: spec.template.metadata.annotations[autoscaling.knative.dev/max-scale]: max-scale=2 is less than min-scale=3",
            "hello.yaml, document 1: spec.template.metadata.annotations[autoscaling.knative.dev/min-scale]: max-scale=2 is less than min-scale=3",
            "hello.yaml, document 1: spec.template.metadata.annotations[serving.knative.dev/progress-deadline]: progress-deadline=1ms is not at second precision",
        ],
    );
}
