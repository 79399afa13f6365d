//! What an activator is started with: a plain struct, passed down by value.
//!
//! The binary fills it from the environment and ConfigMaps, `pilotlight` from its flags. Every
//! limit has a default and says whose it is.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use serving::RevisionId;
pub use serving::config::network::MeshCompatibilityMode as MeshMode;

use crate::internal_tls::InternalTls;

/// Upstream's `PROBE_TIMEOUT`.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// Upstream's `PROBE_FREQUENCY`.
pub const PROBE_FREQUENCY: Duration = Duration::from_millis(200);
/// Upstream's queue is unbounded in practice (its nominal depth of 10,000 is added to 2^31). Twice
/// that depth holds upstream's own load tests and, at 16 kB a request, fits its memory limit.
pub const MAX_QUEUED_PER_REVISION: usize = 20_000;
/// Above twice this, more memory than upstream's deployment grants would be waiting.
pub const MAX_QUEUED: usize = 40_000;
/// What may wait for one revision: half of what may wait in all.
pub const MAX_QUEUED_BYTES_PER_REVISION: usize = 128 << 20;
/// Half of what upstream's deployment grants the process.
pub const MAX_QUEUED_BYTES: usize = 256 << 20;
/// Bodies up to this are kept until the queue-proxy has taken the request, so that it can be sent to
/// another one. Larger ones stay with the client until a queue-proxy reads them.
pub const MAX_REPLAYED_BODY: usize = 16 << 10;
/// What an HTTP/2 client may send of a body before anybody reads it, for each stream: it counts as
/// held while the stream waits. Upstream's is 1 MiB.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// How often a request that a full queue-proxy did not start is sent to another pod.
pub const MAX_REDISPATCHES: u32 = 8;
/// How often a request is sent to another pod after a connection could not be made.
pub const MAX_CONNECT_RETRIES: u32 = 2;
/// How long a pod's kernel may be silent before its connections count as broken. Shorter than what a
/// client or a gateway waits, and longer than a lost packet and its first repetitions take on any
/// network that is usable.
pub const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Upstream's `DefaultDrainTimeout`.
pub const DRAIN: Duration = Duration::from_secs(45);

/// How backends are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeOptions {
    /// How long one probe may take; grows for destinations that time out, see
    /// [`crate::backends`].
    pub timeout: Duration,
    /// The pause before a failed probe is repeated.
    pub frequency: Duration,
    /// See [`MeshMode`].
    pub mesh_mode: MeshMode,
    /// `enable-mesh-pod-addressability`: pods are reached through the mesh by a passthrough
    /// header, and the ClusterIP is never used.
    pub mesh_pod_addressability: bool,
}

/// What may wait, and how often a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one revision that wait for a slot.
    pub max_queued_per_revision: usize,
    /// Requests of all revisions that wait for a slot; the last tenth is for revisions with short
    /// queues.
    pub max_queued: usize,
    /// What the requests of one revision may hold while they wait: their heads, and as much of
    /// their bodies as arrives before it is asked for.
    pub max_queued_bytes_per_revision: usize,
    /// The same for all revisions together; the last tenth is for revisions with short queues.
    pub max_queued_bytes: usize,
    /// How long a request may wait, if that is to be less than its revision's timeout.
    pub max_wait: Option<Duration>,
    /// See [`MAX_REPLAYED_BODY`]; 0 keeps none.
    pub max_replayed_body: usize,
    /// See [`MAX_REDISPATCHES`].
    pub max_redispatches: u32,
    /// See [`MAX_CONNECT_RETRIES`].
    pub max_connect_retries: u32,
}

/// Everything an [`crate::Activator`] is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `POD_NAME`, sent with every stat.
    pub pod_name: String,
    /// `POD_IP` as Endpoints spell it: finds this activator among those in a revision's path.
    pub pod_ip: String,
    /// `ws://autoscaler.<SYSTEM_NAMESPACE>.svc.<domain>:8080` or any other stat server.
    /// `None`: nothing is reported and health does not depend on it.
    pub autoscaler_url: Option<String>,
    /// The cluster's domain, for requests that name a revision only by Host.
    pub cluster_domain: String,
    /// See [`ProbeOptions`].
    pub probe: ProbeOptions,
    /// See [`Limits`].
    pub limits: Limits,
    /// Idle HTTP/1 connections to all destinations (`MAX_IDLE_PROXY_CONNS`).
    pub max_idle_connections: usize,
    /// Idle HTTP/1 connections to one destination (`MAX_IDLE_PROXY_CONNS_PER_HOST`).
    pub max_idle_connections_per_destination: usize,
    /// See [`MAX_SILENCE`], and [`serving::pool::UpstreamOptions::max_silence`] for its exceptions.
    pub max_silence: Duration,
    /// How long health fails before listeners close.
    pub drain: Duration,
    /// Signs the cookies of sessions; see [`crate::affinity`].
    pub affinity_secret: Secret,
    /// Where other activators listen.
    pub peer_port: u16,
    /// Whether responses to requests that were held say for how long.
    pub held_header: bool,
    /// `system-internal-tls`: requests reach queue-proxies through TLS.
    pub internal_tls: Option<InternalTls>,
}

/// What `snapshot` tells of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionSnapshot {
    /// Namespace and name.
    pub id: RevisionId,
    /// Requests that wait for a slot.
    pub queued: usize,
    /// What they hold, in bytes.
    pub queued_bytes: usize,
    /// Requests that are being proxied.
    pub in_flight: usize,
    /// Slots on this activator; [`crate::capacity::MAX_CAPACITY`] stands for no limit.
    pub capacity: u64,
    /// Destinations in rotation, sorted, with the requests in flight at each.
    pub destinations: Vec<(std::net::SocketAddr, u32)>,
    /// Whether requests go through the private Service's ClusterIP.
    pub through_cluster_ip: bool,
}

/// Bytes that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

// === impl Secret ===

impl Secret {
    /// A given one.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// One that nobody else has, so that it is good for one process.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.expect("the operating system has random bytes");
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

// === impl ProbeOptions ===

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            timeout: PROBE_TIMEOUT,
            frequency: PROBE_FREQUENCY,
            mesh_mode: MeshMode::Auto,
            mesh_pod_addressability: false,
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_queued_per_revision: MAX_QUEUED_PER_REVISION,
            max_queued: MAX_QUEUED,
            max_queued_bytes_per_revision: MAX_QUEUED_BYTES_PER_REVISION,
            max_queued_bytes: MAX_QUEUED_BYTES,
            max_wait: None,
            max_replayed_body: MAX_REPLAYED_BODY,
            max_redispatches: MAX_REDISPATCHES,
            max_connect_retries: MAX_CONNECT_RETRIES,
        }
    }
}

// === impl Options ===

impl Options {
    /// Upstream's defaults for an activator of this name and address.
    pub fn new(pod_name: impl Into<String>, pod_ip: impl Into<String>) -> Self {
        Self {
            pod_name: pod_name.into(),
            pod_ip: pod_ip.into(),
            autoscaler_url: None,
            cluster_domain: "cluster.local".to_owned(),
            probe: ProbeOptions::default(),
            limits: Limits::default(),
            max_idle_connections: 1000,
            max_idle_connections_per_destination: 100,
            max_silence: MAX_SILENCE,
            drain: DRAIN,
            affinity_secret: Secret::random(),
            peer_port: serving::networking::BACKEND_HTTP_PORT,
            held_header: false,
            internal_tls: None,
        }
    }
}
