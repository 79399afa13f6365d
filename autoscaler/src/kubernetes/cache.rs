//! The objects of ours as they were last seen, for those who write them: a write needs the
//! resource version and whatever else the object carries.
//!
//! They are kept as JSON, a fifth of what the same object takes once its maps and texts are
//! allocated one by one. Thirty thousand are kept and few are ever written, so that reading one
//! again costs less than keeping all.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serving::RevisionId;

use super::objects::{Metric, PodAutoscaler, ServerlessService};

/// Objects by the revision they are about. Clones share them.
#[derive(Debug)]
pub(super) struct Cache<K> {
    objects: Arc<RwLock<HashMap<RevisionId, Box<[u8]>>>>,
    kind: PhantomData<fn() -> K>,
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
    pub(super) fn get(&self, id: &RevisionId) -> Option<K>
    where
        K: DeserializeOwned,
    {
        let objects = self.objects.read();
        let text = objects.get(id)?;
        serde_json::from_slice(text).ok()
    }

    pub(super) fn put(&self, id: RevisionId, object: &K)
    where
        K: Serialize,
    {
        let text = serde_json::to_vec(object).expect("an object that was read can be written");
        self.objects.write().insert(id, text.into_boxed_slice());
    }

    /// Whether there was one.
    pub(super) fn remove(&self, id: &RevisionId) -> bool {
        self.objects.write().remove(id).is_some()
    }

    /// What is here and not in `ids`.
    pub(super) fn missing_in(&self, ids: &HashSet<RevisionId>) -> Vec<RevisionId> {
        let objects = self.objects.read();
        let gone = objects.keys().filter(|id| !ids.contains(*id));
        gone.cloned().collect()
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
            kind: PhantomData,
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: Arc::default(),
            kind: PhantomData,
        }
    }
}
