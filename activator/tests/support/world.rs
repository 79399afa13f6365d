//! What stands around the activator in the scenarios: Knative's controllers as far as it sees them,
//! queue-proxies, and clients.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;

use api_server::eventually;
use api_server::objects::{self, Kind, create, create_namespace};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, CustomResource};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::SYSTEM;

/// Knative's Revision, with whatever is in it.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize)]
#[kube(
    group = "serving.knative.dev",
    version = "v1",
    kind = "Revision",
    namespaced,
    schema = "disabled"
)]
pub(crate) struct RevisionSpec {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Knative's Ingress, with whatever is in it.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize)]
#[kube(
    group = "networking.internal.knative.dev",
    version = "v1alpha1",
    kind = "Ingress",
    plural = "ingresses",
    namespaced,
    status = "IngressStatus",
    schema = "disabled"
)]
pub(crate) struct IngressSpec {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct IngressStatus {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// A revision in a namespace of its own.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) name: &'static str,
}

/// A queue-proxy with an app that says its name; `/hold` waits until it is released.
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Requests but probes.
    pub(crate) requests: Rc<Cell<usize>>,
    /// The head of the last one.
    pub(crate) last: Rc<RefCell<String>>,
    release: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

/// An address of this machine that others may know: an API server takes no address of loopback for a
/// pod's.
pub(crate) fn own_ip() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent to this address, which is for documentation.
    socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr())
        .expect("a machine with an address beside loopback's")
        .ip()
}

/// The system namespace with its config maps.
pub(crate) async fn prepare(client: &Client) {
    create_namespace(client, SYSTEM).await;
    for (name, data) in [
        ("config-logging", json!({})),
        ("config-network", json!({})),
        (
            "config-observability",
            json!({"metrics-protocol": "prometheus"}),
        ),
    ] {
        let object = json!({"metadata": {"name": name}, "data": data});
        create::<ConfigMap>(client, SYSTEM, object).await;
    }
}

