//! Knative Serving's queue-proxy: admission, timeouts, probing, statistics and drain in front of
//! one app.
//!
//! [`run`] (or [`QueueProxy`], when its [`Handle`] is wanted) is driven by the `queue-proxy` binary
//! with ports and signals, and by `local` with listeners of its own and several instances in one
//! process. Nothing here is global, and nothing reads the environment but [`Config`].

mod accounting;
mod admin;
pub mod config;
mod endpoint;
mod handle;
mod listeners;
mod metrics;
mod overload;
mod proxy;
mod readiness;
mod request_log;
mod side;
mod stack;
mod statistics;
mod telemetry;
mod tls;

pub use config::{Config, Identity, Options, ProbePacing};
pub use handle::Handle;
pub use listeners::{BindError, Listeners};
pub use proxy::{QueueProxy, StartError, run};
pub use telemetry::{ExportError, TelemetrySettings};
pub use tls::{PolicyError, TlsError, certificates_exist};
