//! `config-observability`: metrics, traces, request logs and profiling, and the JSON form in which
//! queue-proxy receives it.
//!
//! Controllers parse the ConfigMap with [`Observability::parse`] and hand the result to sidecars as
//! [`Observability::to_json`] in `OBSERVABILITY_CONFIG`; queue-proxy reads that with
//! [`Observability::from_json`]. Upstream: `pkg/observability/config.go` and
//! `knative.dev/pkg/observability`.

mod json;

use std::time::Duration;

use gotmpl::Template;
use serde::Serialize;

use super::{Data, InvalidConfig, Reader, template_problem};
use crate::go::{duration_to_std, format_duration, format_float_fixed, quote};

pub use json::{InvalidJson, Mismatch};

/// The name of the ConfigMap.
pub const NAME: &str = "config-observability";

/// The environment variable that carries the JSON form.
pub const VARIABLE: &str = "OBSERVABILITY_CONFIG";

/// The key that names a template for request logs.
pub const REQUEST_LOG_TEMPLATE_KEY: &str = "logging.request-log-template";
/// The key that turns request logs on.
pub const ENABLE_REQUEST_LOG_KEY: &str = "logging.enable-request-log";
/// The key that turns request logs on for probes.
pub const ENABLE_PROBE_REQUEST_LOG_KEY: &str = "logging.enable-probe-request-log";

/// No exporter.
pub const PROTOCOL_NONE: &str = "none";
/// A Prometheus endpoint to scrape; metrics only.
pub const PROTOCOL_PROMETHEUS: &str = "prometheus";
/// OTLP over gRPC.
pub const PROTOCOL_GRPC: &str = "grpc";
/// OTLP over HTTP with protobuf bodies.
pub const PROTOCOL_HTTP_PROTOBUF: &str = "http/protobuf";
/// Traces are printed.
pub const PROTOCOL_STDOUT: &str = "stdout";

/// Value of `runtime-profiling` that turns the profiling server on.
pub const PROFILING_ENABLED: &str = "enabled";
/// Value of `runtime-profiling` that leaves it off.
pub const PROFILING_DISABLED: &str = "disabled";

/// The built-in request log line: one JSON object with an `httpRequest` field and the trace id
/// (`DefaultRequestLogTemplate`).
pub const DEFAULT_REQUEST_LOG_TEMPLATE: &str = concat!(
    r#"{"httpRequest": {"requestMethod": "{{.Request.Method}}", "#,
    r#""requestUrl": "{{js .Request.RequestURI}}", "#,
    r#""requestSize": "{{.Request.ContentLength}}", "#,
    r#""status": {{.Response.Code}}, "#,
    r#""responseSize": "{{.Response.Size}}", "#,
    r#""userAgent": "{{js .Request.UserAgent}}", "#,
    r#""remoteIp": "{{js .Request.RemoteAddr}}", "#,
    r#""serverIp": "{{.Revision.PodIP}}", "#,
    r#""referer": "{{js .Request.Referer}}", "#,
    r#""latency": "{{.Response.Latency}}s", "#,
    r#""protocol": "{{.Request.Proto}}"}, "#,
    r#""traceId": "{{.TraceID}}"}"#,
);

const DEFAULT_RUNTIME_EXPORT_INTERVAL: i64 = 15_000_000_000;

/// How a component exports what it observes. Fields are in the order of the JSON form.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// `tracing-*`.
    pub tracing: Tracing,
    /// `metrics-*`: the components' own metrics; queue-proxy ignores them.
    pub metrics: Metrics,
    /// `runtime-*`.
    pub runtime: Runtime,
    /// `request-metrics-*`: what queue-proxy exports about requests.
    pub request_metrics: Metrics,
    /// `logging.enable-var-log-collection`; for the controller only.
    #[serde(rename = "EnableVarLogCollection", skip_serializing_if = "is_default")]
    pub enable_var_log_collection: bool,
    /// `logging.revision-url-template`; for the controller only.
    #[serde(rename = "LoggingURLTemplate", skip_serializing_if = "is_default")]
    pub logging_url_template: String,
    /// `logging.enable-request-log`: requests are logged.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_request_log: bool,
    /// `logging.request-log-template`: a Go text template, one line per request.
    #[serde(skip_serializing_if = "is_default")]
    pub request_log_template: String,
    /// `logging.enable-probe-request-log`: probes are logged too.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_probe_request_log: bool,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// `tracing-protocol`: [`PROTOCOL_NONE`], [`PROTOCOL_GRPC`], [`PROTOCOL_HTTP_PROTOBUF`] or
    /// [`PROTOCOL_STDOUT`]; anything else is for the reader of the JSON form to refuse.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// `tracing-endpoint`: URL of the collector.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint: String,
    /// `tracing-sampling-rate`: share of the requests without a sampling decision, 0 to 1.
    #[serde(
        skip_serializing_if = "is_default",
        serialize_with = "json::serialize_float"
    )]
    pub sampling_rate: f64,
}

