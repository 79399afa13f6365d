//! The one shell around the pure modules: see the crate's documentation.

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::world::{Action, ProbeTargets, RevisionSnapshot, Update};

/// What the driver is started with.
pub struct Options {
    /// How pods are reached; `MeshMode::Disabled` where they are always addressable.
    pub scrape: crate::scraper::Options,
    /// Where activator probes go.
    pub probe_targets: ProbeTargets,
}

/// The driver's ends of the two channels.
pub struct World {
    pub updates: mpsc::Receiver<Update>,
    pub actions: mpsc::Sender<Action>,
}

/// For others to talk to a running driver. Cheap to clone.
#[derive(Clone)]
pub struct Handle { /* .. */ }

impl Handle {
    /// The state of every revision, sorted by id. `None` when the driver has ended.
    pub async fn snapshot(&self) -> Option<Vec<RevisionSnapshot>> { unimplemented!() }
    /// Where [`crate::stat_server::serve`] puts the frames of activators.
    pub fn frames(&self) -> mpsc::Sender<Bytes> { unimplemented!() }
}

impl Autoscaler {
    pub fn new(options: Options, world: World, registry: &mut Registry) -> (Self, Handle) { unimplemented!() }
    /// Runs until `shutdown` is cancelled or the channel of updates is closed. Send; needs a tokio runtime (any flavour).
    pub async fn run(self, shutdown: CancellationToken) { unimplemented!() }
}

// crate::stat_server:
//   pub async fn serve(listener: TcpListener, options: stat_server::Options, frames: mpsc::Sender<Bytes>, shutdown: CancellationToken)
//     options.bucket_owner: Option<Arc<dyn Fn(&str) -> bool + Send + Sync>>  (None: no buckets, one machine)
