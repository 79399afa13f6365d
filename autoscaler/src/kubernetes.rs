//! The autoscaler in a cluster: what the driver wants to know comes from watches of the API server,
//! what it wants done becomes writes.
//!
//! [`run`] is the process without its log and its signals, in upstream's order of start and end
//! (`cmd/autoscaler/main.go`).

mod admin;
mod apply;
mod bucket_services;
mod cache;
pub mod config;
pub mod config_maps;
mod election;
mod elector;
mod events;
pub mod flags;
mod handover;
mod index;
pub mod objects;
mod rate_limit;
mod request_metrics;
mod watches;

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus_client::registry::Registry;
use serving::config::observability::PROTOCOL_PROMETHEUS;
use serving::hash::BucketSet;
#[cfg(feature = "otel")]
use serving::otlp::MetricPush;
use serving::resident::forget_start_after;
use serving::resource::register_target;
use serving::server::Listener;
use serving::telemetry::LogLevel;
use serving::tls::{ScrapeTls, ScrapeTlsError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::apply::Writer;
use self::cache::Caches;
use self::config::{Config, parse_version};
use self::config_maps::Configuration;
use self::elector::{Buckets, Elector};
use self::events::Recorder;
use self::flags::Flags;
use self::handover::Successors;
use self::rate_limit::RateLimitLayer;
use self::request_metrics::RequestMetricsLayer;
use self::watches::Watches;
use crate::driver::{Autoscaler, Options, World};
use crate::metrics::requests::ApiRequests;
use crate::pod_autoscaler::PodAutoscaler;
use crate::scale;
use crate::scraper;
use crate::stat_forwarder::{Addressing, Assignment, Assignments, StatForwarder};
use crate::stat_server;
use crate::world::{ACTIONS_CAPACITY, ProbeTarget, ProbeTargets, UPDATES_CAPACITY, Update};

/// The component's name in logs and config maps.
pub const COMPONENT: &str = "autoscaler";

/// The stat server's port.
pub const STAT_PORT: u16 = 8080;

/// How long the API server may take to answer at start, and the pause between questions.
const VERSION_PATIENCE: Duration = Duration::from_secs(60);
const VERSION_PAUSE: Duration = Duration::from_secs(1);
/// After everything has been listed, until the code of the start is given back.
const STARTED: Duration = Duration::from_secs(30);
/// After the shutdown began, all parts must have ended.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
/// How long the last push of metrics may take.
#[cfg(feature = "otel")]
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// How the pods and Services of revisions are reached. A test that has neither a network of pods nor
/// a DNS puts its own in.
#[derive(Clone)]
pub struct Reach {
    /// The port of a pod's statistics.
    pub pod_port: u16,
    /// Where activator probes go.
    pub probe_targets: ProbeTargets,
}

/// Ports that are listened on. They open to clients once [`run`] knows everything.
#[derive(Debug)]
pub struct Listeners {
    /// For activators and the kubelet, [`STAT_PORT`].
    pub stats: TcpListener,
    /// `PROFILING_PORT`.
    pub profiling: TcpListener,
    /// For Prometheus.
    pub metrics: Option<TcpListener>,
}

/// What the process has besides its configuration.
#[derive(Debug)]
pub struct Surroundings {
    /// Ports.
    pub listeners: Listeners,
    /// How revisions are reached.
    pub reach: Reach,
    /// Follows `config-logging`; `None` where somebody else's log is written.
    pub log_level: Option<LogLevel>,
    /// What the client asked for.
    pub requests: ApiRequests,
    /// Where metrics are pushed, if anywhere.
    #[cfg(feature = "otel")]
    pub push: Option<MetricPush>,
}

/// Why the autoscaler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no usable client configuration.
    #[error("cannot configure the client of the API server")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server is older than `KUBERNETES_MIN_VERSION`.
    #[error("API server has version {found}, at least {}.{} is needed", wanted.0, wanted.1)]
    TooOld {
        /// What it says.
        found: String,
        /// What is needed.
        wanted: (u32, u32),
    },
    /// The API server did not answer.
    #[error("API server not reached")]
    Unreachable(#[source] Box<kube::Error>),
    /// A config map cannot be used.
    #[error(transparent)]
    ConfigMap(#[from] config_maps::ConfigMapError),
    /// `config-leader-election` contradicts itself.
    #[error("leader election cannot be configured")]
    LeaderElection(#[source] serving::config::InvalidConfig),
    /// `STATEFUL_CONTROLLER_ORDINAL` is beyond the number of buckets.
    #[error("ordinal {ordinal} has no bucket, there are {buckets}")]
    Ordinal {
        /// Of this replica.
        ordinal: usize,
        /// How many there are.
        buckets: u32,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on port {port}")]
    Bind {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The scrape listener has no usable certificate.
    #[error("cannot serve scrapes over TLS")]
    ScrapeTls(#[from] ScrapeTlsError),
    /// The watches ended before everything was listed.
    #[error("watches ended")]
    Watches,
}

// === impl Reach ===

impl Reach {
    /// What a cluster has.
    pub fn in_cluster(config: &Config) -> Self {
        Self {
            pod_port: scraper::METRICS_PORT,
            probe_targets: probe_targets(config.cluster_domain.clone()),
        }
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("pod_port", &self.pod_port)
            .finish_non_exhaustive()
    }
}

/// A client with the limits of the command line, as kube configures itself otherwise. What it asks
/// for is counted in `requests`.
pub async fn client(flags: &Flags, requests: &ApiRequests) -> Result<Client, StartError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| StartError::Client(error);
    let options = KubeConfigOptions {
        cluster: flags.cluster.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = match &flags.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(error.into()))?;
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| failed(error.into()))?
        }
        None => kube::Config::infer()
            .await
            .map_err(|error| failed(error.into()))?,
    };
    if let Some(server) = &flags.server {
        config.cluster_url = server
            .parse()
            .map_err(|error: http::uri::InvalidUri| failed(error.into()))?;
    }
    let limit = RateLimitLayer::new(flags.qps, flags.burst);
    let builder = ClientBuilder::try_from(config).map_err(|error| failed(error.into()))?;
    let metrics = RequestMetricsLayer(requests.clone());
    Ok(builder.with_layer(&metrics).with_layer(&limit).build())
}

/// Waits until the API server answers, and refuses one that is too old.
pub async fn check_version(client: &Client, wanted: (u32, u32)) -> Result<(), StartError> {
    let deadline = Instant::now() + VERSION_PATIENCE;
    loop {
        match client.apiserver_version().await {
            Ok(info) => {
                let found = parse_version(&info.git_version);
                return match found.filter(|found| *found >= wanted) {
                    Some(_) => Ok(()),
                    None => Err(StartError::TooOld {
                        found: info.git_version,
                        wanted,
                    }),
                };
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(StartError::Unreachable(Box::new(error)));
            }
            Err(error) => tracing::warn!(%error, "API server does not answer yet"),
        }
        tokio::time::sleep(VERSION_PAUSE).await;
    }
}

/// Binds all ports.
pub async fn bind(config: &Config, configuration: &Configuration) -> Result<Listeners, StartError> {
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let asked_for = configuration.observability.metrics.protocol == PROTOCOL_PROMETHEUS;
    Ok(Listeners {
        stats: listen(any(STAT_PORT)).await?,
        profiling: listen(any(config.profiling_port)).await?,
        metrics: match asked_for {
            true => {
                let metrics = &configuration.observability.metrics;
                Some(listen(config.metrics_address.or_endpoint_of(metrics)).await?)
            }
            false => None,
        },
    })
}

/// Runs until `shutdown` and everything after it is done. On a `LocalRuntime`.
pub async fn run(
    config: Config,
    configuration: Configuration,
    client: Client,
    surroundings: Surroundings,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let Surroundings {
        listeners,
        reach,
        log_level,
        requests,
        #[cfg(feature = "otel")]
        push,
    } = surroundings;
    let leader_election = &configuration.leader_election;
    let timing = leader_election
        .timing()
        .map_err(StartError::LeaderElection)?;
    let set = bucket_set(&config, leader_election.buckets)?;
    let stat_port = listeners
        .stats
        .local_addr()
        .map_or(STAT_PORT, |it| it.port());

    let mut registry = Registry::default();
    register_target(&mut registry, &config.resource());
    let (updates, updates_receiver) = mpsc::channel(UPDATES_CAPACITY);
    let (action_sender, actions) = mpsc::channel(ACTIONS_CAPACITY);
    let options = Options::new(
        scraper::Options {
            mesh: configuration.network.mesh_compatibility_mode,
            passthrough: configuration.network.enable_mesh_pod_addressability,
            ..scraper::Options::default()
        },
        reach.probe_targets,
    );
    let world = World {
        updates: updates_receiver,
        actions: action_sender,
    };
    let (autoscaler, handle) = Autoscaler::new(options, world, &mut registry);
    requests.register(&mut registry);

    // The parts go on until what they know has been handed over.
    let stop = CancellationToken::new();
    // What serves, and ends by itself after the shutdown.
    let mut parts = JoinSet::new();
    // What only follows the API server, and is cut off.
    let mut followers = JoinSet::new();
    let caches = Caches::default();
    let writer = Writer {
        client: client.clone(),
        caches: caches.clone(),
        events: Recorder::new(client.clone()),
    };
    parts.spawn_local(autoscaler.run(stop.clone()));
    followers.spawn_local(apply::run(writer, actions, updates.clone()));

    // Nothing is this replica's before it is elected, and nothing is decided before it is known.
    let buckets = Buckets::new(set.clone());
    let _ = updates.send(buckets.ownership()).await;
    let watches = Watches {
        client: client.clone(),
        caches,
        updates: updates.clone(),
        pod_port: reach.pod_port,
    };
    tokio::select! {
        listed = watch_everything(&mut followers, &watches) => listed?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let first = configuration.cluster.clone();
    let _ = updates.send(Update::Config(Arc::new(first.clone()))).await;
    let live = config_maps::Live::new(first, config.config_logging.clone(), log_level);
    followers.spawn_local(config_maps::follow(
        client.clone(),
        config.system_namespace.clone(),
        live,
        updates.clone(),
    ));

    followers.spawn_local(forget_start_after(STARTED));
    let Listeners {
        stats,
        profiling,
        metrics,
    } = listeners;
    followers.spawn_local(admin::serve(Listener::plain(profiling), None));
    if let Some(metrics) = metrics {
        let listener = ScrapeTls::listener(config.metrics_tls.as_ref(), metrics)?;
        followers.spawn_local(admin::serve(listener, Some(Arc::new(registry))));
    }

    #[cfg(feature = "otel")]
    if let Some(push) = &push {
        let (metrics, requests) = (handle.metrics().clone(), requests.clone());
        let snapshot = move || metrics.snapshot(&requests);
        followers.spawn_local(push.clone().run(snapshot));
    }

    let successors = config.stateful_set.is_none().then(|| Successors {
        client: client.clone(),
        namespace: config.system_namespace.clone(),
        own_ip: config.pod_ip.clone(),
        port: stat_port,
    });
    let assignments = Assignments::new(set);
    let (frames, frames_receiver) = mpsc::channel(stat_server::FRAMES_CAPACITY);
    let forwarder = StatForwarder::new(assignments.clone(), handle.frames());
    parts.spawn_local(forwarder.run(frames_receiver, stop.clone()));
    match &config.stateful_set {
        Some(set) => {
            for (at, name) in assignments.names().iter().enumerate() {
                let assignment = if at == set.ordinal {
                    Assignment::Local
                } else {
                    Assignment::Remote(vec![name.clone()])
                };
                assignments.assign(name, assignment);
            }
            buckets.own_only(set.ordinal);
            let _ = updates.send(buckets.ownership()).await;
        }
        None => {
            let addressing = Addressing {
                own_ip: config.pod_ip.clone(),
                namespace: config.system_namespace.clone(),
                cluster_domain: config.cluster_domain.clone(),
                port: stat_port,
            };
            followers.spawn_local(bucket_services::follow_leases(
                client.clone(),
                assignments.clone(),
                addressing,
            ));
            let elector = Elector {
                client,
                namespace: config.system_namespace.clone(),
                identity: config.identity(),
                timing,
                buckets,
                updates,
            };
            parts.spawn_local(elector.run(stop.clone()));
        }
    }
    let server = stat_server::Options {
        frames,
        // An ordinal is always the same replica's: nobody takes over from it.
        handovers: successors.as_ref().map(|_| handle.handovers()),
        bucket_owner: Some(Arc::new(move |bucket: &str| assignments.is_local(bucket))),
    };
    parts.spawn_local(stat_server::serve(stats, server, stop.clone()));

    // A part that ends by itself takes the others with it.
    tokio::select! {
        Some(_) = parts.join_next() => shutdown.cancel(),
        () = shutdown.cancelled() => {
            // While the Leases are still held: whoever takes one then knows what this replica did.
            if let Some(successors) = successors {
                successors.hand_over(&handle).await;
            }
        }
    }
    stop.cancel();
    let ended = tokio::time::timeout(SHUTDOWN_LIMIT, async {
        while parts.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!(running = parts.len(), "not everything ended in time");
    }
    followers.shutdown().await;
    #[cfg(feature = "otel")]
    if let Some(push) = push {
        let last = handle.metrics().snapshot(&requests);
        push.flush(last, FLUSH_LIMIT).await;
    }
    Ok(())
}

/// Starts all watches and waits until each has listed what there is.
async fn watch_everything(
    followers: &mut JoinSet<()>,
    watches: &Watches,
) -> Result<(), StartError> {
    let (pods, pods_listed) = oneshot::channel();
    followers.spawn_local(watches.clone().pods(pods));
    let (services, services_listed) = oneshot::channel();
    followers.spawn_local(watches.clone().serverless_services(services));
    let (metrics, metrics_listed) = oneshot::channel();
    followers.spawn_local(watches.clone().metrics(metrics));
    let (objects, objects_listed) = oneshot::channel();
    followers.spawn_local(watches.clone().pod_autoscalers(objects));
    for listed in [pods_listed, services_listed, metrics_listed, objects_listed] {
        listed.await.map_err(|_| StartError::Watches)?;
    }
    Ok(())
}

fn bucket_set(config: &Config, buckets: u32) -> Result<BucketSet, StartError> {
    match &config.stateful_set {
        None => Ok(BucketSet::autoscaler(buckets)),
        Some(set) if set.ordinal < buckets as usize => Ok(BucketSet::new(set.buckets(
            buckets,
            &config.system_namespace,
            &config.cluster_domain,
        ))),
        Some(set) => Err(StartError::Ordinal {
            ordinal: set.ordinal,
            buckets,
        }),
    }
}

/// The public service of a revision, on the port of its protocol.
fn probe_targets(cluster_domain: String) -> ProbeTargets {
    Arc::new(move |object: &PodAutoscaler| {
        let address = scale::probe_address(object, &cluster_domain)?;
        Some(ProbeTarget {
            host: address.clone(),
            address,
        })
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let port = address.port();
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind { port, source })
}
