//! Joins Revisions, Endpoints and Services into updates: the port to use is the Revision's, the
//! addresses are the Endpoints', the ClusterIP is the private Service's.
//!
//! A synchronous structure: changes in, updates out. What arrives before its Revision waits here,
//! so no event is lost whatever the order. A list is a change as well: what it does not name is
//! gone.
//!
//! Thousands of revisions that nobody asks for are kept here, so there is one entry for each, and
//! what is the same for many (addresses at zero are everybody's activators) is there once.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use serving::RevisionId;
use smallvec::SmallVec;

use super::interner::Interner;
use super::objects::{PrivateService, ServiceType};
use crate::endpoints::Endpoints;
use crate::world::{Backends, Protocol, PublicEndpoints, Revision, Update};

/// What is listed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Revisions.
    Revisions,
    /// Endpoints or EndpointSlices, of both Services.
    Endpoints,
    /// Private Services.
    Services,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    /// Boxed, as a table has room for more than it holds.
    known: HashMap<Arc<RevisionId>, Box<Known>>,
    endpoints: Interner<Endpoints>,
    activators: Interner<[String]>,
}

/// What is known of one revision.
#[derive(Debug, Default)]
struct Known {
    revision: Option<Seen<Protocol>>,
    service: Option<Seen<PrivateService>>,
    private: Parts,
    public: Parts,
}

/// Addresses of one Service: one Endpoints object, or any number of slices.
type Parts = SmallVec<[Part; 1]>;

#[derive(Debug)]
struct Part {
    /// Of the object.
    name: Box<str>,
    listed: Seen<Arc<Endpoints>>,
}

/// Something, and whether the list under way has named it.
#[derive(Debug)]
struct Seen<T> {
    value: T,
    seen: bool,
}

// === impl Index ===

impl Index {
    /// A list of a kind begins, perhaps after another one that broke off.
    pub fn begin_list(&mut self, kind: Kind) {
        for known in self.known.values_mut() {
            known.forget_seen(kind);
        }
    }

