//! Knative Serving's activator: holds requests for revisions without ready pods, has them woken,
//! and releases, balances and routes the requests once there is somewhere to send them.
//!
//! The world comes in as plain [`Update`]s on a bounded channel; requests come in through
//! a [`serving::server`] or straight from a caller in the same process. [`new`] makes the two
//! halves: an [`Activator`] that answers requests and a [`Driver`] that keeps its picture of the
//! world. Both belong to one `LocalRuntime`. Nothing in the default parts knows Kubernetes; the
//! watches live behind the feature `kubernetes`.

pub mod activator;
pub mod backends;
pub mod capacity;
pub mod concurrency_reporter;
pub mod config;
pub mod driver;
pub mod endpoints;
pub mod error;
pub mod exchange;
pub mod http_metrics;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod metrics;
pub mod options;
pub mod picker;
pub mod pod_tracker;
pub mod private_service;
pub mod probe_handler;
mod prober;
pub mod request_log;
pub mod revision_lookup;
pub mod revision_throttler;
pub mod stat_sink;
pub mod table;
pub mod trackers;
mod upstreams;
pub mod world;

use std::cell::Cell;
use std::rc::Rc;

use prometheus_client::registry::Registry;
use serving::AnchoredClock;
use serving::pool::UpstreamOptions;
use serving::upgrade::Tunnels;
use tokio::sync::mpsc;

pub use crate::activator::{Activator, ActivatorBody};
pub use crate::driver::Driver;
pub use crate::options::{Limits, MeshMode, Options, ProbeOptions, RevisionSnapshot};
pub use crate::world::{Backends, Protocol, PublicEndpoints, Revision, UPDATES_CAPACITY, Update};

/// Notices from traffic that may wait for the driver; more are dropped, for traffic repeats itself.
const NOTICES_CAPACITY: usize = 1024;

/// An activator and its driver. Metrics go to `registry`. Nothing runs before [`Driver::run`] is
/// polled; dropping that ends everything but requests under way.
pub fn new(
    options: Options,
    updates: mpsc::Receiver<Update>,
    registry: &mut Registry,
) -> (Activator, Driver) {
    let (notices, notices_received) = mpsc::channel(NOTICES_CAPACITY);
    let (sink, connection) = options
        .autoscaler_url
        .as_ref()
        .map(stat_sink::stat_sink)
        .unzip();
    let upstream_options = UpstreamOptions {
        max_idle: options.max_idle_connections_per_destination,
        ..UpstreamOptions::default()
    };
    let shared = Rc::new(activator::Shared {
        clock: AnchoredClock::new(),
        table: table::Table::default(),
        reporter: concurrency_reporter::ConcurrencyReporter::new(),
        sink,
        upstreams: upstreams::Upstreams::new(upstream_options),
        metrics: metrics::Metrics::register(registry),
        budget: revision_throttler::QueueBudget::new(options.limits),
        notices,
        tunnels: Tunnels::new(),
        draining: Cell::new(false),
        request_log: request_log::RequestLogger::default(),
        options,
    });
    let driver = Driver::new(Rc::clone(&shared), updates, notices_received, connection);
    (Activator::new(shared), driver)
}

#[cfg(test)]
mod tests;
