//! Where a Service's port leads: to a revision, to addresses, or to a name.
//!
//! Pure: objects in, answers out. Upstream leaves this to each ingress; net-kourier's choices are in
//! its `pkg/generator/ingress_translator.go`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serving::RevisionId;

use super::spec::ServicePort;
use super::table::BackendRef;
use crate::endpoints::{Endpoints, join_host_port};

/// Kubernetes' name for HTTP/2 in the clear.
const APP_PROTOCOL_H2C: &str = "kubernetes.io/h2c";

/// What is read of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The revision whose public Service this is.
    pub revision: Option<String>,
    /// Of an ExternalName Service: the name.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The name; that of the Endpoints' port, too.
    pub name: String,
    /// The number.
    pub number: u16,
    /// `appProtocol`.
    pub app_protocol: String,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Through this activator's own queue.
    Revision {
        /// The revision.
        id: RevisionId,
        /// Whether it speaks HTTP/2.
        http2: bool,
    },
    /// To any of these.
    Addresses {
        /// Ready ones, ascending.
        all: Vec<SocketAddr>,
        /// Whether they speak HTTP/2.
        http2: bool,
    },
    /// To whatever the name resolves to.
    Name {
        /// `host:port`.
        name: String,
        /// Whether it speaks HTTP/2.
        http2: bool,
    },
}

type Key = (String, String);

/// All Services and the addresses behind them.
#[derive(Clone, Debug, Default)]
pub struct Services {
    services: HashMap<Key, Service>,
    /// By the Service, then by the object that lists them.
    endpoints: HashMap<Key, HashMap<String, Endpoints>>,
}

// === impl Services ===

impl Services {
    /// A Service was added or changed, or is gone.
    pub fn apply_service(&mut self, key: Key, service: Option<Service>) {
        match service {
            Some(service) => {
                self.services.insert(key, service);
            }
            None => {
                self.services.remove(&key);
            }
        }
    }

    /// An object that lists a Service's addresses was added or changed, or is gone.
    pub fn apply_endpoints(&mut self, key: Key, object: String, listed: Option<Endpoints>) {
        let parts = self.endpoints.entry(key.clone()).or_default();
        match listed {
            Some(listed) => {
                parts.insert(object, listed);
            }
            None => {
                parts.remove(&object);
            }
        }
        if parts.is_empty() {
            self.endpoints.remove(&key);
        }
    }

    /// Where a backend leads; `None` when there is no such Service or port.
    pub fn resolve(&self, backend: &BackendRef) -> Option<Destination> {
        let key = (backend.namespace.clone(), backend.name.clone());
        let service = self.services.get(&key)?;
        if let Some(revision) = &service.revision {
            let id = RevisionId::new(backend.namespace.clone(), revision.clone());
            return Some(Destination::Revision {
                id,
                // The port for TLS has a name that does not say, and leads to the same app.
                http2: service.ports.iter().any(Port::speaks_http2),
            });
        }
        let port = service.port(&backend.port);
        if let Some(name) = &service.external_name {
            let number = match (&backend.port, port) {
                (_, Some(port)) => port.number,
                (ServicePort::Number(number), None) => *number,
                (ServicePort::Name(_), None) => return None,
            };
            return Some(Destination::Name {
                name: join_host_port(name, number),
                http2: port.is_some_and(Port::speaks_http2),
            });
        }
        let port = port?;
        let parts = self.endpoints.get(&key);
        let parts = parts.into_iter().flat_map(HashMap::values);
        let mut all: Vec<SocketAddr> = parts
            .flat_map(|part| part.destinations(&port.name).ready)
            .filter_map(|text| text.parse().ok())
            .collect();
        all.sort_unstable();
        all.dedup();
        Some(Destination::Addresses {
            all,
            http2: port.speaks_http2(),
        })
    }

