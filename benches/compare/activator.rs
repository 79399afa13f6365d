//! The activator: what held requests cost and how soon they are released, what a hop costs, and how
//! little knowing a revision takes.
//!
//! It is the real program. The API server, the autoscaler's end of the stat connection and the
//! clients are this process, whose cost is not counted; pods are an nginx, or this process where it
//! has to see when it is asked what. The program's ports are fixed (8008, 8012, 8013, 9090): where
//! they are taken, a network namespace has them free:
//! `unshare --net --map-root-user sh -c 'ip link set lo up && exec COMMAND'`.

mod cpu;
mod held;
mod impatient;
mod known;
mod ready;
pub(crate) mod running;
mod threads;

use std::path::{Path, PathBuf};

use anyhow::Context;
use benches::peers::{Server, installed, nginx_pods};
use benches::process::build_as_shipped;
use benches::report::{Bar, Report, circumstances};

use crate::Options;

/// Our program's name in rows.
const OURS: &str = "pilotlight";
/// That of the Go activator.
const GO: &str = "go";

/// What every case needs.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) folder: &'a Path,
    program: PathBuf,
    pub(crate) pods: Server,
}

/// Runs every case that `options` ask for.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report {
        subject: "activator".to_owned(),
        circumstances: circumstances(),
        ..Report::default()
    };
    report.circumstances.push(format!(
        "{} alternated rounds, {} requests each; the shipped binary, with one thread where nothing else is said, an API server \
         and clients of another process, one nginx behind every proxy",
        options.rounds, options.requests
    ));
    if options.go.is_none() {
        let why = "not run: the Go activator; --go names one, built elsewhere";
        report.circumstances.push(why.to_owned());
    }
    threads::run(options, &mut report)?;
    let missing: Vec<&str> = ["nginx", "haproxy"]
        .into_iter()
        .filter(|name| installed(name).is_none())
        .collect();
    if !missing.is_empty() {
        let why = format!(
            "install {} (Debian packages nginx-light, haproxy)",
            missing.join(" and ")
        );
        let bar = Bar::unmeasured("everything but the choice of pods", 1.0, &why);
        report.bars.push(bar);
        return Ok(report);
    }
    running::ports_are_free()?;
    let program = match &options.ours {
        Some(path) => path.clone(),
        None => build_as_shipped("activator")?,
    };
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let bench = Bench {
        options,
        folder: folder.path(),
        program,
        pods: nginx_pods(folder.path()).await?,
    };
    // One that breaks does not take the others' figures with it.
    let report = &mut report;
    let done = cpu::run(&bench, report).await;
    note(report, "cpu and memory", done);
    let done = threads::cost(&bench, report).await;
    note(report, "cpu with two threads", done);
    let done = known::run(&bench, report).await;
    note(report, "known revisions", done);
    let done = ready::run(&bench, report).await;
    note(report, "pod ready to request", done);
    let done = held::run(&bench, report).await;
    note(report, "held requests", done);
    let done = impatient::run(&bench, report).await;
    note(report, "impatient clients", done);
    Ok(std::mem::take(report))
}

fn note(report: &mut Report, cases: &str, done: anyhow::Result<()>) {
    if let Err(error) = done {
        let bar = Bar::unmeasured(cases, 0.0, &format!("{error:#}"));
        report.bars.push(bar);
    }
}