/// Where metrics go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// `metrics-protocol`: [`PROTOCOL_NONE`], [`PROTOCOL_PROMETHEUS`], [`PROTOCOL_GRPC`] or
    /// [`PROTOCOL_HTTP_PROTOBUF`]; anything else is for the reader of the JSON form to refuse.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// `metrics-endpoint`: URL of the collector, or `host:port` to listen on for Prometheus.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint: String,
    /// `metrics-export-interval`, nanoseconds; see [`Metrics::export_interval`].
    #[serde(rename = "exportInterval", skip_serializing_if = "is_default")]
    pub export_interval_nanos: i64,
}

/// Profiling and runtime statistics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// `runtime-profiling`: [`PROFILING_ENABLED`] or [`PROFILING_DISABLED`].
    #[serde(skip_serializing_if = "is_default")]
    pub profiling: String,
    /// `runtime-export-interval`, nanoseconds.
    #[serde(rename = "exportInterval", skip_serializing_if = "is_default")]
    pub export_interval_nanos: i64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

// === impl Observability ===

impl Default for Observability {
    /// The built-in values (`DefaultConfig`).
    fn default() -> Self {
        Self {
            tracing: Tracing::default(),
            metrics: Metrics::default(),
            runtime: Runtime::default(),
            request_metrics: Metrics::default(),
            enable_var_log_collection: false,
            logging_url_template: String::new(),
            enable_request_log: false,
            request_log_template: DEFAULT_REQUEST_LOG_TEMPLATE.to_owned(),
            enable_probe_request_log: false,
        }
    }
}

impl Observability {
    /// Parses and validates the ConfigMap's data on top of the defaults. Upstream: `NewFromMap`.
    pub fn parse(data: &Data) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        let mut reader = Reader::new(data);
        config.tracing.read(&mut reader);
        config.metrics.read(&mut reader, "");
        config.runtime.read(&mut reader);
        config.request_metrics.read(&mut reader, "request-");
        reader.boolean(
            "logging.enable-var-log-collection",
            &mut config.enable_var_log_collection,
        );
        reader.string(
            "logging.revision-url-template",
            &mut config.logging_url_template,
        );
        reader.string(REQUEST_LOG_TEMPLATE_KEY, &mut config.request_log_template);
        reader.boolean(ENABLE_REQUEST_LOG_KEY, &mut config.enable_request_log);
        reader.boolean(
            ENABLE_PROBE_REQUEST_LOG_KEY,
            &mut config.enable_probe_request_log,
        );
        config.check_request_log(&mut reader);
        reader.check()?;
        Ok(config)
    }

    fn check_request_log(&self, reader: &mut Reader<'_>) {
        let template = &self.request_log_template;
        if template.is_empty() {
            reader.require(!self.enable_request_log, || {
                format!(
                    "{} was set to true, but no {} was specified",
                    quote(ENABLE_REQUEST_LOG_KEY),
                    quote(REQUEST_LOG_TEMPLATE_KEY)
                )
            });
        } else if let Err(error) = Template::new("requestLog").parse(template) {
            reader.problem(template_problem("requestLog", &error));
        }
    }

    /// The value of `OBSERVABILITY_CONFIG`: what is empty or zero is left out, intervals are
    /// integer nanoseconds, and `<`, `>`, `&` are escaped. A sampling rate that is NaN, which JSON
    /// cannot express, becomes `null` and so the default.
    pub fn to_json(&self) -> String {
        json::to_json(self)
    }

    /// Reads the value of `OBSERVABILITY_CONFIG` on top of the defaults. Keys match in any case,
    /// unknown ones are ignored, `null` leaves the default. Nothing is validated beyond the types:
    /// exporters refuse a protocol that they do not know.
    pub fn from_json(text: &str) -> Result<Self, InvalidJson> {
        json::from_json(text)
    }
}

