//! Revisions as an activator sees them: Revisions, the Endpoints and private Services of their
//! ServerlessServices, and the ConfigMaps that it reads.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::api_server::Object;
use crate::fleet::{SYSTEM, name};

/// The namespace of all revisions.
pub const NAMESPACE: &str = "bench";

/// One revision.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    pub container_concurrency: u32,
    /// Ready pods.
    pub pods: Vec<SocketAddr>,
}

/// Everything that an API server would have; the revisions are called [`name`] of their position.
pub fn objects(revisions: &[Revision]) -> Vec<Object> {
    let mut objects = config_maps();
    for (index, revision) in revisions.iter().enumerate() {
        let name = name(index);
        let mut add = |resource, name: String, value| {
            objects.push(Object {
                resource,
                namespace: NAMESPACE.to_owned(),
                name,
                value,
            });
        };
        let private = private(&name);
        add("revisions", name.clone(), revision_object(&name, revision));
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"labels": labels(&name, "Private")},
            "spec": {"clusterIP": cluster_ip(index).to_string(), "ports": [{"name": "http", "port": 80}]}
        });
        add("services", private.clone(), service);
        add("endpoints", private, endpoints(&name, &revision.pods));
        let activator = [SocketAddr::from(([127, 0, 0, 1], 8012))];
        let mut public = endpoints(&name, &activator);
        public["metadata"]["labels"] = labels(&name, "Public");
        add("endpoints", name, public);
    }
    objects
}

/// The name of a revision's private Service.
pub fn private(revision: &str) -> String {
    format!("{revision}-private")
}

/// One for each, as Kubernetes gives them out.
fn cluster_ip(index: usize) -> Ipv4Addr {
    let offset = u32::try_from(index).expect("a bench has fewer revisions");
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + offset)
}

/// The private Endpoints of a revision with these pods, all ready and on one port.
pub fn endpoints(revision: &str, pods: &[SocketAddr]) -> Value {
    let addresses: Vec<Value> = pods
        .iter()
        .map(|pod| json!({"ip": pod.ip().to_string()}))
        .collect();
    let subsets = pods.first().map(
        |first| json!({"addresses": addresses, "ports": [{"name": "http", "port": first.port()}]}),
    );
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"labels": labels(revision, "Private")},
        "subsets": Vec::from_iter(subsets)
    })
}

fn revision_object(name: &str, revision: &Revision) -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
        "metadata": {"labels": labels(name, "Public")},
        "spec": {
            "containerConcurrency": revision.container_concurrency,
            "timeoutSeconds": 300, "responseStartTimeoutSeconds": 250, "idleTimeoutSeconds": 200,
            "containers": [{"image": "registry.example/app@sha256:0123456789abcdef",
                "readinessProbe": {"tcpSocket": {"port": 0}, "successThreshold": 1}}]
        }
    })
}

fn labels(revision: &str, service_type: &str) -> Value {
    json!({
        "networking.internal.knative.dev/serverlessservice": revision,
        "networking.internal.knative.dev/serviceType": service_type,
        "serving.knative.dev/service": revision,
        "serving.knative.dev/configuration": revision,
        "serving.knative.dev/revision": revision,
        "serving.knative.dev/revisionUID": "11111111-0000-4000-8000-000000000000"
    })
}

fn config_maps() -> Vec<Object> {
    let map = |name: &str, data: Value| Object {
        resource: "configmaps",
        namespace: SYSTEM.to_owned(),
        name: name.to_owned(),
        value: json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data}),
    };
    vec![
        map("config-network", json!({})),
        map("config-logging", json!({"loglevel.activator": "error"})),
        map(
            "config-observability",
            json!({"metrics-protocol": "prometheus"}),
        ),
    ]
}
