//! The autoscaler's metrics under upstream's names (`pkg/autoscaler/scaling/metrics.go`,
//! `pkg/reconciler/autoscaling/kpa/metrics.go`).
//!
//! The gauges of a revision lie side by side in one allocation with its labels, instead of once in
//! each of a dozen families: with ten thousand revisions that is most of what they cost. They appear
//! with the decider and disappear with it.

#[cfg(feature = "otel")]
mod push;
pub mod queue;
pub mod requests;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use serving::histogram::{Histogram, SECONDS};
use serving::http_metrics::scope;
use serving::trace::Scope;

use self::queue::Queues;
use crate::decider::{DeciderStatus, Observation};
use crate::pods::PodCounts;
use crate::scale::UNKNOWN_SCALE;
use crate::spec::ScalingMetric;

/// Of revisions.
const OWN_SCOPE: Scope = Scope {
    name: "knative.dev/serving/pkg/autoscaler",
    version: "",
};
/// Of work queues and the API server's client.
const KUBERNETES_SCOPE: Scope = Scope {
    name: "knative.dev/pkg/observability/metrics/k8s",
    version: "",
};

/// Names a revision to Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct RevisionLabels {
    /// Its namespace.
    pub k8s_namespace_name: String,
    /// Its Service; may be empty.
    pub kn_service_name: String,
    /// Its Configuration.
    pub kn_configuration_name: String,
    /// Its name.
    pub kn_revision_name: String,
}

/// Scrapes are not told apart by revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ScrapeLabels {
    k8s_namespace_name: String,
    kn_service_name: String,
    kn_configuration_name: String,
}

/// All metrics of one autoscaler. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    revisions: Mutex<BTreeSet<ByLabels>>,
    scrapes: Mutex<BTreeMap<ScrapeLabels, Scrapes>>,
    queues: Queues,
}

/// What is of another scope.
#[derive(Debug)]
struct WorkQueues(Arc<Shared>);

/// In the order of its labels, which are not kept twice.
#[derive(Debug)]
struct ByLabels(Arc<RevisionGauges>);

/// A histogram and how many revisions observe it.
#[derive(Debug)]
struct Scrapes {
    histogram: Histogram,
    revisions: usize,
}

/// The gauges of one revision.
pub struct RevisionGauges {
    labels: RevisionLabels,
    scrapes: Histogram,
    metric: ScalingMetric,
    desired: AtomicI32,
    excess_burst_capacity: AtomicI32,
    panic_mode: AtomicU32,
    stable: AtomicU64,
    panic: AtomicU64,
    target: AtomicU64,
    requested: AtomicI32,
    ready: AtomicU32,
    not_ready: AtomicU32,
    pending: AtomicU32,
    terminating: AtomicU32,
    /// Gauges of the decider appear when it is created.
    deciding: AtomicBool,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let shared = Arc::new(Shared::default());
        let own = scope(registry, OWN_SCOPE);
        own.register_collector(Box::new(Arc::clone(&shared)));
        let queues = WorkQueues(Arc::clone(&shared));
        scope(registry, KUBERNETES_SCOPE).register_collector(Box::new(queues));
        Self { shared }
    }

    /// Of the reconcilers.
    pub fn queues(&self) -> &Queues {
        &self.shared.queues
    }

    /// The gauges of a revision that is being reconciled.
    pub fn revision(&self, labels: RevisionLabels, metric: ScalingMetric) -> Arc<RevisionGauges> {
        let scrapes = self.scrapes(&labels);
        let gauges = Arc::new(RevisionGauges::new(labels, scrapes, metric));
        self.shared
            .revisions
            .lock()
            .replace(ByLabels(Arc::clone(&gauges)));
        gauges
    }

    /// Removes a revision's series, and those of its Service with the last revision.
    pub fn remove(&self, gauges: &RevisionGauges) {
        self.shared.revisions.lock().remove(&gauges.labels);
        let labels = gauges.labels.scrape_labels();
        let mut scrapes = self.shared.scrapes.lock();
        if let Some(entry) = scrapes.get_mut(&labels) {
            entry.revisions -= 1;
            if entry.revisions == 0 {
                scrapes.remove(&labels);
            }
        }
    }

    fn scrapes(&self, labels: &RevisionLabels) -> Histogram {
        let mut scrapes = self.shared.scrapes.lock();
        let entry = scrapes
            .entry(labels.scrape_labels())
            .or_insert_with(|| Scrapes {
                histogram: Histogram::new(SECONDS),
                revisions: 0,
            });
        entry.revisions += 1;
        entry.histogram.clone()
    }
}

