//! `pilotlight sample-app`: an HTTP app to try scaling with, used by the README, tests and benches.
//!
//! One port, HTTP/1.1 and HTTP/2 without TLS. What a request asks for in its query is what it gets:
//! time, CPU, memory, a slow stream, an error. Ends gracefully on SIGTERM. Knows nothing of
//! Knative but the variables of the runtime contract.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serving::{AnchoredClock, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::options::duration;

mod answer;
mod body;
mod query;
mod websocket;

pub use body::SampleBody;

/// How long SIGTERM lets requests in progress run; the platform's patience is shorter.
const DRAIN: Duration = Duration::from_secs(600);

/// Between looks at a connection whose first bytes are still too few to tell its protocol.
const PREFACE_PAUSE: Duration = Duration::from_millis(1);

const HELP: &str = "\
Paths:
  /          Hello from <K_REVISION>!  (or the text of --message)
  /echo      the request body, streamed back
  /headers   the request's method, target, version and headers as JSON
  /env       PORT, K_*, the process id, and when the process began, listened and got this
             request (Unix nanoseconds) as JSON
  /ws        WebSocket: every message comes back
  /events    server-sent events; ?count=5&interval=1s

Query parameters, on every path but /ws and /events; all may be combined:
  sleep=300ms    wait before answering (a bare number means milliseconds)
  burn=200ms     keep one CPU busy before answering
  memory=64Mi    hold that much memory until the answer is complete
  stream=10      answer in so many pieces, with
  interval=100ms   a pause before each further piece, and
  size=1Ki         so many bytes in each (without stream: one answer of so many bytes)
  status=503     answer with this status
  break=true     break the connection in the middle of the answer
  exit=3         end the process with this code instead of answering

Examples:
  PORT=9000 pilotlight sample-app
  curl 'http://127.0.0.1:9000/?sleep=2s'
  curl -N 'http://127.0.0.1:9000/?stream=5&interval=500ms'
  pilotlight run -- pilotlight sample-app --start-delay 3s";

/// The app's own flags.
#[derive(Clone, Debug, Args)]
#[command(after_help = HELP)]
pub struct SampleApp {
    /// The port to listen on, on all addresses.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// The text of `/`; `Hello from <K_REVISION>!` when empty.
    #[arg(long, env = "SAMPLE_MESSAGE", default_value = "")]
    pub message: String,

    /// Wait before listening.
    #[arg(long, env = "SAMPLE_START_DELAY", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub start_delay: Duration,

    /// End with this code instead of listening, after the start delay.
    #[arg(long, env = "SAMPLE_FAIL_START", value_name = "CODE")]
    pub fail_start: Option<u8>,

    /// Never listen.
    #[arg(long, env = "SAMPLE_NEVER_LISTEN")]
    pub never_listen: bool,

    /// Take no notice of SIGTERM.
    #[arg(long, env = "SAMPLE_IGNORE_SIGTERM")]
    pub ignore_sigterm: bool,
}

/// What every request sees.
#[derive(Debug)]
struct App {
    message: String,
    port: u16,
    /// When the program began and when it listened, on this machine's clock.
    times: Times,
    /// When the first connection was accepted.
    connected: Cell<Option<UnixTime>>,
    identity: Vec<(&'static str, String)>,
    connections: Cell<usize>,
    idle: Notify,
}

/// Moments that a measurement of cold starts wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The program began.
    pub started: UnixTime,
    /// The port was listened on.
    pub listening: UnixTime,
}

/// Runs futures of HTTP/2 connections on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Counts a connection as long as it lives.
#[derive(Debug)]
struct Open(Rc<App>);

impl Open {
    fn new(app: Rc<App>) -> Self {
        app.connections.set(app.connections.get() + 1);
        Self(app)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.idle.notify_one();
    }
}

/// Runs the app until SIGTERM or SIGINT; the code to exit with. `variable` reads the environment.
pub async fn run(options: SampleApp, variable: impl Fn(&str) -> Option<String>) -> io::Result<u8> {
    let started = AnchoredClock::new().now();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if !options.start_delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(options.start_delay) => {}
            _ = terminate.recv() => if !options.ignore_sigterm { return Ok(0) },
            _ = interrupt.recv() => return Ok(0),
        }
    }
    if let Some(code) = options.fail_start {
        return Ok(code);
    }
    let stop = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => if !options.ignore_sigterm { break },
                _ = interrupt.recv() => break,
            }
        }
    };
    if options.never_listen {
        stop.await;
        return Ok(0);
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port)).await?;
    let identity = ["K_SERVICE", "K_CONFIGURATION", "K_REVISION"]
        .into_iter()
        .filter_map(|name| Some((name, variable(name)?)))
        .collect();
    let times = Times {
        started,
        listening: AnchoredClock::new().now(),
    };
    serve(listener, times, options.message, identity, stop).await
}

/// Serves until `stop` resolves, then lets connections end.
pub async fn serve(
    listener: TcpListener,
    times: Times,
    message: String,
    identity: Vec<(&'static str, String)>,
    stop: impl Future<Output = ()>,
) -> io::Result<u8> {
    let revision = identity
        .iter()
        .find(|(name, _)| *name == "K_REVISION")
        .map_or("nowhere", |(_, value)| value.as_str());
    let message = if message.is_empty() {
        format!("Hello from {revision}!\n")
    } else {
        format!("{message}\n")
    };
    let app = Rc::new(App {
        message,
        port: listener.local_addr()?.port(),
        times,
        connected: Cell::new(None),
        identity,
        connections: Cell::new(0),
        idle: Notify::new(),
    });
    let (closing, closed) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if app.connected.get().is_none() {
                        app.connected.set(Some(AnchoredClock::new().now()));
                    }
                    let app = Rc::clone(&app);
                    let closed = closed.clone();
                    tokio::task::spawn_local(async move {
                        let open = Open::new(app);
                        connection(&open.0, stream, closed).await;
                    });
                }
                // Out of descriptors: those in use will be given back.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    let drained = async {
        while app.connections.get() > 0 {
            app.idle.notified().await;
        }
    };
    // Whoever is still connected after so long does not mean to end.
    let _ = tokio::time::timeout(DRAIN, drained).await;
    Ok(0)
}

async fn connection(app: &Rc<App>, stream: TcpStream, mut closed: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let is_http2 = tokio::select! {
        is_http2 = speaks_http2(&stream) => is_http2,
        _ = closed.wait_for(|closed| *closed) => return,
    };
    let service = service_fn(|request| {
        let app = Rc::clone(app);
        async move { Ok::<_, Infallible>(answer::answer(&app, request).await) }
    });
    let io = TokioIo::new(stream);
    // Errors of a connection are the client's: it has left, or does not speak HTTP.
    if is_http2 {
        let serving = http2::Builder::new(LocalExecutor).serve_connection(io, service);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            _ = &mut serving => return,
            _ = closed.wait_for(|closed| *closed) => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    } else {
        let serving = http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades();
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            _ = &mut serving => return,
            _ = closed.wait_for(|closed| *closed) => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    }
}

/// Whether a connection begins as HTTP/2 does; no HTTP/1 method begins with `PRI `.
async fn speaks_http2(stream: &TcpStream) -> bool {
    const PREFACE: &[u8] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return false,
            Ok(read) if first[..read] != PREFACE[..read] => return false,
            Ok(read) if read == PREFACE.len() => return true,
            Ok(_) => tokio::time::sleep(PREFACE_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests;
