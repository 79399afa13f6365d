//! The API server as the suite uses it: objects are JSON, and requests reach pods through its proxy,
//! so that nothing but `KUBECONFIG` is needed to talk to them.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::{Value, json};

/// Whatever a scenario waits for must have happened by then: on a crowded machine pods that come side
/// by side take minutes to start.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at an object. Short, as the parts of a cold start are measured with it.
const PAUSE: Duration = Duration::from_millis(25);

/// Where objects of a kind are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    version: &'static str,
    plural: &'static str,
}

pub(crate) const NAMESPACES: Kind = core("namespaces");
pub(crate) const PODS: Kind = core("pods");
pub(crate) const SERVICES: Kind = core("services");
pub(crate) const ENDPOINTS: Kind = core("endpoints");
pub(crate) const CONFIG_MAPS: Kind = core("configmaps");
pub(crate) const SECRETS: Kind = core("secrets");
pub(crate) const SERVICE_ACCOUNTS: Kind = core("serviceaccounts");
pub(crate) const DEPLOYMENTS: Kind = Kind::new("apis/apps/v1", "deployments");
pub(crate) const LEASES: Kind = Kind::new("apis/coordination.k8s.io/v1", "leases");
pub(crate) const CLUSTER_ROLES: Kind =
    Kind::new("apis/rbac.authorization.k8s.io/v1", "clusterroles");
pub(crate) const CLUSTER_ROLE_BINDINGS: Kind =
    Kind::new("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings");
pub(crate) const DEFINITIONS: Kind =
    Kind::new("apis/apiextensions.k8s.io/v1", "customresourcedefinitions");
pub(crate) const REVISIONS: Kind = Kind::new("apis/serving.knative.dev/v1", "revisions");
pub(crate) const POD_AUTOSCALERS: Kind = Kind::new(
    "apis/autoscaling.internal.knative.dev/v1alpha1",
    "podautoscalers",
);
pub(crate) const METRICS: Kind =
    Kind::new("apis/autoscaling.internal.knative.dev/v1alpha1", "metrics");
pub(crate) const SERVERLESS_SERVICES: Kind = Kind::new(
    "apis/networking.internal.knative.dev/v1alpha1",
    "serverlessservices",
);
pub(crate) const INGRESSES: Kind =
    Kind::new("apis/networking.internal.knative.dev/v1alpha1", "ingresses");

/// Objects, and the way to pods.
#[derive(Clone)]
pub(crate) struct Api(Client);

/// What a pod or Service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

const fn core(plural: &'static str) -> Kind {
    Kind::new("api/v1", plural)
}

// === impl Kind ===

impl Kind {
    const fn new(version: &'static str, plural: &'static str) -> Self {
        Self { version, plural }
    }

    /// The path of all objects in a namespace; of a cluster's own when it is empty.
    fn all(self, namespace: &str) -> String {
        let Self { version, plural } = self;
        match namespace {
            "" => format!("/{version}/{plural}"),
            _ => format!("/{version}/namespaces/{namespace}/{plural}"),
        }
    }
}

// === impl Api ===

