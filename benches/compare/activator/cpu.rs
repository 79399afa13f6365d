//! CPU per request through one hop, and resident memory: idle, and with a thousand connections.

use std::path::Path;
use std::time::Duration;

use benches::api_server::ApiServer;
use benches::load::closed_loop_of;
use benches::peers::{HaproxyMode, Server, haproxy, nginx_proxy};
use benches::process::Cpu;
use benches::report::{Bar, Report, Row};
use benches::revisions::Revision;
use benches::sample::Spread;

use super::running::{Rest, Running, request};
use super::{Bench, GO, OURS};
use crate::alternate::{Case, cpu};
use crate::lineup::{Lineup, Subject};

const CONNECTIONS: [usize; 2] = [64, 1_000];
const BOUND: Duration = Duration::from_secs(120);
/// After the start, before an idle process is looked at.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    for connections in CONNECTIONS {
        let name = case(connections);
        if !bench.options.wants(&name) {
            continue;
        }
        let (_running, mut lineup) = lineup(bench).await?;
        let case = Case {
            name: &name,
            peer: "HAProxy",
            bar: 1.1,
        };
        cpu(
            bench.options,
            report,
            &case,
            &mut lineup,
            async |server, _, requests| {
                let requests = requests.max(connections as u64);
                loop_once(server, connections, requests).await
            },
        )
        .await?;
    }
    memory(bench, report).await?;
    match &bench.options.go {
        Some(program) => go(bench, program, report).await,
        None => Ok(()),
    }
}

fn case(connections: usize) -> String {
    format!("cpu, {connections} connections")
}

/// The Go activator, which no bar judges: by itself, for it wants our ports.
async fn go(bench: &Bench<'_>, program: &Path, report: &mut Report) -> anyhow::Result<()> {
    if !bench.options.wants("cpu, the Go activator") {
        return Ok(());
    }
    let revision = Revision {
        pods: vec![bench.pods.address],
        ..Revision::default()
    };
    let requests = bench.options.requests;
    for connections in CONNECTIONS {
        let running = Running::start_go(program, std::slice::from_ref(&revision)).await?;
        let server = &running.server;
        tokio::time::sleep(SETTLE).await;
        let idle = server.process.rss_mib()?;
        loop_once(server, connections, requests / 10).await?;
        let mut rounds = Vec::new();
        for _ in 0..bench.options.rounds {
            let before = server.process.cpu()?;
            let done = loop_once(server, connections, requests.max(connections as u64)).await?;
            rounds.push(server.process.cpu()?.since(before).per(done.ok));
        }
        let median = |figure: fn(&Cpu) -> f64| {
            let all: Vec<f64> = rounds.iter().map(figure).collect();
            Spread::of(&all).map(|spread| spread.median)
        };
        report.rows.push(Row {
            case: case(connections),
            subject: GO.to_owned(),
            requests,
            cpu_us_per_request: median(|cpu| cpu.total_us),
            user_us: median(|cpu| cpu.user_us),
            system_us: median(|cpu| cpu.system_us),
            rss_mib: Some(server.process.peak_rss_mib()?),
            ..Row::default()
        });
        report.rows.push(Row {
            case: "memory, idle".to_owned(),
            subject: GO.to_owned(),
            rss_mib: Some(idle),
            ..Row::default()
        });
    }
    Ok(())
}

async fn loop_once(
    server: &Server,
    connections: usize,
    requests: u64,
) -> anyhow::Result<benches::load::Done> {
    closed_loop_of(request(0), server.address, connections, requests, BOUND).await
}

/// HAProxy first, then ours, then nginx; all in front of the same pod.
async fn lineup<'a>(bench: &Bench<'_>) -> anyhow::Result<((ApiServer, Rest), Lineup<'a>)> {
    let pod = bench.pods.address;
    let revision = Revision {
        pods: vec![pod],
        ..Revision::default()
    };
    let mode = HaproxyMode::Http { limit: None };
    let (server, rest) = Running::start(&bench.program, &[revision], &[])
        .await?
        .split();
    let lineup = Lineup::new(vec![
        Subject::running("haproxy", haproxy(bench.folder, pod, mode).await?),
        Subject::running(OURS, server),
        Subject::running("nginx", nginx_proxy(bench.folder, pod).await?),
    ]);
    Ok((rest, lineup))
}

async fn memory(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    const MANY: usize = CONNECTIONS[1];
    if !bench.options.wants("memory") {
        return Ok(());
    }
    let (_running, mut lineup) = lineup(bench).await?;
    let (mut idle, mut peaks) = (Vec::new(), Vec::new());
    for index in 0..lineup.len() {
        let server = lineup.turn(index).await?;
        tokio::time::sleep(SETTLE).await;
        let rss = server.process.rss_mib()?;
        loop_once(server, MANY, bench.options.requests).await?;
        let peak = server.process.peak_rss_mib()?;
        idle.push(rss);
        peaks.push(peak);
        for (case, requests, rss) in [
            ("memory, idle".to_owned(), 0, rss),
            (
                format!("memory, {MANY} connections, highest"),
                bench.options.requests,
                peak,
            ),
        ] {
            report.rows.push(Row {
                case,
                subject: lineup.name(index).to_owned(),
                requests,
                rss_mib: Some(rss),
                ..Row::default()
            });
        }
    }
    let of_idle = Spread::of(&[idle[1]]);
    report
        .bars
        .push(Bar::at_most("memory, idle (MiB)", of_idle, 8.0));
    report.bars.push(Bar::at_most(
        "memory, 1000 connections: ratio to HAProxy's highest",
        Spread::of_ratios(&[peaks[1]], &[peaks[0]]),
        1.0,
    ));
    Ok(())
}
