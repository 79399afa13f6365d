//! Roles from manifests, and what of them was used.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::Value;

use super::objects::create;
use super::server::ApiServer;

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

/// "list pods" or "update metrics/status.autoscaling…", of the one namespace or of all.
fn granted(manifest: &str) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for object in objects(manifest) {
        let rules = object["rules"].as_array().cloned().unwrap_or_default();
        for rule in rules {
            let rule: PolicyRule = serde_json::from_value(rule).unwrap();
            for group in rule.api_groups.unwrap() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        rights.insert(right(verb, resource, &group));
                    }
                }
            }
        }
    }
    rights
}

fn right(verb: &str, resource: &str, group: &str) -> String {
    match group {
        "" => format!("{verb} {resource}"),
        _ => format!("{verb} {resource}.{group}"),
    }
}

/// After all other scenarios: nothing that `account` asked for was refused, and nothing of the
/// manifests was granted in vain but what is named in `unused`.
pub fn are_exactly(server: &ApiServer, account: &str, manifests: &[&str], unused: &[&str]) {
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
        // The version is no resource.
        if !resource.is_empty() {
            let verb = event["verb"].as_str().unwrap();
            used.insert(right(verb, &resource, text("apiGroup")));
        }
    }
    let mut granted: BTreeSet<_> = manifests.iter().flat_map(|it| granted(it)).collect();
    for right in unused {
        assert!(granted.remove(*right), "{right} is not granted at all");
    }
    let vain: Vec<_> = granted.difference(&used).collect();
    assert!(vain.is_empty(), "granted and not used: {vain:?}");
}
