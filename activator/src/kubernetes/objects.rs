//! What the activator reads of Kubernetes objects, and nothing more of them is kept.
//!
//! Pure conversions. Upstream: `pkg/apis/serving/v1`, and the choice of probe optimization in
//! `pkg/activator/net/revision_backends.go`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{NotUsed, Object, ObjectMeta};
use serde::Deserialize;
use serving::{RevisionId, names};

use crate::affinity::Affinity;
use crate::annotations;
use crate::endpoints::{Address, Endpoints, Port, Subset};
use crate::world::{Protocol, Revision};

/// The label that names a revision.
pub const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// The label that marks objects of revisions.
pub const REVISION_UID_LABEL: &str = "serving.knative.dev/revisionUID";
/// The label that tells private from public Services.
pub const SERVICE_TYPE_LABEL: &str = "networking.internal.knative.dev/serviceType";

const SERVICE_LABEL: &str = "serving.knative.dev/service";
const CONFIGURATION_LABEL: &str = "serving.knative.dev/configuration";
const FULL_DUPLEX_ANNOTATION: &str = "features.knative.dev/http-full-duplex";
/// Upstream's default revision timeout, for a Revision that no webhook has completed.
const DEFAULT_TIMEOUT_SECONDS: u64 = 300;

/// A `serving.knative.dev/v1` Revision.
pub type RevisionObject = Object<RevisionSpec, NotUsed>;

/// The part of a Revision's spec that matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RevisionSpec {
    container_concurrency: Option<u32>,
    timeout_seconds: Option<u64>,
    response_start_timeout_seconds: Option<u64>,
    idle_timeout_seconds: Option<u64>,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Vec<ContainerPort>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerPort {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Probe {
    exec: Option<serde::de::IgnoredAny>,
}

/// Which Service of a revision an object belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// In front of the pods.
    Private,
    /// In front of pods or activators.
    Public,
}

/// A private Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrivateService {
    /// Its address, when it has one.
    pub cluster_ip: Option<IpAddr>,
    /// Its port for [`Protocol::Http1`].
    pub http: Option<u16>,
    /// Its port for [`Protocol::H2c`].
    pub http2: Option<u16>,
}

// === impl PrivateService ===

impl PrivateService {
    /// Where a revision of this protocol is reached, if it is.
    pub fn address(&self, protocol: Protocol) -> Option<SocketAddr> {
        let port = match protocol {
            Protocol::Http1 => self.http,
            Protocol::H2c => self.http2,
        };
        Some(SocketAddr::new(self.cluster_ip?, port?))
    }
}

// === impl RevisionSpec ===

impl RevisionSpec {
    /// The container that serves: the one with ports, or the only one.
    fn serving(&self) -> Option<&Container> {
        match &self.containers[..] {
            [only] => Some(only),
            all => all.iter().find(|container| !container.ports.is_empty()),
        }
    }

    fn protocol(&self) -> Protocol {
        let port = self.serving().and_then(|container| container.ports.first());
        match port {
            Some(port) if port.name == "h2c" => Protocol::H2c,
            _ => Protocol::Http1,
        }
    }

    /// False where the queue-proxy's word is not the whole of readiness.
    fn probe_optimization(&self) -> bool {
        let Some(serving) = self.serving() else {
            return true;
        };
        let exec = serving
            .readiness_probe
            .as_ref()
            .is_some_and(|probe| probe.exec.is_some());
        let sidecars = self
            .containers
            .iter()
            .filter(|container| container.ports.is_empty());
        !exec
            && serving.startup_probe.is_none()
            && !sidecars.into_iter().any(|it| it.startup_probe.is_some())
    }
}

