//! What Knative's controllers make of a revision: the Deployment with the queue-proxy in each pod,
//! the Services, the PodAutoscaler, and the state of its ServerlessService.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::Cluster;
use super::api::{
    Answer, DEPLOYMENTS, ENDPOINTS, INGRESSES, NAMESPACES, POD_AUTOSCALERS, PODS, REVISIONS,
    SERVERLESS_SERVICES, SERVICES, eventually,
};
use super::serving_stand_in::{LABEL, SYSTEM, is_ready, name_of, pod_of};
use super::settings::TAG;

/// The port of the activator that takes requests for revisions.
const ACTIVATOR_PORT: u16 = 8012;
/// The queue-proxy's.
pub(crate) const QUEUE_PORT: u16 = 8012;
/// Between two looks of the ServerlessService's controller.
const LOOK: Duration = Duration::from_millis(100);

/// A revision in a namespace of its own.
pub(crate) struct Revision {
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// How a revision is made.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) replicas: u32,
    pub(crate) container_concurrency: u32,
    /// Of its pods.
    pub(crate) grace_seconds: u32,
    /// Variables of the app.
    pub(crate) app: Value,
    /// The Secret with the certificate of its queue-proxies.
    pub(crate) certificates: Option<&'static str>,
    /// Annotations of the PodAutoscaler; without any there is none, and nobody scales.
    pub(crate) scaled: Option<Value>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            replicas: 1,
            container_concurrency: 0,
            grace_seconds: 300,
            app: json!([]),
            certificates: None,
            scaled: None,
        }
    }
}

// === impl Revision ===

impl Revision {
    /// In a namespace named after the scenario.
    pub(crate) async fn create(cluster: &Rc<Cluster>, name: &str, spec: Spec) -> Self {
        let namespace = format!("pilotlight-test-{name}");
        let labels = json!({LABEL: name});
        let object = json!({"metadata": {"name": namespace, "labels": labels}});
        cluster.api.create(NAMESPACES, "", object).await;
        Self::create_in(cluster, &namespace, name, spec).await
    }

    /// One more in the same namespace.
    pub(crate) async fn create_in(
        cluster: &Rc<Cluster>,
        namespace: &str,
        name: &str,
        spec: Spec,
    ) -> Self {
        let revision = Self {
            cluster: Rc::clone(cluster),
            namespace: namespace.to_owned(),
            name: format!("{name}-00001"),
        };
        let api = &cluster.api;
        api.create(REVISIONS, namespace, revision.object(&spec))
            .await;
        for service in [revision.private_service(), revision.public_service()] {
            api.create(SERVICES, namespace, service).await;
        }
        let deployment = revision.deployment(&spec);
        api.create(DEPLOYMENTS, namespace, deployment).await;
        if let Some(annotations) = &spec.scaled {
            let object = revision.pod_autoscaler(annotations, &spec);
            api.create(POD_AUTOSCALERS, namespace, object).await;
        }
        revision
    }

    pub(crate) fn deployment_name(&self) -> String {
        format!("{}-deployment", self.name)
    }

    fn labels(&self) -> Value {
        json!({
            LABEL: "revision",
            "app": self.name,
            "serving.knative.dev/configuration": "hello",
            "serving.knative.dev/revision": self.name,
            "serving.knative.dev/revisionUID": format!("uid-of-{}", self.name),
            "serving.knative.dev/service": "hello"
        })
    }

    fn service_labels(&self, kind: &str) -> Value {
        let mut labels = self.labels();
        labels["networking.internal.knative.dev/serviceType"] = kind.into();
        labels["networking.internal.knative.dev/serverlessservice"] = self.name.clone().into();
        labels
    }

    fn object(&self, spec: &Spec) -> Value {
        json!({
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {"name": self.name, "labels": self.labels()},
            "spec": {
                "containerConcurrency": spec.container_concurrency,
                "timeoutSeconds": 300,
                "containers": [{
                    "name": "user-container",
                    "image": self.cluster.settings.image("sample-app", TAG),
                    "readinessProbe": {"successThreshold": 1, "tcpSocket": {"port": 0}}
                }]
            }
        })
    }

