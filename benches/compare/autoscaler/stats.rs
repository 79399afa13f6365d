//! What activators' stats cost: frames of a hundred over one WebSocket, as fast as they are taken.

use std::time::Duration;

use anyhow::Context;
use benches::awake::KeepAwake;
use benches::fleet::{Fleet, name};
use benches::pods::Idle;
use benches::report::{Bar, Report, Row};
use benches::sample::Spread;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use serving::stat::{Stat, WireStatMessage, WireStatMessages};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::Bench;
use super::running::{Running, STATS};

pub(super) const CASE: &str = "stats";

const FRAME: usize = 100;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// A frame of these revisions.
pub(super) fn frame(fleet: &Fleet, revisions: impl IntoIterator<Item = usize>) -> Message {
    let messages = revisions.into_iter().map(|index| WireStatMessage {
        namespace: fleet.namespace(index),
        name: name(index),
        stat: Some(Stat {
            pod_name: "activator-7f9b8c6d5-abcde".to_owned(),
            average_concurrent_requests: 1.0,
            request_count: 1.0,
            ..Stat::default()
        }),
    });
    let messages = WireStatMessages {
        messages: messages.collect(),
    };
    Message::Binary(Bytes::from(messages.encode_to_vec()))
}

/// Frames of all active revisions.
pub(crate) fn frames(fleet: &Fleet) -> Vec<Message> {
    let firsts = (0..fleet.active).step_by(FRAME);
    firsts
        .map(|first| frame(fleet, first..first + FRAME))
        .collect()
}

pub(crate) type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

pub(crate) async fn connect() -> anyhow::Result<Socket> {
    let connected =
        tokio_tungstenite::connect_async_with_config(format!("ws://{STATS}/"), None, true);
    Ok(connected.await.context("no WebSocket to the autoscaler")?.0)
}

pub(super) async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let awake = KeepAwake::start();
    report
        .circumstances
        .push(format!("{CASE}: {}", awake.circumstance()));
    for revisions in [1_000, 10_000] {
        let fleet = Fleet {
            active: revisions,
            at_zero: 0,
            namespaces: revisions / 10,
            scraped: false,
        };
        let running = Running::start(bench, fleet, Idle::Sleep).await?;
        let frames = frames(&fleet);
        let mut socket = connect().await?;
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            costs.push(one_round(&running, &mut socket, &frames).await?);
        }
        let cost = Spread::of(&costs).map(|spread| spread.median);
        report.rows.push(Row {
            case: format!("{CASE}, {revisions} revisions"),
            subject: "pilotlight".to_owned(),
            cpu_us_per_request: cost,
            rss_mib: Some(running.process.rss_mib()?),
            ..Row::default()
        });
        let rates: Vec<f64> = costs.iter().map(|cost| 1e6 / cost).collect();
        let name = format!("activator stats/s per core, {revisions} revisions");
        let rates = Spread::of(&rates);
        report.bars.push(Bar::at_least(&name, rates, 1_000_000.0));
    }
    Ok(())
}

/// Microseconds of CPU per stat. A ping after the last frame is answered when all have been read.
async fn one_round(
    running: &Running,
    socket: &mut Socket,
    frames: &[Message],
) -> anyhow::Result<f64> {
    let (cpu, end) = (running.process.cpu()?, Instant::now() + ROUND);
    let mut sent = 0;
    while Instant::now() < end {
        for frame in frames {
            socket.feed(frame.clone()).await?;
            sent += FRAME;
        }
    }
    socket.send(Message::Ping(Bytes::new())).await?;
    socket.next().await.context("the WebSocket ended")??;
    // What was read last is recorded within a moment; the next ticks cost next to nothing.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let spent = running.process.cpu()?.since(cpu).total_us;
    Ok(spent / sent as f64)
}
