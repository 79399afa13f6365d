//! Growth under load, shrinking in silence, and the bounds of both.

use serde_json::Value;
use tests::load::{Stream, all_ok, at_once};
use tests::manifest::Service;
use tests::pilotlight::Pilotlight;

/// The status of one revision.
pub(crate) fn revision<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["services"]
        .as_array()?
        .iter()
        .flat_map(|service| service["revisions"].as_array().into_iter().flatten())
        .find(|revision| revision["name"] == name)
}

/// Replicas of a revision that exist in any state.
pub(crate) fn replicas(status: &Value, name: &str) -> u64 {
    let Some(revision) = revision(status, name) else {
        return 0;
    };
    let counts = &revision["replicas"];
    ["ready", "starting", "draining"]
        .iter()
        .filter_map(|state| counts[*state].as_u64())
        .sum()
}

/// Replicas of a revision that are ready.
pub(crate) fn ready(status: &Value, name: &str) -> u64 {
    revision(status, name)
        .and_then(|revision| revision["replicas"]["ready"].as_u64())
        .unwrap_or(0)
}

/// Waits until silence has taken a revision to zero.
pub(crate) async fn at_zero(pilotlight: &Pilotlight, name: &str) {
    pilotlight
        .until(&format!("{name} at zero"), |status| {
            revision(status, name).is_some() && replicas(status, name) == 0
        })
        .await;
}

#[tokio::test]
async fn overload_of_single_slot_replicas_is_answered_in_full() {
    // The shape of upstream's TestActivatorOverload: every request waits for a slot, none is lost.
    let service = Service::new("overload")
        .autoscaling("max-scale", "10")
        .autoscaling("target-burst-capacity", "-1")
        .spec("containerConcurrency: 1");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let answers = at_once(&pilotlight.call("overload.localhost", "/?sleep=300"), 100).await;
    all_ok(&answers);
    let most = pilotlight.status().await;
    assert!(replicas(&most, "overload-00001") > 1, "{most:#}");
    assert!(replicas(&most, "overload-00001") <= 10, "{most:#}");
}

#[tokio::test]
async fn parallel_slow_requests_grow_a_revision_and_silence_ends_it() {
    let service = Service::new("grow")
        .autoscaling("max-scale", "10")
        .spec("containerConcurrency: 1");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let load = Stream::start(&pilotlight.call("grow.localhost", "/?sleep=500"), 20);
    pilotlight
        .until("ten ready replicas", |status| {
            ready(status, "grow-00001") == 10
        })
        .await;
    all_ok(&load.finish().await);
    at_zero(&pilotlight, "grow-00001").await;
    // And once more from zero.
    assert_eq!(pilotlight.get("grow.localhost", "/").await.status, 200);
}

#[tokio::test]
async fn a_minimum_is_kept_and_a_maximum_is_not_passed() {
    let service = Service::new("bounded")
        .autoscaling("min-scale", "2")
        .autoscaling("max-scale", "3")
        .spec("containerConcurrency: 1");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    pilotlight
        .until("two ready replicas without any request", |status| {
            ready(status, "bounded-00001") == 2
        })
        .await;
    let load = Stream::start(&pilotlight.call("bounded.localhost", "/?sleep=200"), 12);
    pilotlight
        .until("three ready replicas", |status| {
            ready(status, "bounded-00001") == 3
        })
        .await;
    all_ok(&load.finish().await);
    let status = pilotlight
        .until("two replicas again", |status| {
            replicas(status, "bounded-00001") == 2
        })
        .await;
    assert_eq!(ready(&status, "bounded-00001"), 2, "{status:#}");
}

#[tokio::test]
async fn the_activator_leaves_the_path_when_there_is_capacity() {
    let service = Service::new("direct")
        .autoscaling("min-scale", "1")
        .autoscaling("target-burst-capacity", "0");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let in_path = |status: &Value| revision(status, "direct-00001").map(|r| r["inPath"].clone());
    pilotlight
        .until("a direct path", |status| {
            in_path(status) == Some(Value::Bool(false))
        })
        .await;
    assert_eq!(pilotlight.get("direct.localhost", "/").await.status, 200);
    let always = Service::new("held")
        .autoscaling("min-scale", "1")
        .autoscaling("target-burst-capacity", "-1");
    let pilotlight = Pilotlight::run(&always.yaml()).await;
    pilotlight
        .until("a ready replica", |status| ready(status, "held-00001") == 1)
        .await;
    assert_eq!(pilotlight.get("held.localhost", "/").await.status, 200);
    let status = pilotlight.status().await;
    assert_eq!(
        revision(&status, "held-00001").unwrap()["inPath"],
        true,
        "{status:#}"
    );
}
