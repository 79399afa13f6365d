//! From objects to what is served, and from what replicas serve to what is written.
//!
//! A synchronous structure: objects in, a [`Routing`] and the list of statuses to write out; the
//! watches drive it. An Ingress that changed is served as it was until everything that it names is
//! there, so that a change never leads into nothing; it is said to be ready when every replica
//! answers with its hash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::front::Routing;
use super::services::{Destination, Services};
use super::spec::Ingress;
use super::status::{self, Entries, Status, Verdict};
use super::table::RouteTables;

/// Namespace and name.
pub type Key = (String, String);

/// An Ingress of our class, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What is wanted.
    pub ingress: Ingress,
    /// `metadata.creationTimestamp`: who was first.
    pub created: String,
    /// `metadata.resourceVersion`, for writing.
    pub version: String,
    /// What it says of itself.
    pub status: Status,
}

/// Which replicas serve an Ingress as it is wanted.
#[derive(Debug, Default)]
struct Installed {
    hash: String,
    replicas: HashSet<IpAddr>,
}

/// A status to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Of which Ingress.
    pub key: Key,
    /// Written only if the Ingress is still this one.
    pub version: String,
    /// What.
    pub status: Status,
}

/// See the module.
#[derive(Debug)]
pub struct Reconciler {
    entries: Entries,
    known: BTreeMap<Key, Known>,
    /// What is served of each: the last version that was complete.
    served: BTreeMap<Key, Ingress>,
    /// Those that are complete as they are wanted, with their hashes.
    complete: BTreeMap<Key, String>,
    conflicts: BTreeMap<Key, String>,
    installed: BTreeMap<Key, Installed>,
    certificates: HashMap<Key, Arc<CertifiedKey>>,
    /// Every Service and its addresses.
    pub services: Services,
}

// === impl Reconciler ===

impl Reconciler {
    /// Nothing is known yet.
    pub fn new(entries: Entries) -> Self {
        Self {
            entries,
            known: BTreeMap::new(),
            served: BTreeMap::new(),
            complete: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            installed: BTreeMap::new(),
            certificates: HashMap::new(),
            services: Services::default(),
        }
    }

    /// An Ingress was added or changed, or is gone or somebody else's.
    pub fn apply_ingress(&mut self, key: Key, known: Option<Known>) {
        match known {
            Some(known) => {
                self.known.insert(key, known);
            }
            None => {
                self.known.remove(&key);
                self.served.remove(&key);
                self.installed.remove(&key);
            }
        }
    }

    /// A certificate was added or changed, or is gone.
    pub fn apply_certificate(&mut self, key: Key, pair: Option<Arc<CertifiedKey>>) {
        match pair {
            Some(pair) => {
                self.certificates.insert(key, pair);
            }
            None => {
                self.certificates.remove(&key);
            }
        }
    }

    /// What is to be served now, with the certificates by name.
    pub fn rebuild(&mut self) -> (Routing, HashMap<String, Arc<CertifiedKey>>) {
        self.complete.clear();
        for (key, known) in &self.known {
            let wanted = &known.ingress;
            if self.is_complete(wanted) {
                self.complete.insert(key.clone(), wanted.hash());
                self.served.insert(key.clone(), wanted.clone());
            } else {
                self.served
                    .entry(key.clone())
                    .or_insert_with(|| wanted.clone());
            }
        }
        // Who was there first has the host.
        let mut order: Vec<_> = self.served.iter().collect();
        order.sort_by_key(|(key, _)| self.known.get(*key).map(|known| known.created.clone()));
        let (tables, conflicts) = RouteTables::build(order.iter().map(|(_, ingress)| *ingress));
        self.conflicts = conflicts
            .into_iter()
            .map(|it| {
                let (namespace, name) = it.owner;
                let text = format!("host {} belongs to Ingress {namespace}/{name}", it.host);
                (it.ingress, text)
            })
            .collect();
        let mut destinations = HashMap::new();
        for backend in [true, false]
            .into_iter()
            .flat_map(|local| tables.entry(local).backends())
        {
            if let Some(destination) = self.services.resolve(backend) {
                destinations.insert(backend.clone(), destination);
            }
        }
        let hashes = self.complete.iter();
        let hashes = hashes
            .map(|((namespace, name), hash)| (format!("{namespace}/{name}"), hash.clone()))
            .collect();
        let certificates = self.certificates_by_name();
        let routing = Routing {
            tables,
            destinations,
            hashes,
        };
        (routing, certificates)
    }

