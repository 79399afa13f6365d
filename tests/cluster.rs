//! The three programs in a real cluster: laid over what an installed Knative Serving consists of by
//! `deploy/install`, under their own service accounts, around real pods, and taken out again.
//!
//! `cargo test -p tests --test in_cluster [-- TEXT...]` runs the scenarios whose names contain one of
//! the texts in the cluster that `KUBECONFIG` names. It needs `kubectl`, and a cluster in which no
//! Knative Serving runs: its Go parts that we need around ours (the controllers of Revisions and of
//! ServerlessServices) are played here, reduced to what our parts see of them.
//!
//! Images are PREFIX/{queue-proxy,activator,autoscaler,sample-app}:test, and the first two programs
//! of the control plane once more as `:first`, for the way back. PREFIX is `PILOTLIGHT_TEST_IMAGES`.
//! They are taken as they are in the cluster, unless `PILOTLIGHT_TEST_IMPORT` names a command that
//! brings one there: `COMMAND IMAGE PROGRAM`, with the static programs that
//! `deploy/images --binaries-only --sample-app` makes, or those of `PILOTLIGHT_TEST_PROGRAMS`.
//! With neither variable, or without `KUBECONFIG`, one line says what was left out. Paths in variables
//! may be relative to the root of the repository, wherever cargo starts this.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, helpers included, fails by panicking and tells what it saw"
)]

#[path = "cluster/api.rs"]
mod api;
#[path = "cluster/control_plane.rs"]
mod control_plane;
#[path = "cluster/gateway.rs"]
mod gateway;
#[path = "cluster/internal_tls.rs"]
mod internal_tls;
#[path = "cluster/pods.rs"]
mod pods;
#[path = "cluster/revision.rs"]
mod revision;
#[path = "cluster/serving.rs"]
mod serving_stand_in;
#[path = "cluster/settings.rs"]
mod settings;
#[path = "cluster/throttling.rs"]
mod throttling;
#[path = "cluster/whole.rs"]
mod whole;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

use api_server::scenarios;

use self::api::Api;
use self::settings::Settings;

/// What all scenarios share.
pub(crate) struct Cluster {
    pub(crate) api: Api,
    pub(crate) settings: Settings,
    /// Of pods of our control plane that were taken away.
    pub(crate) noted_logs: RefCell<Vec<String>>,
}

type Scenario = api_server::scenarios::Scenario<Cluster>;

/// Run side by side, each in a namespace of its own.
const SIDE_BY_SIDE: [Scenario; 9] = scenarios![
    pods::readiness_follows_the_app,
    pods::a_drain_loses_nothing,
    pods::deletion_grace_ends_a_drain,
    throttling::requests_follow_pods,
    throttling::a_revision_comes_and_goes,
    gateway::splits_and_status,
    whole::zero_to_answer_to_zero,
    whole::up_and_down,
    whole::not_more_than_allowed,
];

/// Run one after the other, as they change what all share.
const ALONE: [Scenario; 5] = scenarios![
    control_plane::configuration_applies_live,
    internal_tls::names_and_rotation,
    control_plane::a_killed_leader_is_followed,
    control_plane::nothing_was_forbidden,
    control_plane::rollback_leaves_nothing,
];

/// What all of them need, told of as one.
const INSTALL: Scenario = Scenario {
    name: "install",
    start: |cluster| Box::pin(install(cluster)),
};

fn main() -> ExitCode {
    // Cargo starts it in the folder of its package. Before there are threads: all of them share it.
    std::env::set_current_dir(settings::root()).unwrap();
    let texts: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    let mut side_by_side = SIDE_BY_SIDE.to_vec();
    side_by_side.retain(|it| it.selected(&texts));
    let mut alone = ALONE.to_vec();
    alone.retain(|it| it.selected(&texts));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let failed = runtime.block_on(run(side_by_side, alone));
    ExitCode::from(u8::from(failed > 0))
}

/// Runs the scenarios; returns how many failed.
async fn run(side_by_side: Vec<Scenario>, alone: Vec<Scenario>) -> usize {
    let count = side_by_side.len() + alone.len();
    let settings = match Settings::read() {
        Ok(settings) => settings,
        Err(why) => {
            println!("left out: {count} scenarios in a cluster; {why}");
            return 0;
        }
    };
    let api = Api::connect().await;
    if serving_stand_in::somebody_elses(&api).await {
        println!("left out: {count} scenarios in a cluster; this one has a Knative Serving");
        return 0;
    }
    let cluster = Rc::new(Cluster {
        api,
        settings,
        noted_logs: RefCell::default(),
    });
    // Whatever happens from here on, nothing stays behind.
    let mut failed = INSTALL.begin(&cluster).end().await;
    if failed == 0 {
        failed = api_server::scenarios::run(&cluster, side_by_side, alone).await;
    }
    serving_stand_in::clean_up(&cluster).await;
    failed
}

async fn install(cluster: Rc<Cluster>) {
    cluster.settings.import_images();
    serving_stand_in::prepare(&cluster).await;
}
