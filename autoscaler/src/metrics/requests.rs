//! Requests to the API server (`knative.dev/pkg/observability/metrics/k8s/tools.go`).
//!
//! Upstream leaves the status code out unless it is 200; here it is always there. Its port is the
//! scheme's, whatever the URL says, and so it is here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};
use serving::histogram::{Histogram, SECONDS};
use serving::http_metrics::scope;

use super::KUBERNETES_SCOPE;

/// Different requests that are told apart. There are some thirty: methods times kinds of resources;
/// only kinds of scale targets are anybody's choice.
const MAX_SERIES: usize = 2000;

/// Where requests go and of what kind they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Upper case.
    pub http_request_method: String,
    /// The API server's host.
    pub server_address: String,
    /// 443 with TLS, else 80.
    pub server_port: u16,
    /// `http` or `https`.
    pub url_scheme: String,
    /// The path with placeholders for names.
    pub url_template: String,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    /// Upper case.
    pub http_request_method: String,
    /// `<error>` when there was no answer.
    pub http_response_status_code: String,
    /// The API server's host.
    pub server_address: String,
}

/// All requests of one client. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ApiRequests {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    durations: Mutex<BTreeMap<RequestLabels, Histogram>>,
    results: Mutex<BTreeMap<ResultLabels, u64>>,
}

pub(super) const DURATION_HELP: &str = "Duration of HTTP client requests.";
pub(super) const RESULT_HELP: &str = "Count of response codes partitioned by method and host";

// === impl ApiRequests ===

impl ApiRequests {
    /// None were made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a scrape see them.
    pub fn register(&self, registry: &mut Registry) {
        scope(registry, KUBERNETES_SCOPE).register_collector(Box::new(self.clone()));
    }

    /// A request has been answered, or not.
    pub fn observe(&self, labels: RequestLabels, status: Option<u16>, duration: Duration) {
        let result = ResultLabels {
            http_request_method: labels.http_request_method.clone(),
            http_response_status_code: status
                .map_or_else(|| "<error>".to_owned(), |status| status.to_string()),
            server_address: labels.server_address.clone(),
        };
        let mut durations = self.shared.durations.lock();
        if durations.len() < MAX_SERIES || durations.contains_key(&labels) {
            let histogram = durations.entry(labels);
            let histogram = histogram.or_insert_with(|| Histogram::new(SECONDS));
            histogram.observe(duration.as_secs_f64());
        }
        *self.shared.results.lock().entry(result).or_default() += 1;
    }

    pub(super) fn durations(&self) -> Vec<(RequestLabels, Histogram)> {
        let durations = self.shared.durations.lock();
        durations
            .iter()
            .map(|(labels, histogram)| (labels.clone(), histogram.clone()))
            .collect()
    }

    pub(super) fn results(&self) -> Vec<(ResultLabels, u64)> {
        let results = self.shared.results.lock();
        results
            .iter()
            .map(|(labels, count)| (labels.clone(), *count))
            .collect()
    }
}

impl Collector for ApiRequests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let durations = self.durations();
        if !durations.is_empty() {
            let mut metric = encoder.encode_descriptor(
                "http_client_request_duration",
                DURATION_HELP,
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?;
            for (labels, histogram) in &durations {
                histogram.encode(metric.encode_family(labels)?)?;
            }
        }
        let results = self.results();
        if !results.is_empty() {
            let mut metric = encoder.encode_descriptor(
                "kn_k8s_client_http_response_status_code",
                RESULT_HELP,
                None,
                MetricType::Counter,
            )?;
            for (labels, count) in &results {
                ConstCounter::new(*count).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serving::telemetry::prometheus_text;

    use super::*;

    fn labels(template: String) -> RequestLabels {
        RequestLabels {
            http_request_method: "GET".to_owned(),
            server_address: "10.0.0.1".to_owned(),
            server_port: 443,
            url_scheme: "https".to_owned(),
            url_template: template,
        }
    }

    #[test]
    fn answers_are_counted_and_timed() {
        let requests = ApiRequests::new();
        let mut registry = Registry::default();
        requests.register(&mut registry);
        assert_eq!(prometheus_text(&registry), "");
        let template = || labels("/api/v1/pods".to_owned());
        requests.observe(template(), Some(200), Duration::from_millis(7));
        requests.observe(template(), Some(409), Duration::from_millis(7));
        requests.observe(template(), None, Duration::from_millis(7));
        let text = prometheus_text(&registry);
        for line in [
            r#"kn_k8s_client_http_response_status_code_total{otel_scope_name="knative.dev/pkg/observability/metrics/k8s",otel_scope_schema_url="",otel_scope_version="",http_request_method="GET",http_response_status_code="409",server_address="10.0.0.1"} 1"#,
            r#"http_client_request_duration_seconds_count{otel_scope_name="knative.dev/pkg/observability/metrics/k8s",otel_scope_schema_url="",otel_scope_version="",http_request_method="GET",server_address="10.0.0.1",server_port="443",url_scheme="https",url_template="/api/v1/pods"} 3"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn there_are_only_so_many_kinds() {
        let requests = ApiRequests::new();
        for number in 0..=MAX_SERIES {
            requests.observe(labels(format!("/{number}")), Some(200), Duration::ZERO);
        }
        assert_eq!(requests.durations().len(), MAX_SERIES);
        assert_eq!(requests.results()[0].1, MAX_SERIES as u64 + 1);
    }
}
