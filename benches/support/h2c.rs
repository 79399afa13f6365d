//! Closed-loop load over HTTP/2 without TLS: each stream sends its next request when the last one
//! is answered.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::Done;

/// Sends `requests` requests over `connections` connections with `streams` streams each.
///
/// # Errors
/// When a connection breaks or the run takes longer than `bound`.
pub async fn closed_loop(
    address: SocketAddr,
    connections: usize,
    streams: usize,
    requests: u64,
    bound: Duration,
) -> anyhow::Result<Done> {
    let host = address.to_string();
    closed_loop_of(&host, address, connections, streams, requests, bound).await
}

/// The same for a host.
///
/// # Errors
/// As [`closed_loop`].
pub async fn closed_loop_of(
    host: &str,
    address: SocketAddr,
    connections: usize,
    streams: usize,
    requests: u64,
    bound: Duration,
) -> anyhow::Result<Done> {
    let each = requests / (connections * streams) as u64;
    let all = async {
        let mut drivers = JoinSet::new();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
            drivers.spawn(driver);
            for _ in 0..streams {
                tasks.spawn(stream(sender.clone(), host.to_owned(), each));
            }
        }
        let mut sum = Done::default();
        while let Some(done) = tasks.join_next().await {
            let done = done??;
            sum.ok += done.ok;
            sum.other += done.other;
        }
        anyhow::Ok(sum)
    };
    match tokio::time::timeout(bound, all).await {
        Ok(sum) => sum,
        Err(_) => bail!("{requests} HTTP/2 requests took more than {bound:?}"),
    }
}

async fn stream(
    mut sender: SendRequest<Empty<Bytes>>,
    host: String,
    requests: u64,
) -> anyhow::Result<Done> {
    let mut done = Done::default();
    for _ in 0..requests {
        let request = Request::get(format!("http://{host}/"))
            .header("user-agent", "bench")
            .body(Empty::new())?;
        sender.ready().await?;
        let response = sender
            .send_request(request)
            .await
            .context("an HTTP/2 stream broke")?;
        let ok = response.status() == 200;
        response.into_body().collect().await?;
        if ok {
            done.ok += 1;
        } else {
            done.other += 1;
        }
    }
    Ok(done)
}
