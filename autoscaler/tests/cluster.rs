//! The autoscaler against a real API server. One test, because one pair of etcd and kube-apiserver
//! serves all scenarios; each has a namespace of its own.
#![cfg(feature = "kubernetes")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, helpers included, fails by panicking and tells what it saw"
)]

#[path = "support/api_server.rs"]
mod api_server;

use std::collections::HashMap;
use std::time::Duration;

use autoscaler::kubernetes::config::Config;
use autoscaler::kubernetes::objects::{Metric, PodAutoscaler, ServerlessService};
use autoscaler::kubernetes::{self, Listeners, config_maps};
use futures_util::SinkExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serving::stat::{Stat, WireStatMessage, WireStatMessages};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use self::api_server::{ApiServer, eventually};

const SYSTEM: &str = "knative-serving";
const BUCKET: &str = "autoscaler-bucket-00-of-01";

/// One replica of the autoscaler.
struct Replica {
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    stats: u16,
}

impl Replica {
    async fn start(server: &ApiServer, pod: &str) -> Self {
        let client = server.client();
        let environment = HashMap::from(
            [
                ("SYSTEM_NAMESPACE", SYSTEM),
                ("POD_NAME", pod),
                ("POD_IP", "10.1.2.3"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let config = Config::from_environment(&environment, None).unwrap();
        kubernetes::check_version(&client, (1, 30)).await.unwrap();
        let configuration = config_maps::read(&client, &config).await.unwrap();
        let listeners = Listeners {
            stats: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            profiling: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            metrics: None,
        };
        let stats = listeners.stats.local_addr().unwrap().port();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let ended = tokio::task::spawn_local(async move {
            kubernetes::run(config, configuration, client, listeners, stop)
                .await
                .unwrap();
        });
        Self {
            shutdown,
            ended,
            stats,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.ended)
            .await
            .expect("the replica ends")
            .unwrap();
    }

    async fn send(&self, name: &str, concurrency: f64) {
        let url = format!("ws://127.0.0.1:{}/", self.stats);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let stat = Some(Stat {
            average_concurrent_requests: concurrency,
            request_count: concurrency,
            ..Stat::default()
        });
        let message = WireStatMessage {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            stat,
        };
        let frame = WireStatMessages {
            messages: vec![message],
        };
        socket
            .send(Message::binary(frame.encode_to_vec()))
            .await
            .unwrap();
        socket.close(None).await.unwrap();
    }
}

async fn create<K>(client: &Client, namespace: &str, object: Value) -> K
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let object: K = serde_json::from_value(object).unwrap();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// Waits until the object exists and `wanted` holds for its JSON.
async fn wait_for<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let what = format!("{} {name} as wanted", K::kind(&()));
    let mut last = Value::Null;
    eventually(&what, async || {
        let object = api.get_opt(name).await.unwrap()?;
        let object = serde_json::to_value(object).unwrap();
        if object != last {
            println!("{name}: {}", object["status"]);
            last = object.clone();
        }
        Some(object).filter(&wanted)
    })
    .await
}

async fn config_map(client: &Client, name: &str, data: Value) {
    let object = json!({"metadata": {"name": name}, "data": data});
    create::<ConfigMap>(client, SYSTEM, object).await;
}

async fn prepare(client: &Client) {
    let namespaces = Api::<Namespace>::all(client.clone());
    let system = serde_json::from_value(json!({"metadata": {"name": SYSTEM}})).unwrap();
    namespaces
        .create(&PostParams::default(), &system)
        .await
        .unwrap();
    config_map(
        client,
        "config-autoscaler",
        json!({"scale-to-zero-grace-period": "1s"}),
    )
    .await;
    config_map(
        client,
        "config-deployment",
        json!({"queue-sidecar-image": "q"}),
    )
    .await;
    for name in ["config-network", "config-logging", "config-observability"] {
        config_map(client, name, json!({})).await;
    }
    let lease = json!({"lease-duration": "3s", "renew-deadline": "2s", "retry-period": "1s"});
    config_map(client, "config-leader-election", lease).await;
}

/// What the controller makes of a Revision: a Deployment and a PodAutoscaler.
async fn revision(client: &Client, name: &str, annotations: Value) {
    let labels = json!({"app": name});
    let container = json!({"name": "c", "image": "i"});
    let deployment = json!({
        "metadata": {"name": format!("{name}-deployment")},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        }
    });
    create::<Deployment>(client, "default", deployment).await;
    let mut all = json!({"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"});
    let more = annotations.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(more);
    let object = json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "name": name,
            "labels": {
                "serving.knative.dev/configuration": "hello",
                "serving.knative.dev/revision": name,
                "serving.knative.dev/service": "hello"
            },
            "annotations": all
        },
        "spec": {
            "protocolType": "http1",
            "scaleTargetRef": {
                "apiVersion": "apps/v1", "kind": "Deployment", "name": format!("{name}-deployment")
            }
        }
    });
    create::<PodAutoscaler>(client, "default", object).await;
}

