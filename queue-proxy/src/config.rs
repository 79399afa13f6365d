//! Everything a queue-proxy is told at its start, read once from an [`Environment`].
//!
//! The controller's variables (upstream: `pkg/queue/sharedmain/main.go`, `config` and `Env`) become
//! a plain struct; [`Options`] holds what is ours and what an embedding process chooses. Nothing
//! here opens a socket or a file.

mod observability;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serving::environment::{Environment, Problems, Reader};
use serving::go;
use serving::scrape_address::{self, ScrapeAddress};
use serving::tls::{self, PolicySettings, ScrapeTls};

use crate::telemetry::TelemetrySettings;

pub use self::observability::{
    MetricsProtocol, Observability, ObservabilityError, TracingProtocol,
};

/// Where the controller mounts the serving certificate (`pkg/queue/constants.go`).
pub const CERTIFICATE_DIRECTORY: &str = "/var/lib/knative/certs";

/// Waiting requests per executing one (`buildBreaker`).
pub const QUEUE_DEPTH_FACTOR: u32 = 10;

/// How long phase A of the drain lasts without a request (`drainSleepDuration`).
pub const QUIET_PERIOD: Duration = Duration::from_secs(30);

/// The least time that upgraded connections get after the servers closed (`hijackDrainDuration`).
pub const HIJACK_DRAIN: Duration = Duration::from_secs(60);

/// From accept to the end of a request's head (`pkg/queue/sharedmain/servers.go`).
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long work may stand in front of the event loop before requests are refused.
pub const OVERLOAD_DELAY: Duration = Duration::from_millis(100);

/// The port of `/wait-for-drain` (`pkg/networking/constants.go`, `QueueAdminPort`).
pub const ADMIN_PORT: u16 = 8022;

/// The port of the statistics for the autoscaler (`AutoscalingQueueMetricsPort`).
pub const STATISTICS_PORT: u16 = 9090;

/// The port of the user-facing metrics (`UserQueueMetricsPort`).
pub const USER_METRICS_PORT: u16 = 9091;

/// The profiling port (`vendor/knative.dev/pkg/observability/runtime`).
pub const PROFILING_PORT: u16 = 8008;

/// The configuration of one queue-proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests that may execute at once; `None` is without limit. `CONTAINER_CONCURRENCY` below 1.
    pub container_concurrency: Option<NonZeroU32>,
    /// The cleartext data port; 0 lets the system choose. `QUEUE_SERVING_PORT`.
    pub serving_port: u16,
    /// The TLS data port, bound only with certificates. `QUEUE_SERVING_TLS_PORT`.
    pub serving_tls_port: u16,
    /// Where the app listens: the IPv4 loopback address and `USER_PORT`.
    pub app: SocketAddr,
    /// The budget of a whole request. Zero (and what was negative) expires at once.
    pub revision_timeout: Duration,
    /// The budget until the first byte of the response, if any.
    pub response_start_timeout: Option<Duration>,
    /// The longest gap between writes of the response, if any.
    pub idle_timeout: Option<Duration>,
    /// `SERVING_READINESS_PROBE` as received; empty means always ready.
    pub readiness_probe: String,
    /// Whether an HTTP/1 response may start before the request body is consumed.
    pub full_duplex: bool,
    /// Whether readiness probes try HTTP/2 first. Never affects the data path.
    pub http2_auto_detection: bool,
    /// Whether the probe JSON is a list.
    pub multi_container_probes: bool,
    /// `SERVING_LOGGING_CONFIG`: zap's configuration, possibly empty.
    pub logging_config: String,
    /// `SERVING_LOGGING_LEVEL`, possibly empty.
    pub logging_level: String,
    /// Who this sidecar belongs to.
    pub identity: Identity,
    /// `OBSERVABILITY_CONFIG` over its defaults.
    pub observability: Observability,
    /// Where it goes, and what the environment changes of that.
    pub telemetry: TelemetrySettings,
    /// TLS policy, looked at only when certificates exist.
    pub tls: TlsSettings,
    /// What no controller sets.
    pub options: Options,
}

