//! Objects as JSON, and waiting for what becomes of them.

use std::cell::RefCell;
use std::fmt::Debug;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::eventually;

/// What every kind of object in these tests can do.
pub trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + 'static
{
}

/// Shows the last state when a wait fails.
struct Unwinding<'a>(&'a RefCell<Value>);

/// Creates an object.
pub async fn create<K: Kind>(client: &Client, namespace: &str, object: Value) -> K {
    let object: K = serde_json::from_value(object).unwrap();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// Creates a namespace.
pub async fn create_namespace(client: &Client, name: &str) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
}

/// A merge patch of an object.
pub async fn patch<K: Kind>(client: &Client, namespace: &str, name: &str, patch: Value) {
    Api::<K>::namespaced(client.clone(), namespace)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

/// Waits until the object exists and `wanted` holds for its JSON.
pub async fn wait<K: Kind>(
    api: &Api<K>,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let last = RefCell::new(Value::Null);
    let condition = async || {
        let object = api.get_opt(name).await.ok()??;
        let mut object = serde_json::to_value(object).unwrap();
        object["metadata"]["managedFields"] = Value::Null;
        last.replace(object.clone());
        Some(object).filter(&wanted)
    };
    let _told = Unwinding(&last);
    eventually(&format!("{} {name}: {what}", K::kind(&())), condition).await
}

/// Waits until whoever watches from `version` is told that it is gone.
pub async fn expired<K: Kind>(api: &Api<K>, version: &str) {
    eventually("a watch that expired", async || {
        let mut events = match api.watch(&WatchParams::default(), version).await {
            Ok(events) => std::pin::pin!(events),
            Err(kube::Error::Api(status)) if status.code == 410 => return Some(()),
            Err(_) => return None,
        };
        match events.next().await {
            Some(Ok(WatchEvent::Error(status))) if status.code == 410 => Some(()),
            other => panic!("{version} can still be watched from: {other:?}"),
        }
    })
    .await;
}

/// A condition in the status of an object; null if there is none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

/// Whether an object's condition has this status and reason ("" for none).
pub fn is(object: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let condition = condition(object, kind);
    condition["status"] == status && condition["reason"].as_str().unwrap_or_default() == reason
}

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("last seen: {}", self.0.borrow());
        }
    }
}
