//! `OBSERVABILITY_CONFIG`: the operator's config-observability as the controller serialises it.
//!
//! Read by [`serving::config::observability`]; here is what a sidecar makes of it (upstream:
//! `pkg/observability/config.go`).
//! The variables that earlier releases used instead are read as well; the newer one wins.

use std::time::Duration;

use serving::config::observability::{
    DEFAULT_REQUEST_LOG_TEMPLATE, InvalidJson, Metrics, Mismatch, Observability as Document,
    PROTOCOL_GRPC, PROTOCOL_HTTP_PROTOBUF, PROTOCOL_NONE, PROTOCOL_PROMETHEUS, PROTOCOL_STDOUT,
    Tracing, VARIABLE,
};
use serving::environment::Reader;
use serving::scrape_address::ScrapeAddress;

/// Where request metrics go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MetricsProtocol {
    /// Nowhere.
    #[default]
    None,
    /// Scraped on the user metrics port.
    Prometheus,
    /// Pushed as OTLP over HTTP.
    HttpProtobuf,
    /// Pushed as OTLP over gRPC.
    Grpc,
}

/// Where spans go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TracingProtocol {
    /// Nowhere; valid incoming context is still passed on.
    #[default]
    None,
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP.
    HttpProtobuf,
    /// Written to standard output.
    Stdout,
}

/// The settings that a queue-proxy uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Observability {
    /// `requestMetrics.protocol`.
    pub metrics_protocol: MetricsProtocol,
    /// `requestMetrics.endpoint`: an OTLP URL, or the bind address for Prometheus.
    pub metrics_endpoint: String,
    /// `requestMetrics.exportInterval`.
    pub metrics_interval: Option<Duration>,
    /// `tracing.protocol`.
    pub tracing_protocol: TracingProtocol,
    /// `tracing.endpoint`.
    pub tracing_endpoint: String,
    /// `tracing.samplingRate`.
    pub sampling_rate: f64,
    /// `runtime.profiling` is `enabled`.
    pub profiling: bool,
    /// `enableRequestLog`.
    pub request_log: bool,
    /// `requestLogTemplate`.
    pub request_log_template: String,
    /// `enableProbeRequestLog`.
    pub probe_request_log: bool,
}

/// Why `OBSERVABILITY_CONFIG` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObservabilityError {
    /// Not JSON.
    #[error("failed to parse OBSERVABILITY_CONFIG: {0}")]
    Json(String),
    /// A field of another type.
    #[error("failed to parse OBSERVABILITY_CONFIG: {0}")]
    Type(Mismatch),
    /// A protocol that does not exist for this purpose.
    #[error("unsupported protocol {value:?} for {path}")]
    Protocol {
        /// Where in the document.
        path: &'static str,
        /// What was found.
        value: String,
    },
    /// A Prometheus endpoint that is no bind address.
    #[error("the Prometheus endpoint {0:?} must be host:port with a port from 1024 to 65535")]
    Endpoint(String),
}

// === impl Observability ===

impl Default for Observability {
    fn default() -> Self {
        Self {
            metrics_protocol: MetricsProtocol::None,
            metrics_endpoint: String::new(),
            metrics_interval: None,
            tracing_protocol: TracingProtocol::None,
            tracing_endpoint: String::new(),
            sampling_rate: 0.0,
            profiling: false,
            request_log: false,
            request_log_template: DEFAULT_REQUEST_LOG_TEMPLATE.to_owned(),
            probe_request_log: false,
        }
    }
}

impl Observability {
    /// Reads the newer variable, or without it the older ones; also tells whether the older
    /// metric names are what the operator's release expects.
    pub(super) fn read(reader: &mut Reader<'_>) -> (Self, bool) {
        let text = reader.string(VARIABLE);
        if text.is_empty() {
            return Self::read_older(reader);
        }
        match Self::parse(&text) {
            Ok(observability) => (observability, false),
            Err(problems) => {
                for problem in problems {
                    reader.invalid(VARIABLE, problem.to_string());
                }
                (Self::default(), false)
            }
        }
    }

