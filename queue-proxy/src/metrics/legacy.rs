//! The metric names of releases before 1.19, for dashboards that still read them
//! (upstream: `pkg/queue/request_metric.go` on branch `release-1.16`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use serving::header::{DEFAULT_TAG, DISABLED_TAG, UNDEFINED_TAG};
use serving::histogram::{Histogram, LEGACY_MILLISECONDS};

use crate::config::Identity;

/// Route tags told apart; tags come from clients, so the rest is reported as undefined.
const MAX_TAGS: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    response_code: u16,
    response_code_class: String,
    route_tag: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AppLabels {
    response_code: u16,
    response_code_class: String,
}

/// A count whose name has no suffix: the encoder adds `_total` to whatever it takes for a counter.
#[derive(Clone, Debug, Default)]
struct Count(Gauge);

impl EncodeMetric for Count {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Count {
    const TYPE: MetricType = MetricType::Unknown;
}

#[derive(Clone, Debug)]
struct Milliseconds;

impl MetricConstructor<Histogram> for Milliseconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(LEGACY_MILLISECONDS)
    }
}

#[derive(Debug)]
pub(super) struct Legacy {
    requests: Family<RequestLabels, Count>,
    latencies: Family<RequestLabels, Histogram, Milliseconds>,
    app_requests: Family<AppLabels, Count>,
    app_latencies: Family<AppLabels, Histogram, Milliseconds>,
    queue_depth: Gauge,
    tags: RefCell<HashSet<String>>,
}

// === impl Legacy ===

impl Legacy {
    pub(super) fn register(registry: &mut Registry, identity: &Identity) -> Self {
        let service = match identity.service.as_str() {
            "" => "unknown",
            name => name,
        };
        let labels = [
            ("configuration_name", identity.configuration.as_str()),
            ("container_name", "queue-proxy"),
            ("namespace_name", &identity.namespace),
            ("pod_name", &identity.pod),
            ("revision_name", &identity.revision),
            ("service_name", service),
        ];
        let registry = registry.sub_registry_with_labels(
            labels
                .into_iter()
                .map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value.to_owned()))),
        );
        let legacy = Self {
            requests: Family::default(),
            latencies: Family::new_with_constructor(Milliseconds),
            app_requests: Family::default(),
            app_latencies: Family::new_with_constructor(Milliseconds),
            queue_depth: Gauge::default(),
            tags: RefCell::new(HashSet::new()),
        };
        registry.register(
            "revision_request_count",
            "The number of requests that are routed to queue-proxy",
            legacy.requests.clone(),
        );
        registry.register(
            "revision_request_latencies",
            "The response time in millisecond",
            legacy.latencies.clone(),
        );
        registry.register(
            "revision_app_request_count",
            "The number of requests that are routed to user-container",
            legacy.app_requests.clone(),
        );
        registry.register(
            "revision_app_request_latencies",
            "The response time in millisecond",
            legacy.app_latencies.clone(),
        );
        registry.register(
            "revision_queue_depth",
            "The current number of items in the serving and waiting queue",
            legacy.queue_depth.clone(),
        );
        legacy
    }

    pub(super) fn queue_depth(&self, depth: i64) {
        self.queue_depth.set(depth);
    }

    pub(super) fn served(&self, tag: &str, status: StatusCode, elapsed: Duration) {
        let labels = RequestLabels {
            response_code: status.as_u16(),
            response_code_class: class(status),
            route_tag: self.tag(tag),
        };
        self.requests.get_or_create_owned(&labels).0.inc();
        self.latencies
            .get_or_create_owned(&labels)
            .observe(milliseconds(elapsed));
    }

    pub(super) fn invoked(&self, status: StatusCode, elapsed: Duration) {
        let labels = AppLabels {
            response_code: status.as_u16(),
            response_code_class: class(status),
        };
        self.app_requests.get_or_create_owned(&labels).0.inc();
        self.app_latencies
            .get_or_create_owned(&labels)
            .observe(milliseconds(elapsed));
    }

    fn tag(&self, tag: &str) -> String {
        match tag {
            DISABLED_TAG => return "DISABLED".to_owned(),
            DEFAULT_TAG => return "DEFAULT".to_owned(),
            UNDEFINED_TAG => return "UNDEFINED".to_owned(),
            _ => {}
        }
        let mut tags = self.tags.borrow_mut();
        if tags.contains(tag) || (tags.len() < MAX_TAGS && tags.insert(tag.to_owned())) {
            tag.to_owned()
        } else {
            "UNDEFINED".to_owned()
        }
    }
}

fn class(status: StatusCode) -> String {
    format!("{}xx", status.as_u16() / 100)
}

fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1000.0
}
