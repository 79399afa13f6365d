//! Watches of the API server, each a task that turns what it sees into updates.
//!
//! A watch that broke begins anew with a list, and what is missing from that list was deleted in
//! the meantime. Broken watches are repeated with a growing pause, for ever: without the API server
//! the autoscaler goes on with what it knows.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serving::RevisionId;
use tokio::sync::{mpsc, oneshot};

use super::cache::{Cache, Caches};
use super::index::{PodObject, Pods, TargetKind, TargetObject, Targets, is_kpa};
use super::objects::{Metric, PodAutoscaler, ServerlessService, id_of};
use crate::pod_autoscaler::REVISION_LABEL;
use crate::world::Update;

/// Pods of revisions, and no others.
const PODS_OF_REVISIONS: &str = "serving.knative.dev/revisionUID";
/// Kinds of scale targets that can wait to be watched; there is mostly one, Deployments.
const KINDS_CAPACITY: usize = 16;

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Change<K> {
    Apply(K),
    Delete(Box<ObjectMeta>),
    /// These and no others exist.
    Replace(Vec<K>),
}

/// What the watches need.
#[derive(Clone)]
pub(super) struct Watches {
    pub(super) client: Client,
    pub(super) caches: Caches,
    pub(super) updates: mpsc::Sender<Update>,
    /// The port of a pod's statistics.
    pub(super) pod_port: u16,
}

/// Tells once that the first list has been taken in.
type Synced = oneshot::Sender<()>;

/// The platform's end of the channel of updates is closed: the driver has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverEnded;

/// Watches until the handler says that nobody listens any more. Each object is passed through `slim`
/// as it is read, so that a list of many is never held with everything it carries.
pub(super) async fn watch<K, F>(
    api: Api<K>,
    config: watcher::Config,
    slim: fn(&mut K),
    synced: Synced,
    mut handle: F,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: AsyncFnMut(Change<K>) -> Result<(), DriverEnded>,
{
    let mut synced = Some(synced);
    let mut listed = Vec::new();
    let stream = watch_objects(api, config).default_backoff().modify(slim);
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.push(object);
                continue;
            }
            Ok(Event::InitDone) => Change::Replace(std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => Change::Apply(object),
            Ok(Event::Delete(object)) => Change::Delete(Box::new(object.meta().clone())),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "watch broke");
                continue;
            }
        };
        let complete = matches!(change, Change::Replace(_));
        if handle(change).await.is_err() {
            return;
        }
        if complete && let Some(synced) = synced.take() {
            // Whoever waited for the first list may have given up.
            let _ = synced.send(());
        }
    }
}

/// Drops what no reader of ours has a use for and a write need not repeat.
pub(super) fn unmanaged<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Leaves of the metadata what tells an object from others, and of its labels the one that names the
/// revision.
fn identity<K: Resource>(object: &mut K) {
    let metadata = std::mem::take(object.meta_mut());
    let mut labels = metadata.labels;
    if let Some(labels) = &mut labels {
        labels.retain(|name, _| name == REVISION_LABEL);
    }
    *object.meta_mut() = ObjectMeta {
        namespace: metadata.namespace,
        name: metadata.name,
        labels,
        resource_version: metadata.resource_version,
        deletion_timestamp: metadata.deletion_timestamp,
        ..ObjectMeta::default()
    };
}

// === impl Watches ===

impl Watches {
    async fn tell(&self, updates: impl IntoIterator<Item = Update>) -> Result<(), DriverEnded> {
        for update in updates {
            self.updates.send(update).await.map_err(|_| DriverEnded)?;
        }
        Ok(())
    }

    /// Watches Pods of revisions.
    pub(super) async fn pods(self, synced: Synced) {
        let mut index = Pods::new(self.pod_port);
        let config = watcher::Config::default().labels(PODS_OF_REVISIONS);
        let resource = ApiResource::erase::<Pod>(&());
        let api = Api::<PodObject>::all_with(self.client.clone(), &resource);
        watch(api, config, identity, synced, async |change| match change {
            Change::Apply(pod) => self.tell(index.apply(&pod)).await,
            Change::Delete(metadata) => self.tell(index.delete(&metadata)).await,
            Change::Replace(pods) => self.tell(index.replace(&pods)).await,
        })
        .await;
    }

