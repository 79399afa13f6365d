//! The objects of many revisions as Knative and Kubernetes would have made them, settled: active
//! ones with a ready pod each, the others at zero.

use serde_json::{Value, json};

use crate::api_server::Object;
use crate::pods;

/// Where the autoscaler's config maps are.
pub const SYSTEM: &str = "knative-serving";

/// How many revisions there are, and where.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// With one ready pod each; these come first.
    pub active: usize,
    /// Without.
    pub at_zero: usize,
    pub namespaces: usize,
    /// Whether pods are scraped; otherwise only activators report.
    pub scraped: bool,
}

/// The name of a revision.
pub fn name(index: usize) -> String {
    format!("service-{index:05}-00001")
}

// === impl Fleet ===

impl Fleet {
    /// The namespace of a revision.
    pub fn namespace(&self, index: usize) -> String {
        format!("team-{:04}", index % self.namespaces)
    }

    /// Everything that an API server would have.
    pub fn objects(&self) -> Vec<Object> {
        let mut objects = config_maps();
        for index in 0..self.active + self.at_zero {
            let active = index < self.active;
            let mut add = |resource, name: String, value| {
                objects.push(Object {
                    resource,
                    namespace: self.namespace(index),
                    name,
                    value,
                });
            };
            let revision = name(index);
            add(
                "podautoscalers",
                revision.clone(),
                self.pod_autoscaler(index, active),
            );
            let sks = self.serverless_service(index, active);
            add("serverlessservices", revision.clone(), sks);
            add("metrics", revision.clone(), self.metric(index));
            add(
                "deployments",
                deployment_name(index),
                deployment(index, active),
            );
            if active {
                add(
                    "pods",
                    format!("{}-5d4c-x", deployment_name(index)),
                    pod(index),
                );
            }
        }
        objects
    }

    fn burst(&self) -> &'static str {
        if self.scraped { "211" } else { "-1" }
    }

    fn annotations(&self) -> Value {
        json!({
            "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
            "autoscaling.knative.dev/target-burst-capacity": self.burst(),
            "serving.knative.dev/creator": "system:serviceaccount:default:bench"
        })
    }

    fn pod_autoscaler(&self, index: usize, active: bool) -> Value {
        let (status, reason, message) = match active {
            true => ("True", "", ""),
            false => ("False", "NoTraffic", "The target is not receiving traffic."),
        };
        let mut annotations = self.annotations();
        annotations["autoscaling.knative.dev/metric"] = "concurrency".into();
        json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {"uid": uid(index), "labels": labels(index), "annotations": annotations},
            "spec": {
                "protocolType": "http1", "reachability": "Reachable",
                "scaleTargetRef": target(index)
            },
            "status": {
                "observedGeneration": 1,
                "serviceName": name(index),
                "metricsServiceName": private(index),
                "desiredScale": i32::from(active), "actualScale": i32::from(active),
                "conditions": [
                    condition("Active", status, reason, message),
                    condition("Ready", status, reason, message),
                    condition("SKSReady", "True", "", ""),
                    condition("ScaleTargetInitialized", "True", "", "")
                ]
            }
        })
    }

    fn serverless_service(&self, index: usize, active: bool) -> Value {
        // What the reconciler works out of the burst capacity and one pod of 100, or none.
        let activators = match (self.scraped, active) {
            (true, true) => 4,
            (true, false) => 3,
            (false, _) => 2,
        };
        json!({
            "apiVersion": "networking.internal.knative.dev/v1alpha1",
            "kind": "ServerlessService",
            "metadata": {
                "labels": labels(index), "annotations": self.annotations(),
                "ownerReferences": owner(index)
            },
            "spec": {
                "mode": "Proxy", "protocolType": "http1", "numActivators": activators,
                "objectRef": target(index)
            },
            "status": {
                "observedGeneration": 1,
                "serviceName": name(index), "privateServiceName": private(index),
                "conditions": [
                    condition("ActivatorEndpointsPopulated", "True", "", ""),
                    condition("EndpointsPopulated", "True", "", ""),
                    condition("Ready", "True", "", "")
                ]
            }
        })
    }

    fn metric(&self, index: usize) -> Value {
        let target = if self.scraped {
            private(index)
        } else {
            String::new()
        };
        json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "Metric",
            "metadata": {
                "labels": labels(index), "annotations": self.annotations(),
                "ownerReferences": owner(index)
            },
            "spec": {
                "stableWindow": 60_000_000_000_i64, "panicWindow": 6_000_000_000_i64,
                "scrapeTarget": target
            },
            "status": {
                "observedGeneration": 1,
                "conditions": [condition("Ready", "True", "", "")]
            }
        })
    }
}

fn config_maps() -> Vec<Object> {
    let map = |name: &str, data: Value| Object {
        resource: "configmaps",
        namespace: SYSTEM.to_owned(),
        name: name.to_owned(),
        value: json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data
        }),
    };
    vec![
        map("config-autoscaler", json!({})),
        map("config-deployment", json!({"queue-sidecar-image": "queue"})),
        map("config-network", json!({})),
        map("config-logging", json!({"loglevel.autoscaler": "error"})),
        map("config-observability", json!({})),
        map("config-leader-election", json!({})),
    ]
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"
    })
}

fn uid(index: usize) -> String {
    format!("11111111-0000-4000-8000-{index:012x}")
}

fn private(index: usize) -> String {
    format!("{}-private", name(index))
}

fn deployment_name(index: usize) -> String {
    format!("{}-deployment", name(index))
}

fn target(index: usize) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment_name(index)})
}

fn owner(index: usize) -> Value {
    json!([{
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1", "kind": "PodAutoscaler",
        "name": name(index), "uid": uid(index), "controller": true, "blockOwnerDeletion": true
    }])
}

fn labels(index: usize) -> Value {
    let service = format!("service-{index:05}");
    json!({
        "app": name(index),
        "serving.knative.dev/service": service,
        "serving.knative.dev/configuration": service,
        "serving.knative.dev/configurationGeneration": "1",
        "serving.knative.dev/revision": name(index),
        "serving.knative.dev/revisionUID": uid(index)
    })
}

/// Two containers with their environment, as large as real ones.
fn template(index: usize) -> Value {
    let environment = |count: usize| -> Vec<Value> {
        let variable = |at| json!({"name": format!("VARIABLE_{at}"), "value": "some-value-of-it"});
        (0..count).map(variable).collect()
    };
    json!({
        "containers": [
            {
                "name": "user-container", "image": "registry.example/app@sha256:0123456789abcdef",
                "env": environment(10), "ports": [{"containerPort": 8080, "name": "user-port"}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}
            },
            {
                "name": "queue-proxy", "image": "registry.example/queue@sha256:0123456789abcdef",
                "env": environment(40), "ports": [{"containerPort": 9090, "name": "http-autometric"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8012}}
            }
        ],
        "serviceAccountName": format!("account-{index}"), "timeoutSeconds": 300
    })
}

fn deployment(index: usize, active: bool) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"labels": labels(index)},
        "spec": {
            "replicas": i32::from(active), "selector": {"matchLabels": {"app": name(index)}},
            "template": {"metadata": {"labels": labels(index)}, "spec": template(index)}
        },
        "status": {"replicas": i32::from(active), "readyReplicas": i32::from(active)}
    })
}

fn pod(index: usize) -> Value {
    let ip = pods::address(index).to_string();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": labels(index)},
        "spec": template(index),
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"},
                {"type": "ContainersReady", "status": "True"},
                {"type": "PodScheduled", "status": "True"}
            ]
        }
    })
}
