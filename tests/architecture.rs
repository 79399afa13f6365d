//! Edges that must not exist between crates.

use std::collections::BTreeSet;
use std::process::Command;

/// Everything that `package` links, with the features that it asks for itself.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names: BTreeSet<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(
        names.contains(package),
        "{package} is not in its own tree: {names:?}"
    );
    names
}

#[track_caller]
fn lacks(package: &str, forbidden: &[&str]) {
    let names = tree(package);
    let found: Vec<_> = forbidden
        .iter()
        .filter(|name| names.contains(**name))
        .collect();
    assert!(found.is_empty(), "{package} must not depend on {found:?}");
}

const KUBERNETES: [&str; 4] = ["kube", "kube-client", "kube-core", "k8s-openapi"];

#[test]
fn serving_knows_neither_kubernetes_nor_any_program() {
    lacks("serving", &KUBERNETES);
    lacks(
        "serving",
        &["queue-proxy", "activator", "autoscaler", "local", "clap"],
    );
}

#[test]
fn the_sidecar_carries_neither_kubernetes_nor_a_command_line_parser() {
    lacks("queue-proxy", &KUBERNETES);
    lacks("queue-proxy", &["clap", "serde-saphyr"]);
}

/// The exporters are the only part that talks OTLP, and they are small because they bring nothing.
#[test]
fn the_sidecar_carries_no_second_telemetry_stack() {
    let stacks = [
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry-otlp",
        "tonic",
        "reqwest",
    ];
    lacks("queue-proxy", &stacks);
    lacks("local", &stacks);
}

#[test]
fn components_do_not_depend_on_each_other() {
    lacks("queue-proxy", &["activator", "autoscaler", "local"]);
    lacks("activator", &["queue-proxy", "autoscaler", "local"]);
    lacks("autoscaler", &["queue-proxy", "activator", "local"]);
}

#[test]
fn one_machine_runs_without_kubernetes() {
    lacks("local", &KUBERNETES);
    let names = tree("local");
    for part in ["serving", "queue-proxy", "activator", "autoscaler"] {
        assert!(names.contains(part), "local must be made of {part}");
    }
}

#[test]
fn the_cluster_binaries_do_have_kubernetes() {
    // Otherwise the tests above would also pass when the names were spelt wrong.
    for component in ["activator", "autoscaler"] {
        assert!(tree(component).contains("kube"), "{component}");
    }
}
