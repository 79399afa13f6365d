//! The objects of ours as they were last seen, for those who write them: a write needs the
//! resource version and whatever else the object carries.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serving::RevisionId;

use super::objects::{Metric, PodAutoscaler, ServerlessService};

/// Objects by the revision they are about. Clones share them.
#[derive(Debug)]
pub(super) struct Cache<K> {
    objects: Arc<RwLock<HashMap<RevisionId, Arc<K>>>>,
}

/// All three kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    pub(super) pod_autoscalers: Cache<PodAutoscaler>,
    pub(super) metrics: Cache<Metric>,
    pub(super) serverless_services: Cache<ServerlessService>,
}

// === impl Cache ===

impl<K> Cache<K> {
    pub(super) fn get(&self, id: &RevisionId) -> Option<Arc<K>> {
        self.objects.read().get(id).cloned()
    }

    pub(super) fn put(&self, id: RevisionId, object: K) {
        self.objects.write().insert(id, Arc::new(object));
    }

    pub(super) fn remove(&self, id: &RevisionId) {
        self.objects.write().remove(id);
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: Arc::default(),
        }
    }
}