/// The names that appear in statistics, logs and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `SERVING_NAMESPACE`.
    pub namespace: String,
    /// `SERVING_SERVICE`, possibly empty.
    pub service: String,
    /// `SERVING_CONFIGURATION`, possibly empty.
    pub configuration: String,
    /// `SERVING_REVISION`.
    pub revision: String,
    /// `SERVING_POD`: the `pod_name` of every statistic.
    pub pod: String,
    /// `SERVING_POD_IP`, for the request log.
    pub pod_ip: String,
    /// `POD_NAME`, else `HOSTNAME`: the pod in telemetry attributes, unlike [`Identity::pod`].
    pub telemetry_pod: String,
    /// `OTEL_SERVICE_NAME`, the first choice for `service.name`.
    pub otel_service_name: String,
}

/// The `QUEUE_PROXY_TLS_*` variables as received; empty equals unset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Holds `tls.crt` and `tls.key` when the system-internal TLS is on.
    pub directory: PathBuf,
    /// What may be negotiated.
    pub policy: PolicySettings,
}

/// Settings of ours, with upstream's behaviour as the default of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Requests that may wait for a place; ten times the limit by default. Only with a limit.
    pub queue_depth: Option<u32>,
    /// How long phase A of a drain by signal lasts without a request.
    pub quiet_period: Duration,
    /// The least time for upgraded connections after the servers closed.
    pub hijack_drain: Duration,
    /// How long a request's head may take on the data ports, see
    /// [`serving::server::ServerOptions::header_read_timeout`]. 60 s by default.
    pub header_read_timeout: Duration,
    /// How long work may stand in front of the event loop before requests are refused for want of
    /// CPU time; `None` never refuses. 100 ms by default.
    pub overload_delay: Option<Duration>,
    /// The pauses between attempts of an aggressive readiness round.
    pub probe_pacing: ProbePacing,
    /// Whether the user metrics carry the `revision_*` names from before 1.19 as well.
    pub legacy_metrics: bool,
    /// Where `/metrics` of the user metrics listens; `METRICS_PROMETHEUS_PORT` or the endpoint.
    pub user_metrics_port: u16,
    /// The address of the user metrics; `METRICS_PROMETHEUS_HOST` or the endpoint. `None` is
    /// [`Options::bind`].
    pub user_metrics_host: Option<IpAddr>,
    /// TLS of the user metrics; `METRICS_PROMETHEUS_TLS_*`.
    pub user_metrics_tls: Option<ScrapeTls>,
    /// `PROFILING_PORT`.
    pub profiling_port: u16,
    /// The address that the binary binds its ports on; `None` is the wildcard address.
    pub bind: Option<IpAddr>,
    /// Prints request-log lines and probe failures through this process's own streams when true;
    /// an embedding process turns it off and reads them from the log instead.
    pub raw_output: bool,
}

/// The pauses between the attempts of one aggressive readiness round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePacing {
    /// The pause after the first failed attempt.
    pub first: Duration,
    /// The longest pause; each is twice the one before it until then.
    pub longest: Duration,
}

// === impl Config ===

