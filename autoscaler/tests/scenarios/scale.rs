//! From what revisions report to replicas.

use std::cell::Cell;
use std::rc::Rc;

use api_server::eventually;
use autoscaler::kubernetes::objects::{Metric, PodAutoscaler};
use serde_json::{Value, json};

use crate::Cluster;
use crate::fixtures::{Level, Revision, changed_at, is, now};

const TBC: &str = "autoscaling.knative.dev/target-burst-capacity";
const WINDOW: &str = "autoscaling.knative.dev/window";
const TARGET: &str = "autoscaling.knative.dev/target";
const MIN_SCALE: &str = "autoscaling.knative.dev/min-scale";
const MAX_SCALE: &str = "autoscaling.knative.dev/max-scale";
const INITIAL_SCALE: &str = "autoscaling.knative.dev/initial-scale";
const RETENTION: &str = "autoscaling.knative.dev/scale-to-zero-pod-retention-period";

fn inactive(object: &Value) -> bool {
    is(object, "Active", "False", "NoTraffic")
}

/// From ready to zero behind an activator that was asked, and back with one stat.
pub(crate) async fn to_zero_and_back(cluster: Rc<Cluster>) {
    let it = Revision::create(&cluster.client, "zero-00001", json!({WINDOW: "6s"})).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|_| "127.0.4.1".to_owned());
    let active = it.pa("ready", |it| is(it, "Ready", "True", "")).await;
    let idle = it.pa("idle", inactive).await;
    assert!(changed_at(&idle, "Active") - changed_at(&active, "Active") >= 6);
    assert!(is(&idle, "Ready", "False", "NoTraffic"));
    it.sks("proxied", |it| it["spec"]["mode"] == "Proxy").await;
    it.replicas(0).await;
    let probe = cluster.activator.last_probe.borrow().clone();
    assert!(probe.starts_with("GET //healthz HTTP/1.1\r\n"), "{probe}");
    for header in [
        "User-Agent: Knative-Autoscaling-Probe",
        "K-Network-Probe: activator",
    ] {
        assert!(probe.contains(header), "{probe}");
    }
    let zero = it
        .pa("at zero", |it| it["status"]["actualScale"] == 0)
        .await;
    assert_eq!(zero["status"]["desiredScale"], 0);
    it.report(cluster.replica, 1.0).await;
    it.replicas(1).await;
    it.pa("active", |it| is(it, "Ready", "True", "")).await;
}

/// Up with the load, at once, and down with it, by half at most; activators follow the pods.
pub(crate) async fn up_and_down(cluster: Rc<Cluster>) {
    let annotations = json!({TARGET: "10", MAX_SCALE: "7", WINDOW: "6s", TBC: "200"});
    let it = Revision::create(&cluster.client, "load-00001", annotations).await;
    let _serving = it.serve();
    let (_recording, replicas) = it.record_replicas();
    let _pods = it.run_pods(|index| format!("127.0.5.{}", index + 1));
    let level = Rc::new(Cell::new(100.0));
    let _traffic = it.traffic(vec![cluster.replica], &level);
    it.replicas(7).await;
    it.pa("all ready", |it| {
        it["status"]["actualScale"] == 7
            && it["status"]["desiredScale"] == 7
            && is(it, "Ready", "True", "")
    })
    .await;
    // 7 pods of 10 and 200 more, by 100 for each activator; too little to serve alone.
    it.sks("with activators", |it| {
        it["spec"]["numActivators"] == 3 && it["spec"]["mode"] == "Proxy"
    })
    .await;
    level.set(0.0);
    it.replicas(0).await;
    let seen = replicas.borrow().clone();
    let from_top = seen
        .iter()
        .skip_while(|it| **it != 7)
        .copied()
        .collect::<Vec<_>>();
    assert_eq!(from_top.first(), Some(&7), "{seen:?}");
    for step in from_top.windows(2) {
        assert!(step[1] >= step[0] / 2 && step[1] < step[0], "{seen:?}");
    }
}

/// Initial scale until initialised, then not below the minimum nor above the maximum.
pub(crate) async fn bounds(cluster: Rc<Cluster>) {
    let annotations = json!({
        INITIAL_SCALE: "4", MIN_SCALE: "2", MAX_SCALE: "3", TBC: "-1", WINDOW: "6s"
    });
    let client = &cluster.client;
    let it = Revision::with(client, "bounds-00001", annotations, 4, json!({})).await;
    let _serving = it.serve();
    let (_recording, replicas) = it.record_replicas();
    it.pa("queued", |it| {
        is(it, "Active", "Unknown", "Queued") && is(it, "SKSReady", "True", "")
    })
    .await;
    let _pods = it.run_pods(|index| format!("127.0.6.{}", index + 1));
    it.pa("initialised", |it| {
        is(it, "ScaleTargetInitialized", "True", "")
    })
    .await;
    it.replicas(2).await;
    let level = Rc::new(Cell::new(1000.0));
    let _traffic = it.traffic(vec![cluster.replica], &level);
    it.replicas(3).await;
    level.set(0.0);
    it.replicas(2).await;
    let seen = replicas.borrow().clone();
    assert_eq!(seen.front(), Some(&4), "{seen:?}");
    assert!(seen.iter().all(|it| (2..=4).contains(it)), "{seen:?}");
}

