//! The statements of the fuzzers, on the committed seeds and on mutations of them.

#[path = "support/statements.rs"]
mod statements;

/// Mutations of each corpus.
const CASES: usize = 4000;

fn holds(corpus: &str, statement: fn(&[u8])) {
    let seeds = serving::fuzz::corpus(corpus);
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    serving::fuzz::mutate(&seeds, CASES, statement);
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