    fn deployment(&self, spec: &Spec) -> Value {
        let secret = |name| json!([{"name": "server-certs", "secret": {"secretName": name}}]);
        json!({
            "metadata": {"name": self.deployment_name(), "labels": self.labels()},
            "spec": {
                "replicas": spec.replicas,
                "selector": {"matchLabels": {"app": self.name}},
                "template": {
                    "metadata": {"labels": self.labels()},
                    "spec": {
                        "enableServiceLinks": false,
                        "terminationGracePeriodSeconds": spec.grace_seconds,
                        "volumes": spec.certificates.map(secret),
                        "containers": [self.app(spec), self.queue_proxy(spec)]
                    }
                }
            }
        })
    }

    fn app(&self, spec: &Spec) -> Value {
        let mut variables = vec![
            json!({"name": "PORT", "value": "8080"}),
            json!({"name": "K_REVISION", "value": self.name}),
            json!({"name": "K_CONFIGURATION", "value": "hello"}),
            json!({"name": "K_SERVICE", "value": "hello"}),
        ];
        variables.extend(spec.app.as_array().unwrap().clone());
        json!({
            "name": "user-container",
            "image": self.cluster.settings.image("sample-app", TAG),
            "imagePullPolicy": "IfNotPresent",
            "args": ["sample-app"],
            "env": variables,
            "lifecycle": {"preStop": {"httpGet": {"path": "/wait-for-drain", "port": 8022}}},
            "ports": [{"name": "user-port", "containerPort": 8080}],
            "terminationMessagePolicy": "FallbackToLogsOnError"
        })
    }

