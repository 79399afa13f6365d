//! The server on port 8080: activators and other autoscalers bring stats over WebSockets, the kubelet
//! probes.
//!
//! Each binary frame goes on as it is, undecoded, to whoever records stats; the bounded channel
//! between them makes a slow recorder slow down its senders instead of filling memory. Upstream:
//! `pkg/autoscaler/statserver/server.go`.

mod handshake;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serving::header::is_kubelet_probe;
use serving::names::HANDOVER_HEADER;
use serving::stat::MAX_FRAME_BYTES;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::handover;

/// Frames that wait to be recorded. Upstream queues a thousand single stats; a frame of an activator
/// carries as many as it has revisions.
pub const FRAMES_CAPACITY: usize = 64;

/// Connections at a time; further ones wait in the listener's backlog. There is one per activator
/// and autoscaler, besides the kubelet's.
pub const MAX_CONNECTIONS: usize = 8192;

/// All connections must have ended so long after the shutdown began.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// The whole head of a request has to arrive in this time (`ReadHeaderTimeout`).
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle time before the first keep-alive segment (`SetKeepAlivePeriod`).
const KEEP_ALIVE: Duration = Duration::from_secs(180);
/// Pause after a failed accept, which mostly means that no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Buffer that each WebSocket keeps; frames of a hundred stats have about 10 KiB.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// What clients are told when the server goes away, so that they reconnect at once.
const RESTART_REASON: Utf8Bytes = Utf8Bytes::from_static("Restarting");

/// The whole body of a hand-over has to arrive in this time.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);

/// Tells whether a bucket is this replica's now.
pub type BucketOwner = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the server needs besides its listener.
#[derive(Clone)]
pub struct Options {
    /// Where frames go.
    pub frames: mpsc::Sender<Bytes>,
    /// `None` where there are no buckets; then every host is accepted.
    pub bucket_owner: Option<BucketOwner>,
    /// Where windows go that another replica hands over; `None` where there is no other.
    pub handovers: Option<mpsc::Sender<Bytes>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("buckets", &self.bucket_owner.is_some())
            .field("handovers", &self.handovers.is_some())
            .finish_non_exhaustive()
    }
}

/// Serves until `shutdown` is cancelled, then closes every connection, at most five seconds long.
/// Dropping the future closes all connections without a word.
pub async fn serve(listener: TcpListener, options: Options, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, options.clone(), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(SHUTDOWN_LIMIT, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!(open = connections.len(), "stat server shutdown timed out");
    }
}

/// Serves one connection: plain requests, then perhaps a WebSocket.
async fn connection(stream: TcpStream, options: Options, shutdown: CancellationToken) {
    if let Err(error) = configure(&stream) {
        tracing::debug!(%error, "failed to set socket options");
    }
    let upgrade = Mutex::new(None);
    let (options, upgraded) = (&options, &upgrade);
    let service = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(respond(request, options, upgraded).await)
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = until_shutdown(http, &shutdown).await {
        tracing::debug!(%error, "connection to the stat server broke");
        return;
    }
    let Some(upgrade) = upgrade.into_inner() else {
        return;
    };
    match upgrade.await {
        Ok(upgraded) => receive(upgraded, &options.frames, &shutdown).await,
        Err(error) => tracing::debug!(%error, "failed to upgrade to a WebSocket"),
    }
}

fn configure(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE)?;
    Ok(())
}

/// Serves a connection and, from the shutdown on, lets only the request in progress finish.
async fn until_shutdown<S>(
    connection: http1::UpgradeableConnection<TokioIo<TcpStream>, S>,
    shutdown: &CancellationToken,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    http1::UpgradeableConnection<TokioIo<TcpStream>, S>: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Answers one request; a successful upgrade is left in `upgrade`.
async fn respond(
    mut request: Request<Incoming>,
    options: &Options,
    upgrade: &Mutex<Option<OnUpgrade>>,
) -> Response<Full<Bytes>> {
    let owns = options.bucket_owner.as_deref();
    if let Some(handovers) = &options.handovers
        && let Some(version) = request.headers().get(HANDOVER_HEADER)
        && !is_kubelet_probe(request.headers())
    {
        if version.as_bytes() != handover::VERSION.as_bytes() {
            let text = format!(
                "only hand-over version {} is understood\n",
                handover::VERSION
            );
            return plain(StatusCode::BAD_REQUEST, text);
        }
        return take_over(request.into_body(), handovers).await;
    }
    let answer = handshake::answer(request.method(), request.uri(), request.headers(), owns);
    if matches!(answer, handshake::Answer::Upgrade { .. }) {
        *upgrade.lock() = Some(hyper::upgrade::on(&mut request));
    }
    answer.into_response()
}

/// Receives one message of another replica, whole or not at all.
async fn take_over(body: Incoming, handovers: &mpsc::Sender<Bytes>) -> Response<Full<Bytes>> {
    let limit = handover::MAX_MESSAGE_BYTES;
    let too_long = || {
        let text = format!("longer than {limit} bytes\n");
        plain(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    // What says that it is too long need not be waited for.
    if body.size_hint().lower() > limit as u64 {
        return too_long();
    }
    let body = Limited::new(body, limit).collect();
    match tokio::time::timeout(HANDOVER_LIMIT, body).await {
        Ok(Ok(body)) => match handovers.try_send(body.to_bytes()) {
            Ok(()) => plain(StatusCode::NO_CONTENT, String::new()),
            Err(_full) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many at once\n".to_owned(),
            ),
        },
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_long(),
        Ok(Err(_)) => plain(StatusCode::BAD_REQUEST, "the body broke off\n".to_owned()),
        Err(_elapsed) => plain(StatusCode::REQUEST_TIMEOUT, "too slow\n".to_owned()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

/// Passes binary frames on until either side ends the connection.
async fn receive(upgraded: Upgraded, frames: &mpsc::Sender<Bytes>, shutdown: &CancellationToken) {
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return;
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    let mut socket = WebSocketStream::from_partially_read(
        io.into_inner(),
        read_buf.into(),
        Role::Server,
        Some(config),
    )
    .await;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = shutdown.cancelled() => return say_restarting(socket).await,
        };
        match message {
            Some(Ok(Message::Binary(frame))) => tokio::select! {
                sent = frames.send(frame) => if sent.is_err() {
                    return say_restarting(socket).await;
                },
                () = shutdown.cancelled() => return say_restarting(socket).await,
            },
            Some(Ok(Message::Text(_))) => tracing::warn!("dropping a text frame"),
            // Pings are answered by the library, with the next read.
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "stat connection broke");
                return;
            }
            None => return,
        }
    }
}

async fn say_restarting(mut socket: WebSocketStream<TcpStream>) {
    let frame = CloseFrame {
        code: CloseCode::Restart,
        reason: RESTART_REASON,
    };
    if let Err(error) = socket.send(Message::Close(Some(frame))).await {
        tracing::debug!(%error, "failed to send the close frame");
    }
}

#[cfg(test)]
mod tests;
