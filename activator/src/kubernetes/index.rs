//! Joins Revisions, Endpoints and Services into updates: the port to use is the Revision's, the
//! addresses are the Endpoints', the ClusterIP is the private Service's.
//!
//! A synchronous structure: changes in, updates out. What arrives before its Revision waits here,
//! so no event is lost whatever the order.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use serving::RevisionId;

use super::objects::{PrivateService, ServiceType};
use crate::endpoints::Endpoints;
use crate::world::{Backends, Protocol, PublicEndpoints, Revision, Update};

/// Addresses of one Service: one Endpoints object, or any number of slices, by object name.
type Parts = HashMap<String, Endpoints>;

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    revisions: HashMap<RevisionId, Protocol>,
    private: HashMap<RevisionId, Parts>,
    public: HashMap<RevisionId, Parts>,
    services: HashMap<RevisionId, PrivateService>,
}

// === impl Index ===

impl Index {
    /// A Revision was added or changed.
    pub fn apply_revision(&mut self, revision: Revision) -> Vec<Update> {
        let id = revision.id.clone();
        let known = self.revisions.insert(id.clone(), revision.protocol);
        let moved = known != Some(revision.protocol);
        let mut updates = vec![Update::Revision(revision)];
        if moved {
            updates.extend(self.backends(&id));
            updates.extend(self.public_endpoints(&id));
        }
        updates
    }

    /// A Revision is gone.
    pub fn delete_revision(&mut self, id: &RevisionId) -> Vec<Update> {
        match self.revisions.remove(id) {
            Some(_) => vec![Update::RevisionDeleted(id.clone())],
            None => Vec::new(),
        }
    }

    /// Addresses of a Service were added or changed.
    pub fn apply_endpoints(
        &mut self,
        (id, service_type): (RevisionId, ServiceType),
        name: String,
        endpoints: Endpoints,
    ) -> Option<Update> {
        self.parts(service_type)
            .entry(id.clone())
            .or_default()
            .insert(name, endpoints);
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
        let all = self.parts(service_type);
        let parts = all.get_mut(&id)?;
        parts.remove(name);
        let last = parts.is_empty();
        if last {
            all.remove(&id);
        }
        match service_type {
            ServiceType::Private if last => Some(Update::BackendsDeleted(id)),
            ServiceType::Private => self.backends(&id),
            ServiceType::Public => None,
        }
    }

    /// A private Service was added or changed.
    pub fn apply_service(&mut self, id: RevisionId, service: PrivateService) -> Option<Update> {
        let before = self.services.insert(id.clone(), service);
        (before.as_ref() != self.services.get(&id))
            .then(|| self.backends(&id))
            .flatten()
    }

    /// A private Service is gone.
    pub fn delete_service(&mut self, id: &RevisionId) -> Option<Update> {
        self.services.remove(id)?;
        self.backends(id)
    }

    fn parts(&mut self, service_type: ServiceType) -> &mut HashMap<RevisionId, Parts> {
        match service_type {
            ServiceType::Private => &mut self.private,
            ServiceType::Public => &mut self.public,
        }
    }

    fn backends(&self, id: &RevisionId) -> Option<Update> {
        let port_name = self.revisions.get(id)?.port_name();
        let parts = self.private.get(id)?;
        let mut backends = Backends::default();
        for endpoints in parts.values() {
            let found = endpoints.destinations(port_name);
            backends.ready.extend(addresses(&found.ready));
            backends.not_ready.extend(addresses(&found.not_ready));
        }
        backends.cluster_ip = self.services.get(id).and_then(|service| {
            let port = service.ports.iter().find(|port| port.name == port_name)?;
            Some(SocketAddr::new(service.cluster_ip?, port.port))
        });
        Some(Update::Backends(id.clone(), backends))
    }

    fn public_endpoints(&self, id: &RevisionId) -> Option<Update> {
        let port_name = self.revisions.get(id)?.port_name();
        let parts = self.public.get(id)?.values();
        let addresses: BTreeSet<String> = parts
            .flat_map(|endpoints| endpoints.healthy_addresses(port_name))
            .collect();
        let public = PublicEndpoints {
            addresses: addresses.into_iter().collect(),
        };
        Some(Update::PublicEndpoints(id.clone(), public))
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
        let early = index.apply_endpoints((id(), PRIVATE), "a".into(), listed(&["10.0.0.1"]));
        assert_eq!(early, None);
        let public = (id(), ServiceType::Public);
        let early = index.apply_endpoints(public, "b".into(), listed(&["10.1.0.9", "10.1.0.10"]));
        assert_eq!(early, None);
        let updates = index.apply_revision(revision(Protocol::H2c));
        assert_eq!(updates.len(), 3);
        assert_eq!(Some(updates[1].clone()), ready(&["10.0.0.1:8013"]));
        let addresses = vec!["10.1.0.10".to_owned(), "10.1.0.9".to_owned()];
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
        index.apply_endpoints((id(), PRIVATE), "a".into(), listed(&["10.0.0.1"]));
        let both = index.apply_endpoints((id(), PRIVATE), "b".into(), listed(&["10.0.0.1"]));
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
        index.apply_endpoints((id(), PRIVATE), "a".into(), listed(&[]));
        let service = PrivateService {
            cluster_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7))),
            ports: vec![Port {
                name: "http".into(),
                port: 80,
            }],
        };
        let update = index.apply_service(id(), service.clone());
        let cluster_ip = |update: Option<Update>| match update {
            Some(Update::Backends(_, backends)) => backends.cluster_ip,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            cluster_ip(update),
            Some(SocketAddr::from(([10, 96, 0, 7], 80)))
        );
        assert_eq!(index.apply_service(id(), service), None);
        assert_eq!(cluster_ip(index.delete_service(&id())), None);
    }
}
