//! Upgraded connections: raw tunnels that outlive their request.
use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::body::Guard;

/// Both ends of an accepted upgrade.
#[derive(Debug)]
pub struct Upgrade {
    pub(crate) _client: OnUpgrade,
    pub(crate) _app: OnUpgrade,
    pub(crate) _websocket: bool,
}

/// The running tunnels of one server; clones share. `!Send`.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    _state: Rc<()>,
}

impl Tunnels {
    pub fn new() -> Self {
        Self::default()
    }
    /// Runs a tunnel until both directions have ended or `deadline`; `guard` is told and dropped then.
    pub fn spawn<G: Guard>(&self, _upgrade: Upgrade, _deadline: Option<Instant>, _guard: G) {
        todo!()
    }
    pub fn active(&self) -> usize {
        todo!()
    }
    /// The latest deadline among running tunnels.
    pub fn latest_deadline(&self) -> Option<Instant> {
        todo!()
    }
    /// Ends when no tunnel runs.
    pub async fn closed(&self) {
        todo!()
    }
    /// Ends every tunnel: WebSockets with close frame 1001 at a frame boundary, others plainly.
    pub fn close(&self) {
        todo!()
    }
}
