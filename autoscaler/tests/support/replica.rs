//! Replicas of the autoscaler: tasks of the test program, or processes that can be killed and paused.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use autoscaler::kubernetes::config::Config;
use autoscaler::kubernetes::{self, Listeners, Reach, Surroundings, config_maps};
use autoscaler::metrics::requests::ApiRequests;
use autoscaler::world::ProbeTarget;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::ACCOUNT;
use super::fixtures::SYSTEM;

/// How a replica is started, as arguments so that a process can be given them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Of the API server, or of a proxy in front of it.
    pub(crate) api_server: SocketAddr,
    pub(crate) pod: String,
    /// Where it listens for stats.
    pub(crate) stats: SocketAddr,
    /// What it says of itself. Others reach it there, unless it is one that no Service may lead to:
    /// an API server refuses EndpointSlices with addresses of loopback.
    pub(crate) pod_ip: IpAddr,
    /// Pods' statistics.
    pub(crate) pod_port: u16,
    /// What answers activator probes.
    pub(crate) activator: SocketAddr,
    /// Whether the ordinal of its name says which bucket is its own; only within the test program.
    pub(crate) stateful_set: bool,
}

/// A replica within the test program.
pub(crate) struct Task {
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    pub(crate) stats: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// A replica of its own process, killed when dropped.
pub(crate) struct Process(Child);

// === impl Settings ===

impl Settings {
    /// The first argument of a process that is a replica.
    pub(crate) const ARGUMENT: &str = "run-a-replica";

    /// From the arguments after the first.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut next = || arguments.next().expect("six arguments");
        Self {
            api_server: next().parse().unwrap(),
            pod: next(),
            stats: next().parse().unwrap(),
            pod_ip: next().parse().unwrap(),
            pod_port: next().parse().unwrap(),
            activator: next().parse().unwrap(),
            stateful_set: false,
        }
    }

    /// Starts the test program once more, as a replica.
    pub(crate) fn spawn(&self) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .arg(Self::ARGUMENT)
            .args([self.api_server.to_string(), self.pod.clone()])
            .args([self.stats.to_string(), self.pod_ip.to_string()])
            .args([self.pod_port.to_string(), self.activator.to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(self, listeners: Listeners, shutdown: CancellationToken) {
        let client = api_server::client_as(ACCOUNT, self.api_server);
        let ip = self.pod_ip.to_string();
        let mut environment = HashMap::from(
            [
                ("SYSTEM_NAMESPACE", SYSTEM),
                ("POD_NAME", &self.pod),
                ("POD_IP", &ip),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        if self.stateful_set {
            let more = [
                ("STATEFUL_CONTROLLER_ORDINAL", self.pod.as_str()),
                ("STATEFUL_SERVICE_NAME", "autoscaler"),
                ("STATEFUL_SERVICE_PORT", "8080"),
                ("STATEFUL_SERVICE_PROTOCOL", "ws"),
            ];
            environment.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        let config = Config::from_environment(&environment, None).unwrap();
        kubernetes::check_version(&client, (1, 30)).await.unwrap();
        let configuration = config_maps::read(&client, &config).await.unwrap();
        let activator = self.activator;
        let reach = Reach {
            pod_port: self.pod_port,
            probe_targets: Arc::new(move |object| {
                let service = &object.status.service_name;
                Some(ProbeTarget {
                    address: activator.to_string(),
                    host: format!("{service}.{}", object.id.namespace),
                })
            }),
        };
        let surroundings = Surroundings {
            listeners,
            reach,
            log_level: None,
            requests: ApiRequests::new(),
            push: None,
        };
        kubernetes::run(config, configuration, client, surroundings, shutdown)
            .await
            .unwrap();
    }

    async fn listeners(&self) -> Listeners {
        let any = |ip: IpAddr| SocketAddr::new(ip, 0);
        let ip = self.stats.ip();
        Listeners {
            stats: TcpListener::bind(self.stats).await.unwrap(),
            profiling: TcpListener::bind(any(ip)).await.unwrap(),
            metrics: Some(TcpListener::bind(any(ip)).await.unwrap()),
        }
    }

    /// What a process does: run until its standard input ends.
    pub(crate) async fn main(self) {
        let listeners = self.listeners().await;
        let shutdown = CancellationToken::new();
        let parent = shutdown.clone();
        std::thread::spawn(move || {
            // Whatever the outcome, nobody is left to work for.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            parent.cancel();
        });
        self.run(listeners, shutdown).await;
    }

    /// Starts a replica within this program.
    pub(crate) async fn start(self) -> Task {
        let listeners = self.listeners().await;
        let stats = listeners.stats.local_addr().unwrap();
        let metrics = listeners.metrics.as_ref().unwrap().local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let ended = tokio::task::spawn_local(self.run(listeners, shutdown.clone()));
        Task {
            shutdown,
            ended,
            stats,
            metrics,
        }
    }
}

// === impl Task ===

impl Task {
    /// Stops cleanly.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.ended)
            .await
            .expect("the replica ends")
            .unwrap();
    }
}

// === impl Process ===

impl Process {
    /// Sends a signal by its name, as `kill` does.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Stops it cleanly, and waits for its end.
    pub(crate) async fn end(&mut self) {
        drop(self.0.stdin.take());
        let status = api_server::eventually("end of a replica", async || {
            self.0.try_wait().expect("a child of this process")
        })
        .await;
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