// === impl ByLabels ===

impl Borrow<RevisionLabels> for ByLabels {
    fn borrow(&self) -> &RevisionLabels {
        &self.0.labels
    }
}

impl Ord for ByLabels {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.labels.cmp(&other.0.labels)
    }
}

impl PartialOrd for ByLabels {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByLabels {
    fn eq(&self, other: &Self) -> bool {
        self.0.labels == other.0.labels
    }
}

impl Eq for ByLabels {}

// === impl RevisionLabels ===

impl RevisionLabels {
    fn scrape_labels(&self) -> ScrapeLabels {
        ScrapeLabels {
            k8s_namespace_name: self.k8s_namespace_name.clone(),
            kn_service_name: self.kn_service_name.clone(),
            kn_configuration_name: self.kn_configuration_name.clone(),
        }
    }
}

// === impl RevisionGauges ===

impl RevisionGauges {
    fn new(labels: RevisionLabels, scrapes: Histogram, metric: ScalingMetric) -> Self {
        Self {
            labels,
            scrapes,
            metric,
            desired: AtomicI32::new(0),
            excess_burst_capacity: AtomicI32::new(0),
            panic_mode: AtomicU32::new(0),
            stable: AtomicU64::new(0),
            panic: AtomicU64::new(0),
            target: AtomicU64::new(0),
            requested: AtomicI32::new(0),
            ready: AtomicU32::new(0),
            not_ready: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            terminating: AtomicU32::new(0),
            deciding: AtomicBool::new(false),
        }
    }

    /// The state a decider starts in.
    pub fn start(&self, panicking: bool) {
        self.panic_mode
            .store(u32::from(panicking), Ordering::Relaxed);
        self.deciding.store(true, Ordering::Release);
    }

    /// A valid decision; `status` is before bounds.
    pub fn decided(
        &self,
        status: DeciderStatus,
        observed: Observation,
        target: f64,
        panicking: bool,
    ) {
        self.desired.store(status.desired_scale, Ordering::Relaxed);
        self.excess_burst_capacity
            .store(status.excess_burst_capacity, Ordering::Relaxed);
        self.start(panicking);
        self.stable
            .store(observed.stable.to_bits(), Ordering::Relaxed);
        self.panic
            .store(observed.panic.to_bits(), Ordering::Relaxed);
        self.target.store(target.to_bits(), Ordering::Relaxed);
    }

    /// A reconcile that counted pods. An unknown scale leaves the requested one alone.
    pub fn reconciled(&self, want: i32, pods: PodCounts) {
        if want != UNKNOWN_SCALE {
            self.requested.store(want, Ordering::Relaxed);
        }
        self.ready.store(pods.ready, Ordering::Relaxed);
        self.not_ready.store(pods.not_ready, Ordering::Relaxed);
        self.pending.store(pods.pending, Ordering::Relaxed);
        self.terminating.store(pods.terminating, Ordering::Relaxed);
    }

    /// A round of scraping that asked somebody.
    pub fn scraped(&self, duration: Duration) {
        self.scrapes.observe(duration.as_secs_f64());
    }
}

impl fmt::Debug for RevisionGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevisionGauges")
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

/// A gauge of every revision.
struct Gauge {
    prometheus: &'static str,
    /// OpenTelemetry's name.
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only a push needs it")
    )]
    otel: &'static str,
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only a push needs it")
    )]
    unit: &'static str,
    help: &'static str,
    /// Whether it is a whole number.
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only a push needs it")
    )]
    whole: bool,
    /// Its value where the revision has it.
    value: fn(&RevisionGauges) -> Option<f64>,
}

fn decided(gauges: &RevisionGauges, value: f64) -> Option<f64> {
    gauges.deciding.load(Ordering::Acquire).then_some(value)
}

