//! Replicas in processes of their own that are killed, paused, cut off and stopped while stats flow.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use api_server::proxy::{Link, Proxy};
use api_server::{eventually, port};
use autoscaler::kubernetes::objects::PodAutoscaler;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use serving::hash::BucketSet;
use tokio::time::Instant;

use crate::Cluster;
use crate::fixtures::{Revision, SYSTEM, create, is};
use crate::replica::{Process, Settings};

/// The stable window of a revision that is handed over.
const WINDOW: Duration = Duration::from_secs(20);

const BUCKET: &str = "autoscaler-bucket-00-of-01";

/// A replica behind a link of its own.
struct Member {
    pod: String,
    ip: IpAddr,
    identity: String,
    stats: SocketAddr,
    proxy: Proxy,
    process: Process,
}

impl Member {
    /// The replica with this number; its address is loopback's too.
    async fn start(cluster: &Cluster, number: u8, port: u16) -> Self {
        let proxy = Proxy::start(cluster.server.address()).await;
        let ip = IpAddr::from([127, 0, 12, number]);
        let settings = Settings {
            api_server: proxy.address,
            pod: format!("autoscaler-{number}"),
            stats: SocketAddr::new(ip, port),
            pod_ip: ip,
            pod_port: cluster.stats.port,
            activator: cluster.activator.address,
            stateful_set: false,
        };
        Self {
            identity: format!("{}_{ip}", settings.pod),
            stats: settings.stats,
            process: settings.spawn(),
            proxy,
            pod: settings.pod,
            ip,
        }
    }

    /// The Pod that it would run in, where other replicas find its address.
    async fn create_pod(&self, cluster: &Cluster) {
        let object = json!({
            "metadata": {"name": self.pod, "labels": {"app": "autoscaler"}},
            "spec": {"containers": [{"name": "autoscaler", "image": "i"}]}
        });
        create::<Pod>(&cluster.client, SYSTEM, object).await;
        let ip = self.ip.to_string();
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
        Api::<Pod>::namespaced(cluster.client.clone(), SYSTEM)
            .patch_status(
                &self.pod,
                &PatchParams::default(),
                &Patch::Strategic(&status),
            )
            .await
            .unwrap();
    }
}

/// Waits until the Lease is held by one of these; returns which.
async fn leader(cluster: &Cluster, among: &[&Member]) -> usize {
    holder(cluster, BUCKET, among).await
}

/// The same of any bucket.
async fn holder(cluster: &Cluster, bucket: &str, among: &[&Member]) -> usize {
    let api = Api::<Lease>::namespaced(cluster.client.clone(), SYSTEM);
    let what = format!(
        "leader of {bucket} among {:?}",
        among.iter().map(|it| &it.identity).collect::<Vec<_>>()
    );
    eventually(&what, async || {
        let holder = api.get_opt(bucket).await.ok()??.spec?.holder_identity?;
        among.iter().position(|member| member.identity == holder)
    })
    .await
}

/// Raises the bound that the load runs into, and waits for the replicas that follow.
async fn grow(it: &Revision, replicas: u32) {
    let annotations = json!({"autoscaling.knative.dev/max-scale": replicas.to_string()});
    it.patch::<PodAutoscaler>(it.name, json!({"metadata": {"annotations": annotations}}))
        .await;
    it.replicas(replicas.into()).await;
}

