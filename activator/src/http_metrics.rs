//! OpenTelemetry's HTTP server histograms of requests that were routed to a revision.
//!
//! A revision keeps the children it has used, so a request takes its own revision's short lock and
//! builds no labels. `server_address` and `server_port`, which upstream fills with whatever Host a
//! client sends, are left out: no label is of a client's making.

use std::time::Duration;

use http::{Method, Request, StatusCode, Version};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use serving::histogram::{BYTES, Histogram, SECONDS};

use crate::world::Revision;

/// What the labels need of a request, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    kind: Kind,
    request_bytes: u64,
}

/// What is the same for many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    method: &'static str,
    version: &'static str,
    tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    http_request_method: &'static str,
    http_response_status_code: u16,
    k8s_namespace_name: String,
    kn_configuration_name: String,
    kn_revision_name: String,
    kn_service_name: String,
    network_protocol_name: &'static str,
    network_protocol_version: &'static str,
    url_scheme: &'static str,
}

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// The histograms of all revisions.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    duration: Histograms,
    request_size: Histograms,
    response_size: Histograms,
}

/// The children that one revision has used.
#[derive(Debug)]
pub struct RevisionHttpMetrics {
    /// `None` once the revision is gone: its last responses bring nothing back.
    children: Mutex<Option<Vec<Child>>>,
}

#[derive(Debug)]
struct Child {
    kind: Kind,
    status: StatusCode,
    labels: Labels,
    duration: Histogram,
    request_size: Histogram,
    response_size: Histogram,
}

// === impl Facts ===

impl Facts {
    /// Of a request as it came in.
    pub fn of<B>(request: &Request<B>, tls: bool) -> Self {
        let length = request.headers().get(http::header::CONTENT_LENGTH);
        Self {
            kind: Kind {
                method: method_name(request.method()),
                version: version_name(request.version()),
                tls,
            },
            request_bytes: length
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .unwrap_or(0),
        }
    }
}

// === impl RevisionHttpMetrics ===

impl Default for RevisionHttpMetrics {
    fn default() -> Self {
        Self {
            children: Mutex::new(Some(Vec::new())),
        }
    }
}

// === impl HttpMetrics ===

impl HttpMetrics {
    /// Adds the histograms to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let mut family = |name, help, unit, new: fn() -> Histogram| {
            let family = Family::new_with_constructor(new);
            registry.register_with_unit(name, help, unit, Family::clone(&family));
            family
        };
        Self {
            duration: family(
                "http_server_request_duration",
                "Duration of HTTP server requests",
                Unit::Seconds,
                || Histogram::new(SECONDS),
            ),
            request_size: family(
                "http_server_request_body_size",
                "Size of HTTP server request bodies",
                Unit::Bytes,
                || Histogram::new(BYTES),
            ),
            response_size: family(
                "http_server_response_body_size",
                "Size of HTTP server response bodies",
                Unit::Bytes,
                || Histogram::new(BYTES),
            ),
        }
    }

    /// A request was answered to its last byte.
    pub fn served(
        &self,
        of: &RevisionHttpMetrics,
        revision: &Revision,
        facts: Facts,
        status: StatusCode,
        response_bytes: u64,
        elapsed: Duration,
    ) {
        let mut children = of.children.lock();
        let Some(children) = children.as_mut() else {
            return;
        };
        let known = children
            .iter()
            .position(|child| child.kind == facts.kind && child.status == status);
        let at = known.unwrap_or_else(|| {
            children.push(self.child(revision, facts.kind, status));
            children.len() - 1
        });
        let child = &children[at];
        child.duration.observe(elapsed.as_secs_f64());
        child.request_size.observe(facts.request_bytes as f64);
        child.response_size.observe(response_bytes as f64);
    }

    /// Forgets a revision's series.
    pub fn remove(&self, of: &RevisionHttpMetrics) {
        for child in of.children.lock().take().into_iter().flatten() {
            for family in [&self.duration, &self.request_size, &self.response_size] {
                family.remove(&child.labels);
            }
        }
    }

    fn child(&self, revision: &Revision, kind: Kind, status: StatusCode) -> Child {
        let labels = Labels {
            http_request_method: kind.method,
            http_response_status_code: status.as_u16(),
            k8s_namespace_name: revision.id.namespace.clone(),
            kn_configuration_name: revision.configuration.clone(),
            kn_revision_name: revision.id.name.clone(),
            kn_service_name: revision.service.clone(),
            network_protocol_name: "http",
            network_protocol_version: kind.version,
            url_scheme: if kind.tls { "https" } else { "http" },
        };
        Child {
            kind,
            status,
            duration: self.duration.get_or_create_owned(&labels),
            request_size: self.request_size.get_or_create_owned(&labels),
            response_size: self.response_size.get_or_create_owned(&labels),
            labels,
        }
    }
}

/// The methods of OpenTelemetry's convention; any other is `_OTHER`.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "CONNECT" => "CONNECT",
        "DELETE" => "DELETE",
        "GET" => "GET",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        "POST" => "POST",
        "PUT" => "PUT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use serving::RevisionId;

    use super::*;

    #[test]
    fn children_are_kept_and_removed() {
        let mut registry = Registry::default();
        let metrics = HttpMetrics::register(&mut registry);
        let of = RevisionHttpMetrics::default();
        let revision = Revision::new(RevisionId::new("default", "hello-00001"));
        let request = Request::post("/").header("content-length", "7").body(());
        let facts = Facts::of(&request.unwrap(), false);
        for _ in 0..2 {
            let elapsed = Duration::from_millis(20);
            metrics.served(&of, &revision, facts, StatusCode::OK, 12, elapsed);
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let labels = "http_request_method=\"POST\",http_response_status_code=\"200\",\
             k8s_namespace_name=\"default\",kn_configuration_name=\"\",\
             kn_revision_name=\"hello-00001\",kn_service_name=\"\",\
             network_protocol_name=\"http\",network_protocol_version=\"1.1\",url_scheme=\"http\"";
        let count = format!("http_server_request_duration_seconds_count{{{labels}}} 2");
        assert!(text.contains(&count), "{text}");
        let size = format!("http_server_request_body_size_bytes_sum{{{labels}}} 14.0");
        assert!(text.contains(&size), "{text}");
        metrics.remove(&of);
        text.clear();
        encode(&mut text, &registry).unwrap();
        assert!(!text.contains("hello-00001"), "{text}");
    }
}