    /// Decodes the JSON text over the defaults and reports everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<ObservabilityError>> {
        let (config, mut problems) = match Document::from_json(text) {
            Ok(config) => (config, Vec::new()),
            Err(InvalidJson::Syntax(error)) => {
                return Err(vec![ObservabilityError::Json(error.to_string())]);
            }
            Err(InvalidJson::Types { problems, rest }) => {
                let problems = problems.into_iter().map(ObservabilityError::Type);
                (*rest, problems.collect())
            }
        };
        let parsed = Self {
            metrics_protocol: metrics_protocol(&config.request_metrics, &mut problems),
            metrics_interval: config.request_metrics.export_interval(),
            metrics_endpoint: config.request_metrics.endpoint,
            tracing_protocol: tracing_protocol(&config.tracing, &mut problems),
            tracing_endpoint: config.tracing.endpoint,
            sampling_rate: config.tracing.sampling_rate,
            profiling: config.runtime.profiling_enabled(),
            request_log: config.enable_request_log,
            request_log_template: config.request_log_template,
            probe_request_log: config.enable_probe_request_log,
        };
        if problems.is_empty() {
            Ok(parsed)
        } else {
            Err(problems)
        }
    }

    /// Where a `host:port` endpoint says that Prometheus scrapes, as far as it does.
    pub fn scrape_endpoint(&self) -> ScrapeAddress {
        match self.metrics_protocol {
            MetricsProtocol::Prometheus => ScrapeAddress::of_endpoint(&self.metrics_endpoint),
            _ => ScrapeAddress::default(),
        }
    }

    /// The variables of releases before 1.19, all optional there.
    fn read_older(reader: &mut Reader<'_>) -> (Self, bool) {
        let mut parsed = Self::default();
        let template = reader.string("SERVING_REQUEST_LOG_TEMPLATE");
        if !template.is_empty() {
            parsed.request_log_template = template;
        }
        parsed.request_log =
            reader.boolean("SERVING_ENABLE_REQUEST_LOG", "ServingEnableRequestLog");
        parsed.probe_request_log = reader.boolean(
            "SERVING_ENABLE_PROBE_REQUEST_LOG",
            "ServingEnableProbeRequestLog",
        );
        parsed.profiling = reader.boolean("ENABLE_PROFILING", "EnableProfiling");
        let scraped = reader.string("SERVING_REQUEST_METRICS_BACKEND") == "prometheus";
        if scraped {
            parsed.metrics_protocol = MetricsProtocol::Prometheus;
        }
        (parsed, scraped)
    }
}

fn metrics_protocol(metrics: &Metrics, problems: &mut Vec<ObservabilityError>) -> MetricsProtocol {
    match metrics.protocol.as_str() {
        PROTOCOL_NONE => MetricsProtocol::None,
        PROTOCOL_PROMETHEUS => {
            let endpoint = &metrics.endpoint;
            if !endpoint.is_empty() && ScrapeAddress::of_endpoint(endpoint).port.is_none() {
                problems.push(ObservabilityError::Endpoint(endpoint.clone()));
            }
            MetricsProtocol::Prometheus
        }
        PROTOCOL_HTTP_PROTOBUF => MetricsProtocol::HttpProtobuf,
        PROTOCOL_GRPC => MetricsProtocol::Grpc,
        other => {
            problems.push(unsupported("requestMetrics.protocol", other));
            MetricsProtocol::None
        }
    }
}

fn tracing_protocol(tracing: &Tracing, problems: &mut Vec<ObservabilityError>) -> TracingProtocol {
    match tracing.protocol.as_str() {
        PROTOCOL_NONE => TracingProtocol::None,
        PROTOCOL_GRPC => TracingProtocol::Grpc,
        PROTOCOL_HTTP_PROTOBUF => TracingProtocol::HttpProtobuf,
        PROTOCOL_STDOUT => TracingProtocol::Stdout,
        other => {
            problems.push(unsupported("tracing.protocol", other));
            TracingProtocol::None
        }
    }
}

fn unsupported(path: &'static str, value: &str) -> ObservabilityError {
    let value = value.to_owned();
    ObservabilityError::Protocol { path, value }
}