    /// The list is complete: what it did not name is gone.
    pub fn end_list(&mut self, kind: Kind) -> Vec<Update> {
        let stale: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| known.has_unseen(kind))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        let mut updates = Vec::new();
        for id in stale {
            match kind {
                Kind::Revisions => updates.extend(self.delete_revision(&id)),
                Kind::Services => updates.extend(self.delete_service(&id)),
                Kind::Endpoints => {
                    for service_type in [ServiceType::Private, ServiceType::Public] {
                        let unseen = |part: &Part| !part.listed.seen;
                        updates.extend(self.drop_parts(&id, service_type, unseen));
                    }
                }
            }
        }
        updates
    }

    /// A Revision was added or changed.
    pub fn apply_revision(&mut self, mut revision: Revision) -> Vec<Update> {
        let id = self.key(&revision.id);
        // One name for all who keep it.
        revision.id = Arc::clone(&id);
        let known = self.known.entry(Arc::clone(&id)).or_default();
        let before = known.revision.replace(Seen::new(revision.protocol));
        let moved = before.map(|it| it.value) != Some(revision.protocol);
        let mut updates = vec![Update::Revision(revision)];
        if moved {
            updates.extend(self.backends(&id));
            updates.extend(self.public_endpoints(&id));
        }
        updates
    }

    /// A Revision is gone.
    pub fn delete_revision(&mut self, id: &RevisionId) -> Option<Update> {
        self.known.get_mut(id)?.revision.take()?;
        self.forget_if_empty(id);
        Some(Update::RevisionDeleted(id.clone()))
    }

    /// Addresses of a Service were added or changed.
    pub fn apply_endpoints(
        &mut self,
        (id, service_type): (RevisionId, ServiceType),
        name: &str,
        endpoints: Endpoints,
    ) -> Option<Update> {
        let listed = Seen::new(self.endpoints.intern(endpoints));
        let key = self.key(&id);
        let known = self.known.entry(key).or_default();
        let parts = known.parts(service_type);
        match parts.iter_mut().find(|part| *part.name == *name) {
            Some(part) => part.listed = listed,
            None => parts.push(Part {
                name: name.into(),
                listed,
            }),
        }
        match service_type {
            ServiceType::Private => self.backends(&id),
            ServiceType::Public => self.public_endpoints(&id),
        }
    }

    /// Addresses of a Service are gone. Of a public one that means nothing, as upstream has it.
    pub fn delete_endpoints(
        &mut self,
        (id, service_type): (RevisionId, ServiceType),
        name: &str,
    ) -> Option<Update> {
        self.drop_parts(&id, service_type, |part| *part.name == *name)
    }

    /// A private Service was added or changed.
    pub fn apply_service(&mut self, id: &RevisionId, service: PrivateService) -> Option<Update> {
        let key = self.key(id);
        let known = self.known.entry(key).or_default();
        let before = known.service.replace(Seen::new(service));
        let changed = before.map(|it| it.value) != Some(service);
        changed.then(|| self.backends(id)).flatten()
    }

    /// A private Service is gone.
    pub fn delete_service(&mut self, id: &RevisionId) -> Option<Update> {
        self.known.get_mut(id)?.service.take()?;
        let update = self.backends(id);
        self.forget_if_empty(id);
        update
    }

    /// The name that is kept, of what may be a copy.
    fn key(&self, id: &RevisionId) -> Arc<RevisionId> {
        match self.known.get_key_value(id) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(id.clone()),
        }
    }

    fn drop_parts(
        &mut self,
        id: &RevisionId,
        service_type: ServiceType,
        dropped: impl Fn(&Part) -> bool,
    ) -> Option<Update> {
        let parts = self.known.get_mut(id)?.parts(service_type);
        let before = parts.len();
        parts.retain(|part| !dropped(part));
        if parts.len() == before {
            return None;
        }
        let last = parts.is_empty();
        let update = match service_type {
            ServiceType::Private if last => Some(Update::BackendsDeleted(id.clone())),
            ServiceType::Private => self.backends(id),
            ServiceType::Public => None,
        };
        self.forget_if_empty(id);
        update
    }

    fn forget_if_empty(&mut self, id: &RevisionId) {
        if self.known.get(id).is_some_and(|known| known.is_empty()) {
            self.known.remove(id);
        }
    }

    fn backends(&self, id: &RevisionId) -> Option<Update> {
        let known = self.known.get(id)?;
        let protocol = known.revision.as_ref()?.value;
        if known.private.is_empty() {
            return None;
        }
        let mut backends = Backends::default();
        for part in &known.private {
            let found = part.listed.value.destinations(protocol.port_name());
            backends.ready.extend(addresses(&found.ready));
            backends.not_ready.extend(addresses(&found.not_ready));
        }
        let service = known.service.as_ref();
        backends.cluster_ip = service.and_then(|service| service.value.address(protocol));
        Some(Update::Backends(id.clone(), backends))
    }

    fn public_endpoints(&mut self, id: &RevisionId) -> Option<Update> {
        let known = self.known.get(id)?;
        let port_name = known.revision.as_ref()?.value.port_name();
        if known.public.is_empty() {
            return None;
        }
        let parts = known.public.iter();
        let addresses: BTreeSet<String> = parts
            .flat_map(|part| part.listed.value.healthy_addresses(port_name))
            .collect();
        let public = PublicEndpoints {
            addresses: self.activators.intern(Vec::from_iter(addresses)),
        };
        Some(Update::PublicEndpoints(id.clone(), public))
    }
}

// === impl Known ===

impl Known {
    fn parts(&mut self, service_type: ServiceType) -> &mut Parts {
        match service_type {
            ServiceType::Private => &mut self.private,
            ServiceType::Public => &mut self.public,
        }
    }

    fn is_empty(&self) -> bool {
        self.revision.is_none()
            && self.service.is_none()
            && self.private.is_empty()
            && self.public.is_empty()
    }

