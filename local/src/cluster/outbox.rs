//! What the autoscaler and the activator have still to be told.
//!
//! Changes are marked, not queued: however many come, each object is sent once in its latest state,
//! so a slow receiver costs no memory and nobody waits while holding the cluster.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use serving::RevisionId;
use tokio::sync::Notify;

/// The objects of one revision that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The Revision itself, for the activator.
    pub revision: bool,
    /// The PodAutoscaler.
    pub pod_autoscaler: bool,
    /// The Deployment's replicas.
    pub scale_target: bool,
    /// The ServerlessService.
    pub serverless_service: bool,
    /// Pods and endpoints.
    pub pods: bool,
}

/// What to send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The settings of the whole cluster.
    Config,
    /// Objects of a revision.
    Revision(RevisionId, Changed),
}

/// Marks changes and hands them out.
#[derive(Debug, Default)]
pub struct Outbox {
    config: Cell<bool>,
    changed: RefCell<BTreeMap<RevisionId, Changed>>,
    filled: Notify,
}

// === impl Changed ===

impl Changed {
    /// Everything: for a revision that is new.
    pub const ALL: Self = Self {
        revision: true,
        pod_autoscaler: true,
        scale_target: true,
        serverless_service: true,
        pods: true,
    };

    const fn or(self, other: Self) -> Self {
        Self {
            revision: self.revision || other.revision,
            pod_autoscaler: self.pod_autoscaler || other.pod_autoscaler,
            scale_target: self.scale_target || other.scale_target,
            serverless_service: self.serverless_service || other.serverless_service,
            pods: self.pods || other.pods,
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// Marks objects of a revision as changed.
    pub fn mark(&self, id: &RevisionId, changed: Changed) {
        let mut all = self.changed.borrow_mut();
        match all.get_mut(id) {
            Some(before) => *before = before.or(changed),
            None => {
                all.insert(id.clone(), changed);
            }
        }
        self.filled.notify_one();
    }

    /// Marks the settings of the whole cluster as changed.
    pub fn mark_config(&self) {
        self.config.set(true);
        self.filled.notify_one();
    }

    /// What is to be sent next, settings first. Cancel-safe: nothing is taken then.
    pub async fn next(&self) -> Next {
        loop {
            if self.config.replace(false) {
                return Next::Config;
            }
            if let Some((id, changed)) = self.changed.borrow_mut().pop_first() {
                return Next::Revision(id, changed);
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_one_revision_are_handed_out_together() {
        let outbox = Outbox::default();
        let (a, b) = (RevisionId::new("d", "a"), RevisionId::new("d", "b"));
        let pods = Changed {
            pods: true,
            ..Changed::default()
        };
        let scale = Changed {
            scale_target: true,
            ..Changed::default()
        };
        outbox.mark(&b, pods);
        outbox.mark(&a, pods);
        outbox.mark(&a, scale);
        outbox.mark_config();
        assert_eq!(outbox.next().await, Next::Config);
        assert_eq!(outbox.next().await, Next::Revision(a, pods.or(scale)));
        assert_eq!(outbox.next().await, Next::Revision(b.clone(), pods));
        let (next, ()) = tokio::join!(outbox.next(), async { outbox.mark(&b, scale) });
        assert_eq!(next, Next::Revision(b, scale));
    }
}
