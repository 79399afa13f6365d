//! The activator as the gateway for Ingresses of its class.

use std::rc::Rc;

use http::{Request, StatusCode};
use serde_json::Value;

use super::Cluster;
use super::api::{Api, INGRESSES, eventually};
use super::revision::{Revision, Spec};
use super::serving_stand_in::{SYSTEM, pod_of};

/// Where the world comes in.
pub(crate) const ENTRY: u16 = 8080;

/// An Ingress is served once its status says so; a split changes, a host goes.
pub(crate) async fn splits_and_status(cluster: Rc<Cluster>) {
    let host = "split.example.com";
    let blue = Revision::create(&cluster, "blue", Spec::default()).await;
    let green = Revision::create_in(&cluster, &blue.namespace, "green", Spec::default()).await;
    // Both with the addresses of activators behind their public Services, as at zero.
    blue.point_at_activators().await;
    green.point_at_activators().await;
    assert_eq!(asked(&cluster.api, host).await.0, StatusCode::NOT_FOUND);
    blue.route(host, &[(&blue, 100)]).await;
    ready(&blue, 1).await;
    // Ready means ready: not one request may fail from here on.
    for _ in 0..10 {
        let (status, text) = asked(&cluster.api, host).await;
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::OK, "Hello from blue-00001!")
        );
    }
    blue.route(host, &[(&blue, 50), (&green, 50)]).await;
    ready(&blue, 2).await;
    let mut seen = [0, 0];
    for _ in 0..40 {
        let (status, text) = asked(&cluster.api, host).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        seen[usize::from(text.contains("green"))] += 1;
    }
    // Forty fair coins: 8 or fewer of a kind come once in ten thousand runs.
    assert!(seen.iter().all(|count| *count > 8), "{seen:?}");
    blue.route(host, &[(&green, 100)]).await;
    ready(&blue, 3).await;
    assert_eq!(asked(&cluster.api, host).await.1, "Hello from green-00001!");
    let api = &cluster.api;
    api.delete(INGRESSES, &blue.namespace, "hello", None).await;
    eventually("the end of a route", async || {
        let (status, _) = asked(api, host).await;
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
}

/// Waits until the status says that this generation is served.
pub(crate) async fn ready(of: &Revision, generation: i64) {
    let wanted = |object: &Value| {
        let status = &object["status"];
        let conditions = status["conditions"].as_array()?;
        let ready = conditions
            .iter()
            .any(|it| it["type"] == "Ready" && it["status"] == "True");
        (ready && status["observedGeneration"] == generation).then_some(())
    };
    let object = (INGRESSES, of.namespace.as_str(), "hello");
    of.cluster.api.wait(object, "ready", wanted).await;
}

/// One request at the entry for the world.
pub(crate) async fn asked(api: &Api, host: &str) -> (StatusCode, String) {
    let request = Request::get("/").header("host", host);
    let activator = pod_of(api, "activator").await;
    let answer = api.ask(SYSTEM, &activator, ENTRY, request).await.unwrap();
    (answer.status, answer.text.trim().to_owned())
}
