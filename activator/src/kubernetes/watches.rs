//! Watches of the API server, as a task that feeds an [`Index`] and sends what comes of it.
//!
//! Objects are converted as they arrive and dropped; no cache of them is kept. After a broken watch
//! everything is listed again, and what the new list does not name counts as deleted: here the
//! [`Index`] finds that out, which knows everything anyway; elsewhere `events` does.

use std::collections::HashSet;
use std::hash::Hash;

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, PostParams};
use kube::core::{GroupVersionKind, ObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serving::RevisionId;
use tokio::sync::{mpsc, oneshot};

use super::index::{Index, Kind};
use super::objects::{self, PrivateService, RevisionObject, SERVICE_TYPE_LABEL, ServiceType};
use crate::endpoints;
use crate::world::{Revision, Update};

/// The kinds that are watched, and so the first lists to wait for.
const KINDS: [Kind; 3] = [Kind::Revisions, Kind::Endpoints, Kind::Services];

/// Objects in one answer to a list. What one takes, parsed, stays with the process.
const PAGE: u32 = 100;

/// An address object's revision, Service and own name.
type EndpointsKey = ((RevisionId, ServiceType), String);

/// What a watch says of one object, or of a list.
enum Change {
    Revision(Option<Revision>, RevisionId),
    Endpoints(Option<endpoints::Endpoints>, EndpointsKey),
    Service(Option<PrivateService>, RevisionId),
    Listing(Kind),
    Listed(Kind),
}

/// Makes the change of one kind, of an object (or none) and its key.
type MakeChange<U, T> = fn(Option<U>, T) -> Change;

/// The watches of one activator.
pub struct Watches {
    changes: SelectAll<BoxStream<'static, Change>>,
    updates: mpsc::Sender<Update>,
}

// === impl Watches ===

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches").finish_non_exhaustive()
    }
}

impl Watches {
    /// Prepares the watches; with `slices` addresses come from EndpointSlices.
    pub fn new(client: &Client, slices: bool, updates: mpsc::Sender<Update>) -> Self {
        let addresses = if slices {
            endpoint_slices(client)
        } else {
            endpoints(client)
        };
        let changes = futures_util::stream::select_all([
            revisions(client),
            addresses,
            private_services(client),
        ]);
        Self { changes, updates }
    }

    /// Watches until the receiver of updates is gone. `synced` is told once everything has been
    /// listed and sent.
    pub async fn run(mut self, synced: oneshot::Sender<()>) {
        let mut index = Index::default();
        let mut synced = Some(synced);
        let mut unlisted = Vec::from(KINDS);
        while let Some(change) = self.changes.next().await {
            if let Change::Listed(kind) = change {
                unlisted.retain(|it| *it != kind);
            }
            for update in apply(&mut index, change) {
                if self.updates.send(update).await.is_err() {
                    return;
                }
            }
            if unlisted.is_empty()
                && let Some(synced) = synced.take()
            {
                let _ = synced.send(());
            }
        }
    }
}

