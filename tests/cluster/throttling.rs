//! The activator follows what the API server says of revisions and their pods.

use std::rc::Rc;

use http::StatusCode;
use serde_json::json;

use super::Cluster;
use super::api::{PODS, REVISIONS, eventually};
use super::revision::{Revision, Spec};

/// A request waits for a pod, and follows when pods come and go.
pub(crate) async fn requests_follow_pods(cluster: Rc<Cluster>) {
    // Pods answer with their names.
    let name = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let spec = Spec {
        replicas: 0,
        app: json!([{"name": "SAMPLE_MESSAGE", "valueFrom": name}]),
        ..Spec::default()
    };
    let revision = Rc::new(Revision::create(&cluster, "endpoints", spec).await);
    // Known from now on.
    let held = {
        let revision = Rc::clone(&revision);
        tokio::task::spawn_local(async move {
            eventually("a known revision", async || {
                let answer = revision.ask_activator("/").await.ok()?;
                (answer.status != StatusCode::NOT_FOUND).then_some(answer)
            })
            .await
        })
    };
    revision.scale(1).await;
    let answer = held.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let first = revision.ready(1).await.remove(0);
    // A second pod gets its share; the first one then goes at once, without a word.
    revision.scale(2).await;
    let both = revision.ready(2).await;
    let second = both.into_iter().find(|it| *it != first).unwrap();
    eventually("an answer of the second pod", async || {
        let answer = revision.ask_activator("/").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        (answer.text.trim() == second).then_some(())
    })
    .await;
    revision.scale(1).await;
    eventually("one pod", async || {
        (revision.pods().await.len() == 1).then_some(())
    })
    .await;
    // While one drains and the other serves, nothing fails.
    for _ in 0..20 {
        let answer = revision.ask_activator("/").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    // Killed rather than drained: the next request waits for what comes in its place.
    let left = revision.ready(1).await.remove(0);
    let api = &cluster.api;
    api.delete(PODS, &revision.namespace, &left, Some(0)).await;
    eventually("an answer of the pod in its place", async || {
        let answer = revision.ask_activator("/").await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
}

/// A revision that nobody has told of is answered with 404, before it comes and after it went.
pub(crate) async fn a_revision_comes_and_goes(cluster: Rc<Cluster>) {
    let revision = Revision::create(&cluster, "revisions", Spec::default()).await;
    let (api, namespace) = (&cluster.api, revision.namespace.as_str());
    revision.ready(1).await;
    let answered = async |status: StatusCode| {
        eventually(&format!("an answer with {status}"), async || {
            let answer = revision.ask_activator("/").await.ok()?;
            (answer.status == status).then_some(())
        })
        .await;
    };
    answered(StatusCode::OK).await;
    api.delete(REVISIONS, namespace, &revision.name, None).await;
    answered(StatusCode::NOT_FOUND).await;
    let labels = json!({
        "serving.knative.dev/service": "hello", "serving.knative.dev/configuration": "hello"
    });
    let object = json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
        "metadata": {"name": revision.name, "labels": labels},
        "spec": {"containerConcurrency": 1, "timeoutSeconds": 300, "containers": [{"name": "c"}]}
    });
    api.create(REVISIONS, namespace, object).await;
    answered(StatusCode::OK).await;
}
