//! Carries out what the driver asks for: writes to the API server.
//!
//! Batches of one revision are carried out one after the other and those of different revisions
//! side by side, a bounded number at a time. A batch ends at its first failure, which the driver is
//! told. Upstream: `pkg/reconciler/autoscaling/{reconciler.go,kpa/scaler.go}` and the generated
//! reconcilers' `updateStatus`.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug};
use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use kube::api::{Api, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serving::RevisionId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cache::{Cache, Caches};
use super::events::{self, Recorder, Warning};
use super::index::TargetKind;
use super::objects::{Metric, PodAutoscaler, ServerlessService};
use crate::pod_autoscaler::{PodAutoscalerStatus, ScaleTargetRef};
use crate::world::{Action, Batch, EventObject, Failure, Update};

/// Revisions that are written at a time; the client's rate limit is the tighter bound.
const MAX_WRITERS: usize = 64;
/// Batches that wait for a writer; beyond it nothing more is taken from the driver.
const MAX_WAITING: usize = 1024;
/// Attempts of a status write that loses conflicts (`retry.DefaultRetry`).
const STATUS_ATTEMPTS: usize = 5;
/// One action, all its attempts included (`reconciler.DefaultTimeout`).
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const CONFLICT: u16 = 409;
const NOT_FOUND: u16 = 404;
const JSON_PATCH: &str = "application/json-patch+json";

/// What the writers need. Clones share it.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) caches: Caches,
    pub(super) events: Recorder,
}

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("failed to apply scale {replicas} to scale target {target}: {source}")]
    Scale {
        replicas: i32,
        target: String,
        source: kube::Error,
    },
    #[error("{what}: {source}")]
    Write {
        what: &'static str,
        source: kube::Error,
    },
    #[error("no answer from the API server within {WRITE_TIMEOUT:?}")]
    Timeout,
    /// The object is gone, or not ours to know.
    #[error("PodAutoscaler {0} is not known")]
    NoOwner(RevisionId),
}

/// Carries out batches until the driver ends, then those that it left behind.
pub(super) async fn run(
    writer: Writer,
    mut actions: mpsc::Receiver<Batch>,
    updates: mpsc::Sender<Update>,
) {
    let mut writers: JoinSet<RevisionId> = JoinSet::new();
    // Revisions being written, each with the batches that came in the meantime.
    let mut busy: HashMap<RevisionId, VecDeque<Batch>> = HashMap::new();
    let mut waiting = 0;
    let mut open = true;
    while open || !writers.is_empty() {
        let room = writers.len() < MAX_WRITERS && waiting < MAX_WAITING;
        tokio::select! {
            batch = actions.recv(), if open && room => {
                let Some(batch) = batch else {
                    open = false;
                    continue;
                };
                let Some(id) = batch.revision().cloned() else {
                    continue;
                };
                if let Some(queue) = busy.get_mut(&id) {
                    queue.push_back(batch);
                    waiting += 1;
                } else {
                    busy.insert(id.clone(), VecDeque::new());
                    writers.spawn(writer.clone().batch(id, batch, updates.clone()));
                }
            }
            Some(done) = writers.join_next() => {
                let id = match done {
                    Ok(id) => id,
                    Err(error) => {
                        tracing::error!(%error, "a writer panicked");
                        continue;
                    }
                };
                match busy.get_mut(&id).and_then(VecDeque::pop_front) {
                    Some(batch) => {
                        waiting -= 1;
                        writers.spawn(writer.clone().batch(id, batch, updates.clone()));
                    }
                    None => {
                        busy.remove(&id);
                    }
                }
            }
        }
    }
}

// === impl Writer ===

