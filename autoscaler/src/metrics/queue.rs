//! How reconcilers' work queues are doing (`knative.dev/pkg/observability/metrics/k8s/workqueue.go`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serving::histogram::{Histogram, SECONDS};

/// What upstream calls the queue of PodAutoscalers.
const POD_AUTOSCALERS: &str = "knative.dev.serving.pkg.reconciler.autoscaling.kpa.Reconciler";
/// What upstream calls the queue of Metrics.
const METRICS: &str = "knative.dev.serving.pkg.reconciler.metric.reconciler";

/// The queue of one reconciler.
#[derive(Debug)]
pub struct QueueMetrics {
    name: &'static str,
    depth: AtomicU64,
    adds: AtomicU64,
    retries: AtomicU64,
    waited: Histogram,
    processed: Histogram,
}

/// Both queues.
#[derive(Debug)]
pub struct Queues {
    /// Of PodAutoscalers.
    pub pod_autoscalers: QueueMetrics,
    /// Of Metrics. They are reconciled at once, in a microsecond or two, by whoever brings them: each
    /// counts as having been added, and as having taken no time.
    pub metrics: QueueMetrics,
}

/// What is read of one queue.
pub(super) enum Value<'a> {
    Gauge(f64),
    UpDown(u64),
    Counter(u64),
    Histogram(&'a Histogram),
}

/// An instrument: its names in Prometheus and OpenTelemetry, what it says, its unit.
pub(super) struct Instrument {
    pub(super) prometheus: &'static str,
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only a push needs it")
    )]
    pub(super) otel: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: &'static str,
    pub(super) value: fn(&QueueMetrics) -> Value<'_>,
}

pub(super) const INSTRUMENTS: [Instrument; 7] = [
    Instrument {
        prometheus: "kn_workqueue_depth",
        otel: "kn.workqueue.depth",
        help: "Number of current items in the queue",
        unit: "{item}",
        value: |queue| Value::UpDown(queue.depth.load(Ordering::Relaxed)),
    },
    Instrument {
        prometheus: "kn_workqueue_adds",
        otel: "kn.workqueue.adds",
        help: "Number of items added to the queue",
        unit: "{item}",
        value: |queue| Value::Counter(queue.adds.load(Ordering::Relaxed)),
    },
    Instrument {
        prometheus: "kn_workqueue_queue_duration",
        otel: "kn.workqueue.queue.duration",
        help: "How long an item stays in workqueue",
        unit: "s",
        value: |queue| Value::Histogram(&queue.waited),
    },
    Instrument {
        prometheus: "kn_workqueue_process_duration",
        otel: "kn.workqueue.process.duration",
        help: "How long processing an item from workqueue takes",
        unit: "s",
        value: |queue| Value::Histogram(&queue.processed),
    },
    // Whoever reads metrics does so between two reconciles, of which none waits for anything.
    Instrument {
        prometheus: "kn_workqueue_unfinished_work",
        otel: "kn.workqueue.unfinished_work",
        help: "How long work that is in progress has taken",
        unit: "s",
        value: |_| Value::Gauge(0.0),
    },
    Instrument {
        prometheus: "kn_workqueue_longest_running_processor",
        otel: "kn.workqueue.longest_running_processor",
        help: "How long the longest work in progress has taken",
        unit: "s",
        value: |_| Value::Gauge(0.0),
    },
    Instrument {
        prometheus: "kn_workqueue_retries",
        otel: "kn.workqueue.retries",
        help: "Number of items re-added to the queue",
        unit: "{item}",
        value: |queue| Value::Counter(queue.retries.load(Ordering::Relaxed)),
    },
];

// === impl QueueMetrics ===

impl QueueMetrics {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            depth: AtomicU64::new(0),
            adds: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            waited: Histogram::new(SECONDS),
            processed: Histogram::new(SECONDS),
        }
    }

    /// How many keys wait, and how many were added and added again since the start.
    pub fn counted(&self, depth: usize, adds: u64, retries: u64) {
        self.depth.store(depth as u64, Ordering::Relaxed);
        self.adds.store(adds, Ordering::Relaxed);
        self.retries.store(retries, Ordering::Relaxed);
    }

    /// A key was taken after so long.
    pub fn waited(&self, duration: Duration) {
        self.waited.observe(duration.as_secs_f64());
    }

    /// So many keys were reconciled in so long altogether.
    pub fn processed(&self, count: u32, together: Duration) {
        for _ in 0..count {
            self.processed.observe((together / count).as_secs_f64());
        }
    }

    /// A key was added and reconciled at once.
    pub fn passed(&self) {
        self.adds.fetch_add(1, Ordering::Relaxed);
        self.waited(Duration::ZERO);
        self.processed(1, Duration::ZERO);
    }

    /// The label that tells the queues apart.
    pub(super) fn label(&self) -> [(&'static str, &'static str); 1] {
        [("name", self.name)]
    }
}

// === impl Queues ===

impl Queues {
    /// In upstream's order of creation.
    pub(super) fn all(&self) -> [&QueueMetrics; 2] {
        [&self.pod_autoscalers, &self.metrics]
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for instrument in INSTRUMENTS {
            let kind = match (instrument.value)(&self.metrics) {
                Value::Counter(_) => MetricType::Counter,
                Value::Histogram(_) => MetricType::Histogram,
                Value::Gauge(_) | Value::UpDown(_) => MetricType::Gauge,
            };
            let unit = (instrument.unit == "s").then_some(&Unit::Seconds);
            let Instrument {
                prometheus, help, ..
            } = instrument;
            let mut metric = encoder.encode_descriptor(prometheus, help, unit, kind)?;
            for queue in self.all() {
                let label = queue.label();
                let encoder = metric.encode_family(&label)?;
                match (instrument.value)(queue) {
                    Value::Gauge(value) => ConstGauge::new(value).encode(encoder)?,
                    Value::UpDown(value) => ConstGauge::new(value).encode(encoder)?,
                    Value::Counter(value) => ConstCounter::new(value).encode(encoder)?,
                    Value::Histogram(histogram) => histogram.encode(encoder)?,
                }
            }
        }
        Ok(())
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            pod_autoscalers: QueueMetrics::new(POD_AUTOSCALERS),
            metrics: QueueMetrics::new(METRICS),
        }
    }
}
