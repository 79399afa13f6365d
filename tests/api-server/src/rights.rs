//! Roles from manifests, and what of them was used.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::Value;
use tokio::time::Instant;

use super::objects::create;
use super::server::ApiServer;

/// A watch that a program has just begun with is written down by then.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

fn objects(manifest: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(manifest).unwrap()
}

/// Creates the roles and accounts that a manifest holds.
pub async fn grant(client: &Client, manifest: &str) {
    for object in objects(manifest) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = text(&object["metadata"]["namespace"]);
        match kind.as_str() {
            "ServiceAccount" => drop(create::<ServiceAccount>(client, &namespace, object).await),
            "Role" => drop(create::<Role>(client, &namespace, object).await),
            "RoleBinding" => drop(create::<RoleBinding>(client, &namespace, object).await),
            "ClusterRole" => {
                let object: ClusterRole = serde_json::from_value(object).unwrap();
                let api = Api::all(client.clone());
                api.create(&PostParams::default(), &object).await.unwrap();
            }
            "ClusterRoleBinding" => {
                let object: ClusterRoleBinding = serde_json::from_value(object).unwrap();
                let api = Api::all(client.clone());
                api.create(&PostParams::default(), &object).await.unwrap();
            }
            other => panic!("{other} in the manifest of roles"),
        }
    }
}

/// What a rule allows, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    /// "list pods" or "update metrics/status.autoscaling…".
    what: String,
    /// Empty for all namespaces, and for the cluster as a whole.
    namespace: String,
    /// Empty for all names.
    name: String,
}

fn granted(manifest: &str) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for object in objects(manifest) {
        // A ClusterRole has none.
        let namespace = object["metadata"]["namespace"].as_str();
        let rules = object["rules"].as_array().cloned().unwrap_or_default();
        for rule in rules {
            let rule: PolicyRule = serde_json::from_value(rule).unwrap();
            let names = rule.resource_names.unwrap_or_else(|| vec![String::new()]);
            for group in rule.api_groups.unwrap() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        rights.extend(names.iter().map(|name| Right {
                            what: what(verb, resource, &group),
                            namespace: namespace.unwrap_or_default().to_owned(),
                            name: name.clone(),
                        }));
                    }
                }
            }
        }
    }
    rights
}

fn what(verb: &str, resource: &str, group: &str) -> String {
    match group {
        "" => format!("{verb} {resource}"),
        _ => format!("{verb} {resource}.{group}"),
    }
}

/// Nothing that `account` asked for was refused, and nothing of the manifests was granted in vain but
/// what is named in `unused`. Of several rights that allow a request the narrowest one counts as used,
/// as the others would not be needed for it. Waits a little for what has only just begun.
pub async fn are_exactly(server: &ApiServer, account: &str, manifests: &[&str], unused: &[&str]) {
    let granted: BTreeSet<_> = manifests.iter().flat_map(|it| granted(it)).collect();
    let mut needed = granted.clone();
    for right in unused {
        let before = needed.len();
        needed.retain(|it| it.to_string() != *right);
        assert!(needed.len() < before, "{right} is not granted at all");
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let used = used(server, account, &granted);
        let vain = needed.iter().filter(|it| !used.contains(it));
        let vain: Vec<_> = vain.map(Right::to_string).collect();
        if vain.is_empty() {
            return;
        }
        let late = Instant::now() >= deadline;
        assert!(!late, "granted to {account} and not used: {vain:#?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// What of `granted` an account has used so far.
fn used(server: &ApiServer, account: &str, granted: &BTreeSet<Right>) -> BTreeSet<Right> {
    let events = server.audit(account);
    assert!(!events.is_empty(), "no audit events of {account}");
    let mut used = BTreeSet::new();
    for event in &events {
        assert_ne!(event["responseStatus"]["code"], 403, "refused: {event}");
        let object = &event["objectRef"];
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            sub => format!("{}/{sub}", text("resource")),
        };
        let verb = event["verb"].as_str().unwrap();
        let what = what(verb, &resource, text("apiGroup"));
        // Lists and watches have a name as well where their selector leaves only one.
        let (namespace, name) = (text("namespace"), text("name"));
        let narrowest_first = [(namespace, name), (namespace, ""), ("", name), ("", "")];
        let mut rights = narrowest_first.into_iter().map(|(namespace, name)| Right {
            what: what.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
        // Some need none, as that for the version.
        used.extend(rights.find(|it| granted.contains(it)));
    }
    used
}

// === impl Right ===

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        if !self.name.is_empty() {
            write!(f, " named {}", self.name)?;
        }
        Ok(())
    }
}
