//! The metrics as a push over OTLP has them: OpenTelemetry's own names, the same values as a scrape.

use serving::otlp::{MetricSnapshot, Point, ScopeSnapshot, Series};
use serving::trace::Attribute;

use super::queue::{self, Value};
use super::requests::{ApiRequests, DURATION_HELP, RESULT_HELP};
use super::{
    KUBERNETES_SCOPE, Metrics, OWN_SCOPE, RevisionLabels, SCRAPE_HELP, SERIES, ScrapeLabels,
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
                MetricSnapshot::new(gauge.otel, gauge.help, gauge.unit, series)
            })
            .collect();
        let scrapes = self.shared.scrapes.lock();
        let points = scrapes.iter().map(|(labels, entry)| Point {
            attributes: labels.attributes(),
            value: entry.histogram.clone(),
        });
        let series = Series::Histogram(points.collect());
        metrics.push(MetricSnapshot::new(
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
            MetricSnapshot::new(instrument.otel, instrument.help, instrument.unit, series)
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
            MetricSnapshot::new(
                "http.client.request.duration",
                DURATION_HELP,
                "s",
                Series::Histogram(durations.collect()),
            ),
            MetricSnapshot::new(
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use serving::config::Observability;
    use serving::otlp::{Instrument, MetricPush};
    use serving::resource::Identity;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::requests::RequestLabels;
    use crate::pods::PodCounts;
    use crate::spec::ScalingMetric;

    fn measured() -> (Metrics, ApiRequests) {
        let metrics = Metrics::register(&mut Registry::default());
        let labels = RevisionLabels {
            k8s_namespace_name: "default".to_owned(),
            kn_service_name: "hello".to_owned(),
            kn_configuration_name: "hello".to_owned(),
            kn_revision_name: "hello-00001".to_owned(),
        };
        let gauges = metrics.revision(labels, ScalingMetric::Rps);
        gauges.start(false);
        gauges.reconciled(3, PodCounts::default());
        gauges.scraped(Duration::from_millis(7));
        metrics.queues().metrics.passed();
        let requests = ApiRequests::new();
        let labels = RequestLabels {
            http_request_method: "PUT".to_owned(),
            server_address: "10.0.0.1".to_owned(),
            server_port: 443,
            url_scheme: "https".to_owned(),
            url_template: "/api/v1/pods".to_owned(),
        };
        requests.observe(labels, Some(409), Duration::from_millis(7));
        (metrics, requests)
    }

    /// Name, unit and number of series of everything that has any.
    fn summary(snapshot: &[ScopeSnapshot]) -> Vec<(&'static str, &'static str, &'static str)> {
        let kind = |series: &Series| match series {
            Series::Histogram(points) if !points.is_empty() => Some("histogram"),
            Series::Gauge(points) if !points.is_empty() => Some("gauge"),
            Series::FloatGauge(points) if !points.is_empty() => Some("float gauge"),
            Series::Sum {
                points,
                is_monotonic,
            } if !points.is_empty() => Some(if *is_monotonic { "counter" } else { "sum" }),
            _ => None,
        };
        snapshot
            .iter()
            .flat_map(|scope| &scope.metrics)
            .filter_map(|metric| {
                let Instrument { name, unit, .. } = metric.instrument;
                Some((name, unit, kind(&metric.series)?))
            })
            .collect()
    }

    #[test]
    fn instruments_are_those_of_the_reference() {
        let (metrics, requests) = measured();
        let expected = [
            ("kn.revision.pods.desired", "{item}", "gauge"),
            (
                "kn.revision.capacity.excess",
                "{concurrency}",
                "float gauge",
            ),
            ("kn.revision.panic.mode", "", "gauge"),
            ("kn.revision.rps.stable", "{request}/s", "float gauge"),
            ("kn.revision.rps.panic", "{request}/s", "float gauge"),
            ("kn.revision.rps.target", "{request}/s", "float gauge"),
            ("kn.revision.pods.requested", "{pod}", "gauge"),
            ("kn.revision.pods.count", "{pod}", "gauge"),
            ("kn.revision.pods.not_ready.count", "{pod}", "gauge"),
            ("kn.revision.pods.pending.count", "{pod}", "gauge"),
            ("kn.revision.pods.terminating.count", "{pod}", "gauge"),
            ("kn.autoscaler.scrape.duration", "s", "histogram"),
            ("kn.workqueue.depth", "{item}", "sum"),
            ("kn.workqueue.adds", "{item}", "counter"),
            ("kn.workqueue.queue.duration", "s", "histogram"),
            ("kn.workqueue.process.duration", "s", "histogram"),
            ("kn.workqueue.unfinished_work", "s", "float gauge"),
            ("kn.workqueue.longest_running_processor", "s", "float gauge"),
            ("kn.workqueue.retries", "{item}", "counter"),
            ("http.client.request.duration", "s", "histogram"),
            (
                "kn.k8s.client.http.response.status_code",
                "{item}",
                "counter",
            ),
        ];
        assert_eq!(summary(&metrics.snapshot(&requests)), expected);
    }

    /// The last push of a process that ends.
    #[test]
    fn a_flush_reaches_the_collector() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default());
        runtime.unwrap().block_on(flush_to_a_collector());
    }

    async fn flush_to_a_collector() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut observability = Observability::default();
        observability.metrics.protocol = "http/protobuf".to_owned();
        observability.metrics.endpoint =
            format!("http://{}/v1/metrics", listener.local_addr().unwrap());
        let identity = Identity {
            service: "autoscaler",
            version: "1",
            namespace: "knative-serving",
            pod: "autoscaler-0",
        };
        let no_variables: &[(&str, &str)] = &[];
        let push = MetricPush::new(&no_variables, &observability, identity.resource());
        let push = push.unwrap().expect("a protocol of OTLP");
        let (metrics, requests) = measured();
        let collect = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            let wanted = b"kn.k8s.client.http.response.status_code";
            while !received.windows(wanted.len()).any(|part| part == wanted) {
                assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            received
        };
        let limit = Duration::from_secs(10);
        let flush = push.flush(metrics.snapshot(&requests), limit);
        let ((), received) = tokio::join!(flush, collect);
        let text = String::from_utf8_lossy(&received);
        assert!(text.starts_with("POST /v1/metrics HTTP/1.1"), "{text}");
        assert!(text.contains("autoscaler-0"), "{text}");
    }
}
