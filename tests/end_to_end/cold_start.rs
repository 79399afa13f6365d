//! From zero to an answer.

use tests::load::{all_ok, at_once};
use tests::manifest::Service;
use tests::pilotlight::{Pilotlight, config_autoscaler};

use crate::scaling::{at_zero, replicas};

#[tokio::test]
async fn a_request_wakes_a_service_from_zero() {
    let service = Service::new("hello").autoscaling("initial-scale", "0");
    let config = config_autoscaler("allow-zero-initial-scale: \"true\"");
    let pilotlight = Pilotlight::run(&format!("{config}{}", service.yaml())).await;
    pilotlight
        .until("zero replicas at the start", |status| {
            replicas(status, "hello-00001") == 0
        })
        .await;
    let answer = pilotlight.get("hello.localhost", "/").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), "Hello from hello-00001!\n");
    assert_eq!(replicas(&pilotlight.status().await, "hello-00001"), 1);
}

#[tokio::test]
async fn a_hundred_requests_at_zero_are_all_answered() {
    let pilotlight = Pilotlight::run(&Service::new("crowd").yaml()).await;
    at_zero(&pilotlight, "crowd-00001").await;
    let answers = at_once(&pilotlight.call("crowd.localhost", "/"), 100).await;
    assert_eq!(answers.len(), 100);
    all_ok(&answers);
}

#[tokio::test]
async fn activation_scale_starts_several_at_once() {
    let service = Service::new("several").autoscaling("activation-scale", "3");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    at_zero(&pilotlight, "several-00001").await;
    assert_eq!(pilotlight.get("several.localhost", "/").await.status, 200);
    pilotlight
        .until("three replicas", |status| {
            replicas(status, "several-00001") == 3
        })
        .await;
}
