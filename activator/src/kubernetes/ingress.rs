//! The watches of a gateway: Ingresses of our class, every Service with its addresses, certificates;
//! what comes of them is served, and said in the Ingresses' status once every replica serves it.
//!
//! All replicas write, because all come to the same text: a write is bound to the version that was
//! read, and who comes second finds nothing to say any more. Upstream: net-kourier's reconciler and
//! `knative.dev/networking/pkg/status`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use http::{HeaderName, HeaderValue, Request, StatusCode, header as http_header};
use k8s_openapi::api::core::v1 as core;
use kube::api::{ApiResource, Patch, PatchParams};
use kube::core::{GroupVersionKind, Object};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use rustls::crypto::ring;
use serde_json::json;
use serving::body::Body;
use serving::networking::HEALTHZ_PATH;
use serving::pool::{Protocol, Upstream, UpstreamOptions};
use serving::{header, names, tls};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::objects::{self, REVISION_LABEL, SERVICE_TYPE_LABEL};
use super::watches::{Event, events};
use crate::endpoints::Endpoints;
use crate::ingress::front::{Certificates, Gateway};
use crate::ingress::reconciler::{Key, Known, Reconciler};
use crate::ingress::services::{Port, Service};
use crate::ingress::spec::{CLASS_ANNOTATION, Ingress, IngressSpec};
use crate::ingress::status::{Entries, Status};

/// The label of Secrets with certificates.
const CERTIFICATE_LABEL: &str = "networking.internal.knative.dev/certificate-uid";
/// The port of the private entry's Service; its addresses are the replicas.
const REPLICA_PORT_NAME: &str = "http2";
/// Between two looks at what replicas serve while there is something to find out.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions and writes under way at once; the rest comes at the next look.
const MAX_TASKS: usize = 256;

static INGRESS: HeaderName = HeaderName::from_static(names::INGRESS_HEADER);

type IngressObject = Object<IngressSpec, Status>;

/// What the gateway is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressOptions {
    /// The class whose Ingresses are served.
    pub class: String,
    /// The Service of the entry for the world, in the namespace below.
    pub public_service: String,
    /// The Service of the entry for the cluster.
    pub private_service: String,
    /// Where both are.
    pub namespace: String,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The port at which replicas serve the cluster.
    pub replica_port: u16,
}

enum Change {
    Ingress(Key, Option<Box<Known>>),
    Service(Key, Option<Service>),
    Endpoints(Key, String, Option<Endpoints>),
    Certificate(Key, Option<Arc<rustls::sign::CertifiedKey>>),
    Listed,
}

/// First lists to wait for.
const KINDS: usize = 4;

/// What a task found out.
enum Done {
    Installed(Key, IpAddr, String),
    Nothing,
}

/// The gateway's controller.
struct Controller {
    client: Client,
    options: IngressOptions,
    reconciler: Reconciler,
    gateway: Gateway,
    certificates: Arc<Certificates>,
    tasks: JoinSet<Done>,
}

// === impl IngressOptions ===

impl IngressOptions {
    fn entries(&self) -> Entries {
        let domain = |service: &str| {
            let (namespace, domain) = (&self.namespace, &self.cluster_domain);
            format!("{service}.{namespace}.svc.{domain}")
        };
        Entries {
            public: domain(&self.public_service),
            private: domain(&self.private_service),
        }
    }
}