impl Writer {
    async fn batch(
        self,
        id: RevisionId,
        batch: Batch,
        updates: mpsc::Sender<Update>,
    ) -> RevisionId {
        for action in batch.actions {
            let kind = action.failure();
            let acted = tokio::time::timeout(WRITE_TIMEOUT, self.act(action)).await;
            let result = acted.unwrap_or(Err(WriteError::Timeout));
            let Some(kind) = kind else {
                continue;
            };
            if let Err(error) = result {
                let message = (!error.is_outdated()).then(|| error.to_string());
                if let Some(message) = &message {
                    tracing::error!(revision = %id, "{message}");
                }
                let failure = Failure {
                    batch: batch.number,
                    action: kind,
                    message,
                };
                // The driver may have ended; then nobody is left to tell.
                let _ = updates.send(Update::Failed(id.clone(), failure)).await;
                break;
            }
        }
        id
    }

    async fn act(&self, action: Action) -> Result<(), WriteError> {
        match action {
            Action::Scale {
                revision,
                target,
                replicas,
            } => self.scale(&revision, &target, replicas).await,
            Action::ServerlessService { revision, spec } => {
                let cache = &self.caches.serverless_services;
                let written = match cache.get(&revision) {
                    Some(object) => {
                        let replaced = self.replace(&revision, &object.with_spec(&spec)).await;
                        self.learn(&revision, cache, replaced).await?
                    }
                    None => {
                        let owner = self.owner(&revision)?.to_pure();
                        let object = ServerlessService::of(&owner, &spec);
                        self.create(&revision, &object).await?
                    }
                };
                cache.put(revision, &written);
                Ok(())
            }
            Action::Metric { revision, spec } => {
                let cache = &self.caches.metrics;
                let written = match cache.get(&revision) {
                    Some(object) => {
                        let replaced = self.replace(&revision, &object.with_spec(&spec)).await;
                        self.learn(&revision, cache, replaced).await?
                    }
                    None => {
                        let owner = self.owner(&revision)?.to_pure();
                        let object = Metric::of(&owner, &spec);
                        self.create(&revision, &object).await?
                    }
                };
                cache.put(revision, &written);
                Ok(())
            }
            Action::Status { revision, status } => self.status(&revision, &status).await,
            Action::MetricStatus { revision, status } => {
                let cache = &self.caches.metrics;
                // One that is missing was deleted in the meantime.
                if let Some(object) = cache.get(&revision) {
                    let object = object.with_status(&status);
                    let replaced = self.replace_status(&revision, &object).await;
                    let written = self.learn(&revision, cache, replaced).await?;
                    cache.put(revision, &written);
                }
                Ok(())
            }
            Action::Event {
                revision,
                about,
                reason,
                message,
            } => {
                let caches = &self.caches;
                let involved = match about {
                    EventObject::PodAutoscaler => {
                        let object = caches.pod_autoscalers.get(&revision);
                        object.as_ref().map(events::reference)
                    }
                    EventObject::Metric => {
                        let object = caches.metrics.get(&revision);
                        object.as_ref().map(events::reference)
                    }
                };
                // One that is missing was deleted in the meantime.
                if let Some(involved) = involved {
                    let warning = Warning {
                        component: events::component(about),
                        involved,
                        reason,
                        message,
                    };
                    self.events.record(warning).await;
                }
                Ok(())
            }
        }
    }

    fn owner(&self, id: &RevisionId) -> Result<PodAutoscaler, WriteError> {
        self.caches
            .pod_autoscalers
            .get(id)
            .ok_or_else(|| WriteError::NoOwner(id.clone()))
    }

    async fn scale(
        &self,
        id: &RevisionId,
        target: &ScaleTargetRef,
        replicas: i32,
    ) -> Result<(), WriteError> {
        let body = format!(r#"[{{"op":"add","path":"/spec/replicas","value":{replicas}}}]"#);
        let request = Request::patch(scale_path(&id.namespace, target))
            .header(CONTENT_TYPE, JSON_PATCH)
            .body(body.into_bytes())
            .map_err(kube::Error::HttpError);
        let sent = match request {
            Ok(request) => self.client.request_text(request).await,
            Err(error) => Err(error),
        };
        sent.map(drop).map_err(|source| WriteError::Scale {
            replicas,
            target: target.name.clone(),
            source,
        })
    }

    async fn create<K>(&self, id: &RevisionId, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &id.namespace);
        let created = api.create(&PostParams::default(), object).await;
        created.map_err(|source| WriteError::Write {
            what: "failed to create",
            source,
        })
    }

