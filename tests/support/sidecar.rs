//! A queue-proxy for tests: in this process with the controller's environment, or the built binary
//! where memory and CPU time are what is asked about.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use queue_proxy::{Config, Listeners, QueueProxy};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::{PATIENCE, eventually};

/// Tells the loopback addresses of binaries apart: most ports of a sidecar are fixed.
static NEXT_ADDRESS: AtomicU8 = AtomicU8::new(1);

/// The data port of a binary.
const DATA_PORT: u16 = 8012;

/// Runs a test on the kind of runtime that the data planes use, for at most [`PATIENCE`].
pub fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime can be built");
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, test)
            .await
            .expect("the test hangs")
    })
}

/// [`local()`] for tests of the binary, which is built before their time begins.
pub fn with_binary<T>(test: impl Future<Output = T>) -> T {
    binary();
    local(test)
}

/// A queue-proxy on the test's own thread. Its data port is all that listens.
#[derive(Debug)]
pub struct Sidecar {
    pub address: SocketAddr,
    /// Ends with the test.
    _running: JoinHandle<()>,
}

/// The `queue-proxy` binary as a process. Dropping it kills the process.
#[derive(Debug)]
pub struct SidecarProcess {
    pub address: SocketAddr,
    child: Child,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The highest resident set so far, in bytes.
    pub peak: u64,
    /// The resident set now, in bytes.
    pub resident: u64,
    /// User and system time.
    pub cpu: Duration,
}

/// What the controller sets, for an app on `port`.
fn environment(port: u16) -> BTreeMap<String, String> {
    [
        ("CONTAINER_CONCURRENCY", "0"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("REVISION_TIMEOUT_SECONDS", "60"),
        ("SERVING_LOGGING_CONFIG", "{}"),
        ("SERVING_LOGGING_LEVEL", "fatal"),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_CONFIGURATION", "hello"),
        ("SERVING_REVISION", "hello-00001"),
        ("SERVING_POD", "hello-00001-abc"),
        ("SERVING_POD_IP", "10.0.0.7"),
        // A busy machine must not change what other tests see.
        ("PILOTLIGHT_OVERLOAD_DELAY", "0"),
        ("USER_PORT", &port.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

// === impl Sidecar ===

impl Sidecar {
    /// In front of `app`, which is on the loopback address.
    pub async fn start(app: SocketAddr) -> Self {
        Self::configured(app, |_| {}).await
    }

    /// With settings of the test's choice.
    pub async fn configured(app: SocketAddr, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config =
            Config::from_environment(&environment(app.port())).expect("the environment is whole");
        configure(&mut config);
        let data = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let address = data.local_addr().expect("bound");
        let proxy = QueueProxy::new(config).expect("the configuration can be used");
        let running = tokio::task::spawn_local(async move {
            proxy
                .run(Listeners::data_only(data), std::future::pending())
                .await
                .expect("starts");
        });
        Self {
            address,
            _running: running,
        }
    }
}

// === impl SidecarProcess ===

impl SidecarProcess {
    /// Starts the binary in front of `app` and waits until it listens.
    pub async fn start(app: SocketAddr) -> Self {
        Self::with(app, &[]).await
    }

    /// The same with further variables, or other values.
    pub async fn with(app: SocketAddr, variables: &[(&str, &str)]) -> Self {
        let [low, high, ..] = std::process::id().to_le_bytes();
        let next = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
        let ip = Ipv4Addr::new(127, high.max(1), low, next);
        let child = Command::new(binary())
            .env_clear()
            .envs(environment(app.port()))
            .env("PILOTLIGHT_BIND_ADDRESS", ip.to_string())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let address = SocketAddr::from((ip, DATA_PORT));
        eventually("listening", || TcpStream::connect(address)).await;
        Self { address, child }
    }

    /// What it has used until now.
    pub fn usage(&self) -> Usage {
        let id = self.child.id().expect("it runs");
        let read = |file| {
            std::fs::read_to_string(format!("/proc/{id}/{file}")).expect("the process is there")
        };
        let status = read("status");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes =
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kilobytes.expect("the kernel tells") * 1024
        };
        // The command may contain blanks, but is in parentheses.
        let stat = read("stat");
        let (_, fields) = stat.rsplit_once(") ").expect("a command in parentheses");
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|it| it.parse::<u64>().ok()).sum();
        Usage {
            peak: bytes("VmHWM:"),
            resident: bytes("VmRSS:"),
            cpu: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()),
        }
    }
}

/// Builds the binary once; `QUEUE_PROXY_BIN` names another build, e.g. a release one.
#[allow(
    clippy::disallowed_methods,
    reason = "test programs read their own variables"
)]
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("QUEUE_PROXY_BIN") {
            return path.into();
        }
        let output = std::process::Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "-p", "queue-proxy"])
            .args(["--bin", "queue-proxy"])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "queue-proxy does not build");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == "queue-proxy")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo names the executable")
    })
}
