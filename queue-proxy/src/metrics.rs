//! The request metrics that operators scrape on the user metrics port.
//!
//! Names, labels and buckets are those of upstream's OpenTelemetry instruments in Prometheus form
//! (`pkg/queue/request_metric.go`, vendored `otelhttp`); [`legacy`] adds the `revision_*` names of
//! releases before 1.19. Series are bounded: Host, method and tag come from clients.

mod legacy;
#[cfg(feature = "otel")]
mod push;
mod series;

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serving::body::Body;
use serving::forward::error_response;
use serving::histogram::{BYTES, SECONDS};
use serving::http_metrics::{HTTP_SCOPE, scope};
pub(crate) use serving::http_metrics::{
    OTHER_METHOD, error_type, method_name, server_address, version_name,
};
use serving::resource::register_target;
use serving::server::{Connection, Handler};
use serving::telemetry::{PROMETHEUS_TEXT, prometheus_text};

use self::legacy::Legacy;
use self::series::{Histograms, LabelSet};
use crate::config::Config;
use crate::endpoint;
use crate::telemetry::{OWN_SCOPE, resource};

const PATH: &str = "/metrics";

/// What is measured, and the registry it is scraped from.
pub(crate) struct Metrics {
    registry: Registry,
    invocation_duration: Histograms<StatusLabels>,
    /// Requests executing and waiting, as of the last admission; only with a limit.
    queue_depth: Option<Gauge>,
    /// Whether it was ever recorded.
    has_depth: Cell<bool>,
    server_duration: Histograms<ServerLabels>,
    server_request_size: Histograms<ServerLabels>,
    server_response_size: Histograms<ServerLabels>,
    client_duration: Histograms<ClientLabels>,
    client_request_size: Histograms<ClientLabels>,
    legacy: Option<Legacy>,
    app_port: u16,
}

/// What a finished request tells about itself.
#[derive(Clone, Debug)]
pub(crate) struct ServerFacts {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) tls: bool,
    /// The Host as received.
    pub(crate) host: Box<str>,
    pub(crate) route_tag: Cow<'static, str>,
    pub(crate) request_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    http_response_status_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    http_request_method: &'static str,
    http_response_status_code: u16,
    kn_route_tag: Cow<'static, str>,
    network_protocol_name: &'static str,
    network_protocol_version: &'static str,
    server_address: String,
    /// Empty when it is the scheme's own port or absent.
    server_port: String,
    url_scheme: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientLabels {
    error_type: String,
    http_request_method: &'static str,
    /// Empty when the exchange failed.
    http_response_status_code: String,
    kn_route_tag: Cow<'static, str>,
    network_protocol_name: &'static str,
    network_protocol_version: &'static str,
    server_address: &'static str,
    server_port: u16,
    url_scheme: &'static str,
}

/// Serves the registry.
#[derive(Debug)]
pub(crate) struct MetricsEndpoint {
    pub(crate) metrics: Rc<Metrics>,
}

