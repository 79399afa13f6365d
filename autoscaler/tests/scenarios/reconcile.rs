//! What a reconcile makes of objects, and of what others do to them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use api_server::eventually;
use autoscaler::kubernetes::objects::{Metric, PodAutoscaler, ServerlessService};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixtures::{Revision, SYSTEM, changed_at, condition, configure, create, is};
use crate::{ACCOUNT, Cluster};

const TBC: &str = "autoscaling.knative.dev/target-burst-capacity";
const WINDOW: &str = "autoscaling.knative.dev/window";
const MIN_SCALE: &str = "autoscaling.knative.dev/min-scale";

/// The Lease names the replica, and the bucket's Service leads to it.
pub(crate) async fn the_bucket_leads_to_its_holder(cluster: Rc<Cluster>) {
    const BUCKET: &str = "autoscaler-bucket-00-of-01";
    let client = &cluster.client;
    let leases = Api::<Lease>::namespaced(client.clone(), SYSTEM);
    let services = Api::<Service>::namespaced(client.clone(), SYSTEM);
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), SYSTEM);
    eventually("a Service that leads to the holder", async || {
        let lease = leases.get_opt(BUCKET).await.ok()??.spec?;
        assert_eq!(lease.holder_identity?, "autoscaler-first_10.1.2.3");
        let service = services.get_opt(BUCKET).await.ok()??.spec?;
        assert!(service.selector.is_none());
        let slice = serde_json::to_value(slices.get_opt(BUCKET).await.ok()??).unwrap();
        assert_eq!(
            slice["metadata"]["labels"]["kubernetes.io/service-name"],
            BUCKET
        );
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.1.2.3"]));
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
        Some(())
    })
    .await;
}

/// Before its ServerlessService has a private service, a PodAutoscaler gets that and no more.
pub(crate) async fn a_fresh_pod_autoscaler(cluster: Rc<Cluster>) {
    let annotations = json!({"autoscaling.knative.dev/metric": "concurrency", WINDOW: "25s"});
    let it = Revision::create(&cluster.client, "fresh-00001", annotations).await;
    let fresh = it
        .pa("not ready", |it| {
            condition(it, "SKSReady")["message"] == "No Private Service Name"
        })
        .await;
    let status = &fresh["status"];
    assert_eq!(status["desiredScale"], -1);
    assert_eq!(status["actualScale"], 0);
    assert_eq!(status["serviceName"], "");
    assert_eq!(status["metricsServiceName"], "");
    assert_eq!(status["observedGeneration"], 1);
    assert!(is(&fresh, "SKSReady", "Unknown", "NotReady"), "{status}");
    assert!(is(&fresh, "Active", "Unknown", "Queued"), "{status}");
    assert_eq!(
        condition(&fresh, "ScaleTargetInitialized")["status"],
        "Unknown"
    );
    let sks = it.sks("present", |_| true).await;
    assert_eq!(sks["spec"]["mode"], "Proxy");
    assert_eq!(sks["spec"]["numActivators"], 2);
    assert_eq!(sks["spec"]["protocolType"], "http1");
    assert_eq!(sks["spec"]["objectRef"]["name"], "fresh-00001-deployment");
    assert_eq!(sks["metadata"]["labels"], fresh["metadata"]["labels"]);
    let annotations = &sks["metadata"]["annotations"];
    assert_eq!(annotations["autoscaling.knative.dev/metric"], Value::Null);
    assert_eq!(annotations[WINDOW], "25s");
    owned(&sks, &fresh);
    assert!(it.api::<Metric>().get_opt(it.name).await.unwrap().is_none());

    let _serving = it.serve();
    let metric = it.wait::<Metric>(it.name, "present", |_| true).await;
    let spec = json!({
        "stableWindow": 25_000_000_000_i64, "panicWindow": 3_000_000_000_i64,
        "scrapeTarget": "fresh-00001-private"
    });
    assert_eq!(metric["spec"], spec);
    assert_eq!(
        metric["metadata"]["annotations"]["autoscaling.knative.dev/metric"],
        "concurrency"
    );
    owned(&metric, &fresh);
    it.pa("named", |it| {
        it["status"]["serviceName"] == "fresh-00001"
            && it["status"]["metricsServiceName"] == "fresh-00001-private"
            && is(it, "SKSReady", "True", "")
    })
    .await;
    it.wait::<Metric>(it.name, "ready", |it| is(it, "Ready", "True", ""))
        .await;
}

