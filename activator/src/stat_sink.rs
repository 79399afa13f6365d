//! The WebSocket to the autoscaler: frames go out while it is up and are dropped while it is not.
//!
//! Dropping is right: a report is about the last second, and the next one repairs a lost poke.
//! Whether the connection is up is also this activator's health. Frames are bytes here; who makes
//! them is [`crate::driver`]. Upstream: `knative.dev/pkg/websocket/connection.go`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Dial and handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// The first pause between attempts.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// How pauses grow.
const BACKOFF_FACTOR: f64 = 1.3;
/// Up to this share of a pause is added to it.
const BACKOFF_JITTER: f64 = 0.5;
/// After so many attempts pauses are short again.
const BACKOFF_STEPS: i32 = 20;
/// Without a pong for so long the connection is dead; data does not count.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// A third of the above, so that two pongs may be lost.
const PING_PERIOD: Duration = Duration::from_nanos(PONG_TIMEOUT.as_nanos() as u64 / 3);
/// Frames that may wait for the socket; a peer that reads too slowly loses the rest.
const FRAMES_CAPACITY: usize = 256;

/// Where frames are put. Clones share.
#[derive(Clone, Debug)]
pub struct StatSink {
    frames: mpsc::Sender<Bytes>,
    connected: Arc<AtomicBool>,
}

/// What happens to the connection, for metrics and logs.
pub trait Observer {
    /// Connected.
    fn up(&mut self);
    /// A connection that was up is gone.
    fn down(&mut self, why: &Broken);
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The peer closed it, perhaps because it restarts.
    #[error("closed by the autoscaler")]
    Closed,
    /// No pong in time.
    #[error("no pong for {}s", PONG_TIMEOUT.as_secs())]
    NoPong,
    /// The socket or the protocol failed.
    #[error("stat connection failed")]
    Failed(#[from] tungstenite::Error),
    /// Nobody will send any more.
    #[error("no more stats")]
    Finished,
}

/// The sending task's end.
#[derive(Debug)]
pub struct StatConnection {
    url: String,
    frames: mpsc::Receiver<Bytes>,
    connected: Arc<AtomicBool>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A sink and the connection that drains it.
pub fn stat_sink(url: impl Into<String>) -> (StatSink, StatConnection) {
    let (sender, frames) = mpsc::channel(FRAMES_CAPACITY);
    let connected = Arc::new(AtomicBool::new(false));
    let sink = StatSink {
        frames: sender,
        connected: Arc::clone(&connected),
    };
    let connection = StatConnection {
        url: url.into(),
        frames,
        connected,
    };
    (sink, connection)
}

// === impl StatSink ===

impl StatSink {
    /// Sends a frame, or drops it when the connection is down or too slow; false then.
    pub fn send(&self, frame: Bytes) -> bool {
        self.is_connected() && self.frames.try_send(frame).is_ok()
    }

    /// Whether the connection is up.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

// === impl StatConnection ===

impl StatConnection {
    /// Connects, again and again, and sends; ends when all sinks are gone. Dropping it closes the
    /// connection without a close frame, as upstream does.
    pub async fn run(mut self, observer: &mut impl Observer) {
        loop {
            let Some(socket) = self.connect().await else {
                return;
            };
            // Anything still waiting is about a time before this connection.
            while self.frames.try_recv().is_ok() {}
            self.connected.store(true, Ordering::Relaxed);
            observer.up();
            let why = self.exchange(socket).await;
            self.connected.store(false, Ordering::Relaxed);
            observer.down(&why);
            if matches!(why, Broken::Finished) {
                return;
            }
        }
    }

    /// Tries until it succeeds; `None` when all sinks are gone.
    async fn connect(&self) -> Option<Socket> {
        let mut attempt = 0;
        loop {
            if self.frames.is_closed() {
                return None;
            }
            let dial = tokio_tungstenite::connect_async_with_config(&*self.url, None, true);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, dial).await {
                Ok(Ok((socket, _))) => return Some(socket),
                Ok(Err(error)) => {
                    tracing::debug!(url = self.url, %error, "autoscaler not reached");
                }
                Err(_) => tracing::debug!(url = self.url, "autoscaler did not answer in time"),
            }
            tokio::time::sleep(pause(attempt, fastrand::f64())).await;
            attempt = (attempt + 1) % BACKOFF_STEPS;
        }
    }

