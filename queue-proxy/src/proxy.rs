//! The life of one queue-proxy: start, serve, drain in upstream's phases, end.
//!
//! Phase A waits for a quiet period, B closes the servers and lets requests finish, C waits for
//! upgraded connections, D is the caller's: flushing logs and leaving (`cmd/queue/main.go`).

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use serving::AnchoredClock;
use serving::breaker::{Breaker, BreakerParams, ParamsError};
use serving::deadline::Timeouts;
use serving::go;
use serving::lifecycle::{Drain, InFlight};
use serving::pool::{Upstream, UpstreamOptions};
use serving::probe_spec::InvalidProbe;
use serving::server::{Handler, Listener, ServerOptions, Shutdown, serve};
use serving::tls::ScrapeTls;
use serving::upgrade::Tunnels;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::accounting::TimeoutNames;
use crate::admin::{Admin, Profiling};
use crate::config::{Config, MetricsProtocol};
use crate::handle::{Handle, Shared};
use crate::listeners::Listeners;
use crate::metrics::{Metrics, MetricsEndpoint};
use crate::overload::Overload;
use crate::readiness::{Probe, Readiness, Report};
use crate::request_log::RequestLogger;
use crate::side::Side;
use crate::stack::Stack;
use crate::statistics::{Statistics, StatisticsEndpoint};
use crate::telemetry::{ExportError, Exports, Pushed, Tracing};
use crate::tls::{Certificates, TlsError};

/// Idle connections to an app without a concurrency limit (`buildTransport`).
const MAX_IDLE_UNLIMITED: usize = 1000;

/// The most idle connections, whatever the limit: an idle connection is a socket.
const MAX_IDLE: usize = 10_000;

/// The header-read timeout of the user metrics server.
const METRICS_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The header-read timeout of the profiling server.
const PROFILING_HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long WebSockets get to take their close frame at the very end.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Connections to each of the ports beside the data ports.
const MAX_SIDE_CONNECTIONS: usize = 1024;

