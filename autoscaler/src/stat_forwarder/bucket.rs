//! The stats of one bucket on their way to its owner.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Assignment, MAX_WAITING, put_message};

/// Between two attempts to deliver (`retryTimeout`).
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Attempts before a stat is dropped (`maxProcessingRetry`).
const MAX_RETRIES: u32 = 30;
/// To connect to one address (`retryInterval` of `remote_processor.go`).
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Messages in one frame.
const MAX_BATCH: usize = 100;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Pending {
    message: Bytes,
    since: Instant,
}

/// Delivers until there are no more senders.
pub(super) async fn run(
    mut messages: mpsc::Receiver<Bytes>,
    mut assignment: watch::Receiver<Assignment>,
    local: mpsc::Sender<Bytes>,
) {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut socket: Option<Socket> = None;
    loop {
        let idle = pending.is_empty();
        let room = pending.len() < MAX_WAITING;
        tokio::select! {
            biased;
            changed = assignment.changed() => {
                if changed.is_err() {
                    return;
                }
                socket = None;
            }
            message = messages.recv(), if room => match message {
                Some(message) => {
                    let since = Instant::now();
                    pending.push_back(Pending { message, since });
                    while pending.len() < MAX_BATCH && let Ok(message) = messages.try_recv() {
                        pending.push_back(Pending { message, since });
                    }
                }
                None => return,
            },
            () = end_of(&mut socket) => socket = None,
            // What waits is tried again without anything happening.
            () = std::future::ready(()), if !idle => {}
        }
        let present = assignment.borrow().clone();
        let delivered = match &present {
            Assignment::Unknown => pending.is_empty(),
            Assignment::Local => deliver_here(&mut pending, &local).await,
            Assignment::Remote(urls) => deliver(&mut pending, &mut socket, urls).await,
        };
        if !delivered {
            tokio::select! {
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
                changed = assignment.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    socket = None;
                }
            }
            drop_old(&mut pending);
        }
    }
}

/// Ends when the peer closes the connection; never without one. Also answers pings.
async fn end_of(socket: &mut Option<Socket>) {
    match socket {
        Some(socket) => while let Some(Ok(_)) = socket.next().await {},
        None => std::future::pending().await,
    }
}

/// The bucket has become this replica's in the meantime.
async fn deliver_here(pending: &mut VecDeque<Pending>, local: &mpsc::Sender<Bytes>) -> bool {
    while !pending.is_empty() {
        let (frame, count) = frame(pending);
        if local.send(frame).await.is_err() {
            return false;
        }
        pending.drain(..count);
    }
    true
}

async fn deliver(
    pending: &mut VecDeque<Pending>,
    socket: &mut Option<Socket>,
    urls: &[String],
) -> bool {
    while !pending.is_empty() {
        if socket.is_none() {
            *socket = connect(urls).await;
        }
        let Some(open) = socket else {
            return false;
        };
        let (frame, count) = frame(pending);
        match tokio::time::timeout(CONNECT_TIMEOUT, open.send(Message::Binary(frame))).await {
            Ok(Ok(())) => {
                pending.drain(..count);
            }
            _ => {
                *socket = None;
                return false;
            }
        }
    }
    true
}

/// As many of the waiting messages as one frame takes, and how many that are.
fn frame(pending: &VecDeque<Pending>) -> (Bytes, usize) {
    let mut frame = BytesMut::new();
    let count = pending.len().min(MAX_BATCH);
    for pending in pending.iter().take(count) {
        put_message(&pending.message, &mut frame);
    }
    (frame.freeze(), count)
}

async fn connect(urls: &[String]) -> Option<Socket> {
    for url in urls {
        let connecting = tokio_tungstenite::connect_async(url);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((socket, _))) => return Some(socket),
            Ok(Err(error)) => tracing::debug!(url, %error, "failed to connect to an owner"),
            Err(_elapsed) => tracing::debug!(url, "no connection to an owner in time"),
        }
    }
    None
}

/// Gives up on what has been tried for too long.
fn drop_old(pending: &mut VecDeque<Pending>) {
    let limit = RETRY_INTERVAL * MAX_RETRIES;
    let now = Instant::now();
    let before = pending.len();
    pending.retain(|pending| now.duration_since(pending.since) < limit);
    let dropped = before - pending.len();
    if dropped > 0 {
        tracing::warn!(dropped, "dropping stats whose owner cannot be reached");
    }
}