fn owned(object: &Value, by: &Value) {
    let owner = &object["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], by["metadata"]["uid"]);
    assert_eq!(owner["kind"], "PodAutoscaler");
    assert_eq!(
        (&owner["controller"], &owner["blockOwnerDeletion"]),
        (&json!(true), &json!(true))
    );
}

/// An object of another class, or of none, is left alone.
pub(crate) async fn other_classes_are_ignored(cluster: Rc<Cluster>) {
    let class = json!({"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"});
    let other = Revision::create(&cluster.client, "other-00001", class).await;
    let class = json!({"autoscaling.knative.dev/class": null});
    let none = Revision::create(&cluster.client, "none-00001", class).await;
    // One of ours that came later has been dealt with.
    let later = Revision::create(&cluster.client, "later-00001", json!({})).await;
    later.sks("present", |_| true).await;
    for left_alone in [other, none] {
        let api = left_alone.api::<ServerlessService>();
        assert!(api.get_opt(left_alone.name).await.unwrap().is_none());
    }
}

/// A condition's time changes with its status, reason or message, and with nothing else.
pub(crate) async fn conditions_keep_their_times(cluster: Rc<Cluster>) {
    let annotations = json!({TBC: "-1", MIN_SCALE: "1"});
    let it = Revision::create(&cluster.client, "times-00001", annotations).await;
    let _serving = it.serve();
    let queued = it
        .pa("queued", |it| {
            is(it, "Active", "Unknown", "Queued") && is(it, "SKSReady", "True", "")
        })
        .await;
    let _pods = it.run_pods(|_| "127.0.1.1".to_owned());
    let active = it.pa("active", |it| is(it, "Ready", "True", "")).await;
    assert!(is(&active, "ScaleTargetInitialized", "True", ""));
    assert!(changed_at(&active, "Active") >= changed_at(&queued, "Active"));
    assert_eq!(
        changed_at(&active, "SKSReady"),
        changed_at(&queued, "SKSReady")
    );
    // A new generation is observed, and what did not change keeps its time.
    it.patch::<PodAutoscaler>(it.name, json!({"spec": {"containerConcurrency": 7}}))
        .await;
    let again = it
        .pa("observed again", |it| {
            it["status"]["observedGeneration"] == 2 && is(it, "Ready", "True", "")
        })
        .await;
    for kind in ["Active", "Ready", "ScaleTargetInitialized", "SKSReady"] {
        assert_eq!(
            changed_at(&again, kind),
            changed_at(&active, kind),
            "{kind}"
        );
    }
}

/// Replicas, ServerlessService and Metric are what the autoscaler says, whoever changes them.
pub(crate) async fn what_others_change_is_put_back(cluster: Rc<Cluster>) {
    let annotations = json!({TBC: "0", MIN_SCALE: "2", WINDOW: "6s"});
    let it = Revision::create(&cluster.client, "changed-00001", annotations).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|index| format!("127.0.2.{}", index + 1));
    it.replicas(2).await;
    it.pa("ready", |it| is(it, "Ready", "True", "")).await;
    let serves = |it: &Value| it["spec"]["mode"] == "Serve" && it["spec"]["numActivators"] == 2;
    it.sks("serving", serves).await;

    it.patch::<Deployment>(&it.deployment_name(), json!({"spec": {"replicas": 5}}))
        .await;
    it.replicas(2).await;
    let other = json!({"spec": {"mode": "Proxy", "numActivators": 9}});
    it.patch::<ServerlessService>(it.name, other).await;
    it.sks("put back", serves).await;
    let other = json!({"spec": {"scrapeTarget": "elsewhere"}});
    it.patch::<Metric>(it.name, other).await;
    it.wait::<Metric>(it.name, "put back", |it| {
        it["spec"]["scrapeTarget"] == "changed-00001-private"
    })
    .await;

    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let before = uid(&it.wait::<Metric>(it.name, "present", |_| true).await);
    let delete = DeleteParams::default();
    it.api::<Metric>().delete(it.name, &delete).await.unwrap();
    it.wait::<Metric>(it.name, "made again", |it| uid(it) != before)
        .await;
    let before = uid(&it.sks("present", |_| true).await);
    let (_recording, states) = it.record_states();
    it.api::<ServerlessService>()
        .delete(it.name, &delete)
        .await
        .unwrap();
    it.sks("made again", |it| uid(it) != before).await;
    it.pa("ready again", |it| is(it, "Ready", "True", "")).await;
    eventually("a state without a ServerlessService", async || {
        let states = states.borrow();
        let queued = states
            .iter()
            .any(|it| is(it, "Active", "Unknown", "Queued"));
        queued.then_some(())
    })
    .await;
}