/// A Revision as the request path needs it; `None` without a name.
pub fn revision(object: &RevisionObject) -> Option<Revision> {
    let id = id_of(&object.metadata)?;
    let id_text = id.to_string();
    let spec = &object.spec;
    let label = |name: &str| {
        let labels = object.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(name))
            .cloned()
            .unwrap_or_default()
    };
    let annotations = object.metadata.annotations.as_ref();
    let full_duplex = annotations
        .and_then(|annotations| annotations.get(FULL_DUPLEX_ANNOTATION))
        .is_some_and(|value| value.eq_ignore_ascii_case("enabled"));
    Some(Revision {
        id: id.into(),
        container_concurrency: spec.container_concurrency.unwrap_or(0),
        protocol: spec.protocol(),
        timeout: Duration::from_secs(spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS)),
        response_start_timeout: seconds(spec.response_start_timeout_seconds),
        idle_timeout: seconds(spec.idle_timeout_seconds),
        service: label(SERVICE_LABEL),
        configuration: label(CONFIGURATION_LABEL),
        full_duplex,
        affinity: affinity(&id_text, annotations),
        max_wait: annotations
            .and_then(|annotations| annotations.get(names::MAX_WAIT_ANNOTATION))
            .and_then(|value| max_wait(&id_text, value)),
        probe_optimization: spec.probe_optimization(),
    })
}

/// What cannot be read is none.
pub(super) fn affinity(
    of: &str,
    annotations: Option<&BTreeMap<String, String>>,
) -> Option<Affinity> {
    let value = annotations?.get(names::SESSION_AFFINITY_ANNOTATION)?;
    Affinity::parse(value)
        .inspect_err(|error| {
            let annotation = names::SESSION_AFFINITY_ANNOTATION;
            tracing::warn!(of, annotation, value, %error, "annotation ignored");
        })
        .ok()
}

/// What cannot be read is no limit.
fn max_wait(revision: &str, value: &str) -> Option<Duration> {
    annotations::max_wait(value)
        .inspect_err(|error| {
            let annotation = names::MAX_WAIT_ANNOTATION;
            tracing::warn!(revision, annotation, value, %error, "annotation ignored");
        })
        .ok()
}

/// Zero is off.
fn seconds(value: Option<u64>) -> Option<Duration> {
    value.filter(|it| *it > 0).map(Duration::from_secs)
}

/// Namespace and name of an object.
pub fn id_of(metadata: &ObjectMeta) -> Option<RevisionId> {
    Some(RevisionId::new(
        metadata.namespace.clone()?,
        metadata.name.clone()?,
    ))
}

/// The revision an object belongs to, and to which of its Services; `None` when it is nobody's.
/// Objects of private Services must also carry the revision's UID.
pub fn owner(metadata: &ObjectMeta) -> Option<(RevisionId, ServiceType)> {
    let none = BTreeMap::new();
    let labels = metadata.labels.as_ref().unwrap_or(&none);
    let service_type = match labels.get(SERVICE_TYPE_LABEL)?.as_str() {
        "Private" if labels.contains_key(REVISION_UID_LABEL) => ServiceType::Private,
        "Public" => ServiceType::Public,
        _ => return None,
    };
    let revision = labels.get(REVISION_LABEL).filter(|it| !it.is_empty())?;
    let id = RevisionId::new(metadata.namespace.clone()?, revision.clone());
    Some((id, service_type))
}

/// An Endpoints object.
pub fn endpoints(object: core::Endpoints) -> Endpoints {
    let addresses = |list: Option<Vec<core::EndpointAddress>>| {
        let list = list.unwrap_or_default().into_iter();
        list.map(|address| Address { ip: address.ip }).collect()
    };
    let subsets = object.subsets.unwrap_or_default().into_iter();
    Endpoints {
        subsets: subsets
            .map(|subset| Subset {
                addresses: addresses(subset.addresses),
                not_ready_addresses: addresses(subset.not_ready_addresses),
                ports: subset
                    .ports
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|port| named_port(port.name, Some(port.port)))
                    .collect(),
            })
            .collect(),
    }
}

/// An EndpointSlice in the terms of Endpoints. Pods that are terminating are left out: what they
/// have is finished, and nothing new is sent there.
pub fn endpoint_slice(object: EndpointSlice) -> Endpoints {
    let mut subset = Subset {
        ports: object
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| named_port(port.name, port.port))
            .collect(),
        ..Subset::default()
    };
    for endpoint in object.endpoints {
        let conditions = endpoint.conditions.unwrap_or_default();
        if conditions.terminating == Some(true) {
            continue;
        }
        let list = if conditions.ready.unwrap_or(true) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.extend(endpoint.addresses.into_iter().map(|ip| Address { ip }));
    }
    Endpoints {
        subsets: vec![subset],
    }
}

