use serde_json::{Value, json};

use super::*;

fn pod_autoscaler() -> Value {
    json!({
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "name": "hello-00001", "namespace": "default", "uid": "u", "generation": 2,
            "resourceVersion": "77",
            "labels": {"serving.knative.dev/revision": "hello-00001"},
            "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}
        },
        "spec": {
            "containerConcurrency": 10,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "reachability": "Unreachable",
            "protocolType": "http1"
        },
        "status": {
            "observedGeneration": 1,
            "annotations": {"kept": "yes"},
            "serviceName": "",
            "metricsServiceName": "",
            "desiredScale": -1,
            "conditions": [
                {"type": "Active", "status": "False", "reason": "NoTraffic", "message": "m",
                 "lastTransitionTime": "2026-08-01T10:00:00Z"},
                {"type": "Ready", "status": "Unknown", "severity": "Warning"}
            ]
        }
    })
}

#[test]
fn a_pod_autoscaler_survives_the_way_in_and_out() {
    let wire: PodAutoscaler = serde_json::from_value(pod_autoscaler()).unwrap();
    let object = wire.to_pure();
    assert_eq!(object.id, RevisionId::new("default", "hello-00001"));
    assert_eq!(object.spec.reachability, pure::Reachability::Unreachable);
    assert!(object.status.is_inactive());
    assert_eq!(
        object
            .status
            .conditions
            .get("Active")
            .unwrap()
            .last_transition_time,
        UnixTime::from_seconds(1_785_578_400)
    );
    let out = serde_json::to_value(wire.with_status(&object.status)).unwrap();
    let mut expected = pod_autoscaler();
    // A condition always has a time when it is written.
    expected["status"]["conditions"][1]["lastTransitionTime"] = json!("1970-01-01T00:00:00Z");
    assert_eq!(out, expected);
}

/// The schemas require these fields, and Go writes them.
#[test]
fn names_are_written_also_when_they_are_empty() {
    let wire: PodAutoscaler = serde_json::from_value(json!({
        "apiVersion": AUTOSCALING, "kind": "PodAutoscaler", "metadata": {"name": "a"},
        "spec": {"scaleTargetRef": {}, "protocolType": "h2c"}
    }))
    .unwrap();
    let object = wire.to_pure();
    let out = serde_json::to_value(wire.with_status(&object.status)).unwrap();
    assert_eq!(
        out["status"],
        json!({"serviceName": "", "metricsServiceName": ""})
    );

    let spec = pure::MetricSpec {
        stable_window_ns: 60_000_000_000,
        panic_window_ns: 6_000_000_000,
        scrape_target: String::new(),
    };
    let out = serde_json::to_value(Metric::of(&object, &spec)).unwrap();
    let expected = json!({
        "stableWindow": 60_000_000_000_i64, "panicWindow": 6_000_000_000_i64, "scrapeTarget": ""
    });
    assert_eq!(out["spec"], expected);
    assert_eq!(out.get("status"), None);
}

#[test]
fn owned_objects_name_their_owner_and_copy_its_labels() {
    let mut value = pod_autoscaler();
    value["metadata"]["annotations"]["autoscaling.knative.dev/metric"] = json!("rps");
    let wire: PodAutoscaler = serde_json::from_value(value).unwrap();
    let spec = pure::ServerlessServiceSpec {
        mode: Some(pure::OperationMode::Proxy),
        object_ref: wire.to_pure().spec.scale_target_ref,
        protocol_type: "http1".to_owned(),
        num_activators: 2,
    };
    let out = serde_json::to_value(ServerlessService::of(&wire.to_pure(), &spec)).unwrap();
    let expected = json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "ServerlessService",
        "metadata": {
            "name": "hello-00001", "namespace": "default",
            "labels": {"serving.knative.dev/revision": "hello-00001"},
            "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
            "ownerReferences": [{
                "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
                "kind": "PodAutoscaler", "name": "hello-00001", "uid": "u",
                "controller": true, "blockOwnerDeletion": true
            }]
        },
        "spec": {
            "mode": "Proxy",
            "objectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "protocolType": "http1",
            "numActivators": 2
        }
    });
    assert_eq!(out, expected);
    let back: ServerlessService = serde_json::from_value(out).unwrap();
    assert_eq!(back.to_pure().spec, spec);
    assert_eq!(back.to_pure().controller_uid.as_deref(), Some("u"));
}