/// Why a queue-proxy cannot start with its configuration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `SERVING_READINESS_PROBE` does not decode.
    #[error("queue container failed to parse readiness probe")]
    Probe(#[from] InvalidProbe),
    /// The queue's depth is out of range.
    #[error("queue parameters are invalid")]
    Breaker(#[from] ParamsError),
    /// No thread can be started for the request log.
    #[error("failed to start the request log")]
    RequestLog(#[from] std::io::Error),
    /// Traces or metrics cannot be exported.
    #[error("failed to set up telemetry")]
    Telemetry(#[from] ExportError),
    /// The certificate or the TLS policy cannot be used.
    #[error("failed to set up TLS")]
    Tls(#[from] TlsError),
}

/// A queue-proxy that is ready to run.
#[derive(Debug)]
pub struct QueueProxy {
    config: Config,
    shared: Rc<Shared>,
    readiness: Rc<Readiness>,
    log: Option<Rc<RequestLogger>>,
    exports: Exports,
}

/// The running servers, in the order in which they end.
#[derive(Debug, Default)]
struct Servers {
    data: Group,
    /// Admin, statistics and profiling.
    side: Group,
    /// User metrics: scraped until the process ends.
    last: Group,
    /// Never end by themselves.
    background: JoinSet<()>,
    pushed: Option<Pushed>,
}

/// Servers that end together, at the latest when this is dropped.
#[derive(Debug, Default)]
struct Group {
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

/// Serves `listeners` until `shutdown` resolves and the drain that follows has ended. Must run on
/// a `LocalRuntime` or in a `LocalSet`; dropping the future ends everything at once.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    QueueProxy::new(config)?.run(listeners, shutdown).await
}

// === impl QueueProxy ===

impl QueueProxy {
    /// Decodes what the configuration leaves as text and builds what the handle looks at.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let probes = Probe::decode(
            &config.readiness_probe,
            config.multi_container_probes,
            config.http2_auto_detection,
        )?;
        let shared = Rc::new(Shared {
            drain: Drain::new(config.options.quiet_period),
            in_flight: InFlight::default(),
            breaker: breaker(&config)?,
            ready: Cell::new(false),
            cut_short: Notify::new(),
        });
        let report = if config.options.raw_output {
            Report::Stderr
        } else {
            Report::Log
        };
        let pacing = config.options.probe_pacing;
        let readiness = Readiness::new(probes, pacing, report, Rc::clone(&shared));
        let log = RequestLogger::new(&config)?;
        let exports = Exports::new(&config)?;
        Ok(Self {
            config,
            shared,
            readiness,
            log,
            exports,
        })
    }

    /// The handle for the embedding process.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Rc::clone(&self.shared),
            readiness: Rc::clone(&self.readiness),
        }
    }

    /// See [`run`].
    pub async fn run(
        self,
        listeners: Listeners,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), StartError> {
        let tunnels = OwnTunnels(Tunnels::new());
        let mut servers = self.start(listeners, &tunnels.0)?;
        tracing::info!("Starting queue-proxy");
        let quiet_period = self.config.options.quiet_period;
        tokio::select! {
            () = shutdown => {
                tracing::info!("Received TERM signal, attempting to gracefully shutdown servers.");
                self.shared.drain.signal(quiet_period);
            }
            // A handle began the drain, and it is over already or soon.
            () = self.shared.drain.quiet() => {}
        }
        tokio::select! {
            () = self.drain(&mut servers, &tunnels.0) => {}
            () = self.shared.cut_short.notified() => {
                let left = self.shared.in_flight.count();
                tracing::warn!(left, "The drain was cut short.");
            }
        }
        tunnels.0.close();
        // Whoever does not take the close frame by then loses the connection without it.
        let _ = timeout(CLOSE_GRACE, tunnels.0.closed()).await;
        self.exports.flush(servers.pushed.take()).await;
        drop(servers);
        if let Some(log) = &self.log {
            log.flush();
        }
        tracing::info!("Shutdown complete, exiting...");
        Ok(())
    }

    fn start(&self, listeners: Listeners, tunnels: &Tunnels) -> Result<Servers, StartError> {
        let mut servers = Servers::default();
        let clock = AnchoredClock::new();
        let now = Instant::now();
        let statistics = Statistics::new(&self.config.identity.pod, clock, now);
        let metrics = self.metrics();
        let mut data = vec![Listener::plain(listeners.data)];
        if let Some(socket) = listeners.tls {
            let certificates = Certificates::load(&self.config.tls)?;
            data.push(Listener::tls(socket, certificates.acceptor()));
            servers.background.spawn_local(certificates.reload());
        }
        servers.pushed = self
            .exports
            .spawn(&mut servers.background, metrics.as_ref(), clock);
        let overload = Overload::new(self.config.options.overload_delay);
        let watched = Rc::clone(&overload);
        let (shared, counted) = (Rc::clone(&self.shared), Rc::clone(&statistics));
        let count = move |refused, now| {
            shared.arrived(now);
            for _ in 0..refused {
                counted.arrive(now, false);
                counted.depart(now, false);
            }
        };
        servers
            .background
            .spawn_local(async move { watched.watch(count).await });
        // The gate writes no log and no metrics.
        let gate = overload
            .gate()
            .filter(|_| metrics.is_none() && self.log.is_none());
        let stack = self.stack(&statistics, metrics.as_ref(), tunnels, overload);
        let options = ServerOptions {
            header_read_timeout: self.config.options.header_read_timeout,
            gate,
            ..ServerOptions::default()
        };
        servers.data.serve(data, stack, options);
        let side = &mut servers.side;
        if let Some(socket) = listeners.stats {
            let endpoint = Side::Statistics(StatisticsEndpoint(statistics));
            side.serve(vec![Listener::plain(socket)], endpoint, side_options(None));
        }
        if let Some(socket) = listeners.admin {
            let drain = self.shared.drain.clone();
            side.serve(
                vec![Listener::plain(socket)],
                Side::Admin(Admin { drain }),
                side_options(None),
            );
        }
        if let Some(socket) = listeners.profiling {
            let options = side_options(Some(PROFILING_HEADER_TIMEOUT));
            let endpoint = Side::Profiling(Profiling);
            side.serve(vec![Listener::plain(socket)], endpoint, options);
        }
        if let (Some(socket), Some(metrics)) = (listeners.user_metrics, metrics) {
            let options = side_options(Some(METRICS_HEADER_TIMEOUT));
            let endpoint = Side::Metrics(MetricsEndpoint { metrics });
            // As when its port is taken, the sidecar goes on without metrics.
            let tls = self.config.options.user_metrics_tls.as_ref();
            match ScrapeTls::listener(tls, socket) {
                Ok(listener) => servers.last.serve(vec![listener], endpoint, options),
                Err(error) => tracing::error!(error = %error, "metrics server error"),
            }
        }
        Ok(servers)
    }

    fn stack(
        &self,
        statistics: &Rc<Statistics>,
        metrics: Option<&Rc<Metrics>>,
        tunnels: &Tunnels,
        overload: Rc<Overload>,
    ) -> Stack {
        let config = &self.config;
        let name = |duration: Option<Duration>| {
            go::format_duration(go::duration_from_std(duration.unwrap_or_default()))
        };
        let limit = config.container_concurrency.map(|limit| limit.get());
        Stack {
            shared: Rc::clone(&self.shared),
            readiness: Rc::clone(&self.readiness),
            statistics: Rc::clone(statistics),
            timeouts: Timeouts {
                total: config.revision_timeout,
                response_start: config.response_start_timeout,
                idle: config.idle_timeout,
            },
            timeout_names: TimeoutNames(Rc::new([
                name(Some(config.revision_timeout)),
                name(config.response_start_timeout),
                name(config.idle_timeout),
            ])),
            breaker: self.shared.breaker.clone(),
            upstream: Upstream::new(
                config.app,
                UpstreamOptions {
                    max_idle: limit
                        .and_then(|limit| usize::try_from(limit).ok())
                        .map_or(MAX_IDLE_UNLIMITED, |limit| limit.min(MAX_IDLE)),
                    ..UpstreamOptions::default()
                },
            ),
            tunnels: tunnels.clone(),
            metrics: metrics.cloned(),
            log: self.log.clone(),
            tracing: Tracing {
                tracer: self.exports.tracer(),
                b3: config.telemetry.b3,
                app: config.app,
            },
            overload,
        }
    }

    fn metrics(&self) -> Option<Rc<Metrics>> {
        let config = &self.config;
        let is_wanted = config.observability.metrics_protocol != MetricsProtocol::None;
        (is_wanted || config.options.legacy_metrics).then(|| {
            let mut metrics = Metrics::new(config);
            metrics.add_counters(self.exports.counters());
            Rc::new(metrics)
        })
    }

    /// Phases A to C.
    async fn drain(&self, servers: &mut Servers, tunnels: &Tunnels) {
        self.shared.drain.quiet().await;
        servers.drain().await;
        // Upgraded connections get the larger of upstream's 60 s and what is left to the last of
        // them, so that the sidecar outlives every request it admitted.
        let left = tunnels.latest_deadline().map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        });
        let limit = self.config.options.hijack_drain.max(left);
        if timeout(limit, self.shared.in_flight.idle()).await.is_err() {
            tracing::warn!("Hijack connection drain failed: context deadline exceeded");
        }
    }
}

