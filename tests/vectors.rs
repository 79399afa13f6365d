//! Replays the conformance vectors: values that Knative Serving's own code produced.
//!
//! `cargo test -p tests --test vectors` replays the project's copy in `tests/vectors`;
//! `VECTORS_DIR` names another folder of the same schema. Arguments select families
//! (`cargo test -p tests --test vectors -- window wire`). One line per family is printed,
//! then the first differing cases with path, expected and got. A family or kind that nothing
//! here replays is reported as missing and fails the run: it is never counted as passed.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test program talks on stdout, and a vector of another shape may end it"
)]

mod conformance;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use conformance::{Family, Verdict, difference};

/// How many differing cases of one family are printed in full.
const SHOWN_PER_FAMILY: usize = 5;

fn main() -> ExitCode {
    let selected: BTreeSet<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let folder = folder();
    let mut failed = false;
    let mut seen = 0;
    for family in conformance::FAMILIES {
        if !selected.is_empty() && !selected.contains(family.name) {
            continue;
        }
        seen += 1;
        failed |= !run(family, &folder);
    }
    if seen == 0 {
        let known: Vec<_> = conformance::FAMILIES.iter().map(|f| f.name).collect();
        eprintln!("no such family; known are {}", known.join(", "));
        failed = true;
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one variable of a test program, read once"
)]
fn folder() -> PathBuf {
    std::env::var_os("VECTORS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"),
        PathBuf::from,
    )
}

/// Replays one family; false when a case differs or is missing.
fn run(family: &Family, folder: &Path) -> bool {
    let path = folder.join(format!("{}.json", family.name));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            println!("{}: cannot read {}: {error}", family.name, path.display());
            return false;
        }
    };
    let file: Value = match serde_json::from_str(&text) {
        Ok(file) => file,
        Err(error) => {
            println!("{}: {} is not JSON: {error}", family.name, path.display());
            return false;
        }
    };
    let cases = file["cases"].as_array().map_or(&[][..], Vec::as_slice);
    let mut passed = 0;
    let mut missing = BTreeSet::new();
    let mut missed = 0;
    let mut shown = Vec::new();
    let mut differing = 0;
    for case in cases {
        match (family.replay)(case) {
            Verdict::Missing(what) => {
                missing.insert(what);
                missed += 1;
            }
            Verdict::Replayed { expected, got } => {
                match difference(&expected, &got, family.tolerance) {
                    None => passed += 1,
                    Some(first) => {
                        differing += 1;
                        if shown.len() < SHOWN_PER_FAMILY {
                            shown.push(format!(
                                "  {} ({})\n    at {}\n    expected {}\n    got      {}",
                                case["id"].as_str().unwrap_or("?"),
                                case["name"].as_str().unwrap_or(""),
                                first.path,
                                first.expected,
                                first.got
                            ));
                        }
                    }
                }
            }
        }
    }
    println!("{}: {passed} of {}", family.name, cases.len());
    if missed > 0 {
        let kinds: Vec<_> = missing.into_iter().collect();
        println!("  missing: {missed} cases of {}", kinds.join(", "));
    }
    for text in &shown {
        println!("{text}");
    }
    if differing > shown.len() {
        println!("  and {} more", differing - shown.len());
    }
    passed == cases.len() && !cases.is_empty()
}