/// Whoever leads, and however the last leader went, stats arrive and nothing is scaled down.
pub(crate) async fn kill_pause_and_partition(cluster: Rc<Cluster>) {
    let port = port();
    let mut first = Member::start(&cluster, 1, port).await;
    let mut second = Member::start(&cluster, 2, port).await;
    if leader(&cluster, &[&first, &second]).await == 1 {
        std::mem::swap(&mut first, &mut second);
    }
    let annotations = json!({
        "autoscaling.knative.dev/target": "10", "autoscaling.knative.dev/max-scale": "2",
        "autoscaling.knative.dev/window": "60s", "autoscaling.knative.dev/target-burst-capacity": "-1"
    });
    let it = Revision::create(&cluster.client, "led-00001", annotations).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|index| format!("127.0.13.{}", index + 1));
    let (_recording, replicas) = it.record_replicas();
    // Only who does not lead is told, and passes it on.
    let level = Rc::new(Cell::new(200.0));
    let traffic = it.traffic(vec![second.stats], &level);
    grow(&it, 3).await;

    // Killed: its Lease runs out.
    first.process.signal("KILL");
    assert_eq!(leader(&cluster, &[&second]).await, 0);
    grow(&it, 4).await;

    // Paused: it still thinks that it leads when it goes on.
    let third = Member::start(&cluster, 3, port).await;
    drop(traffic);
    let _traffic = it.traffic(vec![second.stats, third.stats], &level);
    second.process.signal("STOP");
    assert_eq!(leader(&cluster, &[&third]).await, 0);
    grow(&it, 5).await;
    second.process.signal("CONT");
    grow(&it, 6).await;
    assert_eq!(leader(&cluster, &[&second, &third]).await, 1);

    // Cut off: it runs, and hears stats, and can change nothing.
    third.proxy.set(Link::Silent);
    assert_eq!(leader(&cluster, &[&second]).await, 0);
    grow(&it, 7).await;
    third.proxy.set(Link::Open);
    grow(&it, 8).await;
    assert_eq!(leader(&cluster, &[&second, &third]).await, 0);

    let seen = replicas.borrow().clone();
    assert!(seen.iter().is_sorted(), "{seen:?}");
}

/// The only pod of a revision that was busy a moment ago stays when the leader ends in order: the next
/// one goes on with the windows that it was handed, until they are over. Without them it would see
/// idle pods alone, and scale to zero within seconds.
pub(crate) async fn a_clean_stop(cluster: Rc<Cluster>) {
    let port = port();
    let mut first = Member::start(&cluster, 11, port).await;
    let mut second = Member::start(&cluster, 12, port).await;
    if leader(&cluster, &[&first, &second]).await == 1 {
        std::mem::swap(&mut first, &mut second);
    }
    first.create_pod(&cluster).await;
    second.create_pod(&cluster).await;
    let annotations = json!({
        "autoscaling.knative.dev/target": "10",
        "autoscaling.knative.dev/window": format!("{}s", WINDOW.as_secs()),
        "autoscaling.knative.dev/target-burst-capacity": "-1"
    });
    let it = Revision::create(&cluster.client, "handed-00001", annotations).await;
    let _serving = it.serve();
    let _pods = it.run_pods(|index| format!("127.0.14.{}", index + 1));
    let level = Rc::new(Cell::new(5.0));
    let traffic = it.traffic(vec![first.stats], &level);
    it.pa("active", |it| is(it, "Active", "True", "")).await;
    // What became active within a window is not scaled to zero whatever is known of it.
    tokio::time::sleep(WINDOW + Duration::from_secs(2)).await;
    drop(traffic);
    let silent = Instant::now();
    first.process.end().await;
    assert_eq!(leader(&cluster, &[&second]).await, 0);
    it.replicas(0).await;
    let stayed = Instant::now().duration_since(silent);
    // The last second that was reported may have been short.
    assert!(stayed >= WINDOW - Duration::from_secs(2), "{stayed:?}");
}

