//! What stands around the autoscaler in the scenarios: Knative's controller, the ServerlessService's
//! controller, the kubelet and an activator, each reduced to what the autoscaler sees of it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use api_server::eventually;
use api_server::objects::{self, create_namespace};
pub(crate) use api_server::objects::{Kind, condition, create, is};
use autoscaler::kubernetes::objects::{PodAutoscaler, ServerlessService};
use futures_util::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use prost::Message as _;
use serde_json::{Value, json};
use serving::stat::{Stat, WireStatMessage, WireStatMessages};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const SYSTEM: &str = "knative-serving";
/// Between two reports of an activator.
const REPORT: Duration = Duration::from_secs(1);

/// A revision in a namespace of its own.
pub(crate) struct Revision {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) name: &'static str,
}

/// A task that ends with the scenario.
pub(crate) type Running = AbortOnDropHandle<()>;

fn run(task: impl Future<Output = ()> + 'static) -> Running {
    AbortOnDropHandle::new(tokio::task::spawn_local(task))
}

/// The system namespace with its config maps.
pub(crate) async fn prepare(client: &Client) {
    create_namespace(client, SYSTEM).await;
    let lease = json!({"lease-duration": "4s", "renew-deadline": "3s", "retry-period": "1s"});
    for (name, data) in [
        (
            "config-autoscaler",
            json!({"scale-to-zero-grace-period": "2s", "allow-zero-initial-scale": "true"}),
        ),
        ("config-deployment", json!({"queue-sidecar-image": "q"})),
        ("config-network", json!({})),
        ("config-logging", json!({})),
        ("config-observability", json!({})),
        ("config-leader-election", lease),
    ] {
        let object = json!({"metadata": {"name": name}, "data": data});
        create::<ConfigMap>(client, SYSTEM, object).await;
    }
}

