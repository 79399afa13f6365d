//! What is exported: spans, and the metrics as a push over OTLP has them, with OpenTelemetry's own
//! names and the same values as a scrape.
//!
//! `snapshot` reads what requests and the driver keep; sending is [`serving::otlp`]'s. Upstream:
//! `pkg/activator/metrics.go` and the instruments beside it.

use std::rc::Rc;
use std::time::Duration;

use serving::config::Observability;
use serving::config::observability::{PROTOCOL_GRPC, PROTOCOL_HTTP_PROTOBUF, Tracing};
use serving::environment::{Environment, ProcessEnvironment};
use serving::http_metrics::HTTP_SCOPE;
use serving::otlp::{
    self, Exporter, MetricSnapshot, OtlpSettings, Point, Protocol, ScopeSnapshot, Series,
    SettingsError, Signal, metric_interval,
};
use serving::trace::{Attribute, SpanExport, SpanExportError};
use serving::{AnchoredClock, UnixTime, names};
use tokio::task::JoinSet;

use crate::activator::{Activator, Shared};
use crate::http_metrics::Points;
use crate::metrics::OWN_SCOPE;
use crate::world::Revision;

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

/// What is exported, with everything that takes.
#[derive(Clone, Debug)]
pub struct Export {
    metrics: Option<(Rc<Exporter>, Duration)>,
    spans: Option<SpanExport>,
    tracing: Tracing,
    b3: bool,
    resource: Rc<[Attribute]>,
}

/// What another thread needs to record and export the spans of its requests.
#[derive(Clone, Debug)]
pub struct SpanSettings {
    tracing: Tracing,
    b3: bool,
    resource: Vec<Attribute>,
}

/// Spans of another thread on their way out, for the last word at the end.
#[derive(Debug)]
pub struct ThreadSpans {
    spans: SpanExport,
    resource: Rc<[Attribute]>,
}

/// How long the end of the process waits for exporters (`cmd/activator/main.go`).
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// Why metrics or spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint cannot be used.
    #[error("metrics-endpoint cannot be used")]
    Settings(#[from] SettingsError),
    /// Spans cannot be exported.
    #[error("spans cannot be exported")]
    Spans(#[from] SpanExportError),
    /// The process lacks what it takes.
    #[error("error creating exporter")]
    Io(#[from] std::io::Error),
}

// === impl Export ===

impl Export {
    /// What ConfigMap and environment want exported, with the attributes of the process; `None` when
    /// it is nothing.
    ///
    /// # Errors
    /// They want what cannot be done.
    pub fn new(
        environment: &dyn Environment,
        observability: &Observability,
        resource: Vec<Attribute>,
    ) -> Result<Option<Self>, ExportError> {
        let metrics = match settings(environment, observability)? {
            Some((settings, interval)) => Some((Rc::new(Exporter::new(settings)?), interval)),
            None => None,
        };
        let spans = SpanExport::configured(environment, &observability.tracing)?;
        if metrics.is_none() && spans.is_none() {
            return Ok(None);
        }
        let b3 = environment.variable(names::B3_VARIABLE);
        Ok(Some(Self {
            metrics,
            spans,
            tracing: observability.tracing.clone(),
            b3: b3.is_some_and(|value| matches!(value.as_str(), "true" | "1")),
            resource: resource.into(),
        }))
    }

    /// What other threads need for their spans; `None` when nobody wants spans.
    pub fn span_settings(&self) -> Option<SpanSettings> {
        self.spans.as_ref().map(|_| SpanSettings {
            tracing: self.tracing.clone(),
            b3: self.b3,
            resource: self.resource.to_vec(),
        })
    }
}

// === impl SpanSettings ===

impl SpanSettings {
    /// Records and exports the spans of `activator`'s requests from now on, on its thread.
    ///
    /// # Errors
    /// The process lacks what it takes; the settings have been of use before.
    pub fn start(
        self,
        activator: &Activator,
        tasks: &mut JoinSet<()>,
    ) -> Result<Option<ThreadSpans>, SpanExportError> {
        let spans = SpanExport::configured(&ProcessEnvironment, &self.tracing)?;
        Ok(spans.map(|spans| {
            let resource: Rc<[Attribute]> = self.resource.into();
            activator.trace_to(spans.tracer().clone(), self.b3);
            tasks.spawn_local(spans.clone().run(Rc::clone(&resource)));
            ThreadSpans { spans, resource }
        }))
    }
}

// === impl ThreadSpans ===

impl ThreadSpans {
    /// Exports what is left, within 10 s, while the task still runs.
    pub async fn flush(&self) {
        self.spans.flush(&self.resource, FLUSH_LIMIT).await;
    }
}

/// Exports under way, for the last word at the end.
#[derive(Debug)]
pub struct Exporting {
    activator: Activator,
    export: Export,
    clock: AnchoredClock,
    start: UnixTime,
}

/// Starts the tasks, which never end by themselves; spans are recorded from now on.
pub fn start(activator: &Activator, export: Export, tasks: &mut JoinSet<()>) -> Exporting {
    let clock = activator.shared().clock;
    let start = clock.now();
    if let Some(spans) = &export.spans {
        activator.trace_to(spans.tracer().clone(), export.b3);
        tasks.spawn_local(spans.clone().run(Rc::clone(&export.resource)));
    }
    if let Some((exporter, interval)) = &export.metrics {
        let shared = Rc::clone(activator.shared());
        let read = move || snapshot(&shared);
        let resource = Rc::clone(&export.resource);
        let exporter = Rc::clone(exporter);
        let push = otlp::export_metrics(read, resource, exporter, (clock, start), *interval);
        tasks.spawn_local(push);
    }
    Exporting {
        activator: activator.clone(),
        export,
        clock,
        start,
    }
}

impl Exporting {
    /// Exports what is left, within 10 s, while the tasks still run.
    pub async fn flush(&self) {
        let Export {
            metrics,
            spans,
            resource,
            ..
        } = &self.export;
        let last_metrics = async {
            if let Some((exporter, _)) = metrics {
                let snapshot = snapshot(self.activator.shared());
                let times = (self.start, self.clock.now());
                otlp::flush_metrics(snapshot, resource, exporter, times, FLUSH_LIMIT).await;
            }
        };
        let last_spans = async {
            if let Some(spans) = spans {
                spans.flush(resource, FLUSH_LIMIT).await;
            }
        };
        tokio::join!(last_metrics, last_spans);
    }
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
        if let Some(gauges) = entry.metrics.get() {
            for (points, gauge) in [(&mut queued, &gauges.queued), (&mut active, &gauges.active)] {
                points.push(Point {
                    attributes: short_labels(revision),
                    value: gauge.get(),
                });
            }
        }
        http.add(&entry.http);
    }
    http.add_unrouted(&shared.metrics.http);
    let mut own = vec![
        MetricSnapshot::new(
            "kn.revision.request.concurrency",
            "Concurrent requests that are routed to the activator",
            "{request}",
            Series::FloatGauge(concurrency),
        ),
        MetricSnapshot::new(
            "kn.revision.request.queued",
            "Requests that wait in the activator",
            "{request}",
            up_down(queued),
        ),
        MetricSnapshot::new(
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
        MetricSnapshot::new(
            "kn.activator.stats.conn.reachable",
            "Whether the peer is reachable",
            "{reachable}",
            Series::Gauge(peer(reachable)),
        ),
        MetricSnapshot::new(
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
