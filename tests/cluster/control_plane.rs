//! What all revisions share: configuration, leaders, rights, and the way back.

use std::rc::Rc;

use http::StatusCode;
use serde_json::{Value, json};

use super::Cluster;
use super::api::{
    Api, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CONFIG_MAPS, DEPLOYMENTS, LEASES, METRICS, PODS,
    SERVICE_ACCOUNTS, SERVICES, eventually,
};
use super::revision::{Revision, Spec};
use super::serving_stand_in::{PART, SYSTEM, is_ready, name_of, note_log, pod_of};
use super::settings::{FIRST, deploy};

const SECOND: u64 = 1_000_000_000;

/// Valid values apply while the programs run; invalid ones are complained of, and change nothing.
pub(crate) async fn configuration_applies_live(cluster: Rc<Cluster>) {
    let api = &cluster.api;
    let spec = Spec {
        scaled: Some(json!({})),
        ..Spec::default()
    };
    let revision = Revision::create(&cluster, "configuration", spec).await;
    let _served = revision.serve();
    let metric = (METRICS, revision.namespace.as_str(), revision.name.as_str());
    let window = async |seconds: u64| {
        api.wait(metric, &format!("a window of {seconds} s"), |it| {
            (it["spec"]["stableWindow"] == seconds * SECOND).then_some(())
        })
        .await;
    };
    window(60).await;
    set(api, "config-autoscaler", json!({"stable-window": "40s"})).await;
    window(40).await;
    // Too short.
    set(api, "config-autoscaler", json!({"stable-window": "1s"})).await;
    complaint(api, "autoscaler", "config-autoscaler").await;
    window(40).await;
    set(api, "config-autoscaler", json!({"stable-window": "30s"})).await;
    window(30).await;
    set(api, "config-autoscaler", json!({ "stable-window": null })).await;
    window(60).await;

    // The activator's request log.
    revision.ready(1).await;
    let template = "{{.Request.Method}} was asked";
    let data =
        json!({"logging.enable-request-log": "true", "logging.request-log-template": template});
    set(api, "config-observability", data).await;
    let logged = async || {
        eventually("a line of the request log", async || {
            let answer = revision.ask_activator("/").await.ok()?;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            let pod = pod_of(api, "activator").await;
            let log = api.log(SYSTEM, &pod, "activator").await;
            let lines = log.lines().filter(|it| it.contains("GET was asked"));
            Some(lines.count()).filter(|count| *count > 0)
        })
        .await
    };
    let before = logged().await;
    let data = json!({"logging.request-log-template": "{{.Request.Method"});
    set(api, "config-observability", data).await;
    complaint(api, "activator", "config-observability").await;
    eventually("the last valid template in use", async || {
        (logged().await > before).then_some(())
    })
    .await;
    let data = json!({"logging.enable-request-log": null, "logging.request-log-template": null});
    set(api, "config-observability", data).await;
}

async fn set(api: &Api, name: &str, data: Value) {
    let patch = json!({"data": data});
    api.patch(CONFIG_MAPS, SYSTEM, name, patch).await;
}

/// Waits until a program has written of a ConfigMap with the word of an error.
async fn complaint(api: &Api, program: &str, of: &str) {
    eventually(
        &format!("a complaint of {program} about {of}"),
        async || {
            let pod = pod_of(api, program).await;
            let log = api.log(SYSTEM, &pod, program).await;
            log.lines()
                .any(|line| {
                    let line = line.to_lowercase();
                    line.contains(of) && (line.contains("error") || line.contains("warn"))
                })
                .then_some(())
        },
    )
    .await;
}