/// Changes keys of `config-autoscaler`; null removes one.
pub(crate) async fn configure(client: &Client, data: Value) {
    let api = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM);
    let patch = Patch::Merge(json!({"data": data}));
    api.patch("config-autoscaler", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Seconds since the epoch at which a condition last changed.
pub(crate) fn changed_at(object: &Value, kind: &str) -> i64 {
    let time = condition(object, kind)["lastTransitionTime"].as_str();
    time.unwrap().parse::<Timestamp>().unwrap().as_second()
}

pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

// === impl Revision ===

impl Revision {
    /// What Knative's controller makes of a Revision: a Deployment and a PodAutoscaler.
    pub(crate) async fn create(client: &Client, name: &'static str, annotations: Value) -> Self {
        Self::with(client, name, annotations, 1, json!({})).await
    }

    /// With so many replicas, and more fields in the spec of the PodAutoscaler.
    pub(crate) async fn with(
        client: &Client,
        name: &'static str,
        annotations: Value,
        replicas: u32,
        spec: Value,
    ) -> Self {
        let revision = Self::without_deployment(client, name).await;
        revision.create_deployment(replicas).await;
        revision.create_pod_autoscaler(annotations, spec).await;
        revision
    }

    /// Only the namespace that the objects are to be in.
    pub(crate) async fn without_deployment(client: &Client, name: &'static str) -> Self {
        let namespace = format!("of-{name}");
        create_namespace(client, &namespace).await;
        Self {
            client: client.clone(),
            namespace,
            name,
        }
    }

    pub(crate) async fn create_deployment(&self, replicas: u32) {
        let labels = json!({"app": self.name});
        let container = json!({"name": "c", "image": "i"});
        let deployment = json!({
            "metadata": {"name": self.deployment_name()},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
            }
        });
        create::<Deployment>(&self.client, &self.namespace, deployment).await;
    }

    pub(crate) async fn create_pod_autoscaler(&self, annotations: Value, more: Value) {
        let mut all = json!({"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"});
        let all = all.as_object_mut().unwrap();
        all.extend(annotations.as_object().unwrap().clone());
        // A null stands for an annotation that is not there.
        all.retain(|_, value| !value.is_null());
        let mut spec = json!({
            "protocolType": "http1",
            "scaleTargetRef": {
                "apiVersion": "apps/v1", "kind": "Deployment", "name": self.deployment_name()
            }
        });
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {
                "name": self.name,
                "labels": {
                    "serving.knative.dev/configuration": "hello",
                    "serving.knative.dev/revision": self.name,
                    "serving.knative.dev/service": "hello"
                },
                "annotations": all
            },
            "spec": spec
        });
        create::<PodAutoscaler>(&self.client, &self.namespace, object).await;
    }

    pub(crate) fn deployment_name(&self) -> String {
        format!("{}-deployment", self.name)
    }

    pub(crate) fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Every state of an object from now on, until it is dropped.
    async fn states<K: Kind>(api: Api<K>, name: String, mut seen: impl AsyncFnMut(K)) {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stream = watcher(api, config).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream);
        while let Some(object) = stream.next().await {
            // A watch that broke begins anew by itself.
            if let Ok(object) = object {
                seen(object).await;
            }
        }
    }

    /// The ServerlessService's controller: names and readiness for each generation, and since when
    /// activators are in the path.
    pub(crate) fn serve(&self) -> Running {
        let (api, name) = (self.api::<ServerlessService>(), self.name);
        run(async move {
            let mut proxied: Option<Timestamp> = None;
            let status = async |object: ServerlessService| {
                let observed = object
                    .status
                    .as_ref()
                    .map(|status| status.observed_generation);
                if observed == object.metadata.generation {
                    return;
                }
                proxied =
                    (object.spec.mode == "Proxy").then(|| proxied.unwrap_or_else(Timestamp::now));
                let activators = json!({
                    "type": "ActivatorEndpointsPopulated", "severity": "Info",
                    "status": if proxied.is_some() { "True" } else { "False" },
                    "lastTransitionTime": proxied.map(|at| Timestamp::from_second(at.as_second()).unwrap().to_string()),
                });
                let status = json!({"status": {
                    "observedGeneration": object.metadata.generation,
                    "serviceName": name,
                    "privateServiceName": format!("{name}-private"),
                    "conditions": [
                        activators,
                        {"type": "EndpointsPopulated", "status": "True"},
                        {"type": "Ready", "status": "True"}
                    ]
                }});
                // What was deleted in the meantime needs no status.
                let _ = api
                    .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                    .await;
            };
            Self::states(api.clone(), name.to_owned(), status).await;
        })
    }

    /// Deployment's controller and kubelet: as many ready pods as there are replicas, at these
    /// addresses.
    pub(crate) fn run_pods(&self, address: impl Fn(usize) -> String + 'static) -> Running {
        let (deployments, pods) = (self.api::<Deployment>(), self.api::<Pod>());
        let (name, revision) = (self.deployment_name(), self.name);
        run(async move {
            let mut present = 0;
            let follow = async |deployment: Deployment| {
                let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let wanted = usize::try_from(wanted).unwrap();
                while present < wanted {
                    make_pod(&pods, revision, present, &address(present)).await;
                    present += 1;
                }
                while present > wanted {
                    present -= 1;
                    let at_once = DeleteParams::default().grace_period(0);
                    let _ = pods
                        .delete(&format!("{revision}-{present}"), &at_once)
                        .await;
                }
            };
            Box::pin(Self::states(deployments, name, follow)).await;
        })
    }

    /// Waits until the object exists and `wanted` holds for its JSON.
    pub(crate) async fn wait<K: Kind>(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        objects::wait(&self.api::<K>(), name, what, wanted).await
    }

    /// Waits for a state of the PodAutoscaler.
    pub(crate) async fn pa(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait::<PodAutoscaler>(self.name, what, wanted).await
    }

    /// Waits for a state of the ServerlessService.
    pub(crate) async fn sks(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait::<ServerlessService>(self.name, what, wanted)
            .await
    }

    /// Waits for replicas of the Deployment.
    pub(crate) async fn replicas(&self, wanted: i64) {
        let name = self.deployment_name();
        let what = format!("{wanted} replicas");
        self.wait::<Deployment>(&name, &what, |it| it["spec"]["replicas"] == wanted)
            .await;
    }

    /// Records the replicas of the Deployment whenever they change.
    pub(crate) fn record_replicas(&self) -> (Running, Rc<RefCell<VecDeque<i32>>>) {
        let recorded = Rc::new(RefCell::new(VecDeque::new()));
        let (api, name, to) = (
            self.api::<Deployment>(),
            self.deployment_name(),
            recorded.clone(),
        );
        let task = run(Self::states(
            api,
            name,
            async move |deployment: Deployment| {
                let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let mut to = to.borrow_mut();
                if to.back() != Some(&replicas) {
                    to.push_back(replicas);
                }
            },
        ));
        (task, recorded)
    }

    /// Records every state of the PodAutoscaler.
    pub(crate) fn record_states(&self) -> (Running, Rc<RefCell<Vec<Value>>>) {
        let recorded = Rc::new(RefCell::new(Vec::new()));
        let (api, name, to) = (
            self.api::<PodAutoscaler>(),
            self.name.to_owned(),
            recorded.clone(),
        );
        let task = run(Self::states(
            api,
            name,
            async move |object: PodAutoscaler| {
                to.borrow_mut().push(serde_json::to_value(object).unwrap());
            },
        ));
        (task, recorded)
    }

    /// A merge patch of an object.
    pub(crate) async fn patch<K: Kind>(&self, name: &str, patch: Value) {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// An activator that reports this revision's concurrency to replicas, in turns, until dropped.
    pub(crate) fn traffic(&self, replicas: Vec<SocketAddr>, level: &Rc<Cell<f64>>) -> Running {
        let (namespace, name, level) = (self.namespace.clone(), self.name, level.clone());
        run(async move {
            let mut turn = 0;
            loop {
                let frame = frame(&namespace, name, level.get());
                // A replica that is gone or paused must not stop the activator.
                let sent = send(replicas[turn % replicas.len()], frame);
                let _ = tokio::time::timeout(REPORT, sent).await;
                turn += 1;
                tokio::time::sleep(REPORT).await;
            }
        })
    }

    /// One report.
    pub(crate) async fn report(&self, replica: SocketAddr, concurrency: f64) {
        let frame = frame(&self.namespace, self.name, concurrency);
        eventually("a replica that takes stats", async || {
            send(replica, frame.clone()).await
        })
        .await;
    }
}

