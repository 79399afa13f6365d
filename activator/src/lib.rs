//! Knative Serving's activator: holds requests for revisions without ready pods, has them woken,
//! and releases, balances and routes the requests once there is somewhere to send them.
//!
//! The world comes in as plain [`Update`]s on a bounded channel; requests come in through
//! a [`serving::server`] or straight from a caller in the same process. [`new`] makes the two
//! halves: an [`Activator`] that answers requests and a [`Driver`] that keeps its picture of the
//! world. Both belong to one `LocalRuntime`; [`threads`] has others serve with them. Nothing in the default parts knows Kubernetes; the
//! watches live behind the feature `kubernetes`.
//!
//! # Where this differs from upstream on purpose
//!
//! Numbers are those of the table of edge cases that the tests name (`edge_case_<number>`).
//!
//! - Queues are bounded, per revision and in all ([`Limits`]); past a bound the answer is 503 with
//!   `Retry-After` (16, 17: the defaults are above upstream's nominal depth).
//! - A request is bound to a pod when a slot is free there, under one lock: there is no revision
//!   breaker beside the pods' own, so requests that still run on a pod that left do not keep another
//!   pod's slot from a waiter (18 holds for the ClusterIP).
//! - A pod that takes no connection is left for another one, if there is any (13), and is out of
//!   rotation until a probe passes again (76). So is one that ends connections without an answer or
//!   is silent for [`options::MAX_SILENCE`].
//! - A queue-proxy of ours that is full says so, and a request without a body or with a small one
//!   goes to another pod.
//! - A timeout after the response has begun aborts the stream instead of appending a text (47).
//! - A tunnel ends at the total timeout, not at the shortest of the three (46), and is awaited when
//!   draining.
//! - The ClusterIP is given up at scale to zero, so that direct addressing gets another chance (30).
//! - Each probe is acted on by itself, and one that timed out gets more time (33); an address that
//!   moves from ready to not ready stays in rotation until its new probe has failed (26).
//! - Who waits for a revision that is deleted is told at once (500) instead of at its timeout.
//! - A client that hangs up is noticed although its request's body is unread (51).
//! - `server_address` and `server_port` are no labels: a client chooses them.
//! - Errors made here carry their reason in a header of ours, and are counted by it.

pub mod activator;
pub mod affinity;
pub mod annotations;
pub mod backends;
pub mod capacity;
pub mod cold_start;
pub mod concurrency_reporter;
pub mod config;
pub mod driver;
pub mod endpoints;
pub mod error;
pub mod exchange;
#[cfg(feature = "otel")]
pub mod export;
pub mod http_metrics;
pub mod ingress;
pub mod internal_tls;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod metrics;
pub mod options;
pub mod picker;
pub mod pod_tracker;
pub mod private_service;
pub mod probe_handler;
mod prober;
mod proxy;
pub mod queue_budget;
mod replay;
pub mod request_log;
pub mod retry_budget;
pub mod revision_lookup;
pub mod revision_throttler;
mod spans;
pub mod stat_sink;
mod stowed;
pub mod table;
pub mod threads;
pub mod trackers;
mod upstreams;
pub mod world;

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use prometheus_client::registry::Registry;
use serving::AnchoredClock;
use serving::server::ServerOptions;
use serving::upgrade::Tunnels;
use tokio::sync::{mpsc, watch};

pub use crate::activator::{Activator, ActivatorBody};
pub use crate::driver::Driver;
pub use crate::options::{Limits, MeshMode, Options, ProbeOptions, RevisionSnapshot};
pub use crate::world::{Backends, Protocol, PublicEndpoints, Revision, UPDATES_CAPACITY, Update};

/// Notices from traffic that may wait for the driver; more are dropped, for traffic repeats itself.
const NOTICES_CAPACITY: usize = 1024;

/// How a server serves in front of an [`Activator`]: what it lets HTTP/2 clients send of bodies that
/// wait is what is counted as held.
pub fn server_options() -> ServerOptions {
    ServerOptions {
        stream_window: options::STREAM_WINDOW,
        ..ServerOptions::default()
    }
}

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
    let common = activator::Common {
        clock: AnchoredClock::new(),
        table: table::Table::default(),
        reporter: concurrency_reporter::ConcurrencyReporter::new(),
        sink,
        metrics: metrics::Metrics::register(registry),
        budget: queue_budget::QueueBudget::new(options.limits),
        notices,
        draining: AtomicBool::new(false),
        request_log: request_log::RequestLogger::default(),
        signer: affinity::Signer::new(options.affinity_secret.bytes()),
        listed: watch::Sender::default(),
        options,
    };
    let shared = Rc::new(activator::Shared {
        upstreams: Rc::new(upstreams::Upstreams::new(&common.options, None)),
        common: Arc::new(common),
        tunnels: Tunnels::new(),
        tracing: OnceCell::new(),
    });
    let driver = Driver::new(Rc::clone(&shared), updates, notices_received, connection);
    (Activator::new(shared), driver)
}

#[cfg(test)]
mod tests;