    /// The addresses of a Service's port, as the endpoints spell them: the replicas of an entry.
    pub fn addresses(&self, namespace: &str, name: &str, port: &str) -> Vec<IpAddr> {
        let key = (namespace.to_owned(), name.to_owned());
        let parts = self.endpoints.get(&key);
        let parts = parts.into_iter().flat_map(HashMap::values);
        let mut all: Vec<IpAddr> = parts
            .flat_map(|part| part.healthy_addresses(port))
            .filter_map(|ip| ip.parse().ok())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

// === impl Service ===

impl Service {
    fn port(&self, wanted: &ServicePort) -> Option<&Port> {
        self.ports.iter().find(|port| match wanted {
            ServicePort::Number(number) => port.number == *number,
            ServicePort::Name(name) => port.name == *name,
        })
    }
}

// === impl Port ===

impl Port {
    fn speaks_http2(&self) -> bool {
        matches!(self.name.as_str(), "http2" | "h2c") || self.app_protocol == APP_PROTOCOL_H2C
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::{Address, Subset};

    fn backend(name: &str, port: ServicePort) -> BackendRef {
        BackendRef {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            port,
        }
    }

    fn port(name: &str, number: u16, app_protocol: &str) -> Port {
        Port {
            name: name.to_owned(),
            number,
            app_protocol: app_protocol.to_owned(),
        }
    }

    fn key(name: &str) -> Key {
        ("ns".to_owned(), name.to_owned())
    }

    #[test]
    fn every_kind_of_service() {
        let mut services = Services::default();
        let revision = Service {
            revision: Some("rev-1".to_owned()),
            ports: vec![port("http", 80, ""), port("https", 443, "")],
            ..Service::default()
        };
        services.apply_service(key("rev-1"), Some(revision));
        let h2c = Service {
            revision: Some("rev-2".to_owned()),
            ports: vec![port("http2", 81, APP_PROTOCOL_H2C), port("https", 443, "")],
            ..Service::default()
        };
        services.apply_service(key("rev-2"), Some(h2c));
        let external = Service {
            external_name: Some("gateway.knative-serving.svc".to_owned()),
            ports: vec![port("http2", 80, "")],
            ..Service::default()
        };
        services.apply_service(key("route"), Some(external));
        let plain = Service {
            ports: vec![port("http", 80, ""), port("grpc", 81, APP_PROTOCOL_H2C)],
            ..Service::default()
        };
        services.apply_service(key("plain"), Some(plain));
        let of = |ips: &[&str], name: &str, port| Subset {
            addresses: ips.iter().map(|ip| Address { ip: (*ip).into() }).collect(),
            not_ready_addresses: vec![Address {
                ip: "10.0.0.9".into(),
            }],
            ports: vec![crate::endpoints::Port {
                name: name.to_owned(),
                port,
            }],
        };
        let listed = Endpoints {
            subsets: vec![
                of(&["10.0.0.2", "10.0.0.1"], "http", 8080),
                of(&["10.0.0.1"], "grpc", 9000),
            ],
        };
        services.apply_endpoints(key("plain"), "plain".to_owned(), Some(listed));

        let resolve = |name: &str, port| services.resolve(&backend(name, port));
        for (name, number, http2) in [
            ("rev-1", 80, false),
            ("rev-1", 443, false),
            ("rev-2", 81, true),
            ("rev-2", 443, true),
        ] {
            let id = RevisionId::new("ns", name);
            assert_eq!(
                resolve(name, ServicePort::Number(number)),
                Some(Destination::Revision { id, http2 })
            );
        }
        assert_eq!(
            resolve("route", ServicePort::Number(80)),
            Some(Destination::Name {
                name: "gateway.knative-serving.svc:80".to_owned(),
                http2: true,
            })
        );
        let addresses = |texts: &[&str], http2| {
            let all = texts.iter().map(|text| text.parse().unwrap()).collect();
            Some(Destination::Addresses { all, http2 })
        };
        assert_eq!(
            resolve("plain", ServicePort::Name("http".to_owned())),
            addresses(&["10.0.0.1:8080", "10.0.0.2:8080"], false)
        );
        assert_eq!(
            resolve("plain", ServicePort::Number(81)),
            addresses(&["10.0.0.1:9000"], true)
        );
        assert_eq!(resolve("plain", ServicePort::Number(82)), None);
        assert_eq!(resolve("none", ServicePort::Number(80)), None);
        assert_eq!(services.addresses("ns", "plain", "http").len(), 2);
        services.apply_endpoints(key("plain"), "plain".to_owned(), None);
        assert_eq!(
            services.resolve(&backend("plain", ServicePort::Number(80))),
            addresses(&[], false)
        );
    }
}
