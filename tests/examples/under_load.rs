//! Requests of several kinds to services in a cluster while a command runs, and what became of them:
//!
//! ```text
//! under_load --services IMAGE                                the services, for `kubectl apply -f -`
//! under_load GATEWAY DOMAIN COMMAND [ARGUMENT]...            for example 10.0.0.1:80 default.example.com
//! ```
//!
//! `IMAGE` is that of the sample app, `GATEWAY` the address of the ingress for those outside. The
//! requests begin ten seconds before the command and go on for thirty after it; one line says how many
//! there were, how many failed, which is every one that was not answered with 200 in full within two
//! minutes, and how long the longest took; a line for each failure says why. The exit code is 1 if any
//! failed, and that of the command if none did. Over HTTP/1.1 without TLS: a gateway that sends its
//! clients to HTTPS fails every request.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what it says is its result"
)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const USAGE: &str =
    "usage: under_load --services IMAGE | under_load GATEWAY DOMAIN COMMAND [ARGUMENT]...";

/// Before the command, so that connections are open and pods are there.
const BEFORE: Duration = Duration::from_secs(10);

/// After the command, for what only shows when the old pods have ended their drain.
const AFTER: Duration = Duration::from_secs(30);

/// A cold start takes long on a node that others keep busy.
const PATIENCE: Duration = Duration::from_secs(120);

struct Service {
    name: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    container_concurrency: u32,
}

const SERVICES: [Service; 4] = [
    // The activator is in the path of the first always and of the second never.
    Service {
        name: "in-path",
        annotations: &[
            ("target-burst-capacity", "-1"),
            ("min-scale", "1"),
            ("max-scale", "3"),
        ],
        container_concurrency: 0,
    },
    Service {
        name: "direct",
        annotations: &[
            ("target-burst-capacity", "0"),
            ("min-scale", "1"),
            ("max-scale", "3"),
        ],
        container_concurrency: 0,
    },
    Service {
        name: "limited",
        annotations: &[("min-scale", "1"), ("max-scale", "3")],
        container_concurrency: 4,
    },
    Service {
        name: "cold",
        annotations: &[("window", "6s"), ("max-scale", "2")],
        container_concurrency: 0,
    },
];

/// A body is there in full before its answer begins: what is still to come then, Go's proxies drop.
const ECHO: &str = "/echo?sleep=500ms";

/// One client: service, target, bytes of a body, whether it keeps its connection, and how long it waits
/// between requests.
const CLIENTS: [(&str, &str, usize, bool, Duration); 12] = [
    ("in-path", "/", 0, true, Duration::from_millis(200)),
    ("in-path", "/", 0, false, Duration::from_millis(300)),
    ("in-path", ECHO, 8 << 10, true, Duration::from_millis(400)),
    ("in-path", "/?sleep=2s", 0, true, Duration::from_millis(100)),
    ("direct", "/", 0, true, Duration::from_millis(200)),
    ("direct", "/", 0, false, Duration::from_millis(300)),
    ("direct", ECHO, 8 << 10, false, Duration::from_millis(400)),
    ("direct", "/?sleep=2s", 0, true, Duration::from_millis(100)),
    (
        "limited",
        "/?sleep=100ms",
        0,
        true,
        Duration::from_millis(100),
    ),
    (
        "limited",
        "/?sleep=100ms",
        0,
        false,
        Duration::from_millis(200),
    ),
    ("limited", "/?sleep=3s", 0, true, Duration::from_millis(100)),
    // Long enough for it to be at zero each time.
    ("cold", "/", 0, false, Duration::from_secs(45)),
];

struct Client {
    gateway: SocketAddr,
    host: String,
    target: &'static str,
    body: Bytes,
    /// Between requests, where it is kept.
    connection: Option<SendRequest<Full<Bytes>>>,
    is_kept: bool,
}

/// What became of requests.
#[derive(Default)]
struct Counts {
    requests: usize,
    failed: usize,
    longest: Duration,
}

impl Client {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        let mut connection = match self.connection.take().filter(|it| !it.is_closed()) {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.gateway)
                    .await
                    .context("no connection")?;
                let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(driver);
                connection
            }
        };
        connection
            .ready()
            .await
            .context("the connection had ended")?;
        let builder = Request::builder()
            .uri(self.target)
            .header("Host", &self.host);
        let method = if self.body.is_empty() { "GET" } else { "POST" };
        let request = builder.method(method).body(Full::new(self.body.clone()))?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .context("a broken body")?
            .to_bytes();
        ensure!(
            status == 200,
            "{status} {}",
            String::from_utf8_lossy(&body[..body.len().min(200)])
        );
        ensure!(
            self.body.is_empty() || body == self.body,
            "another body came back"
        );
        if self.is_kept {
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// Sends one request after another.
    async fn run(mut self, pause: Duration, stop: Arc<AtomicBool>) -> Counts {
        let mut counts = Counts::default();
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let result = timeout(PATIENCE, self.exchange()).await;
            let took = Instant::now() - start;
            counts.requests += 1;
            counts.longest = counts.longest.max(took);
            let failure = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some(format!("nothing within {PATIENCE:?}")),
            };
            if let Some(why) = failure {
                counts.failed += 1;
                eprintln!("failed: {}{} after {took:?}: {why}", self.host, self.target);
            }
            // In pieces, so that the long pause ends with the rest.
            let end = Instant::now() + pause;
            while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                sleep(pause.min(Duration::from_millis(500))).await;
            }
        }
        counts
    }
}

fn services(image: &str) -> String {
    let one = |service: &Service| {
        let annotations: serde_json::Map<_, _> = service
            .annotations
            .iter()
            .map(|(key, value)| (format!("autoscaling.knative.dev/{key}"), (*value).into()))
            .collect();
        let containers = serde_json::json!([{"image": image, "args": ["sample-app"]}]);
        serde_json::json!({
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": service.name},
            "spec": {"template": {
                "metadata": {"annotations": annotations},
                "spec": {
                    "containerConcurrency": service.container_concurrency,
                    "containers": containers,
                },
            }},
        })
    };
    let items: Vec<_> = SERVICES.iter().map(one).collect();
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

async fn under_load(gateway: &str, domain: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let address = lookup_host(gateway)
        .await
        .with_context(|| format!("no gateway {gateway}"))?
        .next();
    let gateway = address.with_context(|| format!("{gateway} has no address"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for (service, target, size, is_kept, pause) in CLIENTS {
        let client = Client {
            gateway,
            host: format!("{service}.{domain}"),
            target,
            body: vec![b'x'; size].into(),
            connection: None,
            is_kept,
        };
        clients.spawn(client.run(pause, Arc::clone(&stop)));
    }
    sleep(BEFORE).await;
    let status = Command::new(&command[0]).args(&command[1..]).status().await;
    let status = status.with_context(|| format!("cannot run {}", command[0]))?;
    sleep(AFTER).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Counts::default();
    for counts in clients.join_all().await {
        all.requests += counts.requests;
        all.failed += counts.failed;
        all.longest = all.longest.max(counts.longest);
    }
    let Counts {
        requests,
        failed,
        longest,
    } = all;
    println!(
        "{requests} requests, {failed} failed, the longest took {:.1} s",
        longest.as_secs_f64()
    );
    Ok(match (failed, status.code()) {
        (0, Some(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        _ => ExitCode::FAILURE,
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [flag, image] if flag == "--services" => println!("{}", services(image)),
        [gateway, domain, command @ ..] if !command.is_empty() => {
            return under_load(gateway, domain, command).await;
        }
        _ => bail!(USAGE),
    }
    Ok(ExitCode::SUCCESS)
}