    /// The container that upstream's `pkg/reconciler/revision/resources/queue.go` makes.
    fn queue_proxy(&self, spec: &Spec) -> Value {
        let own = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let probe = json!({
            "tcpSocket": {"port": 8080, "host": "127.0.0.1"}, "successThreshold": 1
        });
        let observability = json!({
            "tracing": {"protocol": "none"},
            "metrics": {"protocol": "none"},
            "runtime": {"profiling": "disabled", "exportInterval": 15_000_000_000_u64},
            "requestMetrics": {"protocol": "none"},
            "enableRequestLog": false,
            "enableProbeRequestLog": false
        });
        let mut variables = vec![
            own("SERVING_POD", "metadata.name"),
            own("SERVING_POD_IP", "status.podIP"),
            own("HOST_IP", "status.hostIP"),
        ];
        let settings = [
            ("SERVING_NAMESPACE", self.namespace.clone()),
            ("SERVING_SERVICE", "hello".to_owned()),
            ("SERVING_CONFIGURATION", "hello".to_owned()),
            ("SERVING_REVISION", self.name.clone()),
            ("QUEUE_SERVING_PORT", QUEUE_PORT.to_string()),
            ("QUEUE_SERVING_TLS_PORT", "8112".to_owned()),
            (
                "CONTAINER_CONCURRENCY",
                spec.container_concurrency.to_string(),
            ),
            ("REVISION_TIMEOUT_SECONDS", "300".to_owned()),
            ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "0".to_owned()),
            ("REVISION_IDLE_TIMEOUT_SECONDS", "0".to_owned()),
            ("SERVING_LOGGING_CONFIG", String::new()),
            ("SERVING_LOGGING_LEVEL", String::new()),
            ("USER_PORT", "8080".to_owned()),
            ("SYSTEM_NAMESPACE", SYSTEM.to_owned()),
            ("SERVING_READINESS_PROBE", probe.to_string()),
            ("ENABLE_HTTP2_AUTO_DETECTION", "false".to_owned()),
            ("ENABLE_HTTP_FULL_DUPLEX", "false".to_owned()),
            ("ROOT_CA", String::new()),
            ("ENABLE_MULTI_CONTAINER_PROBES", "false".to_owned()),
            ("OBSERVABILITY_CONFIG", observability.to_string()),
        ];
        variables.extend(settings.map(|(name, value)| json!({"name": name, "value": value})));
        let certificates = json!([
            {"name": "server-certs", "mountPath": "/var/lib/knative/certs", "readOnly": true}
        ]);
        json!({
            "name": "queue-proxy",
            "image": self.cluster.settings.image("queue-proxy", TAG),
            "imagePullPolicy": "IfNotPresent",
            "env": variables,
            "ports": [
                {"name": "http-autometric", "containerPort": 9090},
                {"name": "http-usermetric", "containerPort": 9091},
                {"name": "queue-port", "containerPort": QUEUE_PORT},
                {"name": "https-port", "containerPort": 8112}
            ],
            "readinessProbe": {
                "httpGet": {
                    "port": QUEUE_PORT,
                    "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}]
                }
            },
            "resources": {"requests": {"cpu": "5m"}},
            "volumeMounts": spec.certificates.map(|_| certificates),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}
            }
        })
    }

    fn private_service(&self) -> Value {
        json!({
            "metadata": {
                "name": format!("{}-private", self.name),
                "labels": self.service_labels("Private")
            },
            "spec": {
                "selector": {"app": self.name},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": QUEUE_PORT},
                    {"name": "https", "port": 443, "targetPort": 8112},
                    {"name": "http-autometric", "port": 9090, "targetPort": "http-autometric"},
                    {"name": "http-usermetric", "port": 9091, "targetPort": "http-usermetric"},
                    {"name": "http-queueadm", "port": 8022, "targetPort": 8022}
                ]
            }
        })
    }

    fn public_service(&self) -> Value {
        json!({
            "metadata": {"name": self.name, "labels": self.service_labels("Public")},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": QUEUE_PORT}]}
        })
    }

    fn pod_autoscaler(&self, annotations: &Value, spec: &Spec) -> Value {
        let mut all = json!({"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"});
        let all = all.as_object_mut().unwrap();
        all.extend(annotations.as_object().unwrap().clone());
        json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {"name": self.name, "labels": self.labels(), "annotations": all},
            "spec": {
                "containerConcurrency": spec.container_concurrency,
                "protocolType": "http1",
                "reachability": "Reachable",
                "scaleTargetRef": {
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": self.deployment_name()
                }
            }
        })
    }

    /// Knative's controller of ServerlessServices, until it is dropped: the addresses of the public
    /// Service are those of activators or of pods, and the status says so.
    pub(crate) fn serve(&self) -> AbortOnDropHandle<()> {
        let (cluster, namespace, name) = (
            Rc::clone(&self.cluster),
            self.namespace.clone(),
            self.name.clone(),
        );
        let labels = self.service_labels("Public");
        AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            let mut last = Value::Null;
            let mut since = Since::default();
            loop {
                let now = serverless_service(&cluster, &namespace, &name, &mut since).await;
                if let Some((state, subsets)) = now
                    && last != json!([state, subsets])
                {
                    let api = &cluster.api;
                    let object = json!({
                        "metadata": {"name": name, "labels": labels}, "subsets": subsets
                    });
                    api.create(ENDPOINTS, &namespace, object.clone()).await;
                    api.patch(ENDPOINTS, &namespace, &name, object).await;
                    let status = json!({"status": state});
                    let path = format!("{name}/status");
                    api.patch(SERVERLESS_SERVICES, &namespace, &path, status)
                        .await;
                    last = json!([state, subsets]);
                }
                tokio::time::sleep(LOOK).await;
            }
        }))
    }

    /// Puts activators behind the public Service, as while a revision is at zero.
    pub(crate) async fn point_at_activators(&self) {
        let api = &self.cluster.api;
        let activators = eventually("an activator", async || {
            let endpoints = api.get(ENDPOINTS, SYSTEM, "activator-service").await?;
            Some(addresses(&endpoints)).filter(|all| !all.is_empty())
        })
        .await;
        let ports = json!([{"name": "http", "port": ACTIVATOR_PORT}]);
        let object = json!({
            "metadata": {"name": self.name, "labels": self.service_labels("Public")},
            "subsets": [{"addresses": activators, "ports": ports}]
        });
        api.create(ENDPOINTS, &self.namespace, object).await;
    }

    pub(crate) async fn scale(&self, replicas: u32) {
        let patch = json!({"spec": {"replicas": replicas}});
        let api = &self.cluster.api;
        api.patch(DEPLOYMENTS, &self.namespace, &self.deployment_name(), patch)
            .await;
    }

    /// Its pods that nobody has deleted.
    pub(crate) async fn pods(&self) -> Vec<Value> {
        let label = format!("app={}", self.name);
        let mut pods = self.cluster.api.list(PODS, &self.namespace, &label).await;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Waits for so many ready pods; their names.
    pub(crate) async fn ready(&self, wanted: usize) -> Vec<String> {
        eventually(&format!("{wanted} pods of {}", self.name), async || {
            let pods = self.pods().await;
            let ready: Vec<_> = pods.iter().filter(|it| is_ready(it)).map(name_of).collect();
            (ready.len() == wanted && pods.len() == wanted).then_some(ready)
        })
        .await
    }

    /// A request to its activators, as a gateway makes it.
    pub(crate) async fn ask_activator(&self, path: &str) -> Result<Answer, kube::Error> {
        let api = &self.cluster.api;
        let activator = pod_of(api, "activator").await;
        let request = http::Request::get(path)
            .header("knative-serving-namespace", &self.namespace)
            .header("knative-serving-revision", &self.name);
        api.ask(SYSTEM, &activator, ACTIVATOR_PORT, request).await
    }

    /// An Ingress of ours that leads a host to revisions, in percent.
    pub(crate) async fn route(&self, host: &str, to: &[(&Revision, u32)]) {
        let splits: Vec<_> = to
            .iter()
            .map(|(revision, percent)| {
                json!({
                    "serviceName": revision.name,
                    "serviceNamespace": revision.namespace,
                    "servicePort": 80,
                    "percent": percent,
                    "appendHeaders": {
                        "Knative-Serving-Namespace": revision.namespace,
                        "Knative-Serving-Revision": revision.name
                    }
                })
            })
            .collect();
        let spec = json!({"httpOption": "Enabled", "rules": [{
            "hosts": [host],
            "visibility": "ExternalIP",
            "http": {"paths": [{"splits": splits}]}
        }]});
        let class = "pilotlight.ingress.networking.knative.dev";
        let object = json!({
            "apiVersion": "networking.internal.knative.dev/v1alpha1",
            "kind": "Ingress",
            "metadata": {
                "name": "hello", "annotations": {"networking.knative.dev/ingress.class": class}
            },
            "spec": spec
        });
        let api = &self.cluster.api;
        api.create(INGRESSES, &self.namespace, object).await;
        api.patch(INGRESSES, &self.namespace, "hello", json!({ "spec": spec }))
            .await;
    }
}

