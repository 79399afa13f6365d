//! What the environment says about exporters, over what the controller configured.

use std::time::Duration;

use serving::environment::{Environment, Reader};
use serving::otlp::{METRIC_INTERVAL, OtlpSettings, Protocol, Signal, metric_interval};
use serving::trace::Sampler;

use crate::config::{MetricsProtocol, Observability, TracingProtocol};

/// Where spans and metrics go. `None` in both is the default.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// Which traces are recorded, with a tracing protocol.
    pub sampler: Sampler,
    /// The collector of spans, for the protocols of OTLP.
    pub traces: Option<OtlpSettings>,
    /// The collector of metrics, for the protocols of OTLP.
    pub metrics: Option<OtlpSettings>,
    /// Between two pushes of metrics.
    pub metric_interval: Duration,
    /// `OTEL_RESOURCE_ATTRIBUTES` as received.
    pub resource_attributes: String,
    /// Whether B3 headers are read and written beside `traceparent`. `PILOTLIGHT_B3`.
    pub b3: bool,
}

// === impl TelemetrySettings ===

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            sampler: Sampler::Never,
            traces: None,
            metrics: None,
            metric_interval: METRIC_INTERVAL,
            resource_attributes: String::new(),
            b3: false,
        }
    }
}

impl TelemetrySettings {
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        environment: &dyn Environment,
        observability: &Observability,
    ) -> Self {
        let traces = match observability.tracing_protocol {
            TracingProtocol::HttpProtobuf => Some(Protocol::HttpProtobuf),
            TracingProtocol::Grpc => Some(Protocol::Grpc),
            TracingProtocol::None | TracingProtocol::Stdout => None,
        };
        let metrics = match observability.metrics_protocol {
            MetricsProtocol::HttpProtobuf => Some(Protocol::HttpProtobuf),
            MetricsProtocol::Grpc => Some(Protocol::Grpc),
            MetricsProtocol::None | MetricsProtocol::Prometheus => None,
        };
        let mut endpoint = |protocol: Option<Protocol>, signal, endpoint: &str| {
            let settings = OtlpSettings::configured(environment, signal, protocol?, endpoint);
            settings
                .inspect_err(|error| reader.invalid("OBSERVABILITY_CONFIG", error.to_string()))
                .ok()
        };
        let traces = endpoint(traces, Signal::Traces, &observability.tracing_endpoint);
        let metrics = endpoint(metrics, Signal::Metrics, &observability.metrics_endpoint);
        Self {
            sampler: sampler(reader, environment, observability),
            traces,
            metrics,
            metric_interval: metric_interval(environment, observability.metrics_interval),
            resource_attributes: reader.string("OTEL_RESOURCE_ATTRIBUTES"),
            b3: reader.boolean("PILOTLIGHT_B3", "B3"),
        }
    }
}

/// Read only when somebody wants spans, as upstream does.
fn sampler(
    reader: &mut Reader<'_>,
    environment: &dyn Environment,
    observability: &Observability,
) -> Sampler {
    let protocol = observability.tracing_protocol;
    if protocol == TracingProtocol::None {
        return Sampler::Never;
    }
    let is_stdout = protocol == TracingProtocol::Stdout;
    Sampler::configured(environment, observability.sampling_rate, is_stdout).unwrap_or_else(
        |error| {
            reader.invalid("OTEL_TRACES_SAMPLER_ARG", error.to_string());
            Sampler::Never
        },
    )
}