    /// Whether everything that an Ingress names is there.
    fn is_complete(&self, ingress: &Ingress) -> bool {
        let rules = ingress.spec.rules.iter();
        let paths = rules.filter_map(|rule| rule.http.as_ref());
        let mut splits = paths
            .flat_map(|http| &http.paths)
            .flat_map(|path| &path.splits);
        let secrets = &ingress.spec.tls;
        splits.all(|split| {
            let destination = self.services.resolve(&split.into());
            split.percent == 0
                || destination.is_some_and(|it| match it {
                    Destination::Addresses { all, .. } => !all.is_empty(),
                    Destination::Revision { .. } | Destination::Name { .. } => true,
                })
        }) && secrets.iter().all(|tls| {
            let key = (tls.secret_namespace.clone(), tls.secret_name.clone());
            self.certificates.contains_key(&key)
        })
    }

    fn certificates_by_name(&self) -> HashMap<String, Arc<CertifiedKey>> {
        let mut by_name = HashMap::new();
        for tls in self.served.values().flat_map(|it| &it.spec.tls) {
            let key = (tls.secret_namespace.clone(), tls.secret_name.clone());
            let Some(pair) = self.certificates.get(&key) else {
                continue;
            };
            for host in &tls.hosts {
                by_name.insert(host.to_ascii_lowercase(), Arc::clone(pair));
            }
        }
        by_name
    }

    /// Which replicas are to be asked for which Ingresses: those that are not known to serve them.
    pub fn questions(&mut self, replicas: &[IpAddr]) -> Vec<(Key, IpAddr)> {
        let mut questions = Vec::new();
        for (key, hash) in &self.complete {
            let installed = self.installed.entry(key.clone()).or_default();
            if installed.hash != *hash {
                *installed = Installed {
                    hash: hash.clone(),
                    replicas: HashSet::new(),
                };
            }
            installed.replicas.retain(|it| replicas.contains(it));
            let open = replicas
                .iter()
                .filter(|it| !installed.replicas.contains(it));
            questions.extend(open.map(|it| (key.clone(), *it)));
        }
        questions
    }

    /// A replica answered with a hash.
    pub fn answered(&mut self, key: &Key, replica: IpAddr, hash: &str) {
        if let Some(installed) = self.installed.get_mut(key)
            && installed.hash == hash
        {
            installed.replicas.insert(replica);
        }
    }

    /// The statuses that are not what they should be. `now` is RFC 3339.
    pub fn writes(&self, replicas: &[IpAddr], now: &str) -> Vec<Write> {
        self.known
            .iter()
            .filter_map(|(key, known)| {
                let generation = known.ingress.generation;
                let verdict = self.verdict(key, replicas);
                let status = status::next(&known.status, generation, &verdict, &self.entries, now)?;
                Some(Write {
                    key: key.clone(),
                    version: known.version.clone(),
                    status,
                })
            })
            .collect()
    }

