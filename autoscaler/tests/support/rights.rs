//! The rights of the deployment, and which of them were used.

use std::collections::BTreeSet;

use kube::Client;
use serde_json::Value;

use super::api_server::ApiServer;
use super::fixtures::SYSTEM;

/// What is deployed.
const MANIFEST: &str = include_str!("../../../deploy/autoscaler-rbac.yaml");

/// Rights that admission plugins ask about, so that no request shows their use. The first is
/// enforced here: without it no object could be created that blocks the deletion of its owner. The
/// second only where such a plugin guards the addresses of EndpointSlices.
const ASKED_BY_ADMISSION: [&str; 2] = [
    "update podautoscalers/finalizers in autoscaling.internal.knative.dev everywhere",
    "create endpointslices/restricted in discovery.k8s.io in the system namespace",
];

fn documents() -> Vec<Value> {
    MANIFEST
        .split("\n---\n")
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

/// Gives replicas their rights.
pub(crate) async fn grant(client: &Client) {
    for document in documents() {
        let (version, plural) = match document["kind"].as_str().unwrap() {
            "ServiceAccount" => ("api/v1", "serviceaccounts"),
            "ClusterRole" => ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
            "ClusterRoleBinding" => ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
            "Role" => ("apis/rbac.authorization.k8s.io/v1", "roles"),
            "RoleBinding" => ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
            other => panic!("{other} is not expected among rights"),
        };
        let path = match document["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("/{version}/namespaces/{namespace}/{plural}"),
            None => format!("/{version}/{plural}"),
        };
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(document.to_string().into_bytes())
            .unwrap();
        client.request_text(request).await.unwrap();
    }
}

/// Every verb that is granted, one by one.
fn granted() -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().into_iter().flatten();
        texts.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    for document in documents() {
        let place = match document["kind"].as_str().unwrap() {
            "ClusterRole" => "everywhere",
            "Role" => "in the system namespace",
            _ => continue,
        };
        for rule in document["rules"].as_array().unwrap() {
            for verb in texts(&rule["verbs"]) {
                for path in texts(&rule["nonResourceURLs"]) {
                    rights.insert(format!("{verb} {path}"));
                }
                for group in texts(&rule["apiGroups"]) {
                    for resource in texts(&rule["resources"]) {
                        rights.insert(format!("{verb} {resource} in {group} {place}"));
                    }
                }
            }
        }
    }
    rights
}

/// The rights that a request may have needed: in the system namespace there are two.
fn needed(event: &Value) -> Vec<String> {
    let verb = event["verb"].as_str().unwrap();
    let object = &event["objectRef"];
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    if object.is_null() {
        let path = event["requestURI"].as_str().unwrap();
        let path = path.split('?').next().unwrap_or_default();
        return vec![format!("{verb} {path}")];
    }
    let resource = match text("subresource") {
        "" => text("resource").to_owned(),
        part => format!("{}/{part}", text("resource")),
    };
    let group = text("apiGroup");
    let mut rights = vec![format!("{verb} {resource} in {group} everywhere")];
    if text("namespace") == SYSTEM {
        rights.push(format!(
            "{verb} {resource} in {group} in the system namespace"
        ));
    }
    rights
}

/// Says what replicas were refused, and, after a whole run, which rights they never used.
pub(crate) fn check(server: &ApiServer, whole: bool) -> Vec<String> {
    let mut problems = BTreeSet::new();
    let mut used = BTreeSet::new();
    for event in server.audit() {
        let rights = needed(&event);
        let decision = &event["annotations"]["authorization.k8s.io/decision"];
        if decision == "forbid" {
            problems.insert(format!("not granted: {}", rights[0]));
        }
        used.extend(rights);
    }
    assert!(!used.is_empty(), "the audit log is empty");
    let granted = granted();
    let unused = granted.iter().filter(|right| {
        whole && !used.contains(*right) && !ASKED_BY_ADMISSION.contains(&right.as_str())
    });
    problems.extend(unused.map(|right| format!("granted and never used: {right}")));
    let unknown = ASKED_BY_ADMISSION
        .iter()
        .filter(|it| !granted.contains(**it));
    problems.extend(unknown.map(|right| format!("not granted: {right}")));
    problems.into_iter().collect()
}
