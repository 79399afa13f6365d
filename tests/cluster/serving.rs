//! An installed Knative Serving, as far as our parts notice one: its kinds, ConfigMaps, Services and
//! Deployments, over which `deploy/install` lays ours. All of it is removed in the end.

use serde_json::{Value, json};

use super::Cluster;
use super::api::{
    Api, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CONFIG_MAPS, DEFINITIONS, DEPLOYMENTS, NAMESPACES,
    PODS, REVISIONS, SECRETS, SERVICE_ACCOUNTS, SERVICES, eventually,
};
use super::settings::{FIRST, TAG, deploy};

pub(crate) const SYSTEM: &str = "knative-serving";
/// What all our objects outside of `SYSTEM` carry.
pub(crate) const LABEL: &str = "pilotlight.dev/test";
/// What `deploy/install` gives to all that it adds.
pub(crate) const PART: &str = "pilotlight.dev/part";

/// The service accounts that upstream's parts have. The images found first are ours, too, and need
/// rights, which these get.
const FIRST_ACCOUNTS: [&str; 2] = ["activator", "controller"];

/// Whether another Serving is in the cluster, in whatever namespace. What a run of this suite that was
/// killed has left is none: it is removed first.
pub(crate) async fn somebody_elses(api: &Api) -> bool {
    let kinds = api_server::definitions::all().map(|it| name_of(&it));
    let definitions = api.list(DEFINITIONS, "", "").await;
    let definitions = definitions.iter().filter(|it| kinds.contains(&name_of(it)));
    let namespaces = api.list(NAMESPACES, "", "").await;
    let namespaces = namespaces.iter().filter(|it| name_of(it) == SYSTEM);
    let mut found = definitions.chain(namespaces);
    found.any(|it| it["metadata"]["labels"][LABEL].is_null())
}

/// Brings everything there, and installs our parts.
pub(crate) async fn prepare(cluster: &Cluster) {
    clean_up(cluster).await;
    let api = &cluster.api;
    let labels = json!({ LABEL: "serving" });
    for definition in api_server::definitions::all() {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        let mut labelled = definition;
        labelled["metadata"]["labels"] = labels.clone();
        api.create(DEFINITIONS, "", labelled).await;
        api.wait((DEFINITIONS, "", &name), "established", |it| {
            let conditions = it["status"]["conditions"].as_array()?;
            let established = conditions
                .iter()
                .find(|it| it["type"] == "Established" && it["status"] == "True");
            established.map(|_| ())
        })
        .await;
    }
    let namespace = json!({"metadata": {"name": SYSTEM, "labels": labels}});
    api.create(NAMESPACES, "", namespace).await;
    for (name, data) in config_maps() {
        let object = json!({"metadata": {"name": name}, "data": data});
        api.create(CONFIG_MAPS, SYSTEM, object).await;
    }
    for account in FIRST_ACCOUNTS {
        let object = json!({"metadata": {"name": account}});
        api.create(SERVICE_ACCOUNTS, SYSTEM, object).await;
    }
    api.create(CLUSTER_ROLE_BINDINGS, "", first_rights()).await;
    for service in [autoscaler_service(), activator_service()] {
        api.create(SERVICES, SYSTEM, service).await;
    }
    for (name, labels, account, ports) in [
        (
            "activator",
            json!({"app": "activator", "role": "activator"}),
            "activator",
            [("http1", 8012), ("h2c", 8013)].as_slice(),
        ),
        (
            "autoscaler",
            json!({"app": "autoscaler"}),
            "controller",
            [("websocket", 8080)].as_slice(),
        ),
    ] {
        let image = cluster.settings.image(name, FIRST);
        let object = deployment(name, &labels, account, &image, ports);
        api.create(DEPLOYMENTS, SYSTEM, object).await;
    }
    for part in ["autoscaler", "activator-ingress", "sidecar"] {
        let images = &cluster.settings.prefix;
        deploy("install", &[part, "--images", images, "--tag", TAG]);
    }
}