    fn verdict(&self, key: &Key, replicas: &[IpAddr]) -> Verdict {
        if let Some(message) = self.conflicts.get(key) {
            return Verdict::Failed {
                reason: "HostConflict",
                message: message.clone(),
            };
        }
        let installed = self.installed.get(key);
        let everywhere = self.complete.get(key).is_some_and(|hash| {
            !replicas.is_empty()
                && installed.is_some_and(|it| {
                    it.hash == *hash && replicas.iter().all(|ip| it.replicas.contains(ip))
                })
        });
        if everywhere {
            Verdict::Ready
        } else {
            Verdict::Waiting
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::endpoints::{Address, Endpoints, Port, Subset};
    use crate::ingress::services::{self, Service};

    fn key(name: &str) -> Key {
        ("ns".to_owned(), name.to_owned())
    }

    fn reconciler() -> Reconciler {
        Reconciler::new(Entries {
            public: "public".to_owned(),
            private: "private".to_owned(),
        })
    }

    fn known(name: &str, generation: i64, created: &str, service: &str) -> Known {
        let mut spec: crate::ingress::spec::IngressSpec = serde_json::from_value(json!({
            "rules": [{"hosts": ["a"], "http": {"paths": [{"splits": [
                {"serviceNamespace": "ns", "serviceName": service, "servicePort": 80},
            ]}]}}],
        }))
        .unwrap();
        spec.set_defaults();
        Known {
            ingress: Ingress {
                namespace: "ns".to_owned(),
                name: name.to_owned(),
                generation,
                affinity: None,
                spec,
            },
            created: created.to_owned(),
            version: "1".to_owned(),
            status: Status::default(),
        }
    }

    fn add_service(reconciler: &mut Reconciler, name: &str, ips: &[&str]) {
        let service = Service {
            ports: vec![services::Port {
                name: "http".to_owned(),
                number: 80,
                ..services::Port::default()
            }],
            ..Service::default()
        };
        reconciler.services.apply_service(key(name), Some(service));
        let listed = Endpoints {
            subsets: vec![Subset {
                addresses: ips.iter().map(|ip| Address { ip: (*ip).into() }).collect(),
                not_ready_addresses: Vec::new(),
                ports: vec![Port {
                    name: "http".to_owned(),
                    port: 8080,
                }],
            }],
        };
        reconciler
            .services
            .apply_endpoints(key(name), name.to_owned(), Some(listed));
    }

    fn ready(writes: &[Write]) -> Vec<&str> {
        let statuses = writes.iter().map(|it| &it.status.conditions[2]);
        statuses.map(|it| &*it.status).collect()
    }

    /// Edge case 67: ready only when every replica has switched, and again after each change.
    #[test]
    fn edge_case_67_every_replica() {
        let mut reconciler = reconciler();
        let replicas: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        add_service(&mut reconciler, "one", &["10.1.0.1"]);
        reconciler.apply_ingress(key("i"), Some(known("i", 1, "1", "one")));
        let (routing, _) = reconciler.rebuild();
        let hash = routing.hashes["ns/i"].clone();
        assert_eq!(ready(&reconciler.writes(&replicas, "t")), ["Unknown"]);
        assert_eq!(reconciler.questions(&replicas).len(), 2);
        reconciler.answered(&key("i"), replicas[0], &hash);
        reconciler.answered(&key("i"), replicas[1], "an older one");
        assert_eq!(ready(&reconciler.writes(&replicas, "t")), ["Unknown"]);
        assert_eq!(reconciler.questions(&replicas), [(key("i"), replicas[1])]);
        reconciler.answered(&key("i"), replicas[1], &hash);
        let writes = reconciler.writes(&replicas, "t");
        assert_eq!(ready(&writes), ["True"]);
        // Once that is written there is nothing more to say.
        let mut written = known("i", 1, "1", "one");
        written.status = writes[0].status.clone();
        reconciler.apply_ingress(key("i"), Some(written.clone()));
        reconciler.rebuild();
        assert!(reconciler.writes(&replicas, "t2").is_empty());
        // A replica more, and another generation, have to be asked again.
        let third: IpAddr = "10.0.0.3".parse().unwrap();
        let more = [replicas[0], replicas[1], third];
        assert_eq!(reconciler.questions(&more), [(key("i"), third)]);
        add_service(&mut reconciler, "two", &["10.1.0.2"]);
        let mut changed = known("i", 2, "1", "two");
        changed.status = written.status;
        reconciler.apply_ingress(key("i"), Some(changed));
        reconciler.rebuild();
        assert_eq!(reconciler.questions(&replicas).len(), 2);
        let writes = reconciler.writes(&replicas, "t3");
        assert_eq!(ready(&writes), ["Unknown"]);
        assert_eq!(writes[0].status.observed_generation, 2);
    }

    /// "update": a change whose backend is not there yet leaves the old way in place.
    #[test]
    fn an_incomplete_change_is_not_served() {
        let mut reconciler = reconciler();
        add_service(&mut reconciler, "one", &["10.1.0.1"]);
        reconciler.apply_ingress(key("i"), Some(known("i", 1, "1", "one")));
        reconciler.rebuild();
        reconciler.apply_ingress(key("i"), Some(known("i", 2, "1", "two")));
        let backends = |reconciler: &mut Reconciler| {
            let (routing, _) = reconciler.rebuild();
            let all = routing.destinations.keys();
            let names: Vec<_> = all.map(|it| it.name.clone()).collect();
            (names, routing.hashes.len())
        };
        assert_eq!(backends(&mut reconciler), (vec!["one".to_owned()], 0));
        add_service(&mut reconciler, "two", &[]);
        assert_eq!(backends(&mut reconciler), (vec!["one".to_owned()], 0));
        add_service(&mut reconciler, "two", &["10.1.0.2"]);
        assert_eq!(backends(&mut reconciler), (vec!["two".to_owned()], 1));
        reconciler.apply_ingress(key("i"), None);
        assert_eq!(backends(&mut reconciler), (Vec::new(), 0));
    }

    #[test]
    fn a_host_belongs_to_who_was_first() {
        let mut reconciler = reconciler();
        let replicas: [IpAddr; 1] = ["10.0.0.1".parse().unwrap()];
        add_service(&mut reconciler, "one", &["10.1.0.1"]);
        reconciler.apply_ingress(key("a"), Some(known("a", 1, "2", "one")));
        reconciler.apply_ingress(key("b"), Some(known("b", 1, "1", "one")));
        reconciler.rebuild();
        let writes = reconciler.writes(&replicas, "t");
        assert_eq!(ready(&writes), ["False", "Unknown"]);
        let message = &writes[0].status.conditions[0].message;
        assert_eq!(message, "host a belongs to Ingress ns/b");
    }
}
