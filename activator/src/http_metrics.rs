//! OpenTelemetry's HTTP histograms of requests that were routed to a revision, and of those that were
//! sent to its pods.
//!
//! A revision keeps the children it has used, so a request takes its own revision's short lock and
//! builds no labels. `server_address` and `server_port`, which upstream fills with whatever Host a
//! client sends, are left out: no label is of a client's making.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, StatusCode, Version};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use serving::forward;
use serving::histogram::{BYTES, Histogram, SECONDS};
use serving::http_metrics::{MAX_SERIES, OVERFLOW, method_name, version_name};

use crate::world::Revision;

/// What the labels need of a request, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    kind: Kind,
    /// In which it goes to a pod.
    sent: Version,
    request_bytes: u64,
}

/// What is the same for many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    method: &'static str,
    version: Version,
    tls: bool,
}

/// What is empty is as good as absent to Prometheus, and not pushed.
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientLabels {
    /// Empty when there was an answer.
    error_type: &'static str,
    http_request_method: &'static str,
    /// Empty when there was none.
    http_response_status_code: String,
    k8s_namespace_name: String,
    kn_configuration_name: String,
    kn_revision_name: String,
    kn_service_name: String,
    network_protocol_name: &'static str,
    network_protocol_version: &'static str,
    server_address: String,
    server_port: u16,
    url_scheme: &'static str,
}

/// How an exchange with a pod went: the status, or the type of the error.
pub type Exchanged = Result<StatusCode, &'static str>;

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The histograms of all revisions.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    duration: Histograms<Labels>,
    request_size: Histograms<Labels>,
    response_size: Histograms<Labels>,
    client_duration: Histograms<ClientLabels>,
    client_request_size: Histograms<ClientLabels>,
    /// Of all revisions: pods come and go, so their number is limited.
    client_series: Arc<AtomicUsize>,
    /// Of requests for no revision that is known.
    unrouted: Arc<RevisionHttpMetrics>,
}

/// The children that one revision has used.
#[derive(Debug, Default)]
pub struct RevisionHttpMetrics {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Boxed: most revisions have no requests.
    children: Option<Box<Children>>,
    /// The revision is gone: its last responses bring nothing back.
    gone: bool,
}

#[derive(Debug, Default)]
struct Children {
    server: Vec<Child>,
    /// There are as many as pods, times a few.
    client: HashMap<ClientKey, ClientChild>,
}

/// The pod is `None` for those that are too many.
type ClientKey = (Option<SocketAddr>, Kind, Exchanged);

#[derive(Debug)]
struct Child {
    kind: Kind,
    status: StatusCode,
    labels: Labels,
    duration: Histogram,
    request_size: Histogram,
    response_size: Histogram,
}

#[derive(Debug)]
struct ClientChild {
    #[cfg_attr(
        not(feature = "otel"),
        expect(dead_code, reason = "only an exporter asks")
    )]
    exchanged: Exchanged,
    labels: ClientLabels,
    duration: Histogram,
    request_size: Histogram,
}

// === impl Facts ===

impl Facts {
    /// Of a request as it came in.
    pub fn of<B>(request: &Request<B>, tls: bool) -> Self {
        let length = request.headers().get(http::header::CONTENT_LENGTH);
        Self {
            kind: Kind {
                method: method_name(request.method()),
                version: request.version(),
                tls,
            },
            sent: forward::version(request),
            request_bytes: length
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .unwrap_or(0),
        }
    }
}

// === impl Kept ===

impl Kept {
    fn children(&mut self) -> Option<&mut Children> {
        (!self.gone).then(|| &mut **self.children.get_or_insert_default())
    }
}

// === impl HttpMetrics ===

