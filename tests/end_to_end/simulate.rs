//! `pilotlight simulate` as a command: its exit codes and its streams.

use std::process::{Command, Output};

use tests::pilotlight::binary;

fn simulate(arguments: &[&str]) -> Output {
    Command::new(binary())
        .arg("simulate")
        .args(arguments)
        .output()
        .unwrap()
}

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/decider.json");

#[test]
fn every_decider_vector_can_be_checked_from_the_command_line() {
    let output = simulate(&["--scenario", VECTORS, "--check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty());
    assert!(output.stdout.iter().filter(|byte| **byte == b'\n').count() > 5000);
}

#[test]
fn a_difference_ends_with_one_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.json");
    let text = std::fs::read_to_string(VECTORS).unwrap();
    let changed = text.replacen("\"totalValue\": 100", "\"totalValue\": 101", 1);
    let changed = if changed == text {
        text.replacen("\"totalValue\":100", "\"totalValue\":101", 1)
    } else {
        changed
    };
    assert_ne!(changed, text);
    std::fs::write(&path, changed).unwrap();
    let output = simulate(&["--scenario", path.to_str().unwrap(), "--check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("spec.totalValue: expected 101"),
        "{message}"
    );
}

#[test]
fn wrong_input_and_wrong_usage_have_their_codes() {
    for (arguments, code) in [
        (&["--shape", "step", "--vs", "target=0"][..], 64),
        (&["--trace", "/nonexistent.csv"], 64),
        (&["--shape", "square"], 2),
        (&[], 2),
        (&["--shape", "step", "--duration", "10s"], 0),
    ] {
        let output = simulate(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert_eq!(output.stderr.is_empty(), code == 0, "{arguments:?}");
    }
}

#[test]
fn completion_and_manual_know_it() {
    for arguments in [
        &["man"][..],
        &["completion", "bash"],
        &["completion", "fish"],
    ] {
        let output = Command::new(binary()).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("simulate") && text.contains("scenario"),
            "{arguments:?}"
        );
    }
}