/// Removes whatever a run brings, also one that was killed.
pub(crate) async fn clean_up(cluster: &Cluster) {
    let api = &cluster.api;
    forget(api, "default").await;
    let ours = api.list(NAMESPACES, "", LABEL).await;
    let names: Vec<_> = ours
        .iter()
        .filter_map(|it| it["metadata"]["name"].as_str())
        .collect();
    for namespace in &names {
        api.delete(NAMESPACES, "", namespace, None).await;
        // Pods drain for minutes; nobody waits for these.
        for pod in api.list(PODS, namespace, "").await {
            let pod = pod["metadata"]["name"].as_str().unwrap();
            api.delete(PODS, namespace, pod, Some(0)).await;
        }
    }
    for namespace in &names {
        api.gone(NAMESPACES, "", namespace).await;
    }
    for definition in api.list(DEFINITIONS, "", LABEL).await {
        let name = definition["metadata"]["name"].as_str().unwrap();
        api.delete(DEFINITIONS, "", name, None).await;
        api.gone(DEFINITIONS, "", name).await;
    }
    // Those of `deploy/install` are left where no scenario has rolled it back, or that has failed.
    for kind in [CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES] {
        for label in [LABEL, PART] {
            for object in api.list(kind, "", label).await {
                api.delete(kind, "", &name_of(&object), None).await;
            }
        }
    }
}

/// Removes what scenarios made in a namespace that is not theirs.
pub(crate) async fn forget(api: &Api, namespace: &str) {
    for kind in [REVISIONS, DEPLOYMENTS, SERVICES, SECRETS, PODS] {
        for object in api.list(kind, namespace, LABEL).await {
            api.delete(kind, namespace, &name_of(&object), Some(0))
                .await;
        }
    }
}

fn config_maps() -> [(&'static str, Value); 6] {
    [
        (
            "config-autoscaler",
            json!({"scale-to-zero-grace-period": "6s", "allow-zero-initial-scale": "true"}),
        ),
        // A Deployment of the controller's needs an image there; it is ours from the install on.
        (
            "config-deployment",
            json!({"queue-sidecar-image": "queue-proxy:first"}),
        ),
        ("config-network", json!({})),
        ("config-logging", json!({})),
        ("config-observability", json!({})),
        ("config-leader-election", json!({})),
    ]
}

fn first_rights() -> Value {
    let subjects: Vec<_> = FIRST_ACCOUNTS
        .map(|name| json!({"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}))
        .into();
    json!({
        "metadata": {"name": "pilotlight-test-first", "labels": {LABEL: "serving"}},
        "subjects": subjects,
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"
        }
    })
}

/// What the activator reports to.
fn autoscaler_service() -> Value {
    json!({
        "metadata": {"name": "autoscaler", "labels": {"app": "autoscaler"}},
        "spec": {
            "selector": {"app": "autoscaler"},
            "ports": [{"name": "http", "port": 8080, "targetPort": 8080}]
        }
    })
}

/// Whose endpoints stand in public Services of revisions at zero.
fn activator_service() -> Value {
    json!({
        "metadata": {"name": "activator-service", "labels": {"app": "activator"}},
        "spec": {
            "selector": {"app": "activator"},
            "ports": [
                {"name": "http-metrics", "port": 9090, "targetPort": 9090},
                {"name": "http-profiling", "port": 8008, "targetPort": 8008},
                {"name": "http", "port": 80, "targetPort": 8012},
                {"name": "http2", "port": 81, "targetPort": 8013},
                {"name": "https", "port": 443, "targetPort": 8112}
            ]
        }
    })
}

/// A Deployment of upstream's control plane: its variables and settings.
fn deployment(
    name: &str,
    labels: &Value,
    account: &str,
    image: &str,
    ports: &[(&str, u16)],
) -> Value {
    let own = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port)| json!({"name": name, "containerPort": port}))
        .collect();
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": account,
                    "containers": [{
                        "name": name,
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "env": [
                            own("POD_NAME", "metadata.name"),
                            own("POD_IP", "status.podIP"),
                            own("SYSTEM_NAMESPACE", "metadata.namespace"),
                            {"name": "CONFIG_LOGGING_NAME", "value": "config-logging"},
                            {"name": "CONFIG_OBSERVABILITY_NAME", "value": "config-observability"}
                        ],
                        "ports": ports,
                        "resources": {"requests": {"cpu": "30m", "memory": "30Mi"}}
                    }]
                }
            }
        }
    })
}

/// Notes what a pod of our control plane has written, before it is taken away.
pub(crate) async fn note_log(cluster: &Cluster, program: &str, pod: &str) {
    let log = cluster.api.log(SYSTEM, pod, program).await;
    assert!(!log.is_empty(), "no log of {pod}");
    cluster.noted_logs.borrow_mut().push(log);
}

/// A pod of our control plane that serves; not one that drains.
pub(crate) async fn pod_of(api: &Api, app: &str) -> String {
    eventually(&format!("pod of {app}"), async || {
        let pods = api.list(PODS, SYSTEM, &format!("app={app}")).await;
        pods.iter().find(|it| is_ready(it)).map(name_of)
    })
    .await
}

/// Whether a pod is ready and nobody has deleted it.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "Ready" && it["status"] == "True")
}

pub(crate) fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}
