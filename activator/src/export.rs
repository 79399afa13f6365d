//! The metrics as a push over OTLP has them: OpenTelemetry's own names, the same values as a scrape.
//!
//! `snapshot` reads what requests and the driver keep; sending is [`serving::otlp`]'s. Upstream:
//! `pkg/activator/metrics.go` and the instruments beside it.

use std::rc::Rc;
use std::time::Duration;

use serving::config::Observability;
use serving::config::observability::{PROTOCOL_GRPC, PROTOCOL_HTTP_PROTOBUF};
use serving::environment::Environment;
use serving::http_metrics::HTTP_SCOPE;
use serving::otlp::{
    self, Exporter, Instrument, MetricSnapshot, OtlpSettings, Point, Protocol, ScopeSnapshot,
    Series, SettingsError, Signal, metric_interval,
};
use serving::trace::{Attribute, Scope};

use crate::activator::{Activator, Shared};
use crate::http_metrics::Points;
use crate::world::Revision;

/// Upstream's own instruments.
const OWN_SCOPE: Scope = Scope {
    name: "knative.dev/serving/pkg/activator",
    version: "",
};

/// The default of `OTEL_SERVICE_NAME`.
const SERVICE_NAME: &str = "activator";

/// Where metrics are pushed, and how often; `None` unless the protocol is one of OTLP.
fn settings(
    environment: &dyn Environment,
    observability: &Observability,
) -> Result<Option<(OtlpSettings, Duration)>, SettingsError> {
    let metrics = &observability.metrics;
    let protocol = match metrics.protocol.as_str() {
        PROTOCOL_GRPC => Protocol::Grpc,
        PROTOCOL_HTTP_PROTOBUF => Protocol::HttpProtobuf,
        _ => return Ok(None),
    };
    let endpoint = &metrics.endpoint;
    let settings = OtlpSettings::configured(environment, Signal::Metrics, protocol, endpoint)?;
    let interval = metric_interval(environment, metrics.export_interval());
    Ok(Some((settings, interval)))
}

/// An exporter, with everything it needs.
#[derive(Clone, Debug)]
pub struct Export {
    exporter: Rc<Exporter>,
    interval: Duration,
    resource: Rc<[Attribute]>,
}

/// Why metrics cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint cannot be used.
    #[error("metrics-endpoint cannot be used")]
    Settings(#[from] SettingsError),
    /// The process lacks what it takes.
    #[error("error creating exporter")]
    Io(#[from] std::io::Error),
}

// === impl Export ===

impl Export {
    /// What ConfigMap and environment want pushed; `None` when it is nothing.
    ///
    /// # Errors
    /// They want what cannot be done.
    pub fn new(
        environment: &dyn Environment,
        observability: &Observability,
        namespace: &str,
        pod: &str,
    ) -> Result<Option<Self>, ExportError> {
        let Some((settings, interval)) = settings(environment, observability)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            exporter: Rc::new(Exporter::new(settings)?),
            interval,
            resource: resource(environment, namespace, pod).into(),
        }))
    }
}

/// What identifies this process.
fn resource(environment: &dyn Environment, namespace: &str, pod: &str) -> Vec<Attribute> {
    let service = environment.variable("OTEL_SERVICE_NAME");
    let service = service.filter(|name| !name.is_empty());
    [
        ("k8s.namespace.name", namespace.to_owned()),
        ("k8s.pod.name", pod.to_owned()),
        ("service.instance.id", pod.to_owned()),
        (
            "service.name",
            service.unwrap_or_else(|| SERVICE_NAME.to_owned()),
        ),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("telemetry.sdk.language", "rust".to_owned()),
        ("telemetry.sdk.name", "pilotlight".to_owned()),
    ]
    .map(|(key, value)| Attribute::new(key, value))
    .into()
}

/// Pushes for as long as it is polled; cancel-safe.
pub async fn run(activator: Activator, export: Export) {
    let Export {
        exporter,
        interval,
        resource,
    } = export;
    let shared = activator.shared();
    let clock = shared.clock;
    let start = clock.now();
    let read = move || snapshot(&shared);
    otlp::export_metrics(read, resource, exporter, (clock, start), interval).await;
}

/// Everything that is measured now.
pub(crate) fn snapshot(shared: &Shared) -> Vec<ScopeSnapshot> {
    let mut concurrency = Vec::new();
    let mut queued = Vec::new();
    let mut active = Vec::new();
    let mut http = Points::default();
    for entry in shared.table.all() {
        let revision = &entry.revision;
        if let Some(value) = shared.metrics.concurrency(revision) {
            concurrency.push(Point {
                attributes: labels(revision),
                value,
            });
        }
        for (points, gauge) in [
            (&mut queued, &entry.metrics.queued),
            (&mut active, &entry.metrics.active),
        ] {
            points.push(Point {
                attributes: short_labels(revision),
                value: gauge.get(),
            });
        }
        http.add(&entry.http);
    }
    let mut own = vec![
        metric(
            "kn.revision.request.concurrency",
            "Concurrent requests that are routed to the activator",
            "{request}",
            Series::FloatGauge(concurrency),
        ),
        metric(
            "kn.revision.request.queued",
            "Requests that wait in the activator",
            "{request}",
            up_down(queued),
        ),
        metric(
            "kn.revision.request.active",
            "Requests that the activator has in flight",
            "{request}",
            up_down(active),
        ),
    ];
    own.extend(connection(shared));
    vec![
        ScopeSnapshot {
            scope: OWN_SCOPE,
            metrics: own,
        },
        ScopeSnapshot {
            scope: HTTP_SCOPE,
            metrics: http.into_metrics(),
        },
    ]
}

fn connection(shared: &Shared) -> [MetricSnapshot; 2] {
    let (reachable, errors) = shared.metrics.connection();
    let peer = |value| {
        vec![Point {
            attributes: vec![Attribute::new("peer", "autoscaler")],
            value,
        }]
    };
    [
        metric(
            "kn.activator.stats.conn.reachable",
            "Whether the peer is reachable",
            "{reachable}",
            Series::Gauge(peer(reachable)),
        ),
        metric(
            "kn.activator.stats.conn.errors",
            "Connections to the peer that were lost",
            "{error}",
            Series::Sum {
                points: peer(i64::try_from(errors).unwrap_or(i64::MAX)),
                is_monotonic: true,
            },
        ),
    ]
}

fn metric(
    name: &'static str,
    description: &'static str,
    unit: &'static str,
    series: Series,
) -> MetricSnapshot {
    MetricSnapshot {
        instrument: Instrument {
            name,
            description,
            unit,
        },
        series,
    }
}

fn up_down(points: Vec<Point<i64>>) -> Series {
    Series::Sum {
        points,
        is_monotonic: false,
    }
}

fn labels(revision: &Revision) -> Vec<Attribute> {
    let mut labels = short_labels(revision);
    labels.push(Attribute::new(
        "kn.configuration.name",
        revision.configuration.clone(),
    ));
    labels.push(Attribute::new("kn.service.name", revision.service.clone()));
    labels
}

fn short_labels(revision: &Revision) -> Vec<Attribute> {
    vec![
        Attribute::new("k8s.namespace.name", revision.id.namespace.clone()),
        Attribute::new("kn.revision.name", revision.id.name.clone()),
    ]
}

#[cfg(test)]
mod tests;