    fn forget_seen(&mut self, kind: Kind) {
        match kind {
            Kind::Revisions => self.revision.iter_mut().for_each(Seen::forget),
            Kind::Services => self.service.iter_mut().for_each(Seen::forget),
            Kind::Endpoints => {
                let parts = self.private.iter_mut().chain(&mut self.public);
                parts.for_each(|part| part.listed.forget());
            }
        }
    }

    fn has_unseen(&self, kind: Kind) -> bool {
        match kind {
            Kind::Revisions => self.revision.as_ref().is_some_and(|it| !it.seen),
            Kind::Services => self.service.as_ref().is_some_and(|it| !it.seen),
            Kind::Endpoints => {
                let mut parts = self.private.iter().chain(&self.public);
                parts.any(|part| !part.listed.seen)
            }
        }
    }
}

// === impl Seen ===

impl<T> Seen<T> {
    fn new(value: T) -> Self {
        Self { value, seen: true }
    }

    fn forget(&mut self) {
        self.seen = false;
    }
}

/// Only addresses can be dialled; Kubernetes lists nothing else for these Services.
fn addresses(texts: &BTreeSet<String>) -> impl Iterator<Item = SocketAddr> {
    texts.iter().filter_map(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::endpoints::{Address, Port, Subset};

    fn id() -> RevisionId {
        RevisionId::new("default", "hello-00001")
    }

    fn listed(ips: &[&str]) -> Endpoints {
        let port = |name: &str, port| Port {
            name: name.to_owned(),
            port,
        };
        Endpoints {
            subsets: vec![Subset {
                addresses: ips.iter().map(|ip| Address { ip: (*ip).into() }).collect(),
                not_ready_addresses: Vec::new(),
                ports: vec![port("http", 8012), port("http2", 8013)],
            }],
        }
    }

    fn revision(protocol: Protocol) -> Revision {
        Revision {
            protocol,
            ..Revision::new(id())
        }
    }

    fn ready(texts: &[&str]) -> Option<Update> {
        let backends = Backends {
            ready: texts.iter().map(|text| text.parse().unwrap()).collect(),
            ..Backends::default()
        };
        Some(Update::Backends(id(), backends))
    }

    const PRIVATE: ServiceType = ServiceType::Private;

    /// Edge case 62: Endpoints that come before their Revision are not lost.
    #[test]
    fn edge_case_62_endpoints_before_their_revision() {
        let mut index = Index::default();
        let early = index.apply_endpoints((id(), PRIVATE), "a", listed(&["10.0.0.1"]));
        assert_eq!(early, None);
        let public = (id(), ServiceType::Public);
        let early = index.apply_endpoints(public, "b", listed(&["10.1.0.9", "10.1.0.10"]));
        assert_eq!(early, None);
        let updates = index.apply_revision(revision(Protocol::H2c));
        assert_eq!(updates.len(), 3);
        assert_eq!(Some(updates[1].clone()), ready(&["10.0.0.1:8013"]));
        let addresses = ["10.1.0.10".to_owned(), "10.1.0.9".to_owned()].into();
        assert_eq!(
            updates[2],
            Update::PublicEndpoints(id(), PublicEndpoints { addresses })
        );
        // A change of something else does not list everything again.
        assert_eq!(index.apply_revision(revision(Protocol::H2c)).len(), 1);
    }

    #[test]
    fn slices_add_up() {
        let mut index = Index::default();
        index.apply_revision(revision(Protocol::Http1));
        index.apply_endpoints((id(), PRIVATE), "a", listed(&["10.0.0.1"]));
        let both = index.apply_endpoints((id(), PRIVATE), "b", listed(&["10.0.0.1"]));
        assert!(matches!(both, Some(Update::Backends(_, all)) if all.ready.len() == 2));
        let one = index.delete_endpoints((id(), PRIVATE), "a");
        assert_eq!(one, ready(&["10.0.0.1:8012"]));
        let none = index.delete_endpoints((id(), PRIVATE), "b");
        assert_eq!(none, Some(Update::BackendsDeleted(id())));
        assert_eq!(index.delete_endpoints((id(), PRIVATE), "b"), None);
    }

    #[test]
    fn the_cluster_ip_comes_from_the_private_service() {
        let mut index = Index::default();
        index.apply_revision(revision(Protocol::Http1));
        index.apply_endpoints((id(), PRIVATE), "a", listed(&[]));
        let service = PrivateService {
            cluster_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7))),
            http: Some(80),
            http2: None,
        };
        let update = index.apply_service(&id(), service);
        let cluster_ip = |update: Option<Update>| match update {
            Some(Update::Backends(_, backends)) => backends.cluster_ip,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            cluster_ip(update),
            Some(SocketAddr::from(([10, 96, 0, 7], 80)))
        );
        assert_eq!(index.apply_service(&id(), service), None);
        assert_eq!(cluster_ip(index.delete_service(&id())), None);
    }
    fn deleted(updates: &[Update]) -> Vec<&RevisionId> {
        let deleted = updates.iter().map(|update| match update {
            Update::RevisionDeleted(id) => id,
            other => panic!("{other:?}"),
        });
        deleted.collect()
    }

    /// What a new list does not name is gone, also when a list before it broke off.
    #[test]
    fn a_list_deletes_what_it_does_not_name() {
        let mut index = Index::default();
        let of = |name: &str| Revision::new(RevisionId::new("default", name));
        index.begin_list(Kind::Revisions);
        index.apply_revision(of("a"));
        index.apply_revision(of("b"));
        assert_eq!(index.end_list(Kind::Revisions), []);
        index.apply_revision(of("c"));
        index.begin_list(Kind::Revisions);
        index.apply_revision(of("a"));
        // Broken off.
        index.begin_list(Kind::Revisions);
        index.apply_revision(of("b"));
        let updates = index.end_list(Kind::Revisions);
        let mut names: Vec<_> = deleted(&updates).iter().map(|id| &*id.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(index.known.len(), 1);
    }

    /// Of a Service that has several objects, only those that are not named.
    #[test]
    fn a_list_deletes_single_slices() {
        let mut index = Index::default();
        index.apply_revision(revision(Protocol::Http1));
        index.apply_endpoints((id(), PRIVATE), "a", listed(&["10.0.0.1"]));
        index.apply_endpoints((id(), PRIVATE), "b", listed(&["10.0.0.2"]));
        let public = (id(), ServiceType::Public);
        index.apply_endpoints(public.clone(), "c", listed(&["10.1.0.1"]));
        index.begin_list(Kind::Endpoints);
        index.apply_endpoints((id(), PRIVATE), "b", listed(&["10.0.0.2"]));
        index.apply_endpoints(public, "c", listed(&["10.1.0.1"]));
        let updates = index.end_list(Kind::Endpoints);
        assert_eq!(updates.first().cloned(), ready(&["10.0.0.2:8012"]));
        assert_eq!(updates.len(), 1);
        index.begin_list(Kind::Endpoints);
        let updates = index.end_list(Kind::Endpoints);
        assert_eq!(updates, [Update::BackendsDeleted(id())]);
        index.begin_list(Kind::Revisions);
        assert_eq!(deleted(&index.end_list(Kind::Revisions)), [&id()]);
        assert!(index.known.is_empty());
    }

    /// What many revisions have in common is there once.
    #[test]
    fn equal_lists_are_shared() {
        let mut index = Index::default();
        let mut lists = Vec::new();
        for name in ["a", "b"] {
            let id = RevisionId::new("default", name);
            index.apply_revision(Revision::new(id.clone()));
            let public = (id, ServiceType::Public);
            let update = index.apply_endpoints(public, name, listed(&["10.1.0.1"]));
            let Some(Update::PublicEndpoints(_, public)) = update else {
                panic!("{update:?}");
            };
            lists.push(public.addresses);
        }
        assert!(Arc::ptr_eq(&lists[0], &lists[1]));
    }
}