    async fn replace<K>(&self, id: &RevisionId, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &id.namespace);
        let replaced = api.replace(&id.name, &PostParams::default(), object).await;
        replaced.map_err(|source| WriteError::Write {
            what: "failed to update",
            source,
        })
    }

    async fn replace_status<K>(&self, id: &RevisionId, object: &K) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &id.namespace);
        let replaced = api
            .replace_status(&id.name, &PostParams::default(), object)
            .await;
        replaced.map_err(|source| WriteError::Write {
            what: "failed to update status",
            source,
        })
    }

    /// Looks at the object anew when a write met another one than the cache has, so that the next
    /// attempt does not. The watch need not tell: what it told may have come before the answer to an
    /// earlier write of ours, which was then put over it.
    async fn learn<K>(
        &self,
        id: &RevisionId,
        cache: &Cache<K>,
        written: Result<K, WriteError>,
    ) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        if let Err(error) = &written
            && matches!(error.code(), Some(CONFLICT | NOT_FOUND))
        {
            let api = Api::<K>::namespaced(self.client.clone(), &id.namespace);
            // A list, which the watches need the right to as well.
            let this = ListParams::default().fields(&format!("metadata.name={}", id.name));
            match api
                .list(&this)
                .await
                .map(|list| list.items.into_iter().next())
            {
                Ok(Some(object)) => cache.put(id.clone(), &object),
                Ok(None) => drop(cache.remove(id)),
                Err(error) => tracing::debug!(%error, "an object in conflict cannot be read"),
            }
        }
        written
    }

    /// Writes the status over the object as it was last seen, and after a conflict over the one that
    /// the server has.
    async fn status(
        &self,
        id: &RevisionId,
        status: &PodAutoscalerStatus,
    ) -> Result<(), WriteError> {
        let Some(object) = self.caches.pod_autoscalers.get(id) else {
            // Deleted in the meantime.
            return Ok(());
        };
        let mut result = self.replace_status(id, &object.with_status(status)).await;
        let api = Api::<PodAutoscaler>::namespaced(self.client.clone(), &id.namespace);
        for _ in 1..STATUS_ATTEMPTS {
            match &result {
                Err(error) if error.code() == Some(CONFLICT) => {}
                _ => break,
            }
            let fresh = api
                .get(&id.name)
                .await
                .map_err(|source| WriteError::Write {
                    what: "failed to update status",
                    source,
                })?;
            result = self.replace_status(id, &fresh.with_status(status)).await;
        }
        self.caches.pod_autoscalers.put(id.clone(), &result?);
        Ok(())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

// === impl WriteError ===

impl WriteError {
    /// Whether somebody else wrote or deleted first, so that a new attempt on what the watch brings
    /// is all there is to do. A scale target that is missing is worth a complaint.
    fn is_outdated(&self) -> bool {
        match self {
            Self::NoOwner(_) => true,
            Self::Scale { .. } => self.code() == Some(CONFLICT),
            Self::Write { .. } => matches!(self.code(), Some(CONFLICT | NOT_FOUND)),
            Self::Timeout => false,
        }
    }

    /// The API server's answer.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Scale { source, .. } | Self::Write { source, .. } => match source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::NoOwner(_) | Self::Timeout => None,
        }
    }
}

fn scale_path(namespace: &str, target: &ScaleTargetRef) -> String {
    let kind = TargetKind::of(target);
    let root = if target.api_version.contains('/') {
        "apis"
    } else {
        "api"
    };
    format!(
        "/{root}/{}/namespaces/{namespace}/{}/{}/scale",
        target.api_version,
        kind.plural(),
        target.name
    )
}

#[cfg(test)]
mod tests;