    async fn exchange<S>(&mut self, mut socket: WebSocketStream<S>) -> Broken
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut pings = tokio::time::interval(PING_PERIOD);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dead = Instant::now() + PONG_TIMEOUT;
        loop {
            let message = tokio::select! {
                received = socket.next() => match received {
                    Some(Ok(Message::Pong(_))) => {
                        dead = Instant::now() + PONG_TIMEOUT;
                        continue;
                    }
                    Some(Ok(Message::Close(_))) | None => return Broken::Closed,
                    // A ping was answered by the protocol layer; data means nothing here.
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return error.into(),
                },
                frame = self.frames.recv() => match frame {
                    Some(frame) => Message::Binary(frame),
                    None => return Broken::Finished,
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
                () = tokio::time::sleep_until(dead) => return Broken::NoPong,
            };
            // A peer that does not read must not keep the clock from being looked at.
            match tokio::time::timeout_at(dead, socket.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return Broken::NoPong,
            }
        }
    }
}

/// The pause after an attempt (counted from 0); `jitter` is between 0 and 1.
fn pause(attempt: i32, jitter: f64) -> Duration {
    BACKOFF_BASE.mul_f64(BACKOFF_FACTOR.powi(attempt) * (1.0 + BACKOFF_JITTER * jitter))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[derive(Default)]
    struct Seen {
        ups: usize,
        downs: usize,
    }

    impl Observer for Seen {
        fn up(&mut self) {
            self.ups += 1;
        }
        fn down(&mut self, _: &Broken) {
            self.downs += 1;
        }
    }

    #[test]
    fn pauses_grow_and_start_over() {
        assert_eq!(pause(0, 0.0), Duration::from_millis(100));
        assert_eq!(pause(0, 1.0), Duration::from_millis(150));
        assert_eq!(pause(1, 0.0), Duration::from_millis(130));
        assert!(pause(BACKOFF_STEPS - 1, 1.0) < Duration::from_secs(23));
    }

    /// Edge cases 40 and 45: frames are dropped while down; a close means a new connection.
    #[tokio::test]
    async fn edge_cases_40_and_45_drops_while_down_and_reconnects() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let (sink, connection) = stat_sink(url);
        assert!(!sink.send(Bytes::from_static(b"early")));
        let server = async {
            let (first, _) = listener.accept().await.unwrap();
            let mut first = tokio_tungstenite::accept_async(first).await.unwrap();
            eventually(|| sink.is_connected()).await;
            assert!(sink.send(Bytes::from_static(b"one")));
            assert_eq!(next_data(&mut first).await, b"one"[..]);
            first.close(None).await.unwrap();
            let (second, _) = listener.accept().await.unwrap();
            let mut second = tokio_tungstenite::accept_async(second).await.unwrap();
            eventually(|| sink.send(Bytes::from_static(b"two"))).await;
            assert_eq!(next_data(&mut second).await, b"two"[..]);
            drop(sink);
            // The end of all sinks ends the connection, without a close frame.
            while let Some(Ok(message)) = second.next().await {
                assert!(!message.is_close());
            }
        };
        let mut seen = Seen::default();
        tokio::join!(connection.run(&mut seen), server);
        assert_eq!((seen.ups, seen.downs), (2, 2));
    }

    /// Edge case 44: without a pong for 10 s the connection is given up, though data flows.
    #[tokio::test(start_paused = true)]
    async fn edge_case_44_no_pong() {
        let (_sink, mut connection) = stat_sink("ws://unused");
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (ours, theirs) = tokio::join!(
            WebSocketStream::from_raw_socket(ours, Role::Client, None),
            WebSocketStream::from_raw_socket(theirs, Role::Server, None),
        );
        let start = Instant::now();
        let (mut write, _never_read) = theirs.split();
        let data = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let frame = Message::Binary(Bytes::from_static(b"data"));
                write.send(frame).await.unwrap();
            }
        };
        let why = tokio::select! {
            why = connection.exchange(ours) => why,
            () = data => unreachable!("data flows for ever"),
        };
        assert!(matches!(why, Broken::NoPong), "{why}");
        assert_eq!(Instant::now() - start, PONG_TIMEOUT);
    }

    /// Pongs keep it alive; a silent end is noticed at once.
    #[tokio::test(start_paused = true)]
    async fn pongs_keep_the_connection() {
        let (_sink, mut connection) = stat_sink("ws://unused");
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (ours, mut theirs) = tokio::join!(
            WebSocketStream::from_raw_socket(ours, Role::Client, None),
            WebSocketStream::from_raw_socket(theirs, Role::Server, None),
        );
        let start = Instant::now();
        let peer = async {
            // Reading answers the pings.
            let minute = tokio::time::sleep(Duration::from_secs(60));
            tokio::pin!(minute);
            loop {
                tokio::select! {
                    message = theirs.next() => drop(message.unwrap().unwrap()),
                    () = &mut minute => break,
                }
            }
            drop(theirs);
        };
        let (why, ()) = tokio::join!(connection.exchange(ours), peer);
        assert!(!matches!(why, Broken::NoPong), "{why}");
        assert_eq!(Instant::now() - start, Duration::from_secs(60));
    }

    async fn next_data(socket: &mut WebSocketStream<TcpStream>) -> Bytes {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Binary(data) => return data,
                other => assert!(other.is_ping(), "{other:?}"),
            }
        }
    }

    async fn eventually(mut condition: impl FnMut() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }
}