impl HttpMetrics {
    /// Adds the histograms to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            duration: family(
                registry,
                "http_server_request_duration",
                "Duration of HTTP server requests",
                Unit::Seconds,
                || Histogram::new(SECONDS),
            ),
            request_size: family(
                registry,
                "http_server_request_body_size",
                "Size of HTTP server request bodies",
                Unit::Bytes,
                || Histogram::new(BYTES),
            ),
            response_size: family(
                registry,
                "http_server_response_body_size",
                "Size of HTTP server response bodies",
                Unit::Bytes,
                || Histogram::new(BYTES),
            ),
            client_duration: family(
                registry,
                "http_client_request_duration",
                "Duration of HTTP client requests",
                Unit::Seconds,
                || Histogram::new(SECONDS),
            ),
            client_request_size: family(
                registry,
                "http_client_request_body_size",
                "Size of HTTP client request bodies",
                Unit::Bytes,
                || Histogram::new(BYTES),
            ),
            client_series: Arc::default(),
            unrouted: Arc::default(),
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
        self.answered(of, Some(revision), facts, (status, response_bytes), elapsed);
    }

    /// A request was answered that belongs to no revision: it is measured without the labels of one.
    pub fn refused(
        &self,
        facts: Facts,
        status: StatusCode,
        response_bytes: u64,
        elapsed: Duration,
    ) {
        let answer = (status, response_bytes);
        self.answered(&self.unrouted, None, facts, answer, elapsed);
    }

    fn answered(
        &self,
        of: &RevisionHttpMetrics,
        revision: Option<&Revision>,
        facts: Facts,
        (status, response_bytes): (StatusCode, u64),
        elapsed: Duration,
    ) {
        let mut kept = of.kept.lock();
        let Some(children) = kept.children() else {
            return;
        };
        let children = &mut children.server;
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

    /// A pod answered with a head, or did not.
    pub fn exchanged(
        &self,
        of: &RevisionHttpMetrics,
        revision: &Revision,
        facts: Facts,
        dest: SocketAddr,
        exchanged: Exchanged,
        elapsed: Duration,
    ) {
        let mut kept = of.kept.lock();
        let Some(children) = kept.children() else {
            return;
        };
        let children = &mut children.client;
        let kind = Kind {
            version: facts.sent,
            ..facts.kind
        };
        let mut key = (Some(dest), kind, exchanged);
        if let Some(child) = children.get(&key) {
            child.observe(facts, elapsed);
            return;
        }
        if self.client_series.load(Ordering::Relaxed) >= MAX_SERIES {
            key.0 = None;
        }
        let child = children.entry(key).or_insert_with(|| {
            self.client_series.fetch_add(1, Ordering::Relaxed);
            self.client_child(revision, kind, key.0, exchanged)
        });
        child.observe(facts, elapsed);
    }

    /// A pod is gone.
    pub fn forget_pod(&self, of: &RevisionHttpMetrics, dest: SocketAddr) {
        if let Some(children) = &mut of.kept.lock().children {
            // Whatever the port: with TLS requests go to another one than the listed.
            children.client.retain(|(of, ..), child| {
                let stays = of.is_none_or(|it| it.ip() != dest.ip());
                if !stays {
                    self.remove_client(child);
                }
                stays
            });
        }
    }

    /// Forgets a revision's series.
    pub fn remove(&self, of: &RevisionHttpMetrics) {
        let gone = Kept {
            children: None,
            gone: true,
        };
        let kept = std::mem::replace(&mut *of.kept.lock(), gone);
        let Some(children) = kept.children else {
            return;
        };
        for child in children.server {
            for family in [&self.duration, &self.request_size, &self.response_size] {
                family.remove(&child.labels);
            }
        }
        for child in children.client.values() {
            self.remove_client(child);
        }
    }

    fn remove_client(&self, child: &ClientChild) {
        self.client_series.fetch_sub(1, Ordering::Relaxed);
        for family in [&self.client_duration, &self.client_request_size] {
            family.remove(&child.labels);
        }
    }

    fn client_child(
        &self,
        revision: &Revision,
        kind: Kind,
        dest: Option<SocketAddr>,
        exchanged: Exchanged,
    ) -> ClientChild {
        let status = exchanged.map(|status| status.as_u16().to_string());
        let labels = ClientLabels {
            error_type: exchanged.err().unwrap_or_default(),
            http_request_method: kind.method,
            http_response_status_code: status.unwrap_or_default(),
            k8s_namespace_name: revision.id.namespace.clone(),
            kn_configuration_name: revision.configuration.clone(),
            kn_revision_name: revision.id.name.clone(),
            kn_service_name: revision.service.clone(),
            network_protocol_name: "http",
            network_protocol_version: version_name(kind.version),
            server_address: dest.map_or_else(|| OVERFLOW.to_owned(), |it| it.ip().to_string()),
            server_port: dest.map_or(0, |it| it.port()),
            url_scheme: "http",
        };
        ClientChild {
            exchanged,
            duration: self.client_duration.get_or_create_owned(&labels),
            request_size: self.client_request_size.get_or_create_owned(&labels),
            labels,
        }
    }

    fn child(&self, revision: Option<&Revision>, kind: Kind, status: StatusCode) -> Child {
        let of = |label: fn(&Revision) -> &String| revision.map(label).cloned().unwrap_or_default();
        let labels = Labels {
            http_request_method: kind.method,
            http_response_status_code: status.as_u16(),
            k8s_namespace_name: of(|it| &it.id.namespace),
            kn_configuration_name: of(|it| &it.configuration),
            kn_revision_name: of(|it| &it.id.name),
            kn_service_name: of(|it| &it.service),
            network_protocol_name: "http",
            network_protocol_version: version_name(kind.version),
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

// === impl ClientChild ===

impl ClientChild {
    fn observe(&self, facts: Facts, elapsed: Duration) {
        self.duration.observe(elapsed.as_secs_f64());
        self.request_size.observe(facts.request_bytes as f64);
    }
}

fn family<L>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Unit,
    new: fn() -> Histogram,
) -> Histograms<L>
where
    L: EncodeLabelSet + Clone + std::fmt::Debug + Eq + std::hash::Hash + Send + Sync + 'static,
{
    let family = Family::new_with_constructor(new);
    registry.register_with_unit(name, help, unit, Family::clone(&family));
    family
}

#[cfg(feature = "otel")]
mod push {
    //! The same histograms as an export has them.

    use serving::otlp::{Instrument, MetricSnapshot, Point, Series};
    use serving::trace::Attribute;

    use super::{Child, ClientChild, Histogram, HttpMetrics, RevisionHttpMetrics};

    /// The instruments, in the order of [`Points`].
    const INSTRUMENTS: [Instrument; 5] = [
        Instrument {
            name: "http.server.request.duration",
            description: "Duration of HTTP server requests.",
            unit: "s",
        },
        Instrument {
            name: "http.server.request.body.size",
            description: "Size of HTTP server request bodies.",
            unit: "By",
        },
        Instrument {
            name: "http.server.response.body.size",
            description: "Size of HTTP server response bodies.",
            unit: "By",
        },
        Instrument {
            name: "http.client.request.duration",
            description: "Duration of HTTP client requests.",
            unit: "s",
        },
        Instrument {
            name: "http.client.request.body.size",
            description: "Size of HTTP client request bodies.",
            unit: "By",
        },
    ];

    /// The series of each instrument.
    #[derive(Debug, Default)]
    pub(crate) struct Points([Vec<Point<Histogram>>; 5]);

    // === impl Points ===

    impl Points {
        /// Adds a revision's.
        pub(crate) fn add(&mut self, of: &RevisionHttpMetrics) {
            let kept = of.kept.lock();
            let Some(children) = &kept.children else {
                return;
            };
            let [duration, request, response, client, client_request] = &mut self.0;
            for child in &children.server {
                let attributes = child.attributes();
                let point = |value: &Histogram| Point {
                    attributes: attributes.clone(),
                    value: value.clone(),
                };
                duration.push(point(&child.duration));
                request.push(point(&child.request_size));
                response.push(point(&child.response_size));
            }
            for child in children.client.values() {
                let attributes = child.attributes();
                let point = |value: &Histogram| Point {
                    attributes: attributes.clone(),
                    value: value.clone(),
                };
                client.push(point(&child.duration));
                client_request.push(point(&child.request_size));
            }
        }

        /// Adds those of no revision.
        pub(crate) fn add_unrouted(&mut self, metrics: &HttpMetrics) {
            self.add(&metrics.unrouted);
        }

        /// All of them.
        pub(crate) fn into_metrics(self) -> Vec<MetricSnapshot> {
            INSTRUMENTS
                .into_iter()
                .zip(self.0)
                .map(|(instrument, points)| MetricSnapshot {
                    instrument,
                    series: Series::Histogram(points),
                })
                .collect()
        }
    }

    impl Child {
        fn attributes(&self) -> Vec<Attribute> {
            let labels = &self.labels;
            let mut attributes = vec![
                Attribute::new("http.request.method", labels.http_request_method),
                Attribute::new(
                    "http.response.status_code",
                    labels.http_response_status_code,
                ),
                Attribute::new("network.protocol.name", labels.network_protocol_name),
                Attribute::new("network.protocol.version", labels.network_protocol_version),
                Attribute::new("url.scheme", labels.url_scheme),
            ];
            if !labels.kn_revision_name.is_empty() {
                attributes.extend([
                    Attribute::new("k8s.namespace.name", labels.k8s_namespace_name.clone()),
                    Attribute::new(
                        "kn.configuration.name",
                        labels.kn_configuration_name.clone(),
                    ),
                    Attribute::new("kn.revision.name", labels.kn_revision_name.clone()),
                    Attribute::new("kn.service.name", labels.kn_service_name.clone()),
                ]);
            }
            attributes
        }
    }

    impl ClientChild {
        fn attributes(&self) -> Vec<Attribute> {
            let labels = &self.labels;
            let mut attributes = vec![
                Attribute::new("http.request.method", labels.http_request_method),
                Attribute::new("k8s.namespace.name", labels.k8s_namespace_name.clone()),
                Attribute::new(
                    "kn.configuration.name",
                    labels.kn_configuration_name.clone(),
                ),
                Attribute::new("kn.revision.name", labels.kn_revision_name.clone()),
                Attribute::new("kn.service.name", labels.kn_service_name.clone()),
                Attribute::new("network.protocol.name", labels.network_protocol_name),
                Attribute::new("network.protocol.version", labels.network_protocol_version),
                Attribute::new("server.address", labels.server_address.clone()),
                Attribute::new("server.port", labels.server_port),
                Attribute::new("url.scheme", labels.url_scheme),
            ];
            attributes.push(match self.exchanged {
                Ok(status) => Attribute::new("http.response.status_code", status.as_u16()),
                Err(error) => Attribute::new("error.type", error),
            });
            attributes
        }
    }
}

#[cfg(feature = "otel")]
pub(crate) use self::push::Points;

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
        let dest = |last| SocketAddr::from(([10, 0, 0, last], 8012));
        let elapsed = Duration::from_millis(20);
        let answered = Ok(StatusCode::OK);
        metrics.exchanged(&of, &revision, facts, dest(1), answered, elapsed);
        metrics.exchanged(&of, &revision, facts, dest(2), Err("net.OpError"), elapsed);
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
        let client = "http_client_request_duration_seconds_count";
        let address = "server_address=\"10.0.0.2\",server_port=\"8012\"";
        let has = |text: &str| {
            let mut lines = text.lines().filter(|it| it.starts_with(client));
            lines.any(|it| it.contains(address) && it.contains("error_type=\"net.OpError\""))
        };
        assert!(has(&text), "{text}");
        metrics.forget_pod(&of, dest(2));
        text.clear();
        encode(&mut text, &registry).unwrap();
        assert!(!has(&text), "{text}");
        assert_eq!(metrics.client_series.load(Ordering::Relaxed), 1);
        metrics.remove(&of);
        text.clear();
        encode(&mut text, &registry).unwrap();
        assert!(!text.contains("hello-00001"), "{text}");
    }

    /// Pods beyond the limit share a series per revision.
    #[test]
    fn pods_are_bounded() {
        let mut registry = Registry::default();
        let metrics = HttpMetrics::register(&mut registry);
        let of = RevisionHttpMetrics::default();
        let revision = Revision::new(RevisionId::new("default", "hello-00001"));
        let facts = Facts::of(&Request::get("/").body(()).unwrap(), false);
        for at in 0..MAX_SERIES + 10 {
            let at = u32::try_from(at).unwrap();
            let dest = SocketAddr::from((std::net::Ipv4Addr::from_bits(at), 8012));
            let (answered, elapsed) = (Ok(StatusCode::OK), Duration::ZERO);
            metrics.exchanged(&of, &revision, facts, dest, answered, elapsed);
        }
        let series = metrics.client_series.load(Ordering::Relaxed);
        assert_eq!(series, MAX_SERIES + 1);
        metrics.remove(&of);
        assert_eq!(metrics.client_series.load(Ordering::Relaxed), 0);
    }
}
