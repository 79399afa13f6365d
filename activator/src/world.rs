//! What the activator knows of the world, as plain updates on one bounded channel.
//!
//! A cluster's watches or the one-machine platform write them; [`crate::Driver`] applies them in
//! order. Nothing here knows where they come from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serving::RevisionId;

use crate::affinity::Affinity;

/// How many updates may wait to be applied; a writer that is faster waits.
pub const UPDATES_CAPACITY: usize = 1024;

/// The protocol of a revision's first port. It names the port in Endpoints; what is spoken to a
/// pod follows each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Port name `http`, normally 8012.
    #[default]
    Http1,
    /// Port name `http2`, normally 8013.
    H2c,
}

/// What the request path needs of a Revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Namespace and name; everybody who keeps them keeps these.
    pub id: Arc<RevisionId>,
    /// Requests that one pod executes at a time; 0 = unlimited.
    pub container_concurrency: u32,
    /// Of the serving container's first port.
    pub protocol: Protocol,
    /// `spec.timeoutSeconds`; counts from the request's arrival, so a cold start uses it up too.
    pub timeout: Duration,
    /// `spec.responseStartTimeoutSeconds`.
    pub response_start_timeout: Option<Duration>,
    /// `spec.idleTimeoutSeconds`.
    pub idle_timeout: Option<Duration>,
    /// Label `serving.knative.dev/service`; empty when there is none.
    pub service: String,
    /// Label `serving.knative.dev/configuration`; empty when there is none.
    pub configuration: String,
    /// Annotation `features.knative.dev/http-full-duplex`.
    pub full_duplex: bool,
    /// Annotation `pilotlight.dev/session-affinity`.
    pub affinity: Option<Affinity>,
    /// Annotation `pilotlight.dev/max-wait`: how long a request may wait for a pod.
    pub max_wait: Option<Duration>,
    /// Whether a pod may be used as soon as its queue-proxy says so, before Kubernetes does:
    /// false with exec readiness probes and with startup probes.
    pub probe_optimization: bool,
}

/// The listed addresses of a revision's private Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Pods that the platform calls ready.
    pub ready: Vec<SocketAddr>,
    /// Pods that it does not call ready (yet).
    pub not_ready: Vec<SocketAddr>,
    /// The Service's own address, for meshes that hide the pods.
    pub cluster_ip: Option<SocketAddr>,
}

/// The activators in a revision's path: ready addresses of its public Endpoints, sorted by bytes,
/// without ports. Ignored unless this activator is among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicEndpoints {
    /// Addresses as the platform spells them. Shared, as many revisions have the same ones.
    pub addresses: Arc<[String]>,
}

/// One change of the world. The order among updates of one revision matters, except that
/// endpoints may come before their Revision: they are kept until it does.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A Revision was created or changed.
    Revision(Revision),
    /// A Revision is gone; requests that wait for it are refused.
    RevisionDeleted(RevisionId),
    /// The pods of a revision changed.
    Backends(RevisionId, Backends),
    /// The private Endpoints are gone: forget what probing learned.
    BackendsDeleted(RevisionId),
    /// The activators of a revision changed.
    PublicEndpoints(RevisionId, PublicEndpoints),
}

// === impl Protocol ===

impl Protocol {
    /// The name of the port in Endpoints and Services.
    pub const fn port_name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::H2c => "http2",
        }
    }
}

// === impl Backends ===

impl Backends {
    /// Whether the revision is at zero.
    pub fn has_no_pods(&self) -> bool {
        self.ready.is_empty() && self.not_ready.is_empty()
    }
}

// === impl Revision ===

impl Revision {
    /// A revision with upstream's defaults: unlimited, HTTP/1, 300 seconds, no labels.
    pub fn new(id: impl Into<Arc<RevisionId>>) -> Self {
        Self {
            id: id.into(),
            container_concurrency: 0,
            protocol: Protocol::Http1,
            timeout: Duration::from_secs(300),
            response_start_timeout: None,
            idle_timeout: None,
            service: String::new(),
            configuration: String::new(),
            full_duplex: false,
            affinity: None,
            max_wait: None,
            probe_optimization: true,
        }
    }
}
