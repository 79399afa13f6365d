//! The contract that queue-proxy, activator and autoscaler share, byte for byte and count for count:
//! names and wire formats, configuration parsers, accounting, and the proxy hop.
//!
//! Nothing here knows Kubernetes or any of the three programs.

pub mod annotation;
pub mod body;
pub mod breaker;
pub mod clock;
pub mod condition;
pub mod config;
pub mod deadline;
pub mod environment;
pub mod forward;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod go;
pub mod hash;
pub mod header;
pub mod histogram;
pub mod http_metrics;
pub mod lifecycle;
pub mod names;
pub mod networking;
pub mod otlp;
pub mod pool;
pub mod probe_spec;
pub mod request_log;
pub mod request_stats;
pub mod resident;
pub mod resource;
pub mod revision;
pub mod scrape_address;
pub mod server;
pub mod sidecar_environment;
pub mod stat;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod trace_context;
pub mod upgrade;

pub use clock::{AnchoredClock, UnixTime};
pub use revision::RevisionId;