/// Whether this identity may list EndpointSlices; upstream's ClusterRole grants only Endpoints.
pub async fn may_list_endpoint_slices(client: &Client) -> Result<bool, kube::Error> {
    for verb in ["list", "watch"] {
        let review = SelfSubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some("discovery.k8s.io".to_owned()),
                    resource: Some("endpointslices".to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            status: None,
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn apply(index: &mut Index, change: Change) -> Vec<Update> {
    match change {
        Change::Revision(Some(revision), _) => index.apply_revision(revision),
        Change::Revision(None, id) => Vec::from_iter(index.delete_revision(&id)),
        Change::Endpoints(Some(listed), (owner, name)) => {
            Vec::from_iter(index.apply_endpoints(owner, &name, listed))
        }
        Change::Endpoints(None, (owner, name)) => {
            Vec::from_iter(index.delete_endpoints(owner, &name))
        }
        Change::Service(Some(service), id) => Vec::from_iter(index.apply_service(&id, service)),
        Change::Service(None, id) => Vec::from_iter(index.delete_service(&id)),
        Change::Listing(kind) => {
            index.begin_list(kind);
            Vec::new()
        }
        Change::Listed(kind) => index.end_list(kind),
    }
}

fn settings() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

fn revisions(client: &Client) -> BoxStream<'static, Change> {
    let kind = GroupVersionKind::gvk("serving.knative.dev", "v1", "Revision");
    let resource = ApiResource::from_gvk_with_plural(&kind, "revisions");
    let api: Api<RevisionObject> = Api::all_with(client.clone(), &resource);
    changes(
        watcher(api, settings()),
        |object: &RevisionObject| objects::id_of(&object.metadata),
        |object| objects::revision(&object),
        (Kind::Revisions, Change::Revision),
    )
}

fn endpoints(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<Endpoints> = Api::all(client.clone());
    let selected = settings().labels(SERVICE_TYPE_LABEL);
    changes(
        watcher(api, selected),
        |object: &Endpoints| endpoints_key(&object.metadata),
        |object| Some(objects::endpoints(object)),
        (Kind::Endpoints, Change::Endpoints),
    )
}

fn endpoint_slices(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<EndpointSlice> = Api::all(client.clone());
    let selected = settings().labels(SERVICE_TYPE_LABEL);
    changes(
        watcher(api, selected),
        |object: &EndpointSlice| endpoints_key(&object.metadata),
        |object| Some(objects::endpoint_slice(object)),
        (Kind::Endpoints, Change::Endpoints),
    )
}

fn private_services(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<Service> = Api::all(client.clone());
    let selected = settings().labels(&format!("{SERVICE_TYPE_LABEL}=Private"));
    changes(
        watcher(api, selected),
        |object: &Service| objects::owner(&object.metadata).map(|(id, _)| id),
        |object| Some(objects::private_service(object)),
        (Kind::Services, Change::Service),
    )
}

fn endpoints_key(metadata: &ObjectMeta) -> Option<EndpointsKey> {
    Some((objects::owner(metadata)?, metadata.name.clone()?))
}

/// Turns a watch that does not end into changes. Objects without a key are not ours; one that loses
/// its key (its labels changed) is as good as gone at the next list.
fn changes<K, T, U>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    key: impl Fn(&K) -> Option<T> + Send + 'static,
    convert: impl Fn(K) -> Option<U> + Send + 'static,
    (kind, change): (Kind, MakeChange<U, T>),
) -> BoxStream<'static, Change>
where
    K: Send + 'static,
    T: 'static,
    U: 'static,
{
    let changes = stream.default_backoff().filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Init) => Some(Change::Listing(kind)),
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                key(&object).map(|key| change(convert(object), key))
            }
            Ok(watcher::Event::Delete(object)) => key(&object).map(|key| change(None, key)),
            Ok(watcher::Event::InitDone) => Some(Change::Listed(kind)),
            Err(error) => {
                warn(&error);
                None
            }
        };
        std::future::ready(change)
    });
    changes.boxed()
}

fn warn(error: &watcher::Error) {
    tracing::warn!(%error, "watch failed");
}

/// What a watch says of one object, by its key.
pub(super) enum Event<T, K> {
    /// It is there, as it is now.
    Present(T, K),
    /// It is gone.
    Gone(T),
    /// A list is complete.
    Listed,
}

/// The events of a watch that does not end. Objects without a key are not ours; one that loses its
/// key (its labels changed) is as good as gone at the next list.
pub(super) fn events<K, T>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    key: impl Fn(&K) -> Option<T> + Send + 'static,
) -> impl Stream<Item = Event<T, K>> + Send
where
    K: Send + 'static,
    T: Clone + Eq + Hash + Send + 'static,
{
    let mut relist = Relist::default();
    stream.default_backoff().flat_map(move |event| {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn(&error);
                return futures_util::stream::iter(Vec::new());
            }
        };
        let events = match event {
            watcher::Event::Init => {
                relist.begin();
                Vec::new()
            }
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                let key = key(&object);
                key.map(|key| {
                    relist.saw(key.clone());
                    Event::Present(key, object)
                })
                .into_iter()
                .collect()
            }
            watcher::Event::Delete(object) => {
                let key = key(&object);
                key.map(|key| {
                    relist.known.remove(&key);
                    Event::Gone(key)
                })
                .into_iter()
                .collect()
            }
            watcher::Event::InitDone => {
                let gone = relist.end().into_iter().map(Event::Gone);
                gone.chain([Event::Listed]).collect()
            }
        };
        futures_util::stream::iter(events)
    })
}

/// Finds out what a new list no longer names.
struct Relist<T> {
    known: HashSet<T>,
    unseen: HashSet<T>,
}

// === impl Relist ===

impl<T> Default for Relist<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            unseen: HashSet::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Relist<T> {
    fn begin(&mut self) {
        self.unseen = self.known.clone();
    }

    fn saw(&mut self, key: T) {
        self.unseen.remove(&key);
        self.known.insert(key);
    }

    fn end(&mut self) -> HashSet<T> {
        for key in &self.unseen {
            self.known.remove(key);
        }
        std::mem::take(&mut self.unseen)
    }
}

#[cfg(test)]
mod tests;
