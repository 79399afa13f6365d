//! The proxies of one case, in turns: those that can run beside each other do, and sidecars that
//! want the same fixed ports run one after another.

use anyhow::Context;
use benches::peers::{Server, Sidecar};

/// One proxy in a case.
pub(crate) struct Subject<'a> {
    pub(crate) name: String,
    /// `None` while it has to make room for another sidecar.
    running: Option<Server>,
    /// How to start it again.
    sidecar: Option<Sidecar<'a>>,
}

/// All of a case; the peer of the ratios comes first, our program second.
pub(crate) struct Lineup<'a> {
    subjects: Vec<Subject<'a>>,
}

// === impl Subject ===

impl<'a> Subject<'a> {
    /// A server that runs for the whole case.
    pub(crate) fn running(name: &str, server: Server) -> Self {
        Self {
            name: name.to_owned(),
            running: Some(server),
            sidecar: None,
        }
    }

    /// A sidecar, started when its turn comes.
    pub(crate) fn sidecar(sidecar: Sidecar<'a>) -> Self {
        Self {
            name: sidecar.name.to_owned(),
            running: None,
            sidecar: Some(sidecar),
        }
    }
}

// === impl Lineup ===

impl<'a> Lineup<'a> {
    pub(crate) fn new(subjects: Vec<Subject<'a>>) -> Self {
        Self { subjects }
    }

    /// Without the subject `name`, where it cannot take part.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.subjects.retain(|subject| subject.name != name);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.subjects.len()
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        &self.subjects[index].name
    }

    /// The subject at `index`, running; a sidecar's turn ends the others, since the admin and the
    /// statistics port have fixed numbers.
    pub(crate) async fn turn(&mut self, index: usize) -> anyhow::Result<&Server> {
        if self.subjects[index].running.is_none() {
            for other in &mut self.subjects {
                if other.sidecar.is_some() {
                    other.running = None;
                }
            }
            let subject = &mut self.subjects[index];
            let sidecar = subject.sidecar.as_ref().context("nothing to start")?;
            subject.running = Some(sidecar.start().await?);
        }
        let subject = &self.subjects[index];
        subject.running.as_ref().context("it was just started")
    }
}