/// Nothing runs until somebody comes.
pub(crate) async fn zero_initial_scale(cluster: Rc<Cluster>) {
    let annotations = json!({INITIAL_SCALE: "0", WINDOW: "6s"});
    let client = &cluster.client;
    let it = Revision::with(client, "none-at-first-00001", annotations, 0, json!({})).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|_| "127.0.7.1".to_owned());
    // Being initialised takes a Service as well, which may come after being idle.
    it.pa("idle", |it| {
        inactive(it) && is(it, "ScaleTargetInitialized", "True", "")
    })
    .await;
    it.report(cluster.replica, 1.0).await;
    it.replicas(1).await;
    it.pa("active", |it| is(it, "Ready", "True", "")).await;
}

/// The last pod stays for the retention period after the revision has become inactive.
pub(crate) async fn retention(cluster: Rc<Cluster>) {
    let annotations = json!({RETENTION: "6s", TBC: "-1", WINDOW: "6s"});
    let it = Revision::create(&cluster.client, "retained-00001", annotations).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|_| "127.0.8.1".to_owned());
    let idle = it.pa("idle", inactive).await;
    it.replicas(0).await;
    let lasted = now() - changed_at(&idle, "Active");
    assert!(lasted >= 6, "{lasted} s");
}

/// A revision that no route leads to goes to zero in spite of its minimum.
pub(crate) async fn unreachable(cluster: Rc<Cluster>) {
    let annotations = json!({MIN_SCALE: "2", TBC: "-1", WINDOW: "6s", RETENTION: "1h"});
    let it = Revision::create(&cluster.client, "unreachable-00001", annotations).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|index| format!("127.0.9.{}", index + 1));
    it.pa("at its minimum", |it| it["status"]["actualScale"] == 2)
        .await;
    let unreachable = json!({"spec": {"reachability": "Unreachable"}});
    it.patch::<PodAutoscaler>(it.name, unreachable).await;
    it.replicas(0).await;
    it.pa("idle", |it| {
        inactive(it) && it["status"]["observedGeneration"] == 2
    })
    .await;
}

/// A revision whose pods never become ready is given up half a minute after its deadline.
pub(crate) async fn progress_deadline(cluster: Rc<Cluster>) {
    let annotations = json!({"serving.knative.dev/progress-deadline": "1s", TBC: "-1"});
    let it = Revision::create(&cluster.client, "stuck-00001", annotations).await;
    let (_recording, states) = it.record_states();
    let _serving = it.serve();
    it.replicas(0).await;
    it.pa("given up", inactive).await;
    let seen = async |status, reason| {
        eventually("the reason", async || {
            let states = states.borrow();
            let found = states.iter().find(|it| is(it, "Active", status, reason));
            found.cloned()
        })
        .await
    };
    let queued = seen("Unknown", "Queued").await;
    let timed_out = seen("False", "TimedOut").await;
    let lasted = changed_at(&timed_out, "Active") - changed_at(&queued, "Active");
    assert!((31..60).contains(&lasted), "{lasted} s");
}

/// Pods are asked themselves; one that does not answer is said so in the Metric.
pub(crate) async fn scraped_pods(cluster: Rc<Cluster>) {
    let annotations = json!({TARGET: "10", MAX_SCALE: "4", TBC: "0", WINDOW: "6s"});
    let it = Revision::create(&cluster.client, "scraped-00001", annotations).await;
    let _serving = it.serve();
    let address = |index| format!("127.0.10.{}", index + 1);
    let _pods = it.run_pods(address);
    cluster.stats.set(&address(0), Level::Concurrency(50.0));
    it.replicas(4).await;
    it.sks("serving", |it| it["spec"]["mode"] == "Serve").await;
    for index in 0..4 {
        cluster.stats.set(&address(index), Level::Broken);
    }
    let failed = |it: &Value| is(it, "Ready", "False", "CollectionFailed");
    it.wait::<Metric>(it.name, "failed", failed).await;
    for index in 0..4 {
        cluster.stats.set(&address(index), Level::Concurrency(0.0));
    }
    it.wait::<Metric>(it.name, "ready", |it| is(it, "Ready", "True", ""))
        .await;
    it.replicas(0).await;
}
