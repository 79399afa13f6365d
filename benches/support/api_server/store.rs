//! Objects by resource, namespace and name, and what happened to them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Events of one resource that a new watch can still begin before.
const LOG_LENGTH: usize = 50_000;
/// Events that a watch may be behind; then it ends, and begins anew.
const WATCH_CAPACITY: usize = 100_000;

/// An object at the start.
#[derive(Clone, Debug)]
pub struct Object {
    /// As in paths, the group aside: `pods`.
    pub resource: &'static str,
    pub namespace: String,
    pub name: String,
    /// With `apiVersion` and `kind`; `metadata` is completed.
    pub value: Value,
}

/// All resources.
#[derive(Debug, Default)]
pub(super) struct Store {
    resources: HashMap<String, Resource>,
    version: u64,
}

/// All objects of one resource.
#[derive(Debug, Default)]
struct Resource {
    /// By namespace and name.
    objects: BTreeMap<(String, String), Bytes>,
    log: VecDeque<Event>,
    watches: Vec<Watch>,
}

#[derive(Clone, Debug)]
struct Event {
    version: u64,
    namespace: String,
    line: Bytes,
}

#[derive(Debug)]
struct Watch {
    /// Empty for all.
    namespace: String,
    events: mpsc::Sender<Bytes>,
}

// === impl Store ===

impl Store {
    pub(super) fn new(objects: Vec<Object>) -> Self {
        let mut store = Self::default();
        for object in objects {
            store.version += 1;
            let Object {
                resource,
                namespace,
                name,
                mut value,
            } = object;
            complete(&mut value, &namespace, store.version);
            value["metadata"]["name"] = name.clone().into();
            let resource = store.resources.entry(resource.to_owned()).or_default();
            let text = value.to_string().into();
            resource.objects.insert((namespace, name), text);
        }
        store
    }

    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Bytes> {
        let key = (namespace.to_owned(), name.to_owned());
        self.resources.get(resource)?.objects.get(&key).cloned()
    }

    /// At most `limit` objects after the first `skipped`.
    pub(super) fn list(
        &mut self,
        resource: &str,
        namespace: &str,
        skipped: usize,
        limit: usize,
    ) -> Bytes {
        let objects = &self
            .resources
            .entry(resource.to_owned())
            .or_default()
            .objects;
        let mut all = objects
            .iter()
            .filter(|((of, _), _)| namespace.is_empty() || of == namespace)
            .skip(skipped);
        let page: Vec<&[u8]> = all
            .by_ref()
            .take(limit)
            .map(|(_, text)| &text[..])
            .collect();
        let more = all.next().is_some();
        let metadata = json!({
            "resourceVersion": self.version.to_string(),
            "continue": if more { (skipped + page.len()).to_string() } else { String::new() },
        });
        // Clients in Go read a list by its kind, which is that of what it holds.
        let first = page.first().and_then(|it| serde_json::from_slice(it).ok());
        let first: Value = first.unwrap_or_else(|| json!({"apiVersion": "v1", "kind": ""}));
        let version = first["apiVersion"].as_str().unwrap_or("v1");
        let kind = first["kind"].as_str().unwrap_or_default();
        let mut text = format!(
            r#"{{"apiVersion":"{version}","kind":"{kind}List","metadata":{metadata},"items":["#
        )
        .into_bytes();
        text.extend(page.join(&b','));
        text.extend(b"]}");
        text.into()
    }

    /// Everything that happens after `version`.
    pub(super) fn watch(
        &mut self,
        resource: &str,
        namespace: &str,
        version: u64,
    ) -> mpsc::Receiver<Bytes> {
        let (events, receiver) = mpsc::channel(WATCH_CAPACITY);
        let watch = Watch {
            namespace: namespace.to_owned(),
            events,
        };
        let resource = self.resources.entry(resource.to_owned()).or_default();
        let mut missed = resource.log.iter().filter(|event| event.version > version);
        if missed.all(|event| watch.tell(event)) {
            resource.watches.push(watch);
        }
        receiver
    }