async fn make_pod(pods: &Api<Pod>, revision: &str, index: usize, address: &str) {
    let name = format!("{revision}-{index}");
    let object = json!({
        "metadata": {"name": name, "labels": {
            "serving.knative.dev/revision": revision, "serving.knative.dev/revisionUID": "u"
        }},
        "spec": {"containers": [{"name": "c", "image": "i"}]}
    });
    let object = serde_json::from_value(object).unwrap();
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "startTime": "2026-01-01T00:00:00Z",
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}]
    }});
    // Tried until the API server is there.
    eventually("a pod", async || {
        match pods.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(_) => return None,
        }
        let patch = Patch::Strategic(&status);
        pods.patch_status(&name, &PatchParams::default(), &patch)
            .await
            .ok()
    })
    .await;
}

fn frame(namespace: &str, name: &str, concurrency: f64) -> Vec<u8> {
    let stat = Some(Stat {
        average_concurrent_requests: concurrency,
        request_count: concurrency,
        ..Stat::default()
    });
    let message = WireStatMessage {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        stat,
    };
    let frame = WireStatMessages {
        messages: vec![message],
    };
    frame.encode_to_vec()
}

async fn send(replica: SocketAddr, frame: Vec<u8>) -> Option<()> {
    let url = format!("ws://{replica}/");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
    socket.send(Message::binary(frame)).await.ok()?;
    socket.close(None).await.ok()
}

/// Answers activator probes, and notes the last one.
pub(crate) struct Activator {
    pub(crate) address: SocketAddr,
    pub(crate) last_probe: Rc<RefCell<String>>,
    _task: Running,
}

/// The statistics of all pods, at whatever loopback address.
pub(crate) struct Stats {
    pub(crate) port: u16,
    levels: Rc<RefCell<HashMap<String, Level>>>,
    _task: Running,
}

/// What a pod's statistics say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Concurrency(f64),
    /// An answer with status 500.
    Broken,
}

/// Serves HTTP/1.1 requests without bodies; `answer` is given the address asked and the head.
fn http(listener: TcpListener, answer: impl Fn(&str, &str) -> Vec<u8> + 'static) -> Running {
    let answer = Rc::new(answer);
    run(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                continue;
            };
            let answer = answer.clone();
            let asked = stream.local_addr().unwrap().ip().to_string();
            tokio::task::spawn_local(async move {
                let mut request = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut request).await {
                    if request.ends_with(b"\r\n\r\n") {
                        let head = String::from_utf8(std::mem::take(&mut request)).unwrap();
                        if stream.write_all(&answer(&asked, &head)).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    })
}

fn response(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    head.extend_from_slice(body);
    head
}

impl Activator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let last_probe = Rc::new(RefCell::new(String::new()));
        let noted = last_probe.clone();
        let task = http(listener, move |_, head| {
            noted.replace(head.to_owned());
            response("200 OK", "text/plain", b"activator")
        });
        Self {
            address,
            last_probe,
            _task: task,
        }
    }
}

impl Stats {
    /// Every pod reports nothing until it is told otherwise.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let levels = Rc::new(RefCell::new(HashMap::new()));
        let present = levels.clone();
        let task = http(listener, move |address, _| {
            let level = present.borrow().get(address).copied();
            let concurrency = match level {
                None => 0.0,
                Some(Level::Concurrency(concurrency)) => concurrency,
                Some(Level::Broken) => {
                    return response("500 Internal Server Error", "text/plain", b"");
                }
            };
            let stat = Stat {
                pod_name: "p".to_owned(),
                average_concurrent_requests: concurrency,
                request_count: concurrency,
                process_uptime: 1000.0,
                ..Stat::default()
            };
            response("200 OK", "application/protobuf", &stat.encode_to_vec())
        });
        Self {
            port,
            levels,
            _task: task,
        }
    }

    /// Changes what the pod at `address` reports.
    pub(crate) fn set(&self, address: &str, level: Level) {
        self.levels.borrow_mut().insert(address.to_owned(), level);
    }
}
