//! The activator as a gateway: what it writes into Ingresses, and what it must not write over.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use api_server::eventually;
use api_server::objects::{create, is, patch, wait};
use api_server::proxy::{Link, Proxy};
use futures_util::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::replica::Settings;
use super::world::{Ingress, Pod, World, own_ip, send};
use super::{ACCOUNT, Cluster, SYSTEM};

const CLASS: &str = "networking.knative.dev/ingress.class";

/// A route from a host to a Service of the namespace.
fn spec(it: &World, host: &str, service: &str, round: usize) -> Value {
    json!({
        "httpOption": "Enabled",
        "rules": [{
            "hosts": [host],
            "visibility": "ExternalIP",
            "http": {"paths": [{
                "appendHeaders": {"Round": round.to_string()},
                "splits": [{
                    "serviceNamespace": it.namespace, "serviceName": service,
                    "servicePort": 80, "percent": 100
                }]
            }]}
        }]
    })
}

async fn ingress(it: &World, name: &str, class: &str, spec: Value) {
    let object = json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {"name": name, "annotations": {CLASS: class}},
        "spec": spec
    });
    create::<Ingress>(&it.client, &it.namespace, object).await;
}

/// The replicas behind the entry for the cluster.
async fn replicas(cluster: &Cluster, service: &str, addresses: &[SocketAddr]) {
    let system = World {
        client: cluster.client.clone(),
        namespace: SYSTEM.to_owned(),
        name: "",
    };
    system
        .endpoints_of(service, json!({}), "http2", addresses)
        .await;
}

fn ready(it: &Value) -> bool {
    is(it, "Ready", "True", "")
        && it["status"]["observedGeneration"] == it["metadata"]["generation"]
}

/// An Ingress is ready, and says where it is reached, once every replica serves it. Those of other
/// classes are left alone, and a host belongs to who was first.
pub(crate) async fn status(cluster: Rc<Cluster>) {
    const OURS: &str = "status.example.com";
    let mut settings = Settings::new(cluster.server.address(), ACCOUNT);
    settings.ingress = Some((OURS, "status-internal"));
    let it = World::empty(&cluster.client, "routed").await;
    let pod = Pod::start("pod").await;
    it.service("app", &pod).await;
    let activator = settings.start().await;
    let own = SocketAddr::new(own_ip(), activator.ports.ingress_local);
    // Nothing answers at an address for documentation.
    let nobody = SocketAddr::new([192, 0, 2, 1].into(), own.port());
    replicas(&cluster, "status-internal", &[own, nobody]).await;
    ingress(&it, "other", "other.example.com", spec(&it, "b", "app", 0)).await;
    ingress(&it, "ours", OURS, spec(&it, "a", "app", 0)).await;
    let api = it.api::<Ingress>();
    let waiting = wait(&api, "ours", "waiting", |it| {
        is(it, "Ready", "Unknown", "Uninitialized")
    })
    .await;
    assert!(is(
        &waiting,
        "LoadBalancerReady",
        "Unknown",
        "Uninitialized"
    ));
    assert!(is(&waiting, "NetworkConfigured", "True", ""));
    assert_eq!(waiting["status"]["observedGeneration"], 1);
    assert_eq!(waiting["status"]["publicLoadBalancer"], Value::Null);
    // It is served all the same.
    let served = send(activator.entry(), "/", "Host: a\r\n").await;
    assert_eq!(served, Some((200, "pod".to_owned())));
    // This one says so at the next look, and there are ten of them now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let still = wait(&api, "ours", "there", |_| true).await;
    assert!(is(&still, "Ready", "Unknown", "Uninitialized"), "{still}");

    replicas(&cluster, "status-internal", &[own]).await;
    let done = wait(&api, "ours", "ready", ready).await;
    assert!(is(&done, "LoadBalancerReady", "True", ""));
    let at = |service: &str| {
        let domain = format!("{service}.knative-serving.svc.cluster.local");
        json!({"ingress": [{"domainInternal": domain}]})
    };
    assert_eq!(
        done["status"]["publicLoadBalancer"],
        at("activator-ingress")
    );
    assert_eq!(done["status"]["privateLoadBalancer"], at("status-internal"));

    // A new generation is ready again once it is served.
    let changed = spec(&it, "a", "app", 7);
    patch::<Ingress>(&it.client, &it.namespace, "ours", json!({"spec": changed})).await;
    let again = wait(&api, "ours", "ready again", |it| {
        ready(it) && it["metadata"]["generation"] == 2
    })
    .await;
    assert_eq!(
        again["status"]["publicLoadBalancer"],
        at("activator-ingress")
    );
    send(activator.entry(), "/", "Host: a\r\n").await;
    assert!(pod.last.borrow().to_lowercase().contains("round: 7"));

    ingress(&it, "second", OURS, spec(&it, "a", "app", 0)).await;
    let refused = wait(&api, "second", "refused", |it| {
        is(it, "Ready", "False", "HostConflict")
    })
    .await;
    assert_eq!(refused["status"]["observedGeneration"], 1);
    let other = api.get("other").await.unwrap();
    assert!(other.status.is_none(), "{other:?}");
    activator.stop().await;
}