impl Config {
    /// Reads every variable and reports all that are missing or malformed.
    pub fn from_environment(environment: &dyn Environment) -> Result<Self, Problems> {
        let mut reader = Reader::new(environment);
        let limit = reader.required_integer("CONTAINER_CONCURRENCY", "ContainerConcurrency");
        let serving_port = port(&mut reader, "QUEUE_SERVING_PORT");
        let serving_tls_port = port(&mut reader, "QUEUE_SERVING_TLS_PORT");
        let user_port = port(&mut reader, "USER_PORT");
        let timeout = reader.required_integer("REVISION_TIMEOUT_SECONDS", "RevisionTimeoutSeconds");
        let response_start = reader.integer(
            "REVISION_RESPONSE_START_TIMEOUT_SECONDS",
            "RevisionResponseStartTimeoutSeconds",
        );
        let idle = reader.integer(
            "REVISION_IDLE_TIMEOUT_SECONDS",
            "RevisionIdleTimeoutSeconds",
        );
        let readiness_probe = reader.string("SERVING_READINESS_PROBE");
        let full_duplex = reader.boolean("ENABLE_HTTP_FULL_DUPLEX", "EnableHTTPFullDuplex");
        let http2_auto_detection =
            reader.boolean("ENABLE_HTTP2_AUTO_DETECTION", "EnableHTTP2AutoDetection");
        let multi_container_probes = reader.boolean(
            "ENABLE_MULTI_CONTAINER_PROBES",
            "EnableMultiContainerProbes",
        );
        let logging_config = reader.required_string("SERVING_LOGGING_CONFIG");
        let logging_level = reader.required_string("SERVING_LOGGING_LEVEL");
        let identity = Identity::read(&mut reader);
        let (observability, legacy_metrics) = Observability::read(&mut reader);
        let telemetry = TelemetrySettings::read(&mut reader, environment, &observability);
        let tls = TlsSettings::read(&mut reader);
        let options = Options::read(&mut reader, &observability, legacy_metrics);
        reader.finish(Self {
            container_concurrency: u32::try_from(limit.min(i64::from(i32::MAX)))
                .ok()
                .and_then(NonZeroU32::new),
            serving_port,
            serving_tls_port,
            app: SocketAddr::from((Ipv4Addr::LOCALHOST, user_port)),
            revision_timeout: seconds(timeout).unwrap_or_default(),
            response_start_timeout: seconds(response_start),
            idle_timeout: seconds(idle),
            readiness_probe,
            full_duplex,
            http2_auto_detection,
            multi_container_probes,
            logging_config,
            logging_level,
            identity,
            observability,
            telemetry,
            tls,
            options,
        })
    }

    /// How many requests may wait for a place while [`Config::container_concurrency`] execute.
    pub fn queue_depth(&self) -> u32 {
        let limit = self.container_concurrency.map_or(0, NonZeroU32::get);
        self.options
            .queue_depth
            .unwrap_or_else(|| limit.saturating_mul(QUEUE_DEPTH_FACTOR))
    }
}

/// Ports are strings upstream, and an empty one passes its check and binds a port of the system's
/// choice; the same holds here.
fn port(reader: &mut Reader<'_>, name: &'static str) -> u16 {
    let text = reader.required_string(name);
    if text.is_empty() {
        return 0;
    }
    text.parse().unwrap_or_else(|_| {
        reader.invalid(name, format!("{text:?} is not a port number"));
        0
    })
}

/// A positive number of seconds, bounded so that a deadline can always be computed from it.
fn seconds(seconds: i64) -> Option<Duration> {
    /// Timers reach no further than this; the controller never sends more than 600 seconds.
    const LONGEST: u64 = 60 * 60 * 24 * 365;
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds.min(LONGEST))),
        _ => None,
    }
}

// === impl Identity ===

impl Identity {
    fn read(reader: &mut Reader<'_>) -> Self {
        let namespace = reader.required_string("SERVING_NAMESPACE");
        let service = reader.string("SERVING_SERVICE");
        let configuration = reader.required_string("SERVING_CONFIGURATION");
        let revision = reader.required_string("SERVING_REVISION");
        let pod = reader.required_string("SERVING_POD");
        let pod_ip = reader.required_string("SERVING_POD_IP");
        let telemetry_pod = Some(reader.string("POD_NAME"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| reader.string("HOSTNAME"));
        Self {
            namespace,
            service,
            configuration,
            revision,
            pod,
            pod_ip,
            telemetry_pod,
            otel_service_name: reader.string("OTEL_SERVICE_NAME"),
        }
    }
}

// === impl TlsSettings ===

impl TlsSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            directory: PathBuf::from(CERTIFICATE_DIRECTORY),
            policy: PolicySettings::read(reader, &tls::QUEUE_PROXY),
        }
    }
}

// === impl Options ===

