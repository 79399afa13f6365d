//! The autoscaler at scale: CPU and memory of the real program against an API server and pods of
//! this process, whose cost is not counted; single decisions within this process.
//!
//! The program's ports are fixed (8080, 8008), and pods are scraped on 9090 of every loopback
//! address. Where they are taken, a network namespace has them free:
//! `unshare --net --map-root-user sh -c 'ip link set lo up && exec COMMAND'`.

mod decisions;
mod fleet;
mod running;
mod stats;
mod train;
mod wake;

pub(crate) use self::train::train;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use benches::process::build_as_shipped;
use benches::report::{Report, circumstances};

use crate::Options;

/// What every case needs.
pub(crate) struct Bench {
    pub(crate) program: PathBuf,
}

/// Runs every case that `options` ask for.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report {
        subject: "autoscaler".to_owned(),
        circumstances: circumstances(),
        ..Report::default()
    };
    report.circumstances.push(
        "the shipped binary over TCP against an API server and pods of this process, whose CPU is \
         not counted; one thread; --kube-api-qps=-1"
            .to_owned(),
    );
    decisions::run(options, &mut report)?;
    let cases = [fleet::CASE, stats::CASE, wake::CASE];
    if !cases.iter().any(|case| options.wants(case)) {
        return Ok(report);
    }
    ports_are_free()?;
    let program = match &options.ours {
        Some(path) => path.clone(),
        None => build_as_shipped("autoscaler")?,
    };
    let bench = Bench { program };
    if options.wants(fleet::CASE) {
        fleet::run(&bench, &mut report).await?;
    }
    if options.wants(stats::CASE) {
        stats::run(&bench, &mut report).await?;
    }
    if options.wants(wake::CASE) {
        wake::run(&bench, &mut report).await?;
    }
    Ok(report)
}

/// Says at once when another program has the ports of the autoscaler or of pods.
fn ports_are_free() -> anyhow::Result<()> {
    for port in [8080, 8008] {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        std::net::TcpListener::bind(any).with_context(|| taken(port))?;
    }
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, benches::pods::PORT));
    std::net::TcpListener::bind(any).with_context(|| taken(any.port()))?;
    Ok(())
}

fn taken(port: u16) -> String {
    format!(
        "port {port} is in use; in a network namespace it is free: \
         unshare --net --map-root-user sh -c 'ip link set lo up && exec \"$@\"' compare COMMAND"
    )
}