/// The breaker of a limited revision (`buildBreaker`).
fn breaker(config: &Config) -> Result<Option<Breaker>, ParamsError> {
    let Some(limit) = config.container_concurrency else {
        return Ok(None);
    };
    let limit = i64::from(limit.get());
    let params = BreakerParams {
        queue_depth: i64::from(config.queue_depth()),
        max_concurrency: limit,
        initial_capacity: limit,
    };
    tracing::info!("Queue container is starting with {params:?}");
    Breaker::new(params).map(Some)
}

// === impl Servers ===

impl Servers {
    /// Phase B: the data ports first, so that the app's preStop hook and the autoscaler find
    /// their ports as long as requests run.
    async fn drain(&mut self) {
        tracing::info!("Shutting down server: main");
        self.data.drain().await;
        tracing::info!("Shutting down servers: admin, metrics");
        self.side.drain().await;
    }
}

/// Ends the tunnels with the future that runs the servers.
#[derive(Debug)]
struct OwnTunnels(Tunnels);

impl Drop for OwnTunnels {
    fn drop(&mut self) {
        self.0.close();
    }
}

// === impl Group ===

impl Group {
    fn serve<H: Handler>(&mut self, listeners: Vec<Listener>, handler: H, options: ServerOptions) {
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn_local(serve(listeners, Rc::new(handler), options, shutdown));
    }

    /// Stops accepting and waits for the requests under way.
    async fn drain(&mut self) {
        self.shutdown.drain();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

/// A server beside the data ports speaks HTTP/1 only.
fn side_options(header_read_timeout: Option<Duration>) -> ServerOptions {
    let defaults = ServerOptions::default();
    ServerOptions {
        http2: false,
        max_connections: MAX_SIDE_CONNECTIONS,
        header_read_timeout: header_read_timeout.unwrap_or(defaults.header_read_timeout),
        ..defaults
    }
}

#[cfg(test)]
mod tests;