/// With two replicas of the autoscaler the leader is killed, and the other one scales.
pub(crate) async fn a_killed_leader_is_followed(cluster: Rc<Cluster>) {
    let api = &cluster.api;
    let two = json!({"spec": {"replicas": 2}});
    api.patch(DEPLOYMENTS, SYSTEM, "autoscaler", two).await;
    eventually("two replicas", async || {
        let pods = api.list(PODS, SYSTEM, "app=autoscaler").await;
        (pods.iter().filter(|it| is_ready(it)).count() == 2).then_some(())
    })
    .await;
    let spec = Spec {
        replicas: 0,
        scaled: Some(json!({"autoscaling.knative.dev/initial-scale": "0"})),
        ..Spec::default()
    };
    let revision = Revision::create(&cluster, "leader", spec).await;
    let _served = revision.serve();
    let leader = holder(api, None).await;
    note_log(&cluster, "autoscaler", &leader).await;
    api.delete(PODS, SYSTEM, &leader, Some(0)).await;
    let next = holder(api, Some(&leader)).await;
    assert_ne!(next, leader);
    // At zero, a request needs an autoscaler that works.
    eventually("an answer", async || {
        let answer = revision.ask_activator("/").await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    // One of them goes, and only the controller knows which.
    for pod in api.list(PODS, SYSTEM, "app=autoscaler").await {
        if is_ready(&pod) {
            note_log(&cluster, "autoscaler", &name_of(&pod)).await;
        }
    }
    let one = json!({"spec": {"replicas": 1}});
    api.patch(DEPLOYMENTS, SYSTEM, "autoscaler", one).await;
}

/// The pod that leads the autoscaler's bucket, once it is not `other_than`.
async fn holder(api: &Api, other_than: Option<&str>) -> String {
    eventually("a leader", async || {
        let leases = api.list(LEASES, SYSTEM, "").await;
        let holders = leases.iter().filter_map(|lease| {
            // A holder is named after its pod, and what comes behind an underscore is its own.
            let holder = lease["spec"]["holderIdentity"].as_str()?;
            holder
                .split('_')
                .next()
                .filter(|it| it.starts_with("autoscaler-"))
        });
        let pods = api.list(PODS, SYSTEM, "app=autoscaler").await;
        let mut alive = holders.filter(|it| pods.iter().any(|pod| name_of(pod) == **it));
        alive.find(|it| Some(*it) != other_than).map(str::to_owned)
    })
    .await
}

/// All of the above went without a right that the service accounts lack, also for pods that have been
/// replaced.
pub(crate) async fn nothing_was_forbidden(cluster: Rc<Cluster>) {
    let api = &cluster.api;
    for log in cluster.noted_logs.borrow().iter() {
        none_was_forbidden(log);
    }
    for (program, account) in [
        ("activator", "pilotlight-activator"),
        ("autoscaler", "pilotlight-autoscaler"),
    ] {
        let pods = api.list(PODS, SYSTEM, &format!("app={program}")).await;
        assert!(!pods.is_empty(), "no pod of {program}");
        for pod in pods {
            assert_eq!(pod["spec"]["serviceAccountName"], account);
            none_was_forbidden(&api.log(SYSTEM, &name_of(&pod), program).await);
        }
    }
}

fn none_was_forbidden(log: &str) {
    let refused = |line: &&str| line.to_lowercase().contains("forbidden");
    let refused: Vec<_> = log.lines().filter(refused).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

/// One command puts everything back: images, accounts, and nothing of ours is left.
pub(crate) async fn rollback_leaves_nothing(cluster: Rc<Cluster>) {
    let api = &cluster.api;
    deploy("rollback", &[]);
    for (name, account) in [("activator", "activator"), ("autoscaler", "controller")] {
        let object = api.get(DEPLOYMENTS, SYSTEM, name).await.unwrap();
        let pod = &object["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["image"], cluster.settings.image(name, FIRST));
        assert_eq!(pod["serviceAccountName"], account);
        assert_eq!(container["resources"]["requests"]["cpu"], "30m");
        assert!(object["metadata"]["annotations"]["pilotlight.dev/rollback"].is_null());
    }
    let map = api.get(CONFIG_MAPS, SYSTEM, "config-deployment").await;
    let map = map.unwrap();
    assert_eq!(
        map["data"],
        json!({"queue-sidecar-image": "queue-proxy:first"})
    );
    let service = api.get(SERVICES, SYSTEM, "activator-service").await;
    let service = service.expect("it was there before, and stays");
    let managers = service["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        !managers.iter().any(|it| it["manager"] == "pilotlight"),
        "{managers:?}"
    );
    for kind in [SERVICE_ACCOUNTS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS] {
        let namespace = if kind == SERVICE_ACCOUNTS { SYSTEM } else { "" };
        let left = api.list(kind, namespace, PART).await;
        assert!(left.is_empty(), "{left:?}");
    }
}
