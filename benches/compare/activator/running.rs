//! The activator's process beside the cluster that this process plays.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use benches::api_server::ApiServer;
use benches::fleet::{SYSTEM, name};
use benches::load::{Connection, get_host};
use benches::peers::{Server, loopback};
use benches::process::Process;
use benches::revisions::{NAMESPACE, Revision, endpoints, objects, private};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{GO, OURS};

/// Where requests come in.
const HTTP_PORT: u16 = 8012;
const METRICS_PORT: u16 = 9090;

/// The longest that anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// An activator that knows its world.
pub(crate) struct Running {
    pub(crate) server: Server,
    api_server: ApiServer,
    rest: Rest,
}

/// What an activator needs beside itself.
pub(crate) struct Rest {
    _autoscaler: oneshot::Sender<()>,
    _folder: TempDir,
}

// === impl Running ===

impl Running {
    /// Starts everything; the activator listens once it has listed all objects.
    pub(crate) async fn start(
        program: &Path,
        revisions: &[Revision],
        extra: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let running = Self::launch(OURS, program, revisions, extra).await?;
        running.wait_for("the stat connection", is_healthy).await?;
        Ok(running)
    }

    /// The same with the Go activator. It finds its autoscaler by a name of the cluster, so it is
    /// without one here and fails its health checks; requests are served all the same, and it is
    /// ready when one was.
    pub(crate) async fn start_go(program: &Path, revisions: &[Revision]) -> anyhow::Result<Self> {
        let extra = [
            ("CONFIG_LOGGING_NAME", "config-logging"),
            ("CONFIG_OBSERVABILITY_NAME", "config-observability"),
            ("METRICS_DOMAIN", "knative.dev/serving"),
            // Watches begin with a list here.
            ("KUBE_FEATURE_WatchListClient", "false"),
        ];
        let running = Self::launch(GO, program, revisions, &extra).await?;
        let serves = async || {
            let mut connection = Connection::open(loopback(HTTP_PORT)).await?;
            Ok(connection.exchange(&request(0)).await? == 200)
        };
        running.wait_for("the first answer", serves).await?;
        Ok(running)
    }

    async fn launch(
        name: &str,
        program: &Path,
        revisions: &[Revision],
        extra: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let api_server = ApiServer::start(objects(revisions))?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api_server.kubeconfig())?;
        let (autoscaler, stop) = autoscaler()?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs([
                ("SYSTEM_NAMESPACE", SYSTEM),
                ("POD_NAME", "activator-bench"),
                ("POD_IP", "127.0.0.1"),
                ("KUBERNETES_MIN_VERSION", "v1.30.0"),
                ("PILOTLIGHT_AUTOSCALER_URL", autoscaler.as_str()),
            ])
            .envs(extra.iter().copied())
            .arg("--kubeconfig")
            .arg(&kubeconfig);
        let mut process = Process::start(name, &mut command)?;
        let address = loopback(HTTP_PORT);
        process.listening_within(address, PATIENCE).await?;
        Ok(Self {
            server: Server { process, address },
            api_server,
            rest: Rest {
                _autoscaler: stop,
                _folder: folder,
            },
        })
    }

    /// The program, and what has to outlive it.
    pub(crate) fn split(self) -> (Server, (ApiServer, Rest)) {
        (self.server, (self.api_server, self.rest))
    }

    /// Lists these pods as the revision's ready ones.
    pub(crate) async fn list(&self, index: usize, pods: &[SocketAddr]) -> anyhow::Result<()> {
        let name = name(index);
        let object = endpoints(&name, pods).to_string();
        let path = format!(
            "/api/v1/namespaces/{NAMESPACE}/endpoints/{}",
            private(&name)
        );
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\n\r\n{object}",
            object.len()
        );
        let mut connection = Connection::open(self.api_server.address).await?;
        match connection.exchange(request.as_bytes()).await? {
            200 => Ok(()),
            status => bail!("the API server answered {status}"),
        }
    }

    /// Waits until so many requests are held.
    pub(crate) async fn holds(&self, count: usize) -> anyhow::Result<()> {
        let what = format!("{count} held requests");
        self.wait_for(&what, async || {
            let mut connection = Connection::open(loopback(METRICS_PORT)).await?;
            let request = get_host("activator", "/metrics");
            connection.exchange(&request).await?;
            let text = String::from_utf8_lossy(connection.body()).into_owned();
            let queued: usize = text
                .lines()
                .filter(|line| line.starts_with("kn_revision_request_queued{"))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
                .sum();
            Ok(queued >= count)
        })
        .await
    }

    async fn wait_for(
        &self,
        what: &str,
        holds: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await.unwrap_or(false) {
            if Instant::now() > deadline {
                bail!("waited {PATIENCE:?} for {what}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn is_healthy() -> anyhow::Result<bool> {
    let mut connection = Connection::open(loopback(HTTP_PORT)).await?;
    let probe = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\n\r\n";
    Ok(connection.exchange(probe).await? == 200)
}

/// Says at once when another program has the activator's ports.
pub(crate) fn ports_are_free() -> anyhow::Result<()> {
    for port in [8008, HTTP_PORT, 8013, METRICS_PORT] {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        std::net::TcpListener::bind(any).with_context(|| {
            format!(
                "port {port} is in use; in a network namespace it is free: \
                 unshare --net --map-root-user sh -c 'ip link set lo up && exec \"$@\"' compare COMMAND"
            )
        })?;
    }
    Ok(())
}

/// The Host by which a request names a revision.
pub(crate) fn host(index: usize) -> String {
    format!("{}.{NAMESPACE}.svc.cluster.local", name(index))
}

/// A GET for a revision as a gateway sends it.
pub(crate) fn request(index: usize) -> Vec<u8> {
    let headers = format!(
        "Knative-Serving-Namespace: {NAMESPACE}\r\nKnative-Serving-Revision: {}\r\n\r\n",
        name(index)
    );
    let mut request = get_host(&host(index), "/");
    request.truncate(request.len() - 2);
    request.extend(headers.into_bytes());
    request
}

/// A POST with a body, likewise.
pub(crate) fn post(index: usize, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nUser-Agent: bench\r\nKnative-Serving-Namespace: {NAMESPACE}\r\n\
         Knative-Serving-Revision: {}\r\nContent-Length: {}\r\n\r\n",
        host(index),
        name(index),
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// Takes stats and throws them away, on a thread of its own; its URL.
fn autoscaler() -> anyhow::Result<(String, oneshot::Sender<()>)> {
    let socket = std::net::TcpListener::bind(loopback(0))?;
    socket.set_nonblocking(true)?;
    let url = format!("ws://{}", socket.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("autoscaler".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    _ = take_stats(socket) => {}
                }
            });
        })
        .context("no thread for the autoscaler")?;
    Ok((url, stop))
}

async fn take_stats(socket: std::net::TcpListener) -> anyhow::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = socket.accept().await?;
        tokio::spawn(async move {
            let mut frames = tokio_tungstenite::accept_async(stream).await?;
            while let Some(frame) = frames.next().await {
                frame?;
            }
            anyhow::Ok(())
        });
    }
}
