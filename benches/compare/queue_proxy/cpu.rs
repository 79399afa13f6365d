//! CPU per request, closed loop: HTTP/1.1 with and without a concurrency limit, h2c, and WebSocket
//! messages.

use std::time::Duration;

use benches::peers::{HaproxyMode, envoy, haproxy, nginx_backend};
use benches::report::Report;
use benches::websocket::{self, Echo};
use benches::{h2c, load};

use super::{Bench, LIMIT};
use crate::alternate::{Case, cpu};
use crate::lineup::{Lineup, Subject};

/// The longest one round may take.
const BOUND: Duration = Duration::from_secs(120);

/// Connections and streams of the h2c case; HAProxy gets as many HTTP/1.1 connections as there are
/// streams in all.
const H2C: (usize, usize) = (10, 10);

/// Requests that the Go queue-proxy takes with [`LIMIT`]; its queue has a fixed depth.
const GO_PLACES: usize = 11 * LIMIT as usize;

/// Connections of the WebSocket case.
const WEBSOCKETS: usize = 64;

pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    for (limit, bar) in [(None, 1.0), (Some(LIMIT), 1.1)] {
        for connections in [64, 1_000] {
            let kind = if limit.is_some() {
                "limit 10"
            } else {
                "no limit"
            };
            let name = format!("cpu, {kind}, {connections} connections");
            if !bench.options.wants(&name) {
                continue;
            }
            let case = Case {
                name: &name,
                peer: "HAProxy",
                bar,
            };
            let mut lineup = bench.lineup(limit).await?;
            if limit.is_some() && connections > GO_PLACES {
                lineup = lineup.without("go");
            }
            cpu(
                bench.options,
                report,
                &case,
                &mut lineup,
                async |server, _, requests| {
                    let requests = requests.max(connections as u64);
                    load::closed_loop(server.address, connections, requests, BOUND).await
                },
            )
            .await?;
        }
    }
    h2c(bench, report).await?;
    websocket(bench, report).await
}

async fn h2c(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let (connections, streams) = H2C;
    let name = format!("h2c, {connections} connections x {streams} streams");
    if !bench.options.wants(&name) {
        return Ok(());
    }
    let backend = nginx_backend(bench.folder, true).await?;
    let http1 = HaproxyMode::Http { limit: None };
    let mut subjects = vec![Subject::running(
        "haproxy (h1)",
        haproxy(bench.folder, bench.backend.address, http1).await?,
    )];
    subjects.extend(bench.sidecars(None, backend.address));
    if let Some(program) = &bench.options.envoy {
        let envoy = envoy(program, bench.folder, backend.address, true).await?;
        subjects.push(Subject::running("envoy", envoy));
    }
    let case = Case {
        name: &name,
        peer: "HAProxy's HTTP/1.1 hop",
        bar: 1.5,
    };
    cpu(
        bench.options,
        report,
        &case,
        &mut Lineup::new(subjects),
        async |server, index, requests| match index {
            0 => load::closed_loop(server.address, connections * streams, requests, BOUND).await,
            _ => h2c::closed_loop(server.address, connections, streams, requests, BOUND).await,
        },
    )
    .await
}

async fn websocket(bench: &Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let name = format!("websocket echo, {WEBSOCKETS} connections");
    if !bench.options.wants(&name) {
        return Ok(());
    }
    let echo = Echo::start()?;
    let mut subjects = vec![Subject::running(
        "haproxy (tcp)",
        haproxy(bench.folder, echo.address, HaproxyMode::Tcp).await?,
    )];
    subjects.extend(bench.sidecars(None, echo.address));
    let case = Case {
        name: &name,
        peer: "HAProxy in mode tcp, per message",
        bar: 1.2,
    };
    cpu(
        bench.options,
        report,
        &case,
        &mut Lineup::new(subjects),
        async |server, _, messages| {
            websocket::closed_loop(server.address, WEBSOCKETS, messages, BOUND).await
        },
    )
    .await
}