    pub(super) fn create(
        &mut self,
        resource: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Bytes, StatusCode> {
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let name = name.ok_or(StatusCode::BAD_REQUEST)?;
        if self.get(resource, namespace, &name).is_some() {
            return Err(StatusCode::CONFLICT);
        }
        complete(&mut object, namespace, self.version + 1);
        observe(resource, &mut object);
        Ok(self.put(resource, namespace, &name, object, "ADDED"))
    }

    /// Replaces an object, or its status alone, unless it has changed since it was read.
    pub(super) fn replace(
        &mut self,
        resource: &str,
        namespace: &str,
        name: &str,
        part: Option<&str>,
        object: Value,
    ) -> Result<Bytes, StatusCode> {
        let mut present = self.parsed(resource, namespace, name)?;
        let read = &object["metadata"]["resourceVersion"];
        if !read.is_null() && *read != present["metadata"]["resourceVersion"] {
            return Err(StatusCode::CONFLICT);
        }
        if part == Some("status") {
            present["status"] = object["status"].clone();
        } else {
            if present["spec"] != object["spec"] {
                let generation = present["metadata"]["generation"].as_i64().unwrap_or(1);
                present["metadata"]["generation"] = (generation + 1).into();
            }
            for (key, value) in object.as_object().ok_or(StatusCode::BAD_REQUEST)? {
                if !matches!(key.as_str(), "metadata" | "status") {
                    present[key] = value.clone();
                }
            }
            observe(resource, &mut present);
        }
        Ok(self.put(resource, namespace, name, present, "MODIFIED"))
    }

    pub(super) fn scale(
        &mut self,
        resource: &str,
        namespace: &str,
        name: &str,
        replicas: i64,
    ) -> Result<Bytes, StatusCode> {
        let mut present = self.parsed(resource, namespace, name)?;
        present["spec"]["replicas"] = replicas.into();
        self.put(resource, namespace, name, present, "MODIFIED");
        let scale = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": replicas}
        });
        Ok(scale.to_string().into())
    }

    fn parsed(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, StatusCode> {
        let text = self.get(resource, namespace, name);
        let text = text.ok_or(StatusCode::NOT_FOUND)?;
        serde_json::from_slice(&text).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn put(
        &mut self,
        resource: &str,
        namespace: &str,
        name: &str,
        mut object: Value,
        kind: &str,
    ) -> Bytes {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text: Bytes = object.to_string().into();
        let mut line = format!(r#"{{"type":"{kind}","object":"#).into_bytes();
        line.extend(&text[..]);
        line.extend(b"}\n");
        let event = Event {
            version: self.version,
            namespace: namespace.to_owned(),
            line: line.into(),
        };
        let resource = self.resources.entry(resource.to_owned()).or_default();
        resource.watches.retain(|watch| watch.tell(&event));
        if resource.log.len() == LOG_LENGTH {
            resource.log.pop_front();
        }
        resource.log.push_back(event);
        let key = (namespace.to_owned(), name.to_owned());
        resource.objects.insert(key, text.clone());
        text
    }
}

// === impl Watch ===

impl Watch {
    /// False when it has ended.
    fn tell(&self, event: &Event) -> bool {
        let concerned = self.namespace.is_empty() || self.namespace == event.namespace;
        !concerned || self.events.try_send(event.line.clone()).is_ok()
    }
}

/// What a server adds to an object.
fn complete(object: &mut Value, namespace: &str, version: u64) {
    let metadata = &mut object["metadata"];
    metadata["namespace"] = namespace.into();
    metadata["resourceVersion"] = version.to_string().into();
    if metadata["uid"].is_null() {
        metadata["uid"] = format!("00000000-0000-4000-8000-{version:012x}").into();
    }
    metadata["generation"] = 1.into();
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
}

/// The controller of ServerlessServices.
fn observe(resource: &str, object: &mut Value) {
    if resource == "serverlessservices" {
        object["status"]["observedGeneration"] = object["metadata"]["generation"].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let object = |name: &str| Object {
            resource: "pods",
            namespace: "a".to_owned(),
            name: name.to_owned(),
            value: json!({"metadata": {}, "spec": {"n": 1}}),
        };
        Store::new(vec![object("x"), object("y"), object("z")])
    }

    fn parse(text: &[u8]) -> Value {
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn lists_come_in_pages() {
        let mut store = store();
        let first = parse(&store.list("pods", "", 0, 2));
        assert_eq!(first["items"].as_array().unwrap().len(), 2);
        assert_eq!(first["metadata"]["continue"], "2");
        let second = parse(&store.list("pods", "a", 2, 2));
        assert_eq!(second["items"][0]["metadata"]["name"], "z");
        assert_eq!(second["metadata"]["continue"], "");
        assert_eq!(parse(&store.list("pods", "b", 0, 2))["items"], json!([]));
    }

    #[test]
    fn a_write_of_something_old_is_a_conflict_and_others_are_seen() {
        let mut store = store();
        let read = parse(&store.get("pods", "a", "x").unwrap());
        let mut changed = read.clone();
        changed["spec"]["n"] = 2.into();
        store
            .replace("pods", "a", "x", None, changed.clone())
            .unwrap();
        let again = store.replace("pods", "a", "x", None, changed);
        assert_eq!(again, Err(StatusCode::CONFLICT));
        // Also by a watch that begins later.
        let mut events = store.watch("pods", "", 3);
        let event = parse(&events.try_recv().unwrap());
        assert_eq!(event["type"], "MODIFIED");
        assert_eq!(event["object"]["metadata"]["generation"], 2);
        assert_eq!(event["object"]["spec"]["n"], 2);
        assert!(events.try_recv().is_err());
    }
}
