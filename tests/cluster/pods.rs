//! Pods with our queue-proxy, as the kubelet treats them.

use std::rc::Rc;
use std::time::Duration;

use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;
use super::api::{PODS, eventually};
use super::revision::{QUEUE_PORT, Revision, Spec};
use super::serving_stand_in::{is_ready, name_of};

/// How long the queue-proxy waits for a request after the last one, as upstream's.
const QUIET: Duration = Duration::from_secs(30);

/// Readiness is the app's: not ready while it does not listen, ready then, and after its end again.
pub(crate) async fn readiness_follows_the_app(cluster: Rc<Cluster>) {
    let slow = json!([{"name": "SAMPLE_START_DELAY", "value": "15s"}]);
    let spec = Spec {
        app: slow,
        ..Spec::default()
    };
    let revision = Revision::create(&cluster, "readiness", spec).await;
    let namespace = &revision.namespace;
    // The proxy runs while the app does not listen yet.
    let running = eventually("a running queue-proxy", async || {
        let pods = revision.pods().await;
        let pod = pods.first()?;
        let proxy = container(pod, "queue-proxy")?;
        let running = !proxy["state"]["running"].is_null();
        running.then(|| (name_of(pod), is_ready(pod), proxy["ready"] == true))
    })
    .await;
    let (pod, pod_ready, proxy_ready) = running;
    assert!(!pod_ready, "ready before the app listens");
    assert!(!proxy_ready, "the queue-proxy says ready before the app is");
    revision.ready(1).await;
    let answer = cluster
        .api
        .ask(namespace, &pod, QUEUE_PORT, Request::get("/"));
    let answer = answer.await.unwrap();
    assert_eq!(answer.text.trim(), "Hello from readiness-00001!");
    // The app ends: the request it was busy with fails, the pod is not ready, and then is again.
    let exit = Request::get("/?exit=3");
    let answer = cluster.api.ask(namespace, &pod, QUEUE_PORT, exit).await;
    assert!(
        answer
            .as_ref()
            .is_ok_and(|it| it.status == StatusCode::BAD_GATEWAY),
        "{answer:?}"
    );
    let restarted = |object: &Value| {
        let app = container(object, "user-container")?;
        (app["restartCount"] == 1 && is_ready(object)).then_some(())
    };
    let object = (PODS, namespace.as_str(), pod.as_str());
    cluster.api.wait(object, "ready again", restarted).await;
}

/// A deleted pod finishes what it has, takes what still comes, says that it is not ready, and goes
/// when nothing has come for as long as upstream's would wait.
pub(crate) async fn a_drain_loses_nothing(cluster: Rc<Cluster>) {
    // A grace that no scenario lives to see the end of: the pod goes by itself or not at all, however
    // long a crowded machine takes for that.
    let spec = Spec {
        grace_seconds: 3600,
        ..Spec::default()
    };
    let revision = Revision::create(&cluster, "drain", spec).await;
    let namespace = revision.namespace.clone();
    let pod = revision.ready(1).await.remove(0);
    let slow = {
        let (cluster, namespace, pod) = (Rc::clone(&cluster), namespace.clone(), pod.clone());
        tokio::task::spawn_local(async move {
            let request = Request::get("/?sleep=15s");
            let answer = cluster.api.ask(&namespace, &pod, QUEUE_PORT, request).await;
            (answer, Instant::now())
        })
    };
    let before = cluster
        .api
        .ask(&namespace, &pod, QUEUE_PORT, Request::get("/"));
    assert_eq!(before.await.unwrap().status, StatusCode::OK);
    cluster.api.delete(PODS, &namespace, &pod, None).await;
    let deleted = Instant::now();
    // The probe says so at once.
    eventually("a failing probe", async || {
        let probe = Request::get("/")
            .header("user-agent", "kube-probe/1.35")
            .header("k-network-probe", "queue");
        let answer = cluster.api.ask(&namespace, &pod, QUEUE_PORT, probe).await;
        answer.ok().filter(|it| it.status != StatusCode::OK)
    })
    .await;
    // Requests that were routed before everybody knew are served.
    let late = cluster
        .api
        .ask(&namespace, &pod, QUEUE_PORT, Request::get("/"));
    assert_eq!(late.await.unwrap().status, StatusCode::OK);
    let (answer, answered) = slow.await.unwrap();
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert!(answered > deleted, "the request ended before the drain");
    cluster.api.gone(PODS, &namespace, &pod).await;
    let took = Instant::now() - deleted;
    // The last request came a moment after the deletion, and the slow one was not longer than that.
    assert!(took >= QUIET, "gone after {took:?}");
}

/// What the pod's own grace does not allow is cut off, and the pod is gone in time.
pub(crate) async fn deletion_grace_ends_a_drain(cluster: Rc<Cluster>) {
    let spec = Spec {
        grace_seconds: 5,
        ..Spec::default()
    };
    let revision = Revision::create(&cluster, "grace", spec).await;
    let namespace = revision.namespace.clone();
    let pod = revision.ready(1).await.remove(0);
    let cut = {
        let (cluster, namespace, pod) = (Rc::clone(&cluster), namespace.clone(), pod.clone());
        tokio::task::spawn_local(async move {
            // Longer than anybody here waits: a pod that is gone has not answered it.
            let request = Request::get("/?sleep=3600s");
            cluster.api.ask(&namespace, &pod, QUEUE_PORT, request).await
        })
    };
    cluster.api.delete(PODS, &namespace, &pod, None).await;
    cluster.api.gone(PODS, &namespace, &pod).await;
    let answer = cut.await.unwrap();
    assert!(
        answer
            .as_ref()
            .map_or(true, |it| it.status != StatusCode::OK),
        "{answer:?}"
    );
}

fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    statuses.iter().find(|it| it["name"] == name)
}