// === impl Metrics ===

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new(config: &Config) -> Self {
        let mut registry = Registry::default();
        register_target(&mut registry, &resource(config));
        let own = scope(&mut registry, OWN_SCOPE);
        let seconds = Unit::Seconds;
        let invocation_duration = Histograms::register(
            own,
            "kn_serving_invocation_duration",
            "The duration of task execution",
            seconds.clone(),
            SECONDS,
        );
        let queue_depth = config.container_concurrency.map(|_| {
            let depth = Gauge::default();
            own.register(
                "kn_serving_queue_depth",
                "Number of current requests in the queue",
                depth.clone(),
            );
            depth
        });
        let http = scope(&mut registry, HTTP_SCOPE);
        let server_duration = Histograms::register(
            http,
            "http_server_request_duration",
            "Duration of HTTP server requests.",
            seconds.clone(),
            SECONDS,
        );
        let server_request_size = Histograms::register(
            http,
            "http_server_request_body_size",
            "Size of HTTP server request bodies.",
            Unit::Bytes,
            BYTES,
        );
        let server_response_size = Histograms::register(
            http,
            "http_server_response_body_size",
            "Size of HTTP server response bodies.",
            Unit::Bytes,
            BYTES,
        );
        let client_duration = Histograms::register(
            http,
            "http_client_request_duration",
            "Duration of HTTP client requests.",
            seconds,
            SECONDS,
        );
        let client_request_size = Histograms::register(
            http,
            "http_client_request_body_size",
            "Size of HTTP client request bodies.",
            Unit::Bytes,
            BYTES,
        );
        let legacy = config
            .options
            .legacy_metrics
            .then(|| Legacy::register(&mut registry, &config.identity));
        Self {
            registry,
            invocation_duration,
            queue_depth,
            has_depth: Cell::new(false),
            server_duration,
            server_request_size,
            server_response_size,
            client_duration,
            client_request_size,
            legacy,
            app_port: config.app.port(),
        }
    }

    /// Shows counters that others keep.
    pub(crate) fn add_counters(&mut self, counters: Vec<(&'static str, &'static str, Counter)>) {
        for (name, help, counter) in counters {
            self.registry.register(name, help, counter);
        }
    }

    /// A request was admitted while so many execute and wait, itself included.
    pub(crate) fn admitted(&self, in_flight: u64) {
        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
        if let Some(depth) = &self.queue_depth {
            depth.set(in_flight);
            self.has_depth.set(true);
        }
        if let Some(legacy) = &self.legacy {
            legacy.queue_depth(in_flight);
        }
    }

    /// The app was asked and the exchange is over.
    pub(crate) fn invoked(&self, status: StatusCode, elapsed: Duration) {
        let labels = StatusLabels {
            http_response_status_code: status.as_u16(),
        };
        self.invocation_duration
            .observe(labels, elapsed.as_secs_f64());
        if let Some(legacy) = &self.legacy {
            legacy.invoked(status, elapsed);
        }
    }

    /// A request has been answered, by the app or by this process.
    pub(crate) fn served(
        &self,
        facts: &ServerFacts,
        status: StatusCode,
        response_bytes: u64,
        elapsed: Duration,
    ) {
        let labels = ServerLabels::new(facts, status);
        self.server_duration
            .observe(labels.clone(), elapsed.as_secs_f64());
        self.server_request_size
            .observe(labels.clone(), as_f64(facts.request_bytes));
        self.server_response_size
            .observe(labels, as_f64(response_bytes));
        if let Some(legacy) = &self.legacy {
            legacy.served(&facts.route_tag, status, elapsed);
        }
    }

    /// An exchange with the app has its response head, or failed.
    pub(crate) fn exchanged(
        &self,
        facts: &ServerFacts,
        status: Result<StatusCode, &'static str>,
        elapsed: Duration,
    ) {
        let labels = ClientLabels {
            error_type: status.err().unwrap_or_default().to_owned(),
            http_request_method: method_name(&facts.method),
            http_response_status_code: status
                .map(|status| status.as_u16().to_string())
                .unwrap_or_default(),
            kn_route_tag: facts.route_tag.clone(),
            network_protocol_name: "http",
            network_protocol_version: version_name(facts.version),
            server_address: "127.0.0.1",
            server_port: self.app_port,
            url_scheme: "http",
        };
        self.client_duration
            .observe(labels.clone(), elapsed.as_secs_f64());
        self.client_request_size
            .observe(labels, as_f64(facts.request_bytes));
    }
}

fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

// === impl ServerFacts ===

impl ServerFacts {
    pub(crate) fn of(request: &Request<Incoming>, tls: bool) -> Self {
        let headers = request.headers();
        let request_bytes = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        let host = serving::header::host(request.uri(), headers);
        Self {
            method: request.method().clone(),
            version: request.version(),
            tls,
            host: String::from_utf8_lossy(host).into(),
            route_tag: match serving::header::route_tag(headers) {
                Cow::Borrowed(serving::header::DISABLED_TAG) => {
                    Cow::Borrowed(serving::header::DISABLED_TAG)
                }
                tag => Cow::Owned(tag.into_owned()),
            },
            request_bytes,
        }
    }
}

// === impl ServerLabels ===

impl ServerLabels {
    fn new(facts: &ServerFacts, status: StatusCode) -> Self {
        let (address, port) = server_address(&facts.host, facts.tls);
        Self {
            http_request_method: method_name(&facts.method),
            http_response_status_code: status.as_u16(),
            kn_route_tag: facts.route_tag.clone(),
            network_protocol_name: "http",
            network_protocol_version: version_name(facts.version),
            server_address: address.to_owned(),
            server_port: port.map(|port| port.to_string()).unwrap_or_default(),
            url_scheme: if facts.tls { "https" } else { "http" },
        }
    }
}

impl LabelSet for ServerLabels {
    fn overflow() -> Self {
        Self {
            http_request_method: OTHER_METHOD,
            http_response_status_code: 0,
            kn_route_tag: Cow::Borrowed(""),
            network_protocol_name: "http",
            network_protocol_version: "",
            server_address: series::OVERFLOW.to_owned(),
            server_port: String::new(),
            url_scheme: "",
        }
    }
}

impl LabelSet for ClientLabels {
    fn overflow() -> Self {
        Self {
            error_type: series::OVERFLOW.to_owned(),
            http_request_method: OTHER_METHOD,
            http_response_status_code: String::new(),
            kn_route_tag: Cow::Borrowed(""),
            network_protocol_name: "http",
            network_protocol_version: "",
            server_address: "127.0.0.1",
            server_port: 0,
            url_scheme: "http",
        }
    }
}

impl LabelSet for StatusLabels {
    fn overflow() -> Self {
        Self {
            http_response_status_code: 0,
        }
    }
}

// === impl MetricsEndpoint ===

impl Handler for MetricsEndpoint {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        if request.uri().path() != PATH {
            return endpoint::not_found();
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut response = error_response(status, "Method Not Allowed", ());
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        endpoint::content(PROMETHEUS_TEXT, prometheus_text(&self.metrics.registry))
    }
}

#[cfg(test)]
mod tests;
