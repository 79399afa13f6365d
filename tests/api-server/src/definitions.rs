//! The CustomResourceDefinitions of Knative's kinds, as far as Pilotlight's programs use them.

use serde_json::{Value, json};

/// What the autoscaler and the activator work on.
pub fn all() -> [Value; 5] {
    [
        pod_autoscalers(),
        metrics(),
        serverless_services(),
        revisions(),
        ingresses(),
    ]
}

/// A kind with one version, a status of its own and these schemas.
fn definition(
    (group, version): (&str, &str),
    kind: &str,
    plural: &str,
    spec: &Value,
    status: &Value,
) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": spec, "status": status}
                }}
            }]
        }
    })
}

/// The status fields that all of them share.
fn status(more: &Value, required: &[&str]) -> Value {
    let mut properties = json!({
        "observedGeneration": {"type": "integer", "format": "int64"},
        "annotations": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "conditions": {"type": "array", "items": {
            "type": "object",
            "required": ["type", "status"],
            "properties": {
                "type": {"type": "string"}, "status": {"type": "string"},
                "reason": {"type": "string"}, "message": {"type": "string"},
                "severity": {"type": "string"}, "lastTransitionTime": {"type": "string"}
            }
        }}
    });
    let all = properties.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    json!({"type": "object", "properties": properties, "required": required})
}

fn reference() -> Value {
    json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "name": {"type": "string"}
    }})
}

fn pod_autoscalers() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["protocolType", "scaleTargetRef"],
        "properties": {
            "containerConcurrency": {"type": "integer", "format": "int64"},
            "protocolType": {"type": "string"},
            "reachability": {"type": "string"},
            "scaleTargetRef": reference()
        }
    });
    let more = json!({
        "serviceName": {"type": "string"}, "metricsServiceName": {"type": "string"},
        "desiredScale": {"type": "integer", "format": "int32"},
        "actualScale": {"type": "integer", "format": "int32"}
    });
    let status = status(&more, &["serviceName", "metricsServiceName"]);
    definition(
        ("autoscaling.internal.knative.dev", "v1alpha1"),
        "PodAutoscaler",
        "podautoscalers",
        &spec,
        &status,
    )
}

fn metrics() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["panicWindow", "scrapeTarget", "stableWindow"],
        "properties": {
            "panicWindow": {"type": "integer", "format": "int64"},
            "stableWindow": {"type": "integer", "format": "int64"},
            "scrapeTarget": {"type": "string"}
        }
    });
    let status = status(&json!({}), &[]);
    let group = ("autoscaling.internal.knative.dev", "v1alpha1");
    definition(group, "Metric", "metrics", &spec, &status)
}

fn serverless_services() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["objectRef", "protocolType"],
        "properties": {
            "mode": {"type": "string"},
            "numActivators": {"type": "integer", "format": "int32"},
            "protocolType": {"type": "string"},
            "objectRef": reference()
        }
    });
    let more = json!({
        "serviceName": {"type": "string"}, "privateServiceName": {"type": "string"}
    });
    definition(
        ("networking.internal.knative.dev", "v1alpha1"),
        "ServerlessService",
        "serverlessservices",
        &spec,
        &status(&more, &[]),
    )
}

/// What a pod may hold is the webhook's to check.
fn revisions() -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let group = ("serving.knative.dev", "v1");
    definition(group, "Revision", "revisions", &open, &open)
}

fn ingresses() -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let load_balancer = json!({"type": "object", "properties": {"ingress": {
        "type": "array", "items": {"type": "object", "properties": {
            "domain": {"type": "string"}, "domainInternal": {"type": "string"},
            "ip": {"type": "string"}, "meshOnly": {"type": "boolean"}
        }}
    }}});
    let more = json!({
        "publicLoadBalancer": load_balancer, "privateLoadBalancer": load_balancer
    });
    let status = status(&more, &[]);
    let group = ("networking.internal.knative.dev", "v1alpha1");
    definition(group, "Ingress", "ingresses", &open, &status)
}
