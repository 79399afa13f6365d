//! The built `pilotlight` as a child process, with its output at hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api_server::port;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::client::{Answer, Call};
use crate::{eventually, within};

/// Silence shows in seconds: the platform's default grace period alone would be half a minute.
pub const QUICK_TO_ZERO: &str = "scale-to-zero-grace-period: \"1s\"";

/// The longest output that is kept of one process.
const KEPT_LINES: usize = 20_000;

/// Builds the binary once, exactly as the README does, and returns its path.
///
/// Cargo's own `CARGO_BIN_EXE_*` exists only inside the package that owns the binary.
/// `PILOTLIGHT_BIN` names another build, e.g. a release one.
#[allow(
    clippy::disallowed_methods,
    reason = "test programs read their own variables"
)]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("PILOTLIGHT_BIN") {
            return path.into();
        }
        let output = std::process::Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--locked",
                "-p",
                "local",
                "--bin",
                "pilotlight",
            ])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "pilotlight does not build");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == "pilotlight")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo names the executable")
    })
}

/// A running `pilotlight run`. Dropping it kills the process.
#[derive(Debug)]
pub struct Pilotlight {
    child: Child,
    address: SocketAddr,
    output: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

/// What `pilotlight` is started with.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// Written to `service.yaml` and passed with `-f`; none when empty.
    pub manifest: &'a str,
    /// Further arguments of `run`.
    pub arguments: &'a [&'a str],
}

impl Pilotlight {
    /// Starts with one manifest and waits until the front port accepts connections.
    pub async fn run(manifest: &str) -> Self {
        Self::start(Options {
            manifest,
            arguments: &[],
        })
        .await
    }

    /// Starts with `options` and waits until the front port accepts connections.
    pub async fn start(options: Options<'_>) -> Self {
        let mut this = Self::spawn(options);
        let address = this.address;
        for _ in 0..3_000 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return this;
            }
            if let Ok(Some(status)) = this.child.try_wait() {
                panic!(
                    "pilotlight ended with {status} at start:\n{}",
                    this.output()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "pilotlight does not listen on {address}:\n{}",
            this.output()
        );
    }

    /// Starts without waiting for anything.
    pub fn spawn(options: Options<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let port = port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = Command::new(binary());
        command.arg("run").args(["--listen", &address.to_string()]);
        if !options.manifest.is_empty() {
            let path = folder.path().join("service.yaml");
            std::fs::write(&path, options.manifest).expect("the manifest can be written");
            command.arg("-f").arg(path);
        }
        if !options.manifest.is_empty() && !options.manifest.contains("config-autoscaler") {
            let path = folder.path().join("config-autoscaler.yaml");
            std::fs::write(&path, config_autoscaler(QUICK_TO_ZERO))
                .expect("the config can be written");
            command.arg("-f").arg(path);
        }
        command
            .args(options.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("pilotlight starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(
            child.stdout.take().expect("stdout is piped"),
            output.clone(),
        );
        collect(
            child.stderr.take().expect("stderr is piped"),
            output.clone(),
        );
        Self {
            child,
            address,
            output,
            folder,
        }
    }

    /// The front port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("pilotlight has not been awaited")
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        self.output.lock().join("\n")
    }

    /// The folder of the manifest.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the manifest in place, as an editor does.
    pub fn edit(&self, manifest: &str) {
        let new = self.folder.path().join("service.yaml.new");
        std::fs::write(&new, manifest).expect("the manifest can be written");
        std::fs::rename(&new, self.folder.path().join("service.yaml"))
            .expect("the manifest can be replaced");
    }

    /// A request to be sent to the front port.
    pub fn call(&self, host: &str, target: &str) -> Call {
        Call::get(self.address, host, target)
    }

    /// Sends a GET and panics, with the program's output, when no answer comes.
    pub async fn get(&self, host: &str, target: &str) -> Answer {
        match self.call(host, target).send().await {
            Ok(answer) => answer,
            Err(error) => panic!("GET {host}{target}: {error:#}\n{}", self.output()),
        }
    }

    /// What `pilotlight status -o json` prints for this instance.
    pub async fn status(&self) -> Value {
        match self.try_status().await {
            Ok(status) => status,
            Err(message) => panic!("status failed: {message}\n{}", self.output()),
        }
    }

    async fn try_status(&self) -> Result<Value, String> {
        let output = Command::new(binary())
            .args([
                "status",
                "-o",
                "json",
                "--listen",
                &self.address.to_string(),
            ])
            .output()
            .await
            .expect("pilotlight status runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).expect("status prints JSON"))
    }

    /// Waits until `condition` holds of the status.
    pub async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let status = self.try_status().await;
            match status {
                Ok(status) if condition(&status) => Ok(status),
                other => Err((other, self.output())),
            }
        })
        .await
    }

    /// Waits until `text` has been printed.
    pub async fn until_printed(&self, text: &str) {
        eventually(&format!("output with {text:?}"), async || {
            let output = self.output();
            if output.contains(text) {
                Ok(())
            } else {
                Err(output)
            }
        })
        .await;
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid fits");
        let pid = Pid::from_raw(pid).expect("a pid is positive");
        rustix::process::kill_process(pid, signal).expect("the process can be signalled");
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self, bound: Duration) -> ExitStatus {
        match tokio::time::timeout(bound, self.child.wait()).await {
            Ok(status) => status.expect("the process can be awaited"),
            Err(_) => panic!("pilotlight still runs after {bound:?}:\n{}", self.output()),
        }
    }
}

/// A ConfigMap `config-autoscaler` with lines of data.
pub fn config_autoscaler(data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-autoscaler, namespace: knative-serving}}\ndata:\n  {data}\n---\n"
    )
}

/// The live processes whose environment contains `text`, e.g. `K_SERVICE=hello`.
pub fn processes_with(text: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|entry| entry == text.as_bytes())
            })
        })
        .collect()
}

/// Waits until no process has `text` in its environment.
pub async fn until_gone(text: &str, bound: Duration) {
    within(
        bound,
        &format!("the end of all processes with {text}"),
        async || {
            let left = processes_with(text);
            if left.is_empty() { Ok(()) } else { Err(left) }
        },
    )
    .await;
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static, into: Arc<Mutex<Vec<String>>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut kept = into.lock();
            if kept.len() < KEPT_LINES {
                kept.push(line);
            }
        }
    });
}
