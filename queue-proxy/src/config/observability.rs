//! `OBSERVABILITY_CONFIG`: the operator's config-observability as the controller serialises it.
//!
//! Decoded over defaults the way Go's JSON decoder does it (upstream: `pkg/observability/config.go`):
//! unknown keys are ignored, keys match without regard to case, durations are integer nanoseconds.
//! The variables that earlier releases used instead are read as well; the newer one wins.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value};
use serving::config::observability::DEFAULT_REQUEST_LOG_TEMPLATE;
use serving::environment::Reader;

const VARIABLE: &str = "OBSERVABILITY_CONFIG";

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
    /// Not a JSON object.
    #[error("failed to parse OBSERVABILITY_CONFIG: {0}")]
    Json(String),
    /// A field of another type.
    #[error("failed to parse OBSERVABILITY_CONFIG: {path} must be {wanted}")]
    Type {
        /// Where in the document.
        path: String,
        /// What it should have been.
        wanted: &'static str,
    },
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
        let root = match serde_json::from_str(text) {
            Ok(Value::Object(root)) => root,
            Ok(Value::Null) => return Ok(Self::default()),
            Ok(_) => return Err(vec![ObservabilityError::Json("not an object".to_owned())]),
            Err(error) => return Err(vec![ObservabilityError::Json(error.to_string())]),
        };
        let mut fields = Fields {
            problems: Vec::new(),
        };
        let mut parsed = Self::default();
        if let Some(metrics) = fields.object(&root, "requestMetrics") {
            parsed.read_metrics(&mut fields, metrics);
        }
        // Not used by a queue-proxy, but a malformed one stops upstream's decoder too.
        if let Some(metrics) = fields.object(&root, "metrics") {
            fields.nanoseconds(metrics, "metrics.exportInterval");
        }
        if let Some(tracing) = fields.object(&root, "tracing") {
            parsed.read_tracing(&mut fields, tracing);
        }
        if let Some(runtime) = fields.object(&root, "runtime") {
            fields.nanoseconds(runtime, "runtime.exportInterval");
            if let Some(profiling) = fields.string(runtime, "runtime.profiling") {
                parsed.profiling = profiling == "enabled";
            }
        }
        if let Some(enabled) = fields.boolean(&root, "enableRequestLog") {
            parsed.request_log = enabled;
        }
        if let Some(template) = fields.string(&root, "requestLogTemplate") {
            parsed.request_log_template = template;
        }
        if let Some(enabled) = fields.boolean(&root, "enableProbeRequestLog") {
            parsed.probe_request_log = enabled;
        }
        if fields.problems.is_empty() {
            Ok(parsed)
        } else {
            Err(fields.problems)
        }
    }

    /// The port of a `host:port` Prometheus endpoint, if one is configured.
    pub fn prometheus_port(&self) -> Option<u16> {
        (self.metrics_protocol == MetricsProtocol::Prometheus)
            .then(|| port_of(&self.metrics_endpoint))
            .flatten()
    }

    /// The address of a `host:port` Prometheus endpoint, if it is one.
    pub fn prometheus_host(&self) -> Option<IpAddr> {
        let (host, _) = self.metrics_endpoint.rsplit_once(':')?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        (self.metrics_protocol == MetricsProtocol::Prometheus)
            .then(|| bare.unwrap_or(host).parse().ok())
            .flatten()
    }

    fn read_metrics(&mut self, fields: &mut Fields, metrics: &Map<String, Value>) {
        const PATH: &str = "requestMetrics.protocol";
        if let Some(endpoint) = fields.string(metrics, "requestMetrics.endpoint") {
            self.metrics_endpoint = endpoint;
        }
        self.metrics_interval = fields
            .nanoseconds(metrics, "requestMetrics.exportInterval")
            .filter(|interval| !interval.is_zero());
        let Some(protocol) = fields.string(metrics, PATH) else {
            return;
        };
        self.metrics_protocol = match protocol.as_str() {
            "none" => MetricsProtocol::None,
            "prometheus" => MetricsProtocol::Prometheus,
            "http/protobuf" => MetricsProtocol::HttpProtobuf,
            "grpc" => MetricsProtocol::Grpc,
            _ => {
                fields.unsupported(PATH, protocol);
                return;
            }
        };
        let endpoint = &self.metrics_endpoint;
        if self.metrics_protocol == MetricsProtocol::Prometheus
            && !endpoint.is_empty()
            && port_of(endpoint).is_none_or(|port| port < 1024)
        {
            fields
                .problems
                .push(ObservabilityError::Endpoint(endpoint.clone()));
        }
    }

    fn read_tracing(&mut self, fields: &mut Fields, tracing: &Map<String, Value>) {
        const PATH: &str = "tracing.protocol";
        if let Some(endpoint) = fields.string(tracing, "tracing.endpoint") {
            self.tracing_endpoint = endpoint;
        }
        if let Some(rate) = fields.number(tracing, "tracing.samplingRate") {
            self.sampling_rate = rate;
        }
        let Some(protocol) = fields.string(tracing, PATH) else {
            return;
        };
        self.tracing_protocol = match protocol.as_str() {
            "none" => TracingProtocol::None,
            "grpc" => TracingProtocol::Grpc,
            "http/protobuf" => TracingProtocol::HttpProtobuf,
            "stdout" => TracingProtocol::Stdout,
            _ => {
                fields.unsupported(PATH, protocol);
                return;
            }
        };
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

fn port_of(endpoint: &str) -> Option<u16> {
    endpoint.rsplit_once(':')?.1.parse().ok()
}

/// Typed access to JSON members that remembers what was wrong.
struct Fields {
    problems: Vec<ObservabilityError>,
}

impl Fields {
    fn object<'v>(
        &mut self,
        map: &'v Map<String, Value>,
        path: &str,
    ) -> Option<&'v Map<String, Value>> {
        let value = member(map, path)?;
        let object = value.as_object();
        if object.is_none() {
            self.mistyped(path, "an object");
        }
        object
    }

    fn string(&mut self, map: &Map<String, Value>, path: &str) -> Option<String> {
        let value = member(map, path)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.mistyped(path, "a string");
        }
        text
    }

    fn boolean(&mut self, map: &Map<String, Value>, path: &str) -> Option<bool> {
        let value = member(map, path)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.mistyped(path, "true or false");
        }
        flag
    }

    fn number(&mut self, map: &Map<String, Value>, path: &str) -> Option<f64> {
        let value = member(map, path)?;
        let number = value.as_f64();
        if number.is_none() {
            self.mistyped(path, "a number");
        }
        number
    }

    fn nanoseconds(&mut self, map: &Map<String, Value>, path: &str) -> Option<Duration> {
        let value = member(map, path)?;
        let Some(nanos) = value.as_i64() else {
            self.mistyped(path, "an integer number of nanoseconds");
            return None;
        };
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
    }

    fn mistyped(&mut self, path: &str, wanted: &'static str) {
        self.problems.push(ObservabilityError::Type {
            path: path.to_owned(),
            wanted,
        });
    }

    fn unsupported(&mut self, path: &'static str, value: String) {
        self.problems
            .push(ObservabilityError::Protocol { path, value });
    }
}

/// The member that the last part of `path` names: the exact spelling first, then any other case,
/// as Go's decoder matches. Null leaves the default in place.
fn member<'v>(map: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    let key = path.rsplit('.').next().unwrap_or(path);
    map.get(key)
        .or_else(|| {
            map.iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        })
        .filter(|value| !value.is_null())
}
