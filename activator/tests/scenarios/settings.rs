//! What applies while the activator runs.

use std::rc::Rc;

use api_server::eventually;
use serde_json::json;

use super::replica::Replica;
use super::world::{Pod, World};
use super::{ACCOUNT, Cluster};

const OBSERVABILITY: &str = "config-observability";
const LOGGING: &str = "config-logging";
/// Keys of the request log.
const ENABLED: &str = "logging.enable-request-log";
const TEMPLATE: &str = "logging.request-log-template";

/// Waits until a request is logged as this.
async fn logged(it: &World, activator: &Replica, line: &str) {
    eventually(&format!("request logged as {line:?}"), async || {
        it.get(activator.address(), "/").await;
        activator
            .requests
            .text()
            .ends_with(&format!("{line}\n"))
            .then_some(())
    })
    .await;
}

/// The last line of the request log after one more request.
async fn next_line(it: &World, activator: &Replica) -> String {
    let before = activator.requests.text().lines().count();
    it.get(activator.address(), "/").await;
    eventually("next line", async || {
        let text = activator.requests.text();
        (text.lines().count() > before).then(|| text.lines().last().unwrap().to_owned())
    })
    .await
}

/// Config maps are followed. What is wrong is said once and changes nothing, and what comes after it
/// applies again.
pub(crate) async fn apply_live(cluster: Rc<Cluster>) {
    let client = &cluster.client;
    let activator = cluster.activator(ACCOUNT).await;
    let it = World::create(client, "configured-00001").await;
    let pod = Pod::start("pod").await;
    it.slice(&pod, true).await;
    it.only(activator.address(), &pod).await;
    assert_eq!(activator.requests.text(), "");

    let template = |text: &str| json!({ENABLED: "true", TEMPLATE: text});
    World::configure(client, OBSERVABILITY, template("first {{.Response.Code}}")).await;
    logged(&it, &activator, "first 200").await;

    // One wrong key, and nothing of the map applies.
    let refused = "config-observability is not used";
    let mut wrong = template("second {{.Response.Code}}");
    wrong["metrics-protocol"] = json!("pigeon");
    World::configure(client, OBSERVABILITY, wrong).await;
    activator.log.says(refused).await;
    assert_eq!(next_line(&it, &activator).await, "first 200");
    assert_eq!(activator.log.count(refused), 1);
    assert_eq!(activator.log.count("pigeon"), 1, "it names what is wrong");

    let mut right = template("third {{.Response.Code}}");
    right["metrics-protocol"] = json!("prometheus");
    World::configure(client, OBSERVABILITY, right).await;
    logged(&it, &activator, "third 200").await;

    World::configure(client, OBSERVABILITY, template("{{.Response")).await;
    eventually("second refusal", async || {
        (activator.log.count(refused) == 2).then_some(())
    })
    .await;
    assert_eq!(next_line(&it, &activator).await, "third 200");

    let changed = "the log level has changed";
    let level = |level: &str| json!({"loglevel.activator": level});
    World::configure(client, LOGGING, level("debug")).await;
    activator.log.says(changed).await;
    World::configure(client, LOGGING, level("loud")).await;
    activator.log.says("the log level stays").await;
    assert_eq!(activator.log.count("the log level stays"), 1);
    assert_eq!(activator.log.count(changed), 1);
    World::configure(client, LOGGING, json!({"loglevel.activator": null})).await;
    eventually("the first level", async || {
        (activator.log.count(changed) == 2).then_some(())
    })
    .await;
    let off = json!({ENABLED: null, TEMPLATE: null});
    World::configure(client, OBSERVABILITY, off).await;
    activator.stop().await;
}
