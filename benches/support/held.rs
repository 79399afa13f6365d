//! Requests that wait for their answers, each on a connection or stream of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::{Connection, Done};

/// Connections that are opened at the same time: fewer than a listener's backlog takes.
const OPENING: usize = 256;

/// Opens `count` connections.
///
/// # Errors
/// When one is refused.
pub async fn open(address: SocketAddr, count: usize) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let mut opening = JoinSet::new();
        for _ in 0..OPENING.min(count - connections.len()) {
            opening.spawn(Connection::open(address));
        }
        while let Some(opened) = opening.join_next().await {
            connections.push(opened??);
        }
    }
    Ok(connections)
}

/// Sends `each` requests over every connection, one after the other.
pub fn send(connections: Vec<Connection>, request: &[u8], each: usize) -> JoinSet<Done> {
    let request: std::sync::Arc<[u8]> = request.into();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut done = Done::default();
            for _ in 0..each {
                match connection.exchange(&request).await {
                    Ok(200) => done.ok += 1,
                    _ => done.other += 1,
                }
            }
            done
        });
    }
    tasks
}

/// Sends one request over each of `connections` times `streams` streams of HTTP/2.
///
/// # Errors
/// When a connection is refused.
pub async fn send_h2c(
    address: SocketAddr,
    host: &str,
    connections: usize,
    streams: usize,
) -> anyhow::Result<JoinSet<Done>> {
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        tasks.spawn(async move {
            // Ends with the last stream.
            let _ = driver.await;
            Done::default()
        });
        for _ in 0..streams {
            let request = Request::get(format!("http://{host}/"))
                .header("user-agent", "bench")
                .body(Empty::<Bytes>::new())?;
            let mut sender = sender.clone();
            tasks.spawn(async move {
                let answered = async {
                    sender.ready().await?;
                    let response = sender.send_request(request).await?;
                    let ok = response.status() == 200;
                    response.into_body().collect().await?;
                    anyhow::Ok(ok)
                };
                let ok = answered.await.is_ok_and(|ok| ok);
                Done {
                    ok: u64::from(ok),
                    other: u64::from(!ok),
                }
            });
        }
    }
    Ok(tasks)
}

/// Waits for all answers.
///
/// # Errors
/// When they take longer than `bound`.
pub async fn answered(mut tasks: JoinSet<Done>, bound: Duration) -> anyhow::Result<Done> {
    let all = async {
        let mut sum = Done::default();
        while let Some(done) = tasks.join_next().await {
            let done = done.context("a client broke")?;
            sum.ok += done.ok;
            sum.other += done.other;
        }
        anyhow::Ok(sum)
    };
    match tokio::time::timeout(bound, all).await {
        Ok(sum) => sum,
        Err(_) => bail!("not all answers came within {bound:?}"),
    }
}

/// Sends `rate` requests a second for `duration`, each on a connection that its client closes after
/// `patience` without having read anything; so much of `request` is sent as the other side takes.
///
/// # Errors
/// When a connection is refused.
pub async fn impatient(
    address: SocketAddr,
    request: &[u8],
    rate: u32,
    patience: Duration,
    duration: Duration,
) -> anyhow::Result<()> {
    let request: std::sync::Arc<[u8]> = request.into();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut clients = JoinSet::new();
    for _ in 0..u64::from(rate) * duration.as_secs() {
        ticks.tick().await;
        let request = request.clone();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            let spoken = async {
                let _ = stream.write_all(&request).await;
                std::future::pending::<()>().await;
            };
            let _ = tokio::time::timeout(patience, spoken).await;
            anyhow::Ok(())
        });
        while let Some(client) = clients.try_join_next() {
            client??;
        }
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}
