//! The autoscaler runs with the rights that the manifests give it, and uses each of them.

use std::collections::BTreeSet;
use std::rc::Rc;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::Value;

use super::Cluster;
use super::api_server::ACCOUNT;
use super::fixtures::{SYSTEM, create};

const MANIFEST: &str = include_str!("../../../deploy/autoscaler/rbac.yaml");

/// Rights that no scenario can need here, each with why.
const UNUSED: [&str; 1] = [
    // Asked for by admission, not by us, where OwnerReferencesPermissionEnforcement is on.
    "update podautoscalers/finalizers.autoscaling.internal.knative.dev",
];

fn objects() -> Vec<Value> {
    serde_saphyr::from_multiple(MANIFEST).unwrap()
}

/// Creates what the manifest holds.
pub(crate) async fn grant(client: &Client) {
    for object in objects() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "ServiceAccount" => drop(create::<ServiceAccount>(client, SYSTEM, object).await),
            "Role" => drop(create::<Role>(client, SYSTEM, object).await),
            "RoleBinding" => drop(create::<RoleBinding>(client, SYSTEM, object).await),
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
fn granted() -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for object in objects() {
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

/// After all other scenarios: nothing was refused, and nothing was granted in vain.
pub(crate) async fn exactly_those_of_the_manifests(cluster: Rc<Cluster>) {
    let events = cluster.server.audit();
    assert!(!events.is_empty(), "no audit events of {ACCOUNT}");
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
    let mut granted = granted();
    for right in UNUSED {
        assert!(granted.remove(right), "{right} is not granted at all");
    }
    let vain: Vec<_> = granted.difference(&used).collect();
    assert!(vain.is_empty(), "granted and not used: {vain:?}");
}
