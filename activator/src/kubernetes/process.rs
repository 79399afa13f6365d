//! An activator's life in a cluster: start in upstream's order, serve, drain.
//!
//! Upstream: `cmd/activator/main.go`.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use kube::Client;
use prometheus_client::registry::Registry;
use rustls::crypto::ring;
use rustls::server::ResolvesServerCert;
use serving::body::Body;
use serving::config::observability::PROTOCOL_PROMETHEUS;
use serving::forward::error_response;
use serving::resident::forget_start_after;
use serving::resource::register_target;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use serving::telemetry::{LineWriter, LogLevel, PROMETHEUS_TEXT, prometheus_text};
use serving::tls::{self, ScrapeTls, ScrapeTlsError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificates;
use super::config_maps::{self, Configuration, Followed};
use super::ingress::IngressOptions;
use super::watches::{Watches, may_list_endpoint_slices};
use super::workers::{SpanSettings, Workers};
use crate::config::{Config, Ports, parse_version};
use crate::ingress::front::{Certificates, Front, Gateway};
use crate::internal_tls::InternalTlsError;
use crate::{Activator, MeshMode, ProbeOptions, UPDATES_CAPACITY};

/// How long the API server may take to answer at start, and the pause between questions.
const VERSION_PATIENCE: Duration = Duration::from_secs(60);
const VERSION_PAUSE: Duration = Duration::from_secs(1);
/// Requests and tunnels may take so long after the drain, which keeps the whole below the
/// Deployment's grace period of 600 s.
const FINISH_LIMIT: Duration = Duration::from_secs(540);
/// After everything has been listed, until the code of the start is given back.
const STARTED: Duration = Duration::from_secs(1);
/// Upstream's limit on heads of scrapes.
const SCRAPE_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Its limit on heads of requests for profiles.
const PROFILING_HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the activator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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
    /// The API server took a connection and did not answer.
    #[error("API server does not answer")]
    Silent,
    /// `system-internal-tls` is enabled, and its Secret or bundles cannot be read.
    #[error("certificates of system-internal-tls cannot be read")]
    Certificates(#[source] Box<kube::Error>),
    /// They or the settings cannot be used.
    #[error("system-internal-tls cannot be used")]
    InternalTls(#[from] InternalTlsError),
    /// The scrape listener has no usable certificate.
    #[error("cannot serve scrapes over TLS")]
    ScrapeTls(#[from] ScrapeTlsError),
    /// A port cannot be listened on.
    #[error("cannot listen on port {port}")]
    Bind {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The watches ended before everything was listed.
    #[error("watches ended")]
    Watches,
    /// A further thread cannot be started (`PILOTLIGHT_THREADS`).
    #[error("cannot start a thread to serve")]
    Thread(#[source] io::Error),
}

/// What is pushed; nothing without the feature.
#[cfg(feature = "otel")]
pub type Exports = Option<crate::export::Export>;
/// What is pushed; nothing without the feature.
#[cfg(not(feature = "otel"))]
pub type Exports = Option<std::convert::Infallible>;

/// Pushes of what goes out, while the activator serves.
#[cfg(feature = "otel")]
type Exporting = Option<crate::export::Exporting>;
#[cfg(not(feature = "otel"))]
type Exporting = Option<std::convert::Infallible>;

/// An activator that knows its cluster, and listens.
struct Started {
    activator: Activator,
    listeners: Vec<Listener>,
    entries: Vec<(Front, Vec<Listener>)>,
    exporting: Exporting,
    /// Those of further threads.
    spans: Option<SpanSettings>,
}

/// Serves scrapes.
struct Scrapes(Registry);

/// Answers on the profiling port that nothing is there: Go's profiles have no counterpart.
struct Profiles;

/// Waits until the API server answers, at most a minute, and refuses one that is too old.
///
/// # Errors
/// It is too old, or there was no answer.
pub async fn check_version(client: &Client, wanted: (u32, u32)) -> Result<(), StartError> {
    let deadline = Instant::now() + VERSION_PATIENCE;
    loop {
        // One that takes connections and says nothing must not hold the start up for longer.
        let asked = timeout_at(deadline, client.apiserver_version()).await;
        match asked.map_err(|_| StartError::Silent)? {
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

/// What `start` gives, or nothing when `stop` comes first: a start waits for others, and nobody who is
/// told to end waits for them.
///
/// # Errors
/// Those of `start`.
pub async fn unless_stopped<T, E>(
    stop: &CancellationToken,
    start: impl Future<Output = Result<T, E>>,
) -> Result<Option<T>, E> {
    tokio::select! {
        started = start => started.map(Some),
        () = stop.cancelled() => Ok(None),
    }
}

/// Runs until `stop` and everything after it is done. On a `LocalRuntime`.
///
/// # Errors
/// It could not start.
pub async fn run(
    config: Config,
    configuration: Configuration,
    client: Client,
    outputs: (LineWriter, LogLevel, Exports),
    stop: CancellationToken,
) -> Result<(), StartError> {
    let (drain, threads) = (config.options.drain, config.threads);
    let mut tasks = JoinSet::new();
    let started = Box::pin(start(config, configuration, client, outputs, &mut tasks));
    let Some(started) = unless_stopped(&stop, started).await? else {
        return Ok(());
    };
    tasks.spawn_local(forget_start_after(STARTED));
    let Started {
        activator,
        listeners,
        entries,
        exporting,
        spans,
    } = started;
    let mut workers = Workers::default();
    for _ in 1..threads {
        let serving = (&listeners[..], &entries[..]);
        let ended = (drain, stop.clone());
        workers
            .start(&activator, serving, spans.clone(), ended)
            .map_err(StartError::Thread)?;
    }
    serve(&activator, listeners, entries, drain, stop.cancelled()).await;
    workers.ended().await;
    #[cfg(feature = "otel")]
    if let Some(exporting) = exporting {
        exporting.flush().await;
    }
    #[cfg(not(feature = "otel"))]
    let None = exporting;
    tasks.abort_all();
    Ok(())
}

/// Lists, follows and listens; what does not end by itself is in `tasks`.
async fn start(
    config: Config,
    configuration: Configuration,
    client: Client,
    (log, level, export): (LineWriter, LogLevel, Exports),
    tasks: &mut JoinSet<()>,
) -> Result<Started, StartError> {
    let mut registry = Registry::default();
    register_target(&mut registry, &config.resource());
    let mut options = config.options;
    if configuration.network.system_internal_tls {
        let namespace = &config.system_namespace;
        let tls = certificates::read(&client, namespace).await?;
        let watched = (client.clone(), namespace.clone(), tls.clone());
        tasks.spawn_local(async move {
            let (client, namespace, tls) = watched;
            certificates::follow(&client, &namespace, &tls).await;
        });
        options.internal_tls = Some(tls);
    }
    let acceptor = match &options.internal_tls {
        Some(tls) => Some(TlsAcceptor::from(tls.server_config(&config.tls)?)),
        None => None,
    };
    let network = &configuration.network;
    options.probe.mesh_mode = network.mesh_compatibility_mode;
    options.probe.mesh_pod_addressability = network.enable_mesh_pod_addressability;
    warn_of_contradictions(&options.probe);
    let cluster_domain = options.cluster_domain.clone();
    let system_namespace = config.system_namespace.clone();
    let gateway_client = client.clone();

    let (updates, received) = mpsc::channel(UPDATES_CAPACITY);
    let (activator, driver) = crate::new(options, received, &mut registry);
    activator.log_requests_to(log);
    config_maps::apply(&configuration.observability, &activator);
    tasks.spawn_local(driver.run());
    #[cfg(feature = "otel")]
    let spans = export
        .as_ref()
        .and_then(crate::export::Export::span_settings);
    #[cfg(not(feature = "otel"))]
    let spans = None;
    #[cfg(feature = "otel")]
    let exporting = export.map(|export| crate::export::start(&activator, export, tasks));
    #[cfg(not(feature = "otel"))]
    let exporting = export;

    let slices = may_list_endpoint_slices(&client).await.unwrap_or(false);
    let source = if slices {
        "EndpointSlices"
    } else {
        "Endpoints"
    };
    tracing::info!("addresses come from {source}");
    let (synced, listed) = oneshot::channel();
    let watches = Watches::new(&client, slices, updates.clone());
    tasks.spawn_local(watches.run(synced));
    listed.await.map_err(|_| StartError::Watches)?;
    // What has left the channel is applied: the driver does that without yielding.
    while updates.capacity() < updates.max_capacity() {
        tokio::task::yield_now().await;
    }
    drop(updates);

    let follower = activator.clone();
    let followed = Followed {
        observability: config.config_observability,
        logging: config.config_logging,
        level: Some(level),
    };
    tasks.spawn_local(async move {
        let namespace = &config.system_namespace;
        config_maps::follow(&client, namespace, &followed, &follower).await;
    });
    if configuration.observability.metrics.protocol == PROTOCOL_PROMETHEUS {
        let scrapes = Scrapes(registry);
        let metrics = &configuration.observability.metrics;
        let socket = bind(config.metrics_address.or_endpoint_of(metrics)).await?;
        let listener = ScrapeTls::listener(config.metrics_tls.as_ref(), socket)?;
        tasks.spawn_local(serve_admin(listener, SCRAPE_HEAD_TIMEOUT, scrapes));
    }
    let socket = bind(everywhere(config.profiling_port)).await?;
    let listener = Listener::plain(socket);
    tasks.spawn_local(serve_admin(listener, PROFILING_HEAD_TIMEOUT, Profiles));
    let ports = config.ports;
    let mut listeners = Vec::new();
    for address in [ports.http, ports.http2].map(everywhere) {
        listeners.push(Listener::plain(bind(address).await?));
    }
    if let Some(acceptor) = acceptor {
        let socket = bind(everywhere(ports.https)).await?;
        listeners.push(Listener::tls(socket, acceptor));
    }
    let mut entries = Vec::new();
    if let Some(settings) = config.ingress {
        let options = IngressOptions {
            class: settings.class,
            public_service: settings.public_service,
            private_service: settings.private_service,
            namespace: system_namespace,
            cluster_domain,
            replica_port: ports.ingress_local,
        };
        entries = open_gateway(&activator, options, ports, gateway_client, tasks).await?;
    }
    Ok(Started {
        activator,
        listeners,
        entries,
        exporting,
        spans,
    })
}

/// With both settings pods are neither probed nor left to the ClusterIP (upstream's `probePodIPs`
/// and `useClusterIP` in `pkg/activator/net/revision_backends.go`), and nobody would know why every
/// request waits.
pub(crate) fn warn_of_contradictions(probe: &ProbeOptions) {
    if probe.mesh_mode == MeshMode::Enabled && probe.mesh_pod_addressability {
        tracing::warn!(
            "config-network contradicts itself: mesh-compatibility-mode \"enabled\" hides pods that \
             enable-mesh-pod-addressability shows; no request will reach any revision"
        );
    }
}

/// Serves; after `stop`, health fails for as long as load balancers need to hear of it, and then
/// what is under way is finished.
pub(crate) async fn serve(
    activator: &Activator,
    listeners: Vec<Listener>,
    entries: Vec<(Front, Vec<Listener>)>,
    drain: Duration,
    stop: impl Future<Output = ()>,
) {
    let shutdown = Shutdown::new();
    let handler = Rc::new(activator.clone());
    let served = server::serve(
        listeners,
        handler,
        crate::server_options(),
        shutdown.clone(),
    );
    let entries = entries.into_iter().map(|(front, listeners)| {
        let options = crate::server_options();
        server::serve(listeners, Rc::new(front), options, shutdown.clone())
    });
    let served = join(served, join_all(entries));
    let ended = async {
        stop.await;
        tracing::info!("draining");
        activator.drain();
        tokio::time::sleep(drain).await;
        shutdown.drain();
        tokio::time::sleep(FINISH_LIMIT).await;
        tracing::warn!("requests are still running, ending them");
        shutdown.stop();
        activator.tunnels().close();
    };
    let finished = async {
        served.await;
        // Upstream forgets its tunnels here; nothing depends on that.
        activator.tunnels().closed().await;
    };
    tokio::select! {
        () = finished => {}
        () = ended => {}
    }
}

/// Watches what a gateway has to know, and opens its ports once it knows it.
async fn open_gateway(
    activator: &Activator,
    options: IngressOptions,
    ports: Ports,
    client: Client,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<(Front, Vec<Listener>)>, StartError> {
    let gateway = Gateway::new(activator.clone(), fastrand::u64(..));
    let certificates = Arc::new(Certificates::default());
    let resolver = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
    let provider = Arc::new(ring::default_provider());
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let config = tls::server_config(&versions, provider, resolver)
        .map_err(|error| StartError::InternalTls(error.into()))?;
    let (synced, listed) = oneshot::channel();
    let watched = super::ingress::run(client, options, gateway.clone(), certificates, synced);
    tasks.spawn_local(watched);
    listed.await.map_err(|_| StartError::Watches)?;
    let external = vec![
        Listener::plain(bind(everywhere(ports.ingress_http)).await?),
        Listener::tls(
            bind(everywhere(ports.ingress_https)).await?,
            TlsAcceptor::from(config),
        ),
    ];
    let local = vec![Listener::plain(
        bind(everywhere(ports.ingress_local)).await?,
    )];
    Ok(vec![
        (gateway.front(false), external),
        (gateway.front(true), local),
    ])
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let port = address.port();
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Bind { port, source })
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

async fn serve_admin(listener: Listener, header_read_timeout: Duration, handler: impl Handler) {
    let options = ServerOptions {
        http2: false,
        header_read_timeout,
        ..ServerOptions::default()
    };
    server::serve(vec![listener], Rc::new(handler), options, Shutdown::new()).await;
}

impl Handler for Profiles {
    type Guard = ();

    async fn handle(&self, _: Request<Incoming>, _: &Connection) -> Response<Body> {
        error_response(StatusCode::NOT_FOUND, "404 page not found", ())
    }
}

impl Handler for Scrapes {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        if request.uri().path() != "/metrics" {
            return error_response(StatusCode::NOT_FOUND, "404 page not found", ());
        }
        let mut response = Response::new(Body::full(prometheus_text(&self.0), ()));
        let kind = HeaderValue::from_static(PROMETHEUS_TEXT);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