impl Options {
    fn read(reader: &mut Reader<'_>, observability: &Observability, legacy_metrics: bool) -> Self {
        let queue_depth = queue_depth(reader);
        let (given, endpoint) = (ScrapeAddress::read(reader), observability.scrape_endpoint());
        let user_metrics_port = given.port.or(endpoint.port).unwrap_or(USER_METRICS_PORT);
        let user_metrics_host = given.host.or(endpoint.host);
        let user_metrics_tls = ScrapeTls::read(reader);
        let defaults = Self::default();
        let quiet_period =
            duration(reader, "PILOTLIGHT_QUIET_PERIOD").unwrap_or(defaults.quiet_period);
        let overload_delay = match duration(reader, "PILOTLIGHT_OVERLOAD_DELAY") {
            Some(delay) => Some(delay).filter(|delay| !delay.is_zero()),
            None => defaults.overload_delay,
        };
        let bind = address(reader, "PILOTLIGHT_BIND_ADDRESS");
        let legacy_switch = reader.boolean("PILOTLIGHT_LEGACY_METRICS", "LegacyMetrics");
        Self {
            queue_depth,
            legacy_metrics: legacy_metrics || legacy_switch,
            user_metrics_port,
            user_metrics_host,
            user_metrics_tls,
            profiling_port: optional_port(reader, "PROFILING_PORT").unwrap_or(PROFILING_PORT),
            quiet_period,
            overload_delay,
            bind,
            ..defaults
        }
    }
}

/// A duration in Go's syntax; what is negative counts as zero.
fn duration(reader: &mut Reader<'_>, name: &'static str) -> Option<Duration> {
    let text = reader.string(name);
    if text.is_empty() {
        return None;
    }
    match go::parse_duration(&text) {
        Ok(nanos) => Some(go::duration_to_std(nanos)),
        Err(error) => {
            reader.invalid(name, error.to_string());
            None
        }
    }
}

fn address(reader: &mut Reader<'_>, name: &'static str) -> Option<IpAddr> {
    let text = reader.string(name);
    if text.is_empty() {
        return None;
    }
    let address = scrape_address::ip(&text);
    if address.is_none() {
        reader.invalid(name, format!("{text:?} is not an IP address"));
    }
    address
}

/// A queue that takes nobody would refuse requests while places are free.
fn queue_depth(reader: &mut Reader<'_>) -> Option<u32> {
    const NAME: &str = "PILOTLIGHT_QUEUE_DEPTH";
    let text = reader.string(NAME);
    if text.is_empty() {
        return None;
    }
    let depth = text.parse().ok().filter(|depth| *depth > 0);
    if depth.is_none() {
        reader.invalid(
            NAME,
            format!("{text:?} is not a number of requests above 0"),
        );
    }
    depth
}

fn optional_port(reader: &mut Reader<'_>, name: &'static str) -> Option<u16> {
    let text = reader.string(name);
    if text.is_empty() {
        return None;
    }
    let parsed = text.parse().ok();
    if parsed.is_none() {
        reader.invalid(name, format!("{text:?} is not a port number"));
    }
    parsed
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_depth: None,
            quiet_period: QUIET_PERIOD,
            hijack_drain: HIJACK_DRAIN,
            header_read_timeout: HEADER_READ_TIMEOUT,
            overload_delay: Some(OVERLOAD_DELAY),
            probe_pacing: ProbePacing::CLUSTER,
            legacy_metrics: false,
            user_metrics_port: USER_METRICS_PORT,
            user_metrics_host: None,
            user_metrics_tls: None,
            profiling_port: PROFILING_PORT,
            bind: None,
            raw_output: true,
        }
    }
}

// === impl ProbePacing ===

impl ProbePacing {
    /// Upstream's: an attempt every 50 ms (`pkg/queue/readiness/probe.go`).
    pub const CLUSTER: Self = Self {
        first: Duration::from_millis(50),
        longest: Duration::from_millis(50),
    };

    /// For an app on the same machine, where a start is worth noticing at once: 1, 2, 4 … 50 ms.
    pub const LOCAL: Self = Self {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(50),
    };
}

#[cfg(test)]
mod tests;
