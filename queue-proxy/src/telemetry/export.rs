//! The exporters of one queue-proxy: tasks beside the servers, and the flush at the end.

use std::rc::Rc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serving::AnchoredClock;
#[cfg(feature = "otel")]
use serving::UnixTime;
#[cfg(feature = "otel")]
use serving::otlp::{self, Exporter};
use serving::telemetry::LineWriter;
use serving::trace::{self, Attribute, Tracer, TracerOptions};
use tokio::task::JoinSet;

use super::resource;
use crate::config::{Config, TracingProtocol};
use crate::metrics::Metrics;

/// How long the end of the process waits for exporters (`pkg/queue/sharedmain/main.go`).
#[cfg(feature = "otel")]
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// Why an exporter cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The process lacks what it takes.
    #[error("error creating exporter")]
    Io(#[from] std::io::Error),
    /// Built without the feature `otel`.
    #[cfg(not(feature = "otel"))]
    #[error("this build has no exporter for OTLP")]
    NotBuilt,
}

/// What is exported, and how.
#[derive(Debug)]
pub(crate) struct Exports {
    resource: Rc<[Attribute]>,
    spans: Option<SpanExport>,
    #[cfg(feature = "otel")]
    metrics: Option<(Rc<Exporter>, Duration)>,
}

#[derive(Debug)]
struct SpanExport {
    tracer: Tracer,
    output: SpanOutput,
}

#[derive(Clone, Debug)]
enum SpanOutput {
    Stdout(LineWriter),
    #[cfg(feature = "otel")]
    Otlp(Rc<Exporter>),
}

/// Metrics that are pushed, and since when they count.
#[derive(Debug)]
pub(crate) struct Pushed {
    #[cfg(feature = "otel")]
    metrics: Rc<Metrics>,
    #[cfg(feature = "otel")]
    clock: AnchoredClock,
    #[cfg(feature = "otel")]
    start: UnixTime,
}

// === impl Exports ===

impl Exports {
    pub(crate) fn new(config: &Config) -> Result<Self, ExportError> {
        #[cfg(not(feature = "otel"))]
        if config.telemetry.metrics.is_some() {
            return Err(ExportError::NotBuilt);
        }
        Ok(Self {
            resource: resource(config).into(),
            spans: span_export(config)?,
            #[cfg(feature = "otel")]
            metrics: match &config.telemetry.metrics {
                Some(settings) => Some((
                    Rc::new(Exporter::new(settings.clone())?),
                    config.telemetry.metric_interval,
                )),
                None => None,
            },
        })
    }

    /// Begins spans, if anybody exports them.
    pub(crate) fn tracer(&self) -> Option<Tracer> {
        self.spans.as_ref().map(|spans| spans.tracer.clone())
    }

    /// Counts what did not reach anybody, by name and help text.
    pub(crate) fn counters(&self) -> Vec<(&'static str, &'static str, Counter)> {
        let Some(spans) = &self.spans else {
            return Vec::new();
        };
        let dropped = (
            "pilotlight_spans_dropped",
            "Spans for which the queue had no room",
            spans.tracer.dropped_counter(),
        );
        match &spans.output {
            SpanOutput::Stdout(_) => vec![dropped],
            #[cfg(feature = "otel")]
            SpanOutput::Otlp(exporter) => {
                let lost = (
                    "pilotlight_spans_lost",
                    "Spans that no collector took",
                    exporter.lost_counter(),
                );
                vec![dropped, lost]
            }
        }
    }

    /// Starts the tasks; they never end by themselves.
    pub(crate) fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        metrics: Option<&Rc<Metrics>>,
        clock: AnchoredClock,
    ) -> Option<Pushed> {
        if let Some(spans) = &self.spans {
            let tracer = spans.tracer.clone();
            match &spans.output {
                SpanOutput::Stdout(writer) => {
                    let resource = self.resource.to_vec();
                    let export = trace::stdout::export(tracer, resource, writer.clone());
                    tasks.spawn_local(export);
                }
                #[cfg(feature = "otel")]
                SpanOutput::Otlp(exporter) => {
                    let resource = Rc::clone(&self.resource);
                    let export = otlp::export_spans(tracer, resource, Rc::clone(exporter));
                    tasks.spawn_local(export);
                }
            }
        }
        self.push(tasks, metrics?, clock)
    }

    #[cfg(feature = "otel")]
    fn push(
        &self,
        tasks: &mut JoinSet<()>,
        metrics: &Rc<Metrics>,
        clock: AnchoredClock,
    ) -> Option<Pushed> {
        let (exporter, interval) = self.metrics.as_ref()?;
        let start = clock.now();
        let pushed = Rc::clone(metrics);
        tasks.spawn_local(otlp::export_metrics(
            move || pushed.snapshot(),
            Rc::clone(&self.resource),
            Rc::clone(exporter),
            (clock, start),
            *interval,
        ));
        Some(Pushed {
            metrics: Rc::clone(metrics),
            clock,
            start,
        })
    }

    #[cfg(not(feature = "otel"))]
    #[allow(
        clippy::unused_self,
        reason = "the same call with and without the feature"
    )]
    fn push(&self, _: &mut JoinSet<()>, _: &Rc<Metrics>, _: AnchoredClock) -> Option<Pushed> {
        None
    }

    /// Exports what is left, in 10 s altogether, while the tasks still run.
    pub(crate) async fn flush(&self, pushed: Option<Pushed>) {
        #[cfg(feature = "otel")]
        let metrics = async {
            if let (Some(pushed), Some((exporter, _))) = (pushed, &self.metrics) {
                otlp::flush_metrics(
                    pushed.metrics.snapshot(),
                    &self.resource,
                    exporter,
                    (pushed.start, pushed.clock.now()),
                    FLUSH_LIMIT,
                )
                .await;
            }
        };
        #[cfg(not(feature = "otel"))]
        let metrics = async { drop(pushed) };
        let spans = async {
            match &self.spans {
                None => {}
                Some(SpanExport {
                    tracer,
                    output: SpanOutput::Stdout(writer),
                }) => trace::stdout::flush(tracer, &self.resource, writer),
                #[cfg(feature = "otel")]
                Some(SpanExport {
                    tracer,
                    output: SpanOutput::Otlp(exporter),
                }) => otlp::flush_spans(tracer, &self.resource, exporter, FLUSH_LIMIT).await,
            }
        };
        tokio::join!(metrics, spans);
    }
}

fn span_export(config: &Config) -> Result<Option<SpanExport>, ExportError> {
    let output = match config.observability.tracing_protocol {
        TracingProtocol::None => return Ok(None),
        TracingProtocol::Stdout => SpanOutput::Stdout(LineWriter::stdout()?),
        TracingProtocol::HttpProtobuf | TracingProtocol::Grpc => match &config.telemetry.traces {
            #[cfg(feature = "otel")]
            Some(settings) => SpanOutput::Otlp(Rc::new(Exporter::new(settings.clone())?)),
            #[cfg(not(feature = "otel"))]
            Some(_) => return Err(ExportError::NotBuilt),
            None => return Ok(None),
        },
    };
    Ok(Some(SpanExport {
        tracer: Tracer::new(TracerOptions {
            sampler: config.telemetry.sampler,
            ..TracerOptions::default()
        }),
        output,
    }))
}