/// Serves Ingresses through `gateway` for as long as it is polled. `synced` is told when everything
/// was listed once and is served.
pub async fn run(
    client: Client,
    options: IngressOptions,
    gateway: Gateway,
    certificates: Arc<Certificates>,
    synced: oneshot::Sender<()>,
) {
    let mut changes = futures_util::stream::select_all([
        ingresses(&client, &options.class),
        services(&client),
        endpoints(&client),
        secrets(&client),
    ]);
    let mut controller = Controller {
        reconciler: Reconciler::new(options.entries()),
        client,
        options,
        gateway,
        certificates,
        tasks: JoinSet::new(),
    };
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut synced = Some(synced);
    let mut listed = 0;
    loop {
        tokio::select! {
            change = changes.next() => {
                let Some(change) = change else { return };
                listed += usize::from(controller.apply(change));
                // One table for all that came together.
                while let Some(Some(change)) = changes.next().now_or_never() {
                    listed += usize::from(controller.apply(change));
                }
                // A part of the first lists would look like something missing.
                if listed >= KINDS {
                    controller.serve();
                    if let Some(synced) = synced.take() {
                        let _ = synced.send(());
                    }
                }
            }
            Some(done) = controller.tasks.join_next() => controller.done(done),
            _ = ticks.tick(), if listed >= KINDS => controller.look(),
        }
    }
}

// === impl Controller ===

impl Controller {
    /// True when a first list is complete.
    fn apply(&mut self, change: Change) -> bool {
        let reconciler = &mut self.reconciler;
        match change {
            Change::Ingress(key, known) => reconciler.apply_ingress(key, known.map(|it| *it)),
            Change::Service(key, service) => reconciler.services.apply_service(key, service),
            Change::Endpoints(key, name, listed) => {
                reconciler.services.apply_endpoints(key, name, listed);
            }
            Change::Certificate(key, pair) => reconciler.apply_certificate(key, pair),
            Change::Listed => return true,
        }
        false
    }

    fn serve(&mut self) {
        let (routing, certificates) = self.reconciler.rebuild();
        self.gateway.replace(routing);
        self.certificates.replace(certificates);
    }

    /// Asks replicas for what they serve, and writes what is to be written.
    fn look(&mut self) {
        let options = &self.options;
        let replicas = self.reconciler.services.addresses(
            &options.namespace,
            &options.private_service,
            REPLICA_PORT_NAME,
        );
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        for write in self.reconciler.writes(&replicas, &now.to_string()) {
            if self.tasks.len() >= MAX_TASKS {
                return;
            }
            let api = self.api(&write.key.0);
            self.tasks.spawn_local(async move {
                let patch = json!({
                    "metadata": {"resourceVersion": write.version},
                    "status": write.status,
                });
                let params = PatchParams::default();
                let name = &write.key.1;
                let patched = api.patch_status(name, &params, &Patch::Merge(patch)).await;
                if let Err(error) = patched {
                    // Somebody else was quicker, or will be asked again at the next look.
                    tracing::debug!(ingress = %name, %error, "status not written");
                }
                Done::Nothing
            });
        }
        for (key, replica) in self.reconciler.questions(&replicas) {
            if self.tasks.len() >= MAX_TASKS {
                return;
            }
            let address = SocketAddr::new(replica, options.replica_port);
            self.tasks.spawn_local(async move {
                let asked = tokio::time::timeout(PATIENCE, ask(address, &key)).await;
                match asked.ok().flatten() {
                    Some(hash) => Done::Installed(key, replica, hash),
                    None => Done::Nothing,
                }
            });
        }
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        if let Ok(Done::Installed(key, replica, hash)) = done {
            self.reconciler.answered(&key, replica, &hash);
        }
    }

    fn api(&self, namespace: &str) -> Api<IngressObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource())
    }
}

/// The hash of what a replica serves of an Ingress.
async fn ask(replica: SocketAddr, (namespace, name): &Key) -> Option<String> {
    let upstream: Rc<Upstream> = Upstream::new(replica, UpstreamOptions::default());
    let mut request = Request::new(Body::empty(()));
    *request.uri_mut() = http::Uri::from_static(HEALTHZ_PATH);
    let headers = request.headers_mut();
    headers.insert(http_header::HOST, upstream.host().clone());
    let asked = HeaderValue::try_from(format!("{namespace}/{name}")).ok()?;
    headers.insert(&INGRESS, asked);
    let response = upstream.send(request, Protocol::Http1).await.ok()?;
    let hash = response.headers().get(&header::HASH)?.to_str().ok()?;
    (response.status() == StatusCode::OK).then(|| hash.to_owned())
}

