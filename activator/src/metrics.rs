//! What a scrape says about this activator. Names are upstream's OpenTelemetry names as Prometheus
//! spells them, section by section the same; children are looked up once per revision and kept.
//!
//! Registered on a registry that is handed in; serving it is somebody else's.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serving::RevisionId;
use serving::http_metrics::{HTTP_SCOPE, scope};
use serving::trace::Scope;

use crate::cold_start::ColdStartMetrics;
use crate::http_metrics::HttpMetrics;
use crate::stat_sink::{Broken, Observer};
use crate::table::Entry;
use crate::world::Revision;

/// Upstream's own instruments, and ours beside them.
pub(crate) const OWN_SCOPE: Scope = Scope {
    name: "knative.dev/serving/pkg/activator",
    version: "",
};

/// A gauge of floats.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// The labels of queue metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabels {
    k8s_namespace_name: String,
    kn_revision_name: String,
}

/// The labels of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RevisionLabels {
    kn_service_name: String,
    kn_configuration_name: String,
    kn_revision_name: String,
    k8s_namespace_name: String,
}

/// Errors that this activator made itself, by why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    reason: &'static str,
}

/// All of an activator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    concurrency: Family<RevisionLabels, FloatGauge>,
    queued: Family<QueueLabels, Gauge>,
    active: Family<QueueLabels, Gauge>,
    errors: Family<ReasonLabels, Counter>,
    reachable: Gauge,
    connection_errors: Counter,
    /// See [`HttpMetrics`].
    pub http: HttpMetrics,
    /// See [`ColdStartMetrics`].
    pub cold_start: ColdStartMetrics,
}

/// One revision's. Made when its first request comes, as upstream's are, so that a revision which
/// nobody asks for costs nothing.
#[derive(Debug, Default)]
pub struct RevisionMetrics {
    gauges: OnceLock<Gauges>,
}

/// See [`RevisionMetrics`].
#[derive(Debug)]
pub struct Gauges {
    /// Requests that are waiting.
    pub queued: Gauge,
    /// Requests that are being proxied.
    pub active: Gauge,
}

// === impl Metrics ===

impl Metrics {
    /// Adds the metrics to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let http = HttpMetrics::register(scope(registry, HTTP_SCOPE));
        let registry = scope(registry, OWN_SCOPE);
        let metrics = Self {
            concurrency: Family::default(),
            queued: Family::default(),
            active: Family::default(),
            errors: Family::default(),
            reachable: Gauge::default(),
            connection_errors: Counter::default(),
            http,
            cold_start: ColdStartMetrics::register(registry),
        };
        registry.register(
            "kn_revision_request_concurrency",
            "Concurrent requests that are routed to the activator",
            metrics.concurrency.clone(),
        );
        registry.register(
            "kn_revision_request_queued",
            "Requests that wait in the activator",
            metrics.queued.clone(),
        );
        registry.register(
            "kn_revision_request_active",
            "Requests that the activator has in flight",
            metrics.active.clone(),
        );
        registry.register(
            "pilotlight_activator_errors",
            "Responses that the activator made itself, by reason",
            metrics.errors.clone(),
        );
        let peer = [("peer".into(), "autoscaler".into())];
        let connection = registry.sub_registry_with_labels(peer.into_iter());
        connection.register(
            "kn_activator_stats_conn_reachable",
            "Whether the peer is reachable",
            metrics.reachable.clone(),
        );
        connection.register(
            "kn_activator_stats_conn_errors",
            "Connections to the peer that were lost",
            metrics.connection_errors.clone(),
        );
        metrics
    }

    /// The gauges of a revision that has a request.
    pub fn gauges<'a>(&self, entry: &'a Entry) -> &'a Gauges {
        entry.metrics.gauges.get_or_init(|| {
            let labels = QueueLabels::of(&entry.revision.id);
            Gauges {
                queued: self.queued.get_or_create_owned(&labels),
                active: self.active.get_or_create_owned(&labels),
            }
        })
    }

    /// Sets a revision's reported concurrency.
    pub fn set_concurrency(&self, revision: &Revision, concurrency: f64) {
        self.concurrency
            .get_or_create(&RevisionLabels::of(revision))
            .set(concurrency);
    }

    /// Forgets a revision's series.
    pub fn forget(&self, entry: &Entry) {
        let revision = &entry.revision;
        self.http.remove(&entry.http);
        self.cold_start.remove(&entry.cold_start, revision);
        let labels = QueueLabels::of(&revision.id);
        self.queued.remove(&labels);
        self.active.remove(&labels);
        self.concurrency.remove(&RevisionLabels::of(revision));
    }

    /// A revision's reported concurrency, if it was ever reported.
    #[cfg(feature = "otel")]
    pub(crate) fn concurrency(&self, revision: &Revision) -> Option<f64> {
        let gauge = self.concurrency.get(&RevisionLabels::of(revision))?;
        Some(gauge.get())
    }

    /// Whether the autoscaler is connected, and how often it was lost.
    #[cfg(feature = "otel")]
    pub(crate) fn connection(&self) -> (i64, u64) {
        (self.reachable.get(), self.connection_errors.get())
    }

    /// Counts an error response of our own.
    pub fn error(&self, reason: &'static str) {
        self.errors.get_or_create(&ReasonLabels { reason }).inc();
    }
}

// === impl RevisionMetrics ===

impl RevisionMetrics {
    /// What was measured, if there ever was a request.
    pub fn get(&self) -> Option<&Gauges> {
        self.gauges.get()
    }
}

// === impl QueueLabels ===

impl QueueLabels {
    fn of(id: &RevisionId) -> Self {
        Self {
            k8s_namespace_name: id.namespace.clone(),
            kn_revision_name: id.name.clone(),
        }
    }
}

// === impl RevisionLabels ===

impl RevisionLabels {
    pub(crate) fn of(revision: &Revision) -> Self {
        Self {
            kn_service_name: revision.service.clone(),
            kn_configuration_name: revision.configuration.clone(),
            kn_revision_name: revision.id.name.clone(),
            k8s_namespace_name: revision.id.namespace.clone(),
        }
    }
}

impl Observer for Metrics {
    fn up(&mut self) {
        tracing::info!("connected to the autoscaler");
        self.reachable.set(1);
    }

    fn down(&mut self, why: &Broken) {
        tracing::warn!(error = %why, "connection to the autoscaler lost");
        self.reachable.set(0);
        self.connection_errors.inc();
    }
}
