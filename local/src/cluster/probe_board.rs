//! Where the public service of each revision leads, for the autoscaler's activator probe.
//!
//! Written by the cluster on its own thread, read wherever the autoscaler probes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use autoscaler::pod_autoscaler::PodAutoscaler;
use autoscaler::world::{ProbeTarget, ProbeTargets};
use parking_lot::Mutex;
use serving::RevisionId;

/// Clones share.
#[derive(Clone, Debug, Default)]
pub struct ProbeBoard {
    leads_to: Arc<Mutex<HashMap<RevisionId, SocketAddr>>>,
}

// === impl ProbeBoard ===

impl ProbeBoard {
    /// Notes where requests to the revision's public service arrive.
    pub fn set(&self, id: &RevisionId, address: SocketAddr) {
        self.leads_to.lock().insert(id.clone(), address);
    }

    /// Forgets a revision.
    pub fn forget(&self, id: &RevisionId) {
        self.leads_to.lock().remove(id);
    }

    /// The lookup that the autoscaler is given.
    pub fn targets(&self) -> ProbeTargets {
        let board = self.clone();
        Arc::new(move |object: &PodAutoscaler| {
            let address = *board.leads_to.lock().get(&object.id)?;
            Some(ProbeTarget {
                address: address.to_string(),
                host: format!(
                    "{}.{}.svc.cluster.local",
                    object.id.name, object.id.namespace
                ),
            })
        })
    }
}