/// A request, and what came of it: the status, and the body.
pub(crate) async fn send(address: SocketAddr, path: &str, headers: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

// === impl World ===

impl World {
    /// A revision at zero.
    pub(crate) async fn create(client: &Client, name: &'static str) -> Self {
        let world = Self::empty(client, name).await;
        world.revision(json!({})).await;
        world
    }

    /// Only the namespace.
    pub(crate) async fn empty(client: &Client, name: &'static str) -> Self {
        let namespace = format!("of-{name}");
        create_namespace(client, &namespace).await;
        Self {
            client: client.clone(),
            namespace,
            name,
        }
    }

    /// Creates the Revision.
    pub(crate) async fn revision(&self, more: Value) {
        let mut spec = json!({"containers": [{"image": "i"}]});
        let fields = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        let object = json!({
            "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
            "metadata": {"name": self.name, "labels": {"serving.knative.dev/service": "hello"}},
            "spec": spec
        });
        create::<Revision>(&self.client, &self.namespace, object).await;
    }

    pub(crate) fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn delete<K: Kind>(&self, name: &str) {
        let api = self.api::<K>();
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Server-side apply, so that what is there already is changed.
    async fn apply<K: Kind>(&self, name: &str, object: Value) {
        let params = PatchParams::apply("world").force();
        let api = self.api::<K>();
        api.patch(name, &params, &Patch::Apply(object))
            .await
            .unwrap();
    }

    /// Of the private Service's objects.
    fn labels(&self) -> Value {
        json!({
            "networking.internal.knative.dev/serviceType": "Private",
            "serving.knative.dev/revision": self.name,
            "serving.knative.dev/revisionUID": "u"
        })
    }

    /// Lists a pod in an EndpointSlice of its own, ready or terminating.
    pub(crate) async fn slice(&self, pod: &Pod, ready: bool) {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": self.slice_of(pod), "labels": self.labels()},
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": [pod.address.ip().to_string()],
                "conditions": {"ready": ready, "serving": true, "terminating": !ready}
            }],
            "ports": [{"name": "http", "port": pod.address.port(), "protocol": "TCP"}]
        });
        self.apply::<EndpointSlice>(&self.slice_of(pod), slice)
            .await;
    }

    pub(crate) fn slice_of(&self, pod: &Pod) -> String {
        format!("{}-{}", self.name, pod.name)
    }

    /// Lists pods in the Endpoints of the private Service.
    pub(crate) async fn endpoints(&self, pods: &[&Pod]) {
        let name = format!("{}-private", self.name);
        let addresses: Vec<_> = pods.iter().map(|it| it.address).collect();
        self.endpoints_of(&name, self.labels(), "http", &addresses)
            .await;
    }

    /// Endpoints of any Service.
    pub(crate) async fn endpoints_of(
        &self,
        name: &str,
        labels: Value,
        port: &str,
        addresses: &[SocketAddr],
    ) {
        let subset = |it: &SocketAddr| {
            json!({
                "addresses": [{"ip": it.ip().to_string()}],
                "ports": [{"name": port, "port": it.port()}]
            })
        };
        let object = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": name, "labels": labels},
            "subsets": addresses.iter().map(subset).collect::<Vec<_>>()
        });
        self.apply::<Endpoints>(name, object).await;
    }

    /// A Service without a selector that leads to this pod.
    pub(crate) async fn service(&self, name: &str, pod: &Pod) {
        let service = json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"name": "http", "port": 80}]}
        });
        create::<Service>(&self.client, &self.namespace, service).await;
        self.endpoints_of(name, json!({}), "http", &[pod.address])
            .await;
    }

    /// A request for the revision through an activator.
    pub(crate) async fn get(&self, activator: SocketAddr, path: &str) -> (u16, String) {
        let (namespace, name) = (&self.namespace, self.name);
        let headers = format!(
            "Host: a\r\nKnative-Serving-Namespace: {namespace}\r\n\
             Knative-Serving-Revision: {name}\r\n"
        );
        send(activator, path, &headers).await.expect("an answer")
    }

    /// The same beside everything else.
    pub(crate) fn background(
        &self,
        activator: SocketAddr,
        path: &'static str,
    ) -> tokio::task::JoinHandle<(u16, String)> {
        let copy = Self {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            name: self.name,
        };
        tokio::task::spawn_local(async move { copy.get(activator, path).await })
    }

    /// Waits until a row of requests is answered by this pod alone.
    pub(crate) async fn only(&self, activator: SocketAddr, pod: &Pod) {
        eventually(&format!("way to {} alone", pod.name), async || {
            for _ in 0..10 {
                if self.get(activator, "/").await != (200, pod.name.to_owned()) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits for a status of answers.
    pub(crate) async fn answers(&self, activator: SocketAddr, status: u16) {
        eventually(&format!("answer with {status}"), async || {
            (self.get(activator, "/").await.0 == status).then_some(())
        })
        .await;
    }

    /// Changes a config map; null removes a key.
    pub(crate) async fn configure(client: &Client, map: &str, data: Value) {
        objects::patch::<ConfigMap>(client, SYSTEM, map, json!({"data": data})).await;
    }
}

// === impl Pod ===

impl Pod {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (release, released) = watch::channel(false);
        let requests = Rc::new(Cell::new(0));
        let last = Rc::new(RefCell::new(String::new()));
        let noted = (Rc::clone(&requests), Rc::clone(&last));
        let task = AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let noted = noted.clone();
                tokio::task::spawn_local(serve(stream, name, noted, released.clone()));
            }
        }));
        Self {
            name,
            address,
            requests,
            last,
            release,
            _task: task,
        }
    }

    /// Lets what is held go.
    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }

    /// Waits until it had so many requests.
    pub(crate) async fn asked(&self, requests: usize) {
        eventually(
            &format!("request {requests} at {}", self.name),
            async || (self.requests.get() >= requests).then_some(()),
        )
        .await;
    }
}

async fn serve(
    mut stream: TcpStream,
    name: &'static str,
    (requests, last): (Rc<Cell<usize>>, Rc<RefCell<String>>),
    mut released: watch::Receiver<bool>,
) {
    let mut head = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut head).await {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let mut body = name;
        if text.to_ascii_lowercase().contains("k-network-probe: queue") {
            body = "queue";
        } else {
            requests.set(requests.get() + 1);
            let hold = text.starts_with("GET /hold ");
            last.replace(text);
            if hold && released.wait_for(|it| *it).await.is_err() {
                return;
            }
        }
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