impl Api {
    /// As `KUBECONFIG` says.
    pub(crate) async fn connect() -> Self {
        let mut config = Config::infer().await.expect("KUBECONFIG is usable");
        // What pods answer is asked for, also when it is 503.
        config.default_retry = false;
        Self(Client::try_from(config).expect("KUBECONFIG is usable"))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let body = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body).unwrap(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, kind)
            .body(body);
        self.0.request(request.unwrap()).await
    }

    /// An object, or nothing.
    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let path = format!("{}/{name}", kind.all(namespace));
        let got = self.call(Method::GET, &path, "application/json", &Value::Null);
        // An API server that is slow is asked again by whoever waits.
        got.await.ok()
    }

    /// The objects with a label, which may be left empty; of a kind that is not there yet, none. A
    /// list that was not answered must not count as an empty one: what it would show is to be removed,
    /// or somebody else's.
    pub(crate) async fn list(&self, kind: Kind, namespace: &str, label: &str) -> Vec<Value> {
        let path = format!("{}?labelSelector={label}", kind.all(namespace));
        eventually(&format!("list of {}", kind.plural), async || {
            let listed = self.call(Method::GET, &path, "application/json", &Value::Null);
            match listed.await {
                Ok(mut list) => list["items"].as_array_mut().map(std::mem::take),
                Err(kube::Error::Api(status)) if status.code == 404 => Some(Vec::new()),
                Err(_) => None,
            }
        })
        .await
    }

    /// Creates an object; one that is there already counts as created.
    pub(crate) async fn create(&self, kind: Kind, namespace: &str, object: Value) {
        let path = kind.all(namespace);
        eventually(&format!("{} created", kind.plural), async || {
            let made = self.call(Method::POST, &path, "application/json", &object);
            match made.await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Some(()),
                Err(kube::Error::Api(status)) if status.code == 422 => {
                    panic!("{path}: {}", status.message)
                }
                Err(_) => None,
            }
        })
        .await;
    }

    /// A merge patch; `name` may end with a subresource.
    pub(crate) async fn patch(&self, kind: Kind, namespace: &str, name: &str, patch: Value) {
        let path = format!("{}/{name}", kind.all(namespace));
        eventually(&format!("patch of {path}"), async || {
            let patched = self.call(Method::PATCH, &path, "application/merge-patch+json", &patch);
            patched.await.ok()
        })
        .await;
    }

    /// Deletes an object with this grace, or the one it has; one that is gone is as good.
    pub(crate) async fn delete(&self, kind: Kind, namespace: &str, name: &str, grace: Option<u32>) {
        let path = format!("{}/{name}", kind.all(namespace));
        let options = json!({"gracePeriodSeconds": grace, "propagationPolicy": "Background"});
        eventually(&format!("deletion of {path}"), async || {
            let deleted = self.call(Method::DELETE, &path, "application/json", &options);
            match deleted.await {
                Ok(_) => Some(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Some(()),
                Err(_) => None,
            }
        })
        .await;
    }

    /// Waits until an object exists and `wanted` gives something for it.
    pub(crate) async fn wait<T>(
        &self,
        (kind, namespace, name): (Kind, &str, &str),
        what: &str,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let what = format!("{} {namespace}/{name}: {what}", kind.plural);
        let last = std::cell::RefCell::new(Value::Null);
        let _told = Unwinding(&last);
        eventually(&what, async || {
            let object = self.get(kind, namespace, name).await?;
            let found = wanted(&object);
            last.replace(object);
            found
        })
        .await
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone(&self, kind: Kind, namespace: &str, name: &str) {
        let path = format!("{}/{name}", kind.all(namespace));
        eventually(&format!("end of {path}"), async || {
            let got = self.call(Method::GET, &path, "application/json", &Value::Null);
            match got.await {
                Err(kube::Error::Api(status)) if status.code == 404 => Some(()),
                _ => None,
            }
        })
        .await;
    }

    /// What a container has written so far.
    pub(crate) async fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}");
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.0.request_text(request).await.unwrap_or_default()
    }

    /// Asks a port of a pod through the API server. Path and query are the last argument's.
    pub(crate) async fn ask(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        request: http::request::Builder,
    ) -> Result<Answer, kube::Error> {
        let built = request.body(Body::empty()).unwrap();
        let (mut parts, body) = built.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
        parts.uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")
            .parse()
            .unwrap();
        let response = self.0.send(Request::from_parts(parts, body)).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Ok(Answer {
            status: parts.status,
            // A body that breaks off is for the caller to see as such.
            text: match body {
                Ok(bytes) => text(&bytes),
                Err(error) => format!("broken off: {error}"),
            },
        })
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Shows the last state when a wait fails.
struct Unwinding<'a>(&'a std::cell::RefCell<Value>);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut last = self.0.borrow_mut();
            last["metadata"]["managedFields"] = Value::Null;
            println!("last seen: {last}");
        }
    }
}

/// Waits, at most five minutes, until `condition` gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let attempts = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(PATIENCE, attempts).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within {PATIENCE:?}"),
    }
}
