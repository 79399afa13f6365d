//! Follows changes of the manifests while they are served.
//!
//! Looks at the files themselves, a few times a second: editors replace, truncate and rename in
//! ways that file events report unreliably, and the files are few and bounded.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::console::Console;
use crate::manifest::{Finding, Manifest, Report, Source, SourceText, ThisMachine, source};

/// Between looks. A change is applied when two looks in a row agree, so that a file that is still
/// being written is not taken for a finished one.
const INTERVAL: Duration = Duration::from_millis(250);

/// Applies changes for as long as it is polled. `texts` is what was applied at the start.
pub async fn follow(
    cluster: Rc<Cluster>,
    sources: Vec<Source>,
    texts: Vec<SourceText>,
    machine: ThisMachine,
) {
    let mut applied = hash(&texts);
    let mut seen = applied;
    // Standard input was read once and stays what it was.
    let input = texts
        .into_iter()
        .find(|text| text.name == source::STANDARD_INPUT);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (texts, report) = look(&sources, input.as_ref());
        let now = hash(&texts);
        let settled = now == seen;
        seen = now;
        if !settled || now == applied {
            continue;
        }
        applied = now;
        apply(&cluster, &texts, report, &machine);
    }
}

fn look(sources: &[Source], input: Option<&SourceText>) -> (Vec<SourceText>, Report) {
    let mut given = input.map_or(&b""[..], |input| input.text.as_bytes());
    source::read(sources, &mut given)
}

fn apply(cluster: &Rc<Cluster>, texts: &[SourceText], read: Report, machine: &ThisMachine) {
    let console = cluster.console();
    let (manifest, mut report) = Manifest::read(texts, machine);
    report.problems.splice(0..0, read.problems);
    if report.problems.is_empty() && manifest.services.is_empty() {
        report.problem("", "no Service is left in the manifests");
    }
    print_warnings(console, &report.warnings);
    let problems = if report.problems.is_empty() {
        cluster
            .apply(
                &manifest.services,
                &manifest.settings.autoscaler,
                manifest.settings.tag_header_based_routing,
            )
            .map(|changes| {
                for id in &changes.created {
                    console.say(format_args!(
                        "{} is new and gets traffic once it is ready",
                        id.name
                    ));
                }
                for id in &changes.removed {
                    console.say(format_args!("{} is removed", id.name));
                }
                if changes.created.is_empty() && changes.removed.is_empty() {
                    console.say("the manifests changed; no new revision was needed");
                }
            })
            .err()
            .unwrap_or_default()
    } else {
        report.problems
    };
    if !problems.is_empty() {
        for problem in &problems {
            console.complain(problem);
        }
        console.say("the change is not applied; what ran before goes on");
    }
}

/// Prints what manifests ask for and do not get.
pub fn print_warnings(console: &Console, warnings: &[Finding]) {
    for warning in warnings {
        console.say(format_args!("warning: {warning}"));
    }
}

fn hash(texts: &[SourceText]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for text in texts {
        (&text.name, &text.text).hash(&mut hasher);
    }
    hasher.finish()
}

/// Reads sources with the process's own standard input.
pub fn read_at_start(sources: &[Source]) -> (Vec<SourceText>, Report) {
    source::read(sources, &mut io::stdin().lock())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_names_and_texts_apart() {
        let text = |name: &str, text: &str| SourceText {
            name: name.into(),
            text: text.into(),
        };
        assert_eq!(hash(&[text("a", "b")]), hash(&[text("a", "b")]));
        assert_ne!(hash(&[text("a", "b")]), hash(&[text("ab", "")]));
        assert_ne!(hash(&[text("a", "b")]), hash(&[text("a", "c")]));
        assert_ne!(hash(&[text("a", "b")]), hash(&[]));
    }
}