/// Somebody else who writes the status all the time neither stops ours nor is overwritten.
pub(crate) async fn conflicting_status_writes(cluster: Rc<Cluster>) {
    let annotations = json!({TBC: "-1", MIN_SCALE: "1", WINDOW: "6s"});
    let it = Revision::create(&cluster.client, "conflict-00001", annotations).await;
    let _serving = it.serve();
    let writes = Rc::new(Cell::new(0_u32));
    let (api, name, count) = (it.api::<PodAutoscaler>(), it.name, writes.clone());
    let other = tokio::task::spawn_local(async move {
        loop {
            let status = json!({"status": {
                "serviceName": name, "metricsServiceName": "", "annotations": {"other": count.get().to_string()}
            }});
            let patch = Patch::Merge(status);
            api.patch_status(name, &PatchParams::default(), &patch)
                .await
                .unwrap();
            count.set(count.get() + 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let _other = tokio_util::task::AbortOnDropHandle::new(other);
    // Each generation is a reason to write.
    let mut round = 0;
    eventually("a conflict of writes", async || {
        round += 1;
        let spec = json!({"spec": {"containerConcurrency": round}});
        it.patch::<PodAutoscaler>(it.name, spec).await;
        let events = cluster.server.audit(ACCOUNT);
        let lost = events.iter().any(|event| {
            event["objectRef"]["name"] == it.name
                && event["objectRef"]["resource"] == "podautoscalers"
                && event["objectRef"]["subresource"] == "status"
                && event["responseStatus"]["code"] == 409
        });
        lost.then_some(())
    })
    .await;
    let _pods = it.run_pods(|_| "127.0.3.1".to_owned());
    let ready = it
        .pa("ready", |it| {
            is(it, "Ready", "True", "")
                && it["status"]["actualScale"] == 1
                && it["status"]["observedGeneration"] == it["metadata"]["generation"]
        })
        .await;
    assert!(writes.get() > 5, "{}", writes.get());
    assert!(ready["status"]["annotations"]["other"].is_string());
}

/// A ServerlessService or Metric of somebody else's is neither changed nor used.
pub(crate) async fn objects_of_others_are_left_alone(cluster: Rc<Cluster>) {
    let class = json!({"autoscaling.knative.dev/class": "none"});
    let it = Revision::create(&cluster.client, "foreign-00001", class).await;
    let object = json!({
        "apiVersion": ServerlessService::api_version(&()), "kind": "ServerlessService",
        "metadata": {"name": it.name},
        "spec": {"mode": "Serve", "protocolType": "http1", "objectRef": {"name": "x"}}
    });
    create::<ServerlessService>(&cluster.client, &it.namespace, object).await;
    let class = "kpa.autoscaling.knative.dev";
    let ours = json!({"metadata": {"annotations": {"autoscaling.knative.dev/class": class}}});
    it.patch::<PodAutoscaler>(it.name, ours).await;
    let refused = it
        .pa("refused", |it| is(it, "Active", "False", "NotOwned"))
        .await;
    let message = &condition(&refused, "Active")["message"];
    let expected = r#"There is an existing ServerlessService "foreign-00001" that we do not own."#;
    assert_eq!(message, expected);
    event(&it, "InternalError", "does not own SKS").await;
    let sks = it.sks("present", |_| true).await;
    assert_eq!(sks["metadata"]["generation"], 1);
}

/// Waits for a Warning about the revision whose message contains `text`.
async fn event(it: &Revision, reason: &str, text: &str) {
    eventually("an event", async || {
        let events = it.api::<Event>().list(&ListParams::default()).await.ok()?;
        let found = events.items.iter().any(|event| {
            event.type_.as_deref() == Some("Warning")
                && event.reason.as_deref() == Some(reason)
                && event.involved_object.name.as_deref() == Some(it.name)
                && event.message.as_ref().is_some_and(|it| it.contains(text))
        });
        found.then_some(())
    })
    .await;
}

/// Without its Deployment a revision that should run is an error that people can see, and it runs as
/// soon as there is one.
pub(crate) async fn a_missing_scale_target(cluster: Rc<Cluster>) {
    let annotations = json!({TBC: "-1", MIN_SCALE: "2"});
    let it = Revision::create(&cluster.client, "missing-00001", annotations).await;
    let delete = DeleteParams::default();
    it.api::<Deployment>()
        .delete(&it.deployment_name(), &delete)
        .await
        .unwrap();
    runs_once_it_has_a_deployment(it).await;
}

/// The same for one whose Deployment is yet to come when the replica first hears of it.
pub(crate) async fn a_scale_target_that_never_was(cluster: Rc<Cluster>) {
    let it = Revision::without_deployment(&cluster.client, "never-00001").await;
    it.create_pod_autoscaler(json!({TBC: "-1", MIN_SCALE: "2"}), json!({}))
        .await;
    runs_once_it_has_a_deployment(it).await;
}

async fn runs_once_it_has_a_deployment(it: Revision) {
    let _serving = it.serve();
    event(&it, "InternalError", "failed to get scale target").await;
    it.create_deployment(1).await;
    it.replicas(2).await;
}

/// With the PodAutoscaler go its gauges and decisions; one of the same name starts afresh.
pub(crate) async fn deletion_and_a_new_start(cluster: Rc<Cluster>) {
    let annotations = json!({TBC: "-1", MIN_SCALE: "3"});
    let it = Revision::create(&cluster.client, "deleted-00001", annotations).await;
    let _serving = it.serve();
    it.replicas(3).await;
    let labels = r#",k8s_namespace_name="of-deleted-00001",kn_service_name="hello",kn_configuration_name="hello",kn_revision_name="deleted-00001"} 3"#;
    let is_wanted =
        |line: &str| line.starts_with("kn_revision_pods_requested{") && line.contains(labels);
    let has_series = async |wanted: bool| {
        eventually("the gauges as wanted", async || {
            let text = scrape(&cluster).await?;
            (text.lines().any(is_wanted) == wanted).then_some(())
        })
        .await;
    };
    has_series(true).await;
    let delete = DeleteParams::default();
    it.api::<PodAutoscaler>()
        .delete(it.name, &delete)
        .await
        .unwrap();
    has_series(false).await;
    // Garbage collection, which nobody does here.
    it.api::<ServerlessService>()
        .delete(it.name, &delete)
        .await
        .unwrap();
    it.api::<Metric>().delete(it.name, &delete).await.unwrap();
    it.create_pod_autoscaler(json!({TBC: "-1", MIN_SCALE: "4"}), json!({}))
        .await;
    it.replicas(4).await;
    let (pa, sks) = (
        it.pa("present", |_| true).await,
        it.sks("present", |_| true).await,
    );
    owned(&sks, &pa);
}

/// What the replica tells Prometheus.
async fn scrape(cluster: &Cluster) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(cluster.metrics).await.ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

/// A changed config map applies to what runs, and one that is invalid changes nothing.
pub(crate) async fn configuration_applies_live(cluster: Rc<Cluster>) {
    let it = Revision::create(&cluster.client, "configured-00001", json!({TBC: "-1"})).await;
    let _serving = it.serve();
    it.replicas(1).await;
    configure(&cluster.client, json!({"min-scale": "2"})).await;
    it.replicas(2).await;
    let complaint = "the config map is invalid";
    assert_eq!(cluster.log.count(complaint), 0);
    configure(
        &cluster.client,
        json!({"min-scale": "many", "max-scale": "1", "stable-window": "30s"}),
    )
    .await;
    cluster.log.says(complaint).await;
    assert_eq!(cluster.log.count("min-scale"), 1, "it names what is wrong");
    // What is made anew is made of the last good values.
    it.patch::<Deployment>(&it.deployment_name(), json!({"spec": {"replicas": 5}}))
        .await;
    it.replicas(2).await;
    let other = json!({"spec": {"scrapeTarget": "elsewhere"}});
    it.patch::<Metric>(it.name, other).await;
    let metric = it
        .wait::<Metric>(it.name, "put back", |it| {
            it["spec"]["scrapeTarget"] != "elsewhere"
        })
        .await;
    assert_eq!(metric["spec"]["stableWindow"], 60_000_000_000_u64);
    configure(
        &cluster.client,
        json!({"min-scale": "3", "max-scale": "9", "stable-window": "30s"}),
    )
    .await;
    it.replicas(3).await;
    it.wait::<Metric>(it.name, "the new window", |it| {
        it["spec"]["stableWindow"] == 30_000_000_000_u64
    })
    .await;
    configure(
        &cluster.client,
        json!({"min-scale": null, "max-scale": null, "stable-window": null}),
    )
    .await;
}
