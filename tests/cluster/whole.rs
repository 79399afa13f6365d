//! All three together: what a request meets from zero to zero.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Cluster;
use super::api::{DEPLOYMENTS, POD_AUTOSCALERS, PODS, eventually};
use super::gateway::{self, ENTRY};
use super::revision::{Revision, Spec};
use super::serving_stand_in::{SYSTEM, is_ready, pod_of};

/// Annotations of a revision that goes to zero soon.
fn soon() -> Value {
    json!({
        "autoscaling.knative.dev/window": "6s",
        "autoscaling.knative.dev/initial-scale": "0"
    })
}

/// Where a cold start's time went, in seconds since the request was sent.
#[derive(Default)]
struct Moments {
    scaled: Cell<f64>,
    created: Cell<f64>,
    running: Cell<f64>,
    ready: Cell<f64>,
}

/// A request to a revision at zero brings a pod, is answered by it, and leaves it at zero again.
pub(crate) async fn zero_to_answer_to_zero(cluster: Rc<Cluster>) {
    let host = "whole.example.com";
    let spec = Spec {
        replicas: 0,
        scaled: Some(soon()),
        ..Spec::default()
    };
    let revision = Rc::new(Revision::create(&cluster, "whole", spec).await);
    let _served = revision.serve();
    let api = &cluster.api;
    inactive(&revision).await;
    revision.route(host, &[(&revision, 100)]).await;
    gateway::ready(&revision, 1).await;

    let activator = pod_of(api, "activator").await;
    let sent = Instant::now();
    let moments = Rc::new(Moments::default());
    let watched = {
        let (revision, moments) = (Rc::clone(&revision), Rc::clone(&moments));
        tokio::task::spawn_local(async move { watch(&revision, &moments, sent).await })
    };
    let request = Request::get("/").header("host", host);
    let answer = api.ask(SYSTEM, &activator, ENTRY, request).await.unwrap();
    let answered = Instant::now() - sent;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.text.trim(), "Hello from whole-00001!");
    watched.await.unwrap();
    let idle = Instant::now();
    inactive(&revision).await;
    api.wait(
        (
            DEPLOYMENTS,
            &revision.namespace,
            &revision.deployment_name(),
        ),
        "no replicas",
        |it| (it["spec"]["replicas"] == 0).then_some(()),
    )
    .await;
    let to_zero = Instant::now() - idle;
    eventually("no pods", async || {
        revision.pods().await.is_empty().then_some(())
    })
    .await;
    let Moments {
        scaled,
        created,
        running,
        ready,
    } = &*moments;
    println!(
        "        request → scaled {:.2} s → pod {:.2} → containers {:.2} → ready {:.2} → answer {:.2}; to zero {:.1} s later",
        scaled.get(),
        created.get(),
        running.get(),
        ready.get(),
        answered.as_secs_f64(),
        to_zero.as_secs_f64()
    );
    // Not before the window is over; how much later is the machine's as well, and is printed above.
    assert!(to_zero > Duration::from_secs(5), "{to_zero:?}");
}

async fn watch(revision: &Revision, moments: &Moments, sent: Instant) {
    let api = &revision.cluster.api;
    let name = revision.deployment_name();
    let note = |moment: &Cell<f64>| moment.set((Instant::now() - sent).as_secs_f64());
    api.wait(
        (DEPLOYMENTS, &revision.namespace, &name),
        "a replica",
        |it| (it["spec"]["replicas"] == 1).then_some(()),
    )
    .await;
    note(&moments.scaled);
    let label = format!("app={}", revision.name);
    let pod = async |wanted: &dyn Fn(&Value) -> bool| {
        eventually("a state of the pod", async || {
            let pods = api.list(PODS, &revision.namespace, &label).await;
            pods.iter().any(wanted).then_some(())
        })
        .await;
    };
    pod(&|_| true).await;
    note(&moments.created);
    pod(&|pod| {
        let statuses = pod["status"]["containerStatuses"].as_array();
        statuses.is_some_and(|all| all.iter().all(|it| !it["state"]["running"].is_null()))
    })
    .await;
    note(&moments.running);
    pod(&is_ready).await;
    note(&moments.ready);
}

/// Waits for the condition of a revision at zero.
async fn inactive(revision: &Revision) {
    let wanted = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array()?;
        let active = conditions.iter().find(|it| it["type"] == "Active")?;
        (active["status"] == "False" && active["reason"] == "NoTraffic").then_some(())
    };
    let object = (
        POD_AUTOSCALERS,
        revision.namespace.as_str(),
        revision.name.as_str(),
    );
    revision.cluster.api.wait(object, "at zero", wanted).await;
}

/// Load brings pods, and its end takes them away; not one request fails.
pub(crate) async fn up_and_down(cluster: Rc<Cluster>) {
    let mut annotations = soon();
    annotations["autoscaling.knative.dev/target"] = "2".into();
    annotations["autoscaling.knative.dev/max-scale"] = "4".into();
    let spec = Spec {
        replicas: 0,
        scaled: Some(annotations),
        ..Spec::default()
    };
    let revision = Rc::new(Revision::create(&cluster, "updown", spec).await);
    let _served = revision.serve();
    inactive(&revision).await;
    let going = Rc::new(Cell::new(true));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (revision, going) = (Rc::clone(&revision), Rc::clone(&going));
            AbortOnDropHandle::new(tokio::task::spawn_local(async move {
                let mut answers = 0;
                while going.get() {
                    let answer = revision.ask_activator("/?sleep=500ms").await.unwrap();
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
                    answers += 1;
                }
                answers
            }))
        })
        .collect();
    // Six at a time for a target of 1.4 are more than three pods' worth.
    let grown = eventually("four pods", async || {
        let pods = revision.pods().await;
        (pods.iter().filter(|it| is_ready(it)).count() == 4).then_some(pods.len())
    })
    .await;
    assert_eq!(grown, 4, "max-scale is 4");
    going.set(false);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    inactive(&revision).await;
    eventually("no pods", async || {
        revision.pods().await.is_empty().then_some(())
    })
    .await;
}

/// The limit of a revision holds through all parts: with one pod that takes one at a time, requests
/// that come together are answered one after the other.
pub(crate) async fn not_more_than_allowed(cluster: Rc<Cluster>) {
    let mut annotations = soon();
    annotations["autoscaling.knative.dev/max-scale"] = "1".into();
    let spec = Spec {
        replicas: 0,
        container_concurrency: 1,
        scaled: Some(annotations),
        ..Spec::default()
    };
    let revision = Rc::new(Revision::create(&cluster, "limit", spec).await);
    let _served = revision.serve();
    inactive(&revision).await;
    // The pod's start is not part of what is timed.
    let first = revision.ask_activator("/").await.unwrap();
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let begun = Instant::now();
    let together: Vec<_> = (0..5)
        .map(|_| {
            let revision = Rc::clone(&revision);
            tokio::task::spawn_local(async move { revision.ask_activator("/?sleep=1s").await })
        })
        .collect();
    for answer in together {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    let took = Instant::now() - begun;
    assert!(
        took >= Duration::from_secs(5),
        "five of one second in {took:?}"
    );
}
