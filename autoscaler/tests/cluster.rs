//! The autoscaler against a real API server with Knative's kinds.
//!
//! `cargo test -p autoscaler --test cluster [-- TEXT...]` runs the scenarios whose names contain one
//! of the texts, against one pair of etcd and kube-apiserver from the folder that
//! `KUBEBUILDER_ASSETS` names (`setup-envtest use -p path` prints one). Scenarios of revisions run
//! side by side, each in a namespace of its own; those that stop the API server or replicas come one
//! after the other. Without the variable one line says what was left out.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, helpers included, fails by panicking and tells what it saw"
)]

#[path = "scenarios/leadership.rs"]
mod leadership;
#[path = "scenarios/outages.rs"]
mod outages;
#[path = "scenarios/reconcile.rs"]
mod reconcile;
#[path = "scenarios/rights.rs"]
mod rights;
#[path = "scenarios/scale.rs"]
mod scale;

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/replica.rs"]
mod replica;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use api_server::log::Log;
use api_server::{ApiServer, scenarios};
use kube::Client;
use serving::telemetry::{LineWriter, LogLayer, LogSettings};
use tracing_subscriber::layer::SubscriberExt as _;

use self::fixtures::{Activator, Stats};
use self::replica::Settings;

/// What the manifests run the autoscaler as.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:knative-serving:pilotlight-autoscaler";

type Scenario = api_server::scenarios::Scenario<Cluster>;

/// What all scenarios share.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) activator: Activator,
    pub(crate) stats: Stats,
    /// The stat server of the replica that runs while scenarios run side by side.
    pub(crate) replica: SocketAddr,
    /// Its metrics.
    pub(crate) metrics: SocketAddr,
    /// Of all replicas but those that are processes of their own.
    pub(crate) log: Log,
}

/// Run side by side with one replica.
const SIDE_BY_SIDE: [Scenario; 18] = scenarios![
    reconcile::the_bucket_leads_to_its_holder,
    reconcile::a_fresh_pod_autoscaler,
    reconcile::other_classes_are_ignored,
    reconcile::conditions_keep_their_times,
    reconcile::what_others_change_is_put_back,
    reconcile::conflicting_status_writes,
    reconcile::objects_of_others_are_left_alone,
    reconcile::a_missing_scale_target,
    reconcile::a_scale_target_that_never_was,
    reconcile::deletion_and_a_new_start,
    scale::to_zero_and_back,
    scale::up_and_down,
    scale::bounds,
    scale::zero_initial_scale,
    scale::retention,
    scale::unreachable,
    scale::progress_deadline,
    scale::scraped_pods,
];

/// Run one after the other.
const ALONE: [Scenario; 6] = scenarios![
    reconcile::configuration_applies_live,
    outages::of_the_api_server,
    leadership::kill_pause_and_partition,
    leadership::a_clean_stop,
    leadership::several_buckets,
    leadership::a_stateful_set,
];

fn rights() -> Scenario {
    let [scenario] = scenarios![rights::exactly_those_of_the_manifests];
    scenario
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    if arguments.next_if(|it| it == Settings::ARGUMENT).is_some() {
        runtime.block_on(Settings::parse(arguments).main());
        return ExitCode::SUCCESS;
    }
    let texts: Vec<_> = arguments.filter(|it| !it.starts_with('-')).collect();
    let mut side_by_side = SIDE_BY_SIDE.to_vec();
    side_by_side.retain(|it| it.selected(&texts));
    let mut alone = ALONE.to_vec();
    alone.retain(|it| it.selected(&texts));
    let failed = runtime.block_on(run(side_by_side, alone));
    ExitCode::from(u8::from(failed > 0))
}

/// Runs the scenarios; returns how many failed.
async fn run(side_by_side: Vec<Scenario>, alone: Vec<Scenario>) -> usize {
    let Some(server) = ApiServer::start(&[ACCOUNT]).await else {
        api_server::scenarios::leave_out(side_by_side.len() + alone.len());
        return 0;
    };
    let client = server.client();
    fixtures::prepare(&client).await;
    api_server::rights::grant(&client, rights::MANIFEST).await;
    let log = Log::default();
    let (settings, _) = LogSettings::read("", "info");
    let writer = LineWriter::new(log.clone()).unwrap();
    let layer = LogLayer::new(settings, "autoscaler", &[], writer);
    // Everything runs on this thread.
    let subscriber = tracing_subscriber::registry().with(layer);
    let _default = tracing::subscriber::set_default(subscriber);
    let activator = Activator::start().await;
    let stats = Stats::start().await;
    let settings = Settings {
        api_server: server.address(),
        pod: "autoscaler-first".to_owned(),
        stats: "127.0.0.1:0".parse().unwrap(),
        pod_ip: "10.1.2.3".parse().unwrap(),
        pod_port: stats.port,
        activator: activator.address,
        stateful_set: false,
    };
    let replica = settings.start().await;
    let cluster = Rc::new(Cluster {
        server,
        client,
        activator,
        stats,
        replica: replica.stats,
        metrics: replica.metrics,
        log,
    });
    let mut failed = 0;
    let side_by_side_count = side_by_side.len();
    let started = side_by_side.into_iter().map(|it| it.begin(&cluster));
    for running in started.collect::<Vec<_>>() {
        failed += running.end().await;
    }
    let everything = side_by_side_count == SIDE_BY_SIDE.len() && alone.len() == ALONE.len();
    let (with_replica, without): (Vec<_>, Vec<_>) = alone
        .into_iter()
        .partition(|scenario| scenario.name.starts_with("reconcile"));
    for scenario in with_replica {
        failed += scenario.begin(&cluster).end().await;
    }
    replica.stop().await;
    for scenario in without {
        failed += scenario.begin(&cluster).end().await;
    }
    // Only all of them use every right.
    if everything {
        failed += rights().begin(&cluster).end().await;
    }
    failed
}