/// A Service's address and ports.
pub fn private_service(object: core::Service) -> PrivateService {
    let spec = object.spec.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let port = |protocol: Protocol| {
        let mut named = ports.iter();
        let port = named.find(|port| port.name.as_deref() == Some(protocol.port_name()))?;
        u16::try_from(port.port).ok()
    };
    PrivateService {
        // "None" and an empty text are no addresses.
        cluster_ip: spec.cluster_ip.and_then(|ip| ip.parse().ok()),
        http: port(Protocol::Http1),
        http2: port(Protocol::H2c),
    }
}

fn named_port(name: Option<String>, port: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default(),
        port: u16::try_from(port?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(spec: Value) -> Revision {
        let object = json!({
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {
                "namespace": "default",
                "name": "hello-00001",
                "labels": {"serving.knative.dev/service": "hello"},
                "annotations": {
                    "features.knative.dev/http-full-duplex": "eNabled",
                    "pilotlight.dev/max-wait": "1m30s",
                    "pilotlight.dev/session-affinity": "mcp",
                },
            },
            "spec": spec,
        });
        revision(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn reads_a_revision() {
        let read = parse(json!({
            "containerConcurrency": 7,
            "timeoutSeconds": 600,
            "responseStartTimeoutSeconds": 300,
            "idleTimeoutSeconds": 0,
            "containers": [{"image": "x", "ports": [{"name": "h2c", "containerPort": 8080}]}],
        }));
        assert_eq!(read.container_concurrency, 7);
        assert_eq!(read.protocol, Protocol::H2c);
        assert_eq!(read.timeout, Duration::from_secs(600));
        assert_eq!(read.response_start_timeout, Some(Duration::from_secs(300)));
        assert_eq!(read.idle_timeout, None);
        assert_eq!(read.service, "hello");
        assert!(read.full_duplex);
        assert_eq!(read.max_wait, Some(Duration::from_secs(90)));
        assert_eq!(max_wait("a/b", "soon"), None);
        assert_eq!(read.affinity, Some(Affinity::Mcp));
        assert!(read.probe_optimization);
    }

    #[test]
    fn probe_optimization_needs_the_queue_proxys_word_to_be_enough() {
        let with = |containers: Value| parse(json!({"containers": containers})).probe_optimization;
        assert!(with(json!([{"readinessProbe": {"httpGet": {"port": 1}}}])));
        assert!(!with(
            json!([{"readinessProbe": {"exec": {"command": ["x"]}}}])
        ));
        assert!(!with(json!([{"startupProbe": {"httpGet": {"port": 1}}}])));
        let serving = json!({"ports": [{"containerPort": 8080}]});
        let sidecar = json!({"readinessProbe": {"exec": {"command": ["x"]}}});
        assert!(with(json!([serving, sidecar])));
        let sidecar = json!({"startupProbe": {"tcpSocket": {"port": 1}}});
        assert!(!with(json!([sidecar, serving])));
    }

    #[test]
    fn slices_leave_out_terminating_pods() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions":
                    {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.4"]},
            ],
            "ports": [{"name": "http", "port": 8012}, {"name": "http2"}],
        }))
        .unwrap();
        let found = endpoint_slice(slice).destinations("http");
        assert_eq!(
            Vec::from_iter(found.ready),
            ["10.0.0.1:8012", "10.0.0.4:8012"]
        );
        assert_eq!(Vec::from_iter(found.not_ready), ["10.0.0.2:8012"]);
    }

    #[test]
    fn owners_by_label() {
        let owner = |labels: Value| {
            let metadata = json!({"namespace": "default", "name": "x", "labels": labels});
            owner(&serde_json::from_value(metadata).unwrap())
        };
        let id = RevisionId::new("default", "hello-00001");
        let private = json!({SERVICE_TYPE_LABEL: "Private", REVISION_UID_LABEL: "1",
            REVISION_LABEL: "hello-00001"});
        assert_eq!(owner(private), Some((id.clone(), ServiceType::Private)));
        let public = json!({SERVICE_TYPE_LABEL: "Public", REVISION_LABEL: "hello-00001"});
        assert_eq!(owner(public), Some((id, ServiceType::Public)));
        let no_uid = json!({SERVICE_TYPE_LABEL: "Private", REVISION_LABEL: "hello-00001"});
        assert_eq!(owner(no_uid), None);
        assert_eq!(owner(json!({})), None);
    }
}