/// Since when activators are in the path, or not.
#[derive(Debug, Default)]
struct Since(Option<(bool, String)>);

impl Since {
    fn of(&mut self, proxied: bool) -> String {
        match &self.0 {
            Some((before, at)) if *before == proxied => at.clone(),
            _ => {
                let second = Timestamp::now().as_second();
                let at = Timestamp::from_second(second).unwrap().to_string();
                self.0 = Some((proxied, at.clone()));
                at
            }
        }
    }
}

/// The status of a ServerlessService, and the subsets of its public Endpoints; nothing while it is
/// not there.
async fn serverless_service(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    since: &mut Since,
) -> Option<(Value, Value)> {
    let api = &cluster.api;
    let object = api.get(SERVERLESS_SERVICES, namespace, name).await?;
    let private = format!("{name}-private");
    let pods = api.get(ENDPOINTS, namespace, &private).await;
    let pods = pods.map_or_else(Vec::new, |it| addresses(&it));
    let activators = api.get(ENDPOINTS, SYSTEM, "activator-service").await?;
    let proxied = object["spec"]["mode"] == "Proxy" || pods.is_empty();
    let addresses = if proxied {
        addresses(&activators)
    } else {
        pods.clone()
    };
    let subsets = match &addresses[..] {
        [] => json!([]),
        all => json!([{"addresses": all, "ports": [{"name": "http", "port": QUEUE_PORT}]}]),
    };
    let populated = if pods.is_empty() { "Unknown" } else { "True" };
    let since = since.of(proxied);
    let conditions = json!([
        {
            "type": "ActivatorEndpointsPopulated", "severity": "Info",
            "status": if proxied { "True" } else { "False" }, "lastTransitionTime": since
        },
        {"type": "EndpointsPopulated", "status": populated, "lastTransitionTime": since},
        {"type": "Ready", "status": populated, "lastTransitionTime": since}
    ]);
    let state = json!({
        "observedGeneration": object["metadata"]["generation"],
        "serviceName": name,
        "privateServiceName": private,
        "conditions": conditions
    });
    Some((state, subsets))
}

/// The ready addresses of Endpoints.
fn addresses(endpoints: &Value) -> Vec<Value> {
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    subsets
        .flat_map(|it| it["addresses"].as_array().into_iter().flatten())
        .map(|it| json!({"ip": it["ip"]}))
        .collect()
}