fn of(gauges: &RevisionGauges, metric: ScalingMetric, bits: &AtomicU64) -> Option<f64> {
    let value = f64::from_bits(bits.load(Ordering::Relaxed));
    decided(gauges, value).filter(|_| gauges.metric == metric)
}

fn count(value: &AtomicU32) -> Option<f64> {
    Some(f64::from(value.load(Ordering::Relaxed)))
}

const SERIES: [Gauge; 14] = [
    Gauge {
        prometheus: "kn_revision_pods_desired",
        otel: "kn.revision.pods.desired",
        unit: "{item}",
        help: "Number of pods the autoscaler wants to allocate",
        whole: true,
        value: |g| decided(g, f64::from(g.desired.load(Ordering::Relaxed))),
    },
    Gauge {
        prometheus: "kn_revision_capacity_excess",
        otel: "kn.revision.capacity.excess",
        unit: "{concurrency}",
        help: "Excess burst capacity observed over the stable window",
        whole: false,
        value: |g| {
            decided(
                g,
                f64::from(g.excess_burst_capacity.load(Ordering::Relaxed)),
            )
        },
    },
    Gauge {
        prometheus: "kn_revision_panic_mode",
        otel: "kn.revision.panic.mode",
        unit: "",
        help: "1 if the autoscaler is in panic mode, else 0",
        whole: true,
        value: |g| decided(g, f64::from(g.panic_mode.load(Ordering::Relaxed))),
    },
    Gauge {
        prometheus: "kn_revision_concurrency_stable",
        otel: "kn.revision.concurrency.stable",
        unit: "{concurrency}",
        help: "Average of concurrent requests per pod over the stable window",
        whole: false,
        value: |g| of(g, ScalingMetric::Concurrency, &g.stable),
    },
    Gauge {
        prometheus: "kn_revision_concurrency_panic",
        otel: "kn.revision.concurrency.panic",
        unit: "{concurrency}",
        help: "Average of concurrent requests per pod over the panic window",
        whole: false,
        value: |g| of(g, ScalingMetric::Concurrency, &g.panic),
    },
    Gauge {
        prometheus: "kn_revision_concurrency_target",
        otel: "kn.revision.concurrency.target",
        unit: "{concurrency}",
        help: "The desired number of concurrent requests for each pod",
        whole: false,
        value: |g| of(g, ScalingMetric::Concurrency, &g.target),
    },
    Gauge {
        prometheus: "kn_revision_rps_stable_per_second",
        otel: "kn.revision.rps.stable",
        unit: "{request}/s",
        help: "Average requests per second over the stable window",
        whole: false,
        value: |g| of(g, ScalingMetric::Rps, &g.stable),
    },
    Gauge {
        prometheus: "kn_revision_rps_panic_per_second",
        otel: "kn.revision.rps.panic",
        unit: "{request}/s",
        help: "Average requests per second over the panic window",
        whole: false,
        value: |g| of(g, ScalingMetric::Rps, &g.panic),
    },
    Gauge {
        prometheus: "kn_revision_rps_target_per_second",
        otel: "kn.revision.rps.target",
        unit: "{request}/s",
        help: "The desired requests per second for each pod",
        whole: false,
        value: |g| of(g, ScalingMetric::Rps, &g.target),
    },
    Gauge {
        prometheus: "kn_revision_pods_requested",
        otel: "kn.revision.pods.requested",
        unit: "{pod}",
        help: "Number of pods the autoscaler requested from Kubernetes",
        whole: true,
        value: |g| Some(f64::from(g.requested.load(Ordering::Relaxed))),
    },
    Gauge {
        prometheus: "kn_revision_pods_count",
        otel: "kn.revision.pods.count",
        unit: "{pod}",
        help: "Number of pods that are allocated currently",
        whole: true,
        value: |g| count(&g.ready),
    },
    Gauge {
        prometheus: "kn_revision_pods_not_ready_count",
        otel: "kn.revision.pods.not_ready.count",
        unit: "{pod}",
        help: "Number of pods that are not ready currently",
        whole: true,
        value: |g| count(&g.not_ready),
    },
    Gauge {
        prometheus: "kn_revision_pods_pending_count",
        otel: "kn.revision.pods.pending.count",
        unit: "{pod}",
        help: "Number of pods that are pending currently",
        whole: true,
        value: |g| count(&g.pending),
    },
    Gauge {
        prometheus: "kn_revision_pods_terminating_count",
        otel: "kn.revision.pods.terminating.count",
        unit: "{pod}",
        help: "Number of pods that are terminating currently",
        whole: true,
        value: |g| count(&g.terminating),
    },
];

