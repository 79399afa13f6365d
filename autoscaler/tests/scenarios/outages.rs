//! An API server that is slow, silent, gone or started anew.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use api_server::eventually;
use api_server::objects::expired;
use api_server::proxy::{Link, Proxy};
use autoscaler::kubernetes::objects::PodAutoscaler;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::Cluster;
use crate::fixtures::{Revision, SYSTEM, is};
use crate::replica::Settings;

const BUCKET: &str = "autoscaler-bucket-00-of-01";

/// Changes the bound that the load runs into.
async fn limit(it: &Revision, replicas: u32) {
    let annotations = json!({"autoscaling.knative.dev/max-scale": replicas.to_string()});
    it.patch::<PodAutoscaler>(it.name, json!({"metadata": {"annotations": annotations}}))
        .await;
}

/// Whatever happens to the API server, nothing is scaled down, and what was changed in the meantime
/// is found out.
pub(crate) async fn of_the_api_server(cluster: Rc<Cluster>) {
    let proxy = Proxy::start(cluster.server.address()).await;
    let settings = Settings {
        api_server: proxy.address,
        pod: "autoscaler-behind".to_owned(),
        stats: "127.0.0.1:0".parse().unwrap(),
        pod_ip: "10.1.2.4".parse().unwrap(),
        pod_port: cluster.stats.port,
        activator: cluster.activator.address,
        stateful_set: false,
    };
    let replica = settings.start().await;
    let annotations = json!({
        "autoscaling.knative.dev/target": "10", "autoscaling.knative.dev/max-scale": "2",
        "autoscaling.knative.dev/window": "60s", "autoscaling.knative.dev/target-burst-capacity": "-1"
    });
    let it = Revision::create(&cluster.client, "outage-00001", annotations).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|index| format!("127.0.11.{}", index + 1));
    let (_recording, replicas) = it.record_replicas();
    let level = Rc::new(Cell::new(200.0));
    let _traffic = it.traffic(vec![replica.stats], &level);
    it.replicas(2).await;

    proxy.set(Link::Slow(Duration::from_millis(100)));
    limit(&it, 3).await;
    it.replicas(3).await;

    proxy.set(Link::Silent);
    limit(&it, 4).await;
    lost_lease(&cluster).await;
    proxy.set(Link::Open);
    it.replicas(4).await;

    proxy.set(Link::Cut);
    limit(&it, 5).await;
    lost_lease(&cluster).await;
    proxy.set(Link::Open);
    it.replicas(5).await;

    // What the replica's watches saw last is too old for a server that starts afterwards.
    proxy.set(Link::Cut);
    let api = it.api::<PodAutoscaler>();
    let seen = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    limit(&it, 6).await;
    cluster.server.kill_api_server();
    cluster.server.start_api_server().await;
    expired(&api, &seen).await;
    proxy.set(Link::Open);
    it.replicas(6).await;
    // The new watches work.
    limit(&it, 7).await;
    it.replicas(7).await;
    it.pa("all ready", |it| {
        it["status"]["actualScale"] == 7 && is(it, "Ready", "True", "")
    })
    .await;
    let seen = replicas.borrow().clone();
    assert!(seen.iter().is_sorted(), "{seen:?}");
    replica.stop().await;
}

/// Waits until the Lease has not been renewed for as long as it lasts.
async fn lost_lease(cluster: &Cluster) {
    let api = Api::<Lease>::namespaced(cluster.client.clone(), SYSTEM);
    eventually("a Lease that ran out", async || {
        let lease = serde_json::to_value(api.get(BUCKET).await.ok()?).unwrap();
        let renewed = |it: &Value| it["spec"]["renewTime"].as_str().map(str::to_owned);
        let renewed: k8s_openapi::jiff::Timestamp = renewed(&lease)?.parse().ok()?;
        let age = k8s_openapi::jiff::Timestamp::now().duration_since(renewed);
        (age.as_secs() > 5).then_some(())
    })
    .await;
}
