//! The statements of the fuzzers, on the committed seeds and on mutations of them.

#[path = "support/statements.rs"]
mod statements;

use std::path::Path;

/// Mutations of each corpus.
const CASES: usize = 4000;
/// No input grows beyond this.
const MAX_BYTES: usize = 4096;

fn holds(corpus: &str, statement: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../serving/fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder.join(corpus))
        .expect("a corpus")
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    // The order of a folder is nobody's promise, and the mutations depend on it.
    files.sort();
    let seeds: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).expect("a file that can be read"))
        .collect();
    seeds.iter().for_each(|seed| statement(seed));
    let mut rng = fastrand::Rng::with_seed(11);
    for _ in 0..CASES {
        let mut data = seeds[rng.usize(..seeds.len())].clone();
        for _ in 0..rng.usize(1..6) {
            mutate(&mut data, &mut rng);
        }
        data.truncate(MAX_BYTES);
        statement(&data);
    }
}

/// Sets, inserts, cuts or repeats; digits are set most often, as they keep JSON readable.
fn mutate(data: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    let at = rng.usize(..=data.len());
    let len = rng.usize(..=(data.len() - at).min(16));
    match rng.u8(..6) {
        0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
        1 => data.insert(at, rng.u8(..)),
        2 => drop(data.drain(at..at + len)),
        3 => {
            let part = data[at..at + len].repeat(rng.usize(1..8));
            data.splice(at..at, part);
        }
        _ => {
            let digits = data
                .iter()
                .enumerate()
                .filter(|(_, it)| it.is_ascii_digit());
            let digits: Vec<usize> = digits.map(|(at, _)| at).collect();
            if let Some(at) = rng.choice(digits) {
                let more = "9".repeat(rng.usize(1..11)).into_bytes();
                data.splice(at..=at, more);
            }
        }
    }
}

#[test]
fn requests() {
    holds("activator_request", statements::request);
}

#[test]
fn annotations() {
    holds("activator_annotations", statements::annotations);
}

#[test]
fn ingresses() {
    holds("activator_ingress", statements::ingress);
}

#[test]
fn endpoints() {
    holds("activator_endpoints", statements::endpoints);
}