    /// Watches one of our kinds: keeps the objects, and tells the driver.
    async fn objects<K>(
        &self,
        synced: Synced,
        cache: &Cache<K>,
        is_ours: fn(&ObjectMeta) -> bool,
        mut seen: impl AsyncFnMut(&RevisionId, Option<&K>) -> Result<(), DriverEnded>,
    ) where
        K: Resource<DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let api = Api::<K>::all(self.client.clone());
        let config = watcher::Config::default();
        watch(api, config, unmanaged, synced, async |change| {
            let (objects, gone) = match change {
                // An object that has changed its class is no longer ours.
                Change::Apply(object) if !is_ours(object.meta()) => {
                    let id = id_of(object.meta());
                    let was_known = cache.remove(&id);
                    (Vec::new(), Vec::from_iter(was_known.then_some(id)))
                }
                Change::Apply(object) => (vec![object], Vec::new()),
                Change::Delete(metadata) => (Vec::new(), vec![id_of(&metadata)]),
                Change::Replace(mut objects) => {
                    objects.retain(|object| is_ours(object.meta()));
                    let ids = objects.iter().map(|object| id_of(object.meta()));
                    let gone = cache.missing_in(&ids.collect());
                    (objects, gone)
                }
            };
            for id in gone {
                cache.remove(&id);
                seen(&id, None).await?;
            }
            for object in objects {
                let id = id_of(object.meta());
                cache.put(id.clone(), &object);
                seen(&id, Some(&object)).await?;
            }
            Ok(())
        })
        .await;
    }

    /// Watches ServerlessServices, of whatever class: they carry no other revision's name.
    pub(super) async fn serverless_services(self, synced: Synced) {
        let cache = self.caches.serverless_services.clone();
        self.objects::<ServerlessService>(
            synced,
            &cache,
            |_| true,
            async |id, object| {
                let object = object.map(|object| Box::new(object.to_pure()));
                self.tell([Update::ServerlessService(id.clone(), object)])
                    .await
            },
        )
        .await;
    }

    /// Watches Metrics, of whatever class: all are collected for.
    pub(super) async fn metrics(self, synced: Synced) {
        let cache = self.caches.metrics.clone();
        self.objects::<Metric>(
            synced,
            &cache,
            |_| true,
            async |id, object| {
                let object = object.map(|object| Box::new(object.to_pure()));
                self.tell([Update::Metric(id.clone(), object)]).await
            },
        )
        .await;
    }

    /// Watches PodAutoscalers of our class, and the kinds of objects that they scale.
    pub(super) async fn pod_autoscalers(self, synced: Synced) {
        let targets = Arc::new(Mutex::new(Targets::default()));
        let (kinds, kinds_receiver) = mpsc::channel(KINDS_CAPACITY);
        let cache = self.caches.pod_autoscalers.clone();
        let objects = self.objects::<PodAutoscaler>(synced, &cache, is_kpa, async |id, object| {
            // One that is being deleted is left alone until it is gone.
            let object = match object {
                Some(object) if object.metadata.deletion_timestamp.is_some() => return Ok(()),
                object => object.map(PodAutoscaler::to_pure),
            };
            let Some(object) = object else {
                let disowned = targets.lock().disown(id);
                let deleted = Update::PodAutoscalerDeleted(id.clone());
                return self.tell(std::iter::once(deleted).chain(disowned)).await;
            };
            let (kind, target) = targets.lock().own(&object);
            let object = Update::PodAutoscaler(Box::new(object));
            // In this order: of a revision of which nothing else is known, the driver does not
            // remember that its target is missing.
            self.tell(std::iter::once(object).chain(target)).await?;
            if let Some(kind) = kind {
                kinds.send(kind).await.map_err(|_| DriverEnded)?;
            }
            Ok(())
        });
        tokio::select! {
            () = objects => {}
            () = self.target_kinds(&targets, kinds_receiver) => {}
        }
    }

    /// Watches scale targets, kind by kind as they are first used.
    async fn target_kinds(&self, targets: &Mutex<Targets>, mut kinds: mpsc::Receiver<TargetKind>) {
        let mut watches = futures_util::stream::FuturesUnordered::new();
        loop {
            tokio::select! {
                kind = kinds.recv() => match kind {
                    Some(kind) => watches.push(self.targets(targets, kind)),
                    None => return,
                },
                Some(()) = watches.next() => {}
            }
        }
    }

    async fn targets(&self, targets: &Mutex<Targets>, kind: TargetKind) {
        let (group, version) = kind.group_version();
        let gvk = GroupVersionKind::gvk(group, version, &kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, &kind.plural());
        let api = Api::<TargetObject>::all_with(self.client.clone(), &resource);
        let (synced, _) = oneshot::channel();
        let config = watcher::Config::default();
        watch(api, config, identity, synced, async |change| {
            let updates = match change {
                Change::Apply(object) => {
                    let applied = targets
                        .lock()
                        .apply(&kind, object.meta(), object.spec.replicas);
                    applied.into_iter().collect()
                }
                Change::Delete(metadata) => {
                    let deleted = targets.lock().delete(&kind, &metadata);
                    deleted.into_iter().collect()
                }
                Change::Replace(objects) => {
                    let objects = objects
                        .iter()
                        .map(|object| (object.meta(), object.spec.replicas));
                    targets.lock().replace(&kind, objects)
                }
            };
            self.tell(updates).await
        })
        .await;
    }
}
