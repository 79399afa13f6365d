//! Activators of the scenarios: each is the library's `run` on a thread with a log of its own, or the
//! program.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use activator::config::{Config, IngressSettings, Ports};
use activator::kubernetes::config_maps::{self, COMPONENT};
use activator::kubernetes::process;
use api_server::log::Log;
use api_server::{ApiServer, client_as, eventually, port};
use serving::config::observability::Metrics;
use serving::scrape_address::ScrapeAddress;
use serving::telemetry::{LineWriter, LogLayer, LogSettings};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;

use super::SYSTEM;
use super::world::{World, own_ip, send};

/// How an activator is started.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Of the API server, or of a proxy in front of it.
    pub(crate) api_server: SocketAddr,
    pub(crate) account: &'static str,
    /// The class of Ingresses to serve, and the Service of the entry for the cluster.
    pub(crate) ingress: Option<(&'static str, &'static str)>,
}

/// A running activator.
pub(crate) struct Replica {
    pub(crate) ports: Ports,
    metrics: SocketAddr,
    pub(crate) log: Log,
    /// The request log.
    pub(crate) requests: Log,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// The program, killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) output: Log,
    _folder: tempfile::TempDir,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn new(api_server: SocketAddr, account: &'static str) -> Self {
        Self {
            api_server,
            account,
            ingress: None,
        }
    }

    fn config(&self) -> Config {
        let ip = own_ip().to_string();
        let environment: &[(&str, &str)] = &[
            ("POD_NAME", "activator-0"),
            ("POD_IP", &ip),
            ("SYSTEM_NAMESPACE", SYSTEM),
            ("PROBE_FREQUENCY", "20ms"),
        ];
        let mut config = Config::from_environment(&environment, None).unwrap();
        // Its own would be asked for by a name of the cluster.
        config.options.autoscaler_url = None;
        config.options.drain = Duration::ZERO;
        config.profiling_port = port();
        config.metrics_address = ScrapeAddress {
            host: Some(Ipv4Addr::LOCALHOST.into()),
            port: Some(port()),
        };
        config.ports = Ports {
            http: port(),
            http2: port(),
            https: port(),
            ingress_http: port(),
            ingress_https: port(),
            ingress_local: port(),
        };
        config.ingress = self.ingress.map(|(class, private)| IngressSettings {
            class: class.to_owned(),
            public_service: "activator-ingress".to_owned(),
            private_service: private.to_owned(),
        });
        config
    }

    /// Starts one, and does not wait for it.
    pub(crate) fn begin(self) -> Replica {
        let config = self.config();
        let ports = config.ports;
        let metrics = config.metrics_address.or_endpoint_of(&Metrics::default());
        let (log, requests) = (Log::default(), Log::default());
        let stop = CancellationToken::new();
        let (to, requests_to, stopped) = (log.clone(), requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default())
                .unwrap();
            runtime.block_on(Box::pin(self.run(config, to, requests_to, stopped)));
        });
        Replica {
            ports,
            metrics,
            log,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    /// Starts one, and waits until it serves.
    pub(crate) async fn start(self) -> Replica {
        let replica = self.begin();
        replica.serves().await;
        replica
    }

    /// As the program does it, but for signals.
    async fn run(self, config: Config, log: Log, requests: Log, stop: CancellationToken) {
        let client = client_as(self.account, self.api_server);
        process::check_version(&client, config.kubernetes_min_version)
            .await
            .unwrap();
        let names = (&config.config_logging, &config.config_observability);
        let configuration = config_maps::read(&client, &config.system_namespace, names.0, names.1)
            .await
            .unwrap();
        let (settings, _) = LogSettings::read(&configuration.logging.zap_config, "info");
        let writer = LineWriter::new(log).unwrap();
        let layer = LogLayer::new(settings, COMPONENT, &[], writer.clone());
        let level = layer.level();
        let subscriber = tracing_subscriber::registry().with(layer);
        let _default = tracing::subscriber::set_default(subscriber);
        let outputs = (LineWriter::new(requests).unwrap(), level, None);
        let run = process::run(config, configuration, client, outputs, stop);
        Box::pin(run).await.unwrap();
        writer.flush();
    }
}

// === impl Replica ===

impl Replica {
    /// Where requests for revisions come in.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.http))
    }

    /// Where a gateway's requests of the world come in.
    pub(crate) fn entry(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.ingress_http))
    }

    /// Waits until it listens.
    pub(crate) async fn serves(&self) {
        eventually("a listening activator", async || {
            let ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended, "it ended: {}", self.log.text());
            tokio::net::TcpStream::connect(self.address()).await.ok()
        })
        .await;
    }

    /// A request for the revision that is held, once the revision is known.
    pub(crate) async fn hold(&self, it: &World) -> tokio::task::JoinHandle<(u16, String)> {
        eventually("held request", async || {
            let waiting = it.background(self.address(), "/");
            while !waiting.is_finished() {
                if self.queued(it).await == Some(1) {
                    return Some(waiting);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            None
        })
        .await
    }

    /// Its metrics.
    pub(crate) async fn scrape(&self) -> String {
        let answer = send(self.metrics, "/metrics", "Host: a\r\n").await;
        answer.expect("an answer").1
    }

    /// How many requests for the revision are held, as its metrics say.
    async fn queued(&self, it: &World) -> Option<usize> {
        let text = self.scrape().await;
        let name = format!("kn_revision_name=\"{}\"", it.name);
        let line = text
            .lines()
            .find(|line| line.starts_with("kn_revision_request_queued{") && line.contains(&name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let thread = self.thread.take().unwrap();
        eventually("an activator that ended", async || {
            thread.is_finished().then_some(())
        })
        .await;
        thread.join().expect("it ended without an error");
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("its log: {}", self.log.text());
        }
        // A failed scenario waits for nothing.
        self.stop.cancel();
    }
}

// === impl Program ===

impl Program {
    /// Starts the program with more variables.
    pub(crate) fn start(account: &str, api_server: SocketAddr, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, ApiServer::kubeconfig(account, api_server)).unwrap();
        let ip = own_ip().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_activator"))
            .env_clear()
            .envs([
                ("POD_NAME", "activator-0"),
                ("POD_IP", &ip),
                ("SYSTEM_NAMESPACE", SYSTEM),
            ])
            .envs(more.iter().copied())
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Log::default();
        let streams: [Box<dyn io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut stream in streams {
            let mut to = output.clone();
            // Ends with the program.
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let _ = to.write_all(&buffer[..read]);
                }
            });
        }
        Self {
            child,
            output,
            _folder: folder,
        }
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let status = eventually("program that ended", async || {
            self.child.try_wait().unwrap()
        })
        .await;
        status.code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