// === impl Tracing ===

impl Default for Tracing {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL_NONE.to_owned(),
            endpoint: String::new(),
            sampling_rate: 0.0,
        }
    }
}

impl Tracing {
    fn read(&mut self, reader: &mut Reader<'_>) {
        reader.string("tracing-protocol", &mut self.protocol);
        reader.string("tracing-endpoint", &mut self.endpoint);
        reader.float("tracing-sampling-rate", &mut self.sampling_rate);
        match self.protocol.as_str() {
            PROTOCOL_GRPC | PROTOCOL_HTTP_PROTOBUF => {
                reader.require(!self.endpoint.is_empty(), || {
                    format!(
                        "endpoint should be set for protocol {}",
                        quote(&self.protocol)
                    )
                });
            }
            PROTOCOL_NONE | PROTOCOL_STDOUT => reader.require(self.endpoint.is_empty(), || {
                "endpoint should not be set when protocol is 'none'".to_owned()
            }),
            other => reader.problem(format!("unsupported protocol {}", quote(other))),
        }
        let rate = self.sampling_rate;
        if rate < 0.0 {
            reader.problem(format!(
                "sampling rate {} should be greater or equal to zero",
                format_float_fixed(rate)
            ));
        } else if rate > 1.0 {
            reader.problem(format!(
                "sampling rate {} should be less than or equal to one",
                format_float_fixed(rate)
            ));
        }
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL_NONE.to_owned(),
            endpoint: String::new(),
            export_interval_nanos: 0,
        }
    }
}

impl Metrics {
    /// How often metrics are pushed; none stands for the exporter's default of a minute.
    pub fn export_interval(&self) -> Option<Duration> {
        (self.export_interval_nanos > 0).then(|| duration_to_std(self.export_interval_nanos))
    }

    fn read(&mut self, reader: &mut Reader<'_>, prefix: &str) {
        reader.string(&format!("{prefix}metrics-protocol"), &mut self.protocol);
        reader.string(&format!("{prefix}metrics-endpoint"), &mut self.endpoint);
        reader.duration(
            &format!("{prefix}metrics-export-interval"),
            &mut self.export_interval_nanos,
        );
        match self.protocol.as_str() {
            PROTOCOL_GRPC | PROTOCOL_HTTP_PROTOBUF => {
                reader.require(!self.endpoint.is_empty(), || {
                    format!(
                        "endpoint should be set when protocol is {}",
                        quote(&self.protocol)
                    )
                });
            }
            PROTOCOL_NONE => reader.require(self.endpoint.is_empty(), || {
                format!(
                    "endpoint should not be set when protocol is {}",
                    quote(&self.protocol)
                )
            }),
            // The endpoint is the address to listen on, if given.
            PROTOCOL_PROMETHEUS => {}
            other => reader.problem(format!("unsupported protocol {}", quote(other))),
        }
        check_interval(reader, self.export_interval_nanos);
    }
}

// === impl Runtime ===

impl Default for Runtime {
    fn default() -> Self {
        Self {
            profiling: PROFILING_DISABLED.to_owned(),
            export_interval_nanos: DEFAULT_RUNTIME_EXPORT_INTERVAL,
        }
    }
}

impl Runtime {
    /// Whether the profiling server is wanted.
    pub fn profiling_enabled(&self) -> bool {
        self.profiling == PROFILING_ENABLED
    }

    fn read(&mut self, reader: &mut Reader<'_>) {
        reader.string("runtime-profiling", &mut self.profiling);
        reader.duration("runtime-export-interval", &mut self.export_interval_nanos);
        let known = [PROFILING_ENABLED, PROFILING_DISABLED];
        reader.require(known.contains(&self.profiling.as_str()), || {
            format!("unsupported profile setting {}", quote(&self.profiling))
        });
        check_interval(reader, self.export_interval_nanos);
    }
}

fn check_interval(reader: &mut Reader<'_>, nanos: i64) {
    reader.require(nanos >= 0, || {
        format!(
            "export interval {} should be greater than zero",
            quote(&format_duration(nanos))
        )
    });
}
