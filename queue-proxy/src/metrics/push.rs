//! The metrics as a push over OTLP has them: the same histograms under OpenTelemetry's own names.

use serving::otlp::{MetricSnapshot, Point, ScopeSnapshot, Series};
use serving::trace::Attribute;

use super::series::{Histograms, LabelSet};
use super::{ClientLabels, Metrics, ServerLabels, StatusLabels};
use crate::telemetry::{HTTP_SCOPE, OWN_SCOPE};

/// Labels as attributes with their types.
trait Attributes {
    fn attributes(self) -> Vec<Attribute>;
}

// === impl Metrics ===

impl Metrics {
    /// Everything that has been observed, read when it is encoded.
    pub(crate) fn snapshot(&self) -> Vec<ScopeSnapshot> {
        let mut own = vec![histogram(
            &self.invocation_duration,
            "kn.serving.invocation.duration",
            "The duration of task execution",
            "s",
        )];
        // A depth that was never recorded is no 0.
        if let Some(depth) = self.queue_depth.as_ref().filter(|_| self.has_depth.get()) {
            own.push(MetricSnapshot::new(
                "kn.serving.queue.depth",
                "Number of current requests in the queue",
                "{request}",
                Series::Gauge(vec![Point {
                    attributes: Vec::new(),
                    value: depth.get(),
                }]),
            ));
        }
        let http = vec![
            histogram(
                &self.server_duration,
                "http.server.request.duration",
                "Duration of HTTP server requests.",
                "s",
            ),
            histogram(
                &self.server_request_size,
                "http.server.request.body.size",
                "Size of HTTP server request bodies.",
                "By",
            ),
            histogram(
                &self.server_response_size,
                "http.server.response.body.size",
                "Size of HTTP server response bodies.",
                "By",
            ),
            histogram(
                &self.client_duration,
                "http.client.request.duration",
                "Duration of HTTP client requests.",
                "s",
            ),
            histogram(
                &self.client_request_size,
                "http.client.request.body.size",
                "Size of HTTP client request bodies.",
                "By",
            ),
        ];
        vec![
            ScopeSnapshot {
                scope: OWN_SCOPE,
                metrics: own,
            },
            ScopeSnapshot {
                scope: HTTP_SCOPE,
                metrics: http,
            },
        ]
    }
}

fn histogram<L: LabelSet + Attributes>(
    histograms: &Histograms<L>,
    name: &'static str,
    description: &'static str,
    unit: &'static str,
) -> MetricSnapshot {
    let overflow = L::overflow();
    let points = histograms.snapshot().into_iter().map(|(labels, value)| {
        let attributes = if labels == overflow {
            vec![Attribute::new("otel.metric.overflow", "true")]
        } else {
            labels.attributes()
        };
        Point { attributes, value }
    });
    let series = Series::Histogram(points.collect());
    MetricSnapshot::new(name, description, unit, series)
}

impl Attributes for StatusLabels {
    fn attributes(self) -> Vec<Attribute> {
        vec![Attribute::new(
            "http.response.status_code",
            self.http_response_status_code,
        )]
    }
}

impl Attributes for ServerLabels {
    fn attributes(self) -> Vec<Attribute> {
        let mut attributes = vec![
            Attribute::new("http.request.method", self.http_request_method),
            Attribute::new("http.response.status_code", self.http_response_status_code),
            Attribute::new("kn.route.tag", self.kn_route_tag),
            Attribute::new("network.protocol.name", self.network_protocol_name),
            Attribute::new("network.protocol.version", self.network_protocol_version),
            Attribute::new("server.address", self.server_address),
            Attribute::new("url.scheme", self.url_scheme),
        ];
        let port = self.server_port.parse::<u16>().ok();
        attributes.extend(port.map(|port| Attribute::new("server.port", port)));
        attributes
    }
}

impl Attributes for ClientLabels {
    fn attributes(self) -> Vec<Attribute> {
        let mut attributes = vec![
            Attribute::new("http.request.method", self.http_request_method),
            Attribute::new("network.protocol.name", self.network_protocol_name),
            Attribute::new("network.protocol.version", self.network_protocol_version),
            Attribute::new("server.address", self.server_address),
            Attribute::new("server.port", self.server_port),
            Attribute::new("url.scheme", self.url_scheme),
        ];
        let status = self.http_response_status_code.parse::<u16>().ok();
        attributes.extend(status.map(|code| Attribute::new("http.response.status_code", code)));
        for (key, value) in [
            ("error.type", self.error_type.into()),
            ("kn.route.tag", self.kn_route_tag),
        ] {
            if !value.is_empty() {
                attributes.push(Attribute::new(key, value));
            }
        }
        attributes
    }
}