/// With several buckets each replica decides for the revisions of those that it holds, and passes on
/// the stats of the others.
pub(crate) async fn several_buckets(cluster: Rc<Cluster>) {
    // One for each.
    const NAMES: [&str; 3] = ["ant-00001", "bee-00001", "dog-00001"];
    set_buckets(&cluster, Some(3)).await;
    let port = port();
    let members = [
        Member::start(&cluster, 21, port).await,
        Member::start(&cluster, 22, port).await,
    ];
    let set = BucketSet::autoscaler(3);
    let mut running = Vec::new();
    for name in NAMES {
        let annotations = json!({
            "autoscaling.knative.dev/target": "10", "autoscaling.knative.dev/max-scale": "3",
            "autoscaling.knative.dev/target-burst-capacity": "-1"
        });
        let it = Revision::create(&cluster.client, name, annotations).await;
        let index = running.len() + 1;
        let background = [
            it.serve(),
            it.run_pods(move |pod| format!("127.0.{}.{}", 14 + index, pod + 1)),
        ];
        running.push((it, background));
    }
    let owners = NAMES.map(|name| set.owner(&format!("of-{name}/{name}")).to_owned());
    let mut different = owners.to_vec();
    different.sort_unstable();
    assert_eq!(different, set.names());
    for ((it, _), bucket) in running.iter().zip(&owners) {
        let owner = holder(&cluster, bucket, &members.each_ref()).await;
        let other = &members[1 - owner];
        let _traffic = it.traffic(vec![other.stats], &Rc::new(Cell::new(200.0)));
        it.replicas(3).await;
    }
    // As one replica leads all buckets unless another was quicker, the other one has to take over.
    let first = holder(&cluster, &owners[0], &members.each_ref()).await;
    let [one, two] = members;
    let (mut gone, left) = if first == 0 { (one, two) } else { (two, one) };
    gone.process.end().await;
    for ((it, _), bucket) in running.iter().zip(&owners) {
        holder(&cluster, bucket, &[&left]).await;
        let _traffic = it.traffic(vec![left.stats], &Rc::new(Cell::new(200.0)));
        grow(it, 4).await;
    }
    set_buckets(&cluster, None).await;
}

/// Replicas of a StatefulSet each have the bucket of their ordinal from the start, without Leases.
pub(crate) async fn a_stateful_set(cluster: Rc<Cluster>) {
    const NAMES: [&str; 8] = [
        "cat-00001",
        "eel-00001",
        "fox-00001",
        "gnu-00001",
        "hen-00001",
        "jay-00001",
        "owl-00001",
        "yak-00001",
    ];
    const DOMAIN: &str = "autoscaler.knative-serving.svc.cluster.local:8080";
    set_buckets(&cluster, Some(2)).await;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), SYSTEM);
    let versions = async || {
        let listed = leases.list(&Default::default()).await.unwrap();
        let version = |it: Lease| (it.metadata.name, it.metadata.resource_version);
        listed.items.into_iter().map(version).collect::<Vec<_>>()
    };
    let before = versions().await;
    let set = BucketSet::new((0..2).map(|ordinal| format!("ws://autoscaler-{ordinal}.{DOMAIN}")));
    let mut members = Vec::new();
    for ordinal in 0..2 {
        let ip = IpAddr::from([127, 0, 12, 31 + ordinal]);
        let settings = Settings {
            api_server: cluster.server.address(),
            pod: format!("autoscaler-{ordinal}"),
            stats: SocketAddr::new(ip, 0),
            pod_ip: ip,
            pod_port: cluster.stats.port,
            activator: cluster.activator.address,
            stateful_set: true,
        };
        members.push(settings.start().await);
    }
    for (index, bucket) in set.names().iter().enumerate() {
        let ours = |name: &&str| set.owner(&format!("of-{name}/{name}")) == *bucket;
        let name = NAMES.into_iter().find(ours).expect("one for each bucket");
        let annotations = json!({
            "autoscaling.knative.dev/target": "10", "autoscaling.knative.dev/max-scale": "3",
            "autoscaling.knative.dev/target-burst-capacity": "-1"
        });
        let it = Revision::create(&cluster.client, name, annotations).await;
        let _serving = it.serve();
        let _pods = it.run_pods(move |pod| format!("127.0.{}.{}", 18 + index, pod + 1));
        // Only the owner can decide: the names of buckets lead nowhere here.
        let _traffic = it.traffic(vec![members[index].stats], &Rc::new(Cell::new(200.0)));
        it.replicas(3).await;
    }
    for member in members {
        member.stop().await;
    }
    assert_eq!(versions().await, before, "no Lease is made or taken");
    set_buckets(&cluster, None).await;
}

async fn set_buckets(cluster: &Cluster, count: Option<u32>) {
    let config = Api::<ConfigMap>::namespaced(cluster.client.clone(), SYSTEM);
    let patch = Patch::Merge(json!({"data": {"buckets": count.map(|it| it.to_string())}}));
    config
        .patch("config-leader-election", &PatchParams::default(), &patch)
        .await
        .unwrap();
}