fn resource() -> ApiResource {
    let group = "networking.internal.knative.dev";
    let kind = GroupVersionKind::gvk(group, "v1alpha1", "Ingress");
    ApiResource::from_gvk_with_plural(&kind, "ingresses")
}

fn key_of(metadata: &impl ResourceExt) -> Option<Key> {
    Some((metadata.namespace()?, metadata.name_any()))
}

/// Ingresses of another class are as good as absent: they are never touched.
fn ingresses(client: &Client, class: &str) -> BoxStream<'static, Change> {
    let api: Api<IngressObject> = Api::all_with(client.clone(), &resource());
    let class = class.to_owned();
    changes(
        watcher(api, watcher::Config::default()),
        key_of,
        move |object: IngressObject| {
            let named = object.annotations().get(CLASS_ANNOTATION);
            (named == Some(&class)).then(|| Box::new(known(object)))
        },
        Change::Ingress,
    )
}

fn known(object: IngressObject) -> Known {
    let mut spec = object.spec;
    spec.set_defaults();
    let metadata = object.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let affinity = objects::affinity(name, metadata.annotations.as_ref());
    Known {
        created: metadata
            .creation_timestamp
            .map_or_else(String::new, |time| time.0.to_string()),
        version: metadata.resource_version.unwrap_or_default(),
        status: object.status.unwrap_or_default(),
        ingress: Ingress {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            affinity,
            spec,
        },
    }
}

fn services(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<core::Service> = Api::all(client.clone());
    changes(
        watcher(api, watcher::Config::default()),
        key_of,
        |object| Some(service(object)),
        Change::Service,
    )
}

fn service(object: core::Service) -> Service {
    let none = BTreeMap::new();
    let labels = object.metadata.labels.as_ref().unwrap_or(&none);
    let public = labels
        .get(SERVICE_TYPE_LABEL)
        .is_some_and(|it| it == "Public");
    // The name is the revision's, too; the label says it for sure.
    let revision = public
        .then(|| labels.get(REVISION_LABEL).cloned())
        .flatten();
    let spec = object.spec.unwrap_or_default();
    Service {
        revision,
        external_name: spec.external_name.filter(|name| !name.is_empty()),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.unwrap_or_default(),
                    number: u16::try_from(port.port).ok()?,
                    app_protocol: port.app_protocol.unwrap_or_default(),
                })
            })
            .collect(),
    }
}

fn endpoints(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<core::Endpoints> = Api::all(client.clone());
    changes(
        watcher(api, watcher::Config::default()),
        key_of,
        |object| Some(objects::endpoints(object)),
        |key: Key, listed| Change::Endpoints(key.clone(), key.1, listed),
    )
}

fn secrets(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<core::Secret> = Api::all(client.clone());
    let labelled = watcher::Config::default().labels(CERTIFICATE_LABEL);
    changes(
        watcher(api, labelled),
        key_of,
        |object: core::Secret| {
            let name = object.name_any();
            let data = object.data.unwrap_or_default();
            let part = |key: &str| data.get(key).map_or(&[][..], |bytes| &bytes.0);
            let provider = ring::default_provider();
            tls::certified_key(part(tls::CERTIFICATE), part(tls::KEY), &provider)
                .inspect_err(|error| {
                    tracing::warn!(secret = name, %error, "certificate is not served");
                })
                .ok()
                .map(Arc::new)
        },
        Change::Certificate,
    )
}

/// Turns a watch into changes; an object that `convert` does not want counts as gone.
fn changes<K, T>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    key: impl Fn(&K) -> Option<Key> + Send + 'static,
    convert: impl Fn(K) -> Option<T> + Send + 'static,
    change: impl Fn(Key, Option<T>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Send + 'static,
{
    let changes = events(stream, key).map(move |event| match event {
        Event::Present(key, object) => change(key, convert(object)),
        Event::Gone(key) => change(key, None),
        Event::Listed => Change::Listed,
    });
    changes.boxed()
}

#[cfg(test)]
mod tests;