/// What the ServerlessService's controller does: names, and readiness for the present generation.
async fn serve(client: &Client, name: &str) {
    let object = wait_for::<ServerlessService>(client, "default", name, |_| true).await;
    let conditions = json!([
        {"type": "ActivatorEndpointsPopulated", "status": "True", "severity": "Info",
         "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "EndpointsPopulated", "status": "True"},
        {"type": "Ready", "status": "True"}
    ]);
    let status = json!({"status": {
        "observedGeneration": object["metadata"]["generation"],
        "serviceName": name,
        "privateServiceName": format!("{name}-private"),
        "conditions": conditions
    }});
    let api = Api::<ServerlessService>::namespaced(client.clone(), "default");
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

/// A pod that is ready, and answers no scrape.
async fn ready_pod(client: &Client, revision: &str) {
    let name = format!("{revision}-pod");
    let object = json!({
        "metadata": {"name": name, "labels": {
            "serving.knative.dev/revision": revision, "serving.knative.dev/revisionUID": "u"
        }},
        "spec": {"containers": [{"name": "c", "image": "i"}]}
    });
    create::<Pod>(client, "default", object).await;
    let status = json!({"status": {
        "phase": "Running", "podIP": "127.0.0.1", "startTime": "2026-01-01T00:00:00Z",
        "podIPs": [{"ip": "127.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}]
    }});
    let api = Api::<Pod>::namespaced(client.clone(), "default");
    api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .unwrap();
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

async fn replicas(client: &Client, name: &str, wanted: i64) {
    let name = format!("{name}-deployment");
    wait_for::<Deployment>(client, "default", &name, |it| {
        it["spec"]["replicas"] == wanted
    })
    .await;
}

/// From a fresh PodAutoscaler to ready, to zero, and back within one stat.
async fn to_zero_and_back(server: &ApiServer, replica: &Replica) {
    let client = server.client();
    let name = "hello-00001";
    let annotations = json!({
        "autoscaling.knative.dev/target-burst-capacity": "-1",
        "autoscaling.knative.dev/window": "6s"
    });
    revision(&client, name, annotations).await;
    let fresh = wait_for::<PodAutoscaler>(&client, "default", name, |it| {
        condition(it, "SKSReady")["message"] == "No Private Service Name"
    })
    .await;
    assert_eq!(fresh["status"]["desiredScale"], -1);
    assert_eq!(fresh["status"]["serviceName"], "");
    serve(&client, name).await;
    ready_pod(&client, name).await;
    let metric = wait_for::<Metric>(&client, "default", name, |it| {
        condition(it, "Ready")["status"] == "True"
    })
    .await;
    let spec = json!({
        "stableWindow": 6_000_000_000_i64, "panicWindow": 1_000_000_000, "scrapeTarget": ""
    });
    assert_eq!(metric["spec"], spec);
    assert_eq!(metric["metadata"]["ownerReferences"][0]["controller"], true);
    wait_for::<PodAutoscaler>(&client, "default", name, |it| {
        condition(it, "Ready")["status"] == "True" && it["status"]["actualScale"] == 1
    })
    .await;
    wait_for::<PodAutoscaler>(&client, "default", name, |it| {
        condition(it, "Active")["reason"] == "NoTraffic"
    })
    .await;
    replicas(&client, name, 0).await;
    replica.send(name, 1.0).await;
    replicas(&client, name, 1).await;
}

/// An object of another class, or of none, is left alone.
async fn other_classes_are_ignored(server: &ApiServer) {
    let client = server.client();
    let class = json!({"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"});
    revision(&client, "other-00001", class).await;
    // One of ours that came later has been dealt with.
    revision(&client, "later-00001", json!({})).await;
    wait_for::<ServerlessService>(&client, "default", "later-00001", |_| true).await;
    let api = Api::<ServerlessService>::namespaced(client, "default");
    assert!(api.get_opt("other-00001").await.unwrap().is_none());
}

/// A changed config map applies to what runs.
async fn configuration_applies_live(server: &ApiServer) {
    let client = server.client();
    let name = "configured-00001";
    revision(&client, name, json!({})).await;
    serve(&client, name).await;
    replicas(&client, name, 1).await;
    let api = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM);
    let change = async |data: Value| {
        let patch = Patch::Merge(json!({"data": data}));
        api.patch("config-autoscaler", &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    change(json!({"min-scale": "many", "max-scale": "9"})).await;
    change(json!({"min-scale": "3"})).await;
    replicas(&client, name, 3).await;
    change(json!({"min-scale": null, "max-scale": null})).await;
}

/// The bucket's Lease is held, and given up at the end, so that another replica takes over.
async fn leases(server: &ApiServer, first: Replica) {
    let client = server.client();
    let holder = |wanted: &'static str| {
        move |it: &Value| it["spec"]["holderIdentity"].as_str().unwrap_or_default() == wanted
    };
    let lease = async |wanted| wait_for::<Lease>(&client, SYSTEM, BUCKET, holder(wanted)).await;
    lease("autoscaler-a_10.1.2.3").await;
    wait_for::<Service>(&client, SYSTEM, BUCKET, |it| {
        it["spec"]["ports"][0]["port"] != 0
    })
    .await;
    wait_for::<EndpointSlice>(&client, SYSTEM, BUCKET, |it| {
        it["endpoints"][0]["addresses"] == json!(["10.1.2.3"])
    })
    .await;
    let second = Replica::start(server, "autoscaler-b").await;
    first.stop().await;
    let taken = lease("autoscaler-b_10.1.2.3").await;
    assert_eq!(taken["spec"]["leaseTransitions"], 1);
    // The new leader works.
    revision(&client, "after-00001", json!({})).await;
    wait_for::<ServerlessService>(&client, "default", "after-00001", |_| true).await;
    second.stop().await;
    let released = lease("").await;
    assert_eq!(released["spec"]["leaseDurationSeconds"], 1);
}

#[test]
fn a_cluster() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let Some(server) = ApiServer::start().await else {
            return;
        };
        prepare(&server.client()).await;
        let replica = Replica::start(&server, "autoscaler-a").await;
        to_zero_and_back(&server, &replica).await;
        other_classes_are_ignored(&server).await;
        configuration_applies_live(&server).await;
        leases(&server, replica).await;
    });
}