/// While others change an Ingress faster than it can be written, writes lose: none of them says
/// anything of a generation that is not the present one, and the last one is said to be ready.
pub(crate) async fn losing_writes(cluster: Rc<Cluster>) {
    const OURS: &str = "losing.example.com";
    const NAME: &str = "contended";
    let proxy = Proxy::start(cluster.server.address()).await;
    let mut settings = Settings::new(proxy.address, ACCOUNT);
    settings.ingress = Some((OURS, "losing-internal"));
    let it = World::empty(&cluster.client, "contended").await;
    let pod = Pod::start("pod").await;
    it.service("app", &pod).await;
    let activator = settings.start().await;
    let own = SocketAddr::new(own_ip(), activator.ports.ingress_local);
    replicas(&cluster, "losing-internal", &[own]).await;

    // What the activator sees and writes is always later than the next change.
    proxy.set(Link::Slow(Duration::from_millis(100)));
    ingress(&it, NAME, OURS, spec(&it, "a", "app", 0)).await;
    let states = Rc::new(RefCell::new(Vec::<Value>::new()));
    let (api, seen) = (it.api::<Ingress>(), Rc::clone(&states));
    let _recording = AbortOnDropHandle::new(tokio::task::spawn_local(async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
        while let Some(Ok(object)) = events.next().await {
            seen.borrow_mut()
                .push(serde_json::to_value(object).unwrap());
        }
    }));
    let mut round = 0;
    eventually("conflict of writes", async || {
        round += 1;
        let spec = spec(&it, "a", "app", round);
        patch::<Ingress>(&it.client, &it.namespace, NAME, json!({"spec": spec})).await;
        let events = cluster.server.audit(ACCOUNT);
        let conflicts = events.iter().filter(|event| {
            event["objectRef"]["name"] == NAME
                && event["objectRef"]["subresource"] == "status"
                && event["responseStatus"]["code"] == 409
        });
        (conflicts.count() >= 2).then_some(())
    })
    .await;
    let api = it.api::<Ingress>();
    let last = wait(&api, NAME, "ready", ready).await;
    eventually("record of the last state", async || {
        let states = states.borrow();
        let recorded = &states.last()?["metadata"]["resourceVersion"];
        (*recorded == last["metadata"]["resourceVersion"]).then_some(())
    })
    .await;
    let states = states.take();
    let written = states
        .windows(2)
        .filter(|pair| pair[0]["status"] != pair[1]["status"]);
    for pair in written {
        let (status, metadata) = (&pair[1]["status"], &pair[1]["metadata"]);
        assert_eq!(
            status["observedGeneration"], metadata["generation"],
            "{pair:?}"
        );
    }
    activator.stop().await;
}