const SCRAPE_HELP: &str = "The duration of scraping the revision";

impl Shared {
    fn all(&self) -> Vec<Arc<RevisionGauges>> {
        let revisions = self.revisions.lock();
        revisions.iter().map(|it| Arc::clone(&it.0)).collect()
    }
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let revisions = self.all();
        for gauge in &SERIES {
            let mut present = revisions
                .iter()
                .filter_map(|gauges| Some((gauges, (gauge.value)(gauges)?)))
                .peekable();
            if present.peek().is_none() {
                continue;
            }
            let mut metric =
                encoder.encode_descriptor(gauge.prometheus, gauge.help, None, MetricType::Gauge)?;
            for (gauges, value) in present {
                ConstGauge::new(value).encode(metric.encode_family(&gauges.labels)?)?;
            }
        }
        let scrapes = self.scrapes.lock();
        if !scrapes.is_empty() {
            let mut metric = encoder.encode_descriptor(
                "kn_autoscaler_scrape_duration",
                SCRAPE_HELP,
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?;
            for (labels, entry) in scrapes.iter() {
                entry.histogram.encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for WorkQueues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.queues.encode(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    fn labels(revision: &str) -> RevisionLabels {
        RevisionLabels {
            k8s_namespace_name: "default".to_owned(),
            kn_service_name: "hello".to_owned(),
            kn_configuration_name: "hello".to_owned(),
            kn_revision_name: revision.to_owned(),
        }
    }

    /// On every series.
    const SCOPE_LABELS: &str = r#"otel_scope_name="knative.dev/serving/pkg/autoscaler",otel_scope_schema_url="",otel_scope_version="","#;

    fn scrape(registry: &Registry) -> String {
        let mut out = String::new();
        text::encode(&mut out, registry).unwrap();
        let mut of_revisions = out.lines().filter(|line| line.starts_with("kn_revision_"));
        assert!(
            of_revisions.all(|line| line.contains(SCOPE_LABELS)),
            "{out}"
        );
        out.replace(SCOPE_LABELS, "")
    }

    #[test]
    fn series_come_and_go_with_their_revision() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let first = metrics.revision(labels("hello-00001"), ScalingMetric::Concurrency);
        let second = metrics.revision(labels("hello-00002"), ScalingMetric::Rps);
        second.start(false);
        first.decided(
            DeciderStatus {
                desired_scale: 3,
                excess_burst_capacity: -5,
            },
            Observation {
                stable: 1.5,
                panic: 2.5,
                flow: None,
            },
            7.0,
            true,
        );
        first.reconciled(3, PodCounts::default());
        first.reconciled(UNKNOWN_SCALE, PodCounts::default());
        first.scraped(Duration::from_millis(7));
        let text = scrape(&registry);
        let of_first = r#"{k8s_namespace_name="default",kn_service_name="hello",kn_configuration_name="hello",kn_revision_name="hello-00001"}"#;
        for line in [
            format!("kn_revision_pods_desired{of_first} 3"),
            format!("kn_revision_capacity_excess{of_first} -5"),
            format!("kn_revision_panic_mode{of_first} 1"),
            format!("kn_revision_concurrency_stable{of_first} 1.5"),
            format!("kn_revision_pods_requested{of_first} 3"),
        ] {
            assert!(
                text.lines().any(|got| got.trim_end_matches(".0") == line),
                "{line} in\n{text}"
            );
        }
        assert!(text.contains("kn_revision_rps_stable_per_second{"));
        assert!(text.contains(r#"kn_autoscaler_scrape_duration_seconds_bucket{le="0.01",k8s_namespace_name="default",kn_service_name="hello",kn_configuration_name="hello"} 1"#), "{text}");

        metrics.remove(&first);
        let text = scrape(&registry);
        assert!(!text.contains("hello-00001"), "{text}");
        assert!(text.contains("kn_autoscaler_scrape_duration_seconds"));
        metrics.remove(&second);
        assert!(!scrape(&registry).contains("hello"));
    }
}
