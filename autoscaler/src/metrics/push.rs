//! The metrics as a push over OTLP has them: OpenTelemetry's own names, the same values as a scrape.

use serving::otlp::{Instrument, MetricSnapshot, Point, ScopeSnapshot, Series};
use serving::trace::{Attribute, Scope};

use super::queue::{self, Value};
use super::requests::{ApiRequests, DURATION_HELP, RESULT_HELP};
use super::{Metrics, RevisionLabels, SCRAPE_HELP, SERIES, ScrapeLabels};

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

// === impl Metrics ===

impl Metrics {
    /// Everything that is measured now, with the requests to an API server where there is one.
    pub fn snapshot(&self, requests: &ApiRequests) -> Vec<ScopeSnapshot> {
        let mut kubernetes = self.work_queues();
        kubernetes.extend(requests.snapshot());
        vec![
            ScopeSnapshot {
                scope: OWN_SCOPE,
                metrics: self.revisions(),
            },
            ScopeSnapshot {
                scope: KUBERNETES_SCOPE,
                metrics: kubernetes,
            },
        ]
    }

    fn revisions(&self) -> Vec<MetricSnapshot> {
        let revisions = self.shared.all();
        let mut metrics: Vec<_> = SERIES
            .iter()
            .map(|gauge| {
                let points = revisions.iter().filter_map(|gauges| {
                    Some(Point {
                        attributes: gauges.labels.attributes(),
                        value: (gauge.value)(gauges)?,
                    })
                });
                let series = if gauge.whole {
                    let whole = points.map(|point| Point {
                        attributes: point.attributes,
                        value: point.value as i64,
                    });
                    Series::Gauge(whole.collect())
                } else {
                    Series::FloatGauge(points.collect())
                };
                metric(gauge.otel, gauge.help, gauge.unit, series)
            })
            .collect();
        let scrapes = self.shared.scrapes.lock();
        let points = scrapes.iter().map(|(labels, entry)| Point {
            attributes: labels.attributes(),
            value: entry.histogram.clone(),
        });
        let series = Series::Histogram(points.collect());
        metrics.push(metric(
            "kn.autoscaler.scrape.duration",
            SCRAPE_HELP,
            "s",
            series,
        ));
        metrics
    }

    fn work_queues(&self) -> Vec<MetricSnapshot> {
        let of_all = |instrument: &queue::Instrument| {
            let mut gauges = Vec::new();
            let mut sums = Vec::new();
            let mut histograms = Vec::new();
            let mut is_monotonic = false;
            for queue in self.shared.queues.all() {
                let attributes = queue.label().map(|(key, value)| Attribute::new(key, value));
                let attributes = Vec::from(attributes);
                match (instrument.value)(queue) {
                    Value::Gauge(value) => gauges.push(Point { attributes, value }),
                    Value::UpDown(value) => sums.push(Point {
                        attributes,
                        value: whole(value),
                    }),
                    Value::Counter(value) => {
                        is_monotonic = true;
                        sums.push(Point {
                            attributes,
                            value: whole(value),
                        });
                    }
                    Value::Histogram(histogram) => histograms.push(Point {
                        attributes,
                        value: histogram.clone(),
                    }),
                }
            }
            let series = if !histograms.is_empty() {
                Series::Histogram(histograms)
            } else if !gauges.is_empty() {
                Series::FloatGauge(gauges)
            } else {
                Series::Sum {
                    points: sums,
                    is_monotonic,
                }
            };
            metric(instrument.otel, instrument.help, instrument.unit, series)
        };
        queue::INSTRUMENTS.iter().map(of_all).collect()
    }
}

// === impl ApiRequests ===

impl ApiRequests {
    fn snapshot(&self) -> [MetricSnapshot; 2] {
        let durations = self.durations().into_iter().map(|(labels, value)| Point {
            attributes: vec![
                Attribute::new("http.request.method", labels.http_request_method),
                Attribute::new("server.address", labels.server_address),
                Attribute::new("server.port", labels.server_port),
                Attribute::new("url.scheme", labels.url_scheme),
                Attribute::new("url.template", labels.url_template),
            ],
            value,
        });
        let results = self.results().into_iter().map(|(labels, count)| {
            let mut attributes = vec![
                Attribute::new("http.request.method", labels.http_request_method),
                Attribute::new("server.address", labels.server_address),
            ];
            if let Ok(status) = labels.http_response_status_code.parse::<u16>() {
                attributes.push(Attribute::new("http.response.status_code", status));
            }
            Point {
                attributes,
                value: whole(count),
            }
        });
        [
            metric(
                "http.client.request.duration",
                DURATION_HELP,
                "s",
                Series::Histogram(durations.collect()),
            ),
            metric(
                "kn.k8s.client.http.response.status_code",
                RESULT_HELP,
                "{item}",
                Series::Sum {
                    points: results.collect(),
                    is_monotonic: true,
                },
            ),
        ]
    }
}

// === impl RevisionLabels ===

impl RevisionLabels {
    fn attributes(&self) -> Vec<Attribute> {
        let mut attributes = self.scrape_labels().attributes();
        let revision = self.kn_revision_name.clone();
        attributes.push(Attribute::new("kn.revision.name", revision));
        attributes
    }
}

// === impl ScrapeLabels ===

impl ScrapeLabels {
    fn attributes(&self) -> Vec<Attribute> {
        vec![
            Attribute::new("k8s.namespace.name", self.k8s_namespace_name.clone()),
            Attribute::new("kn.service.name", self.kn_service_name.clone()),
            Attribute::new("kn.configuration.name", self.kn_configuration_name.clone()),
        ]
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
