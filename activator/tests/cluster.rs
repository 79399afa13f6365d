//! The activator against a real API server with Knative's kinds.
//!
//! `cargo test -p activator --test cluster [-- TEXT...]` runs the scenarios whose names contain one
//! of the texts, against one pair of etcd and kube-apiserver from the folder that
//! `KUBEBUILDER_ASSETS` names (`setup-envtest use -p path` prints one). Most run side by side, each
//! with revisions in a namespace and an activator of its own; those that stop the API server or
//! change what all activators follow come one after the other. Without the variable one line says
//! what was left out.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, helpers included, fails by panicking and tells what it saw"
)]

#[path = "scenarios/addresses.rs"]
mod addresses;
#[path = "scenarios/gateway.rs"]
mod gateway;
#[path = "scenarios/outages.rs"]
mod outages;
#[path = "scenarios/rights.rs"]
mod rights;
#[path = "scenarios/settings.rs"]
mod settings;
#[path = "scenarios/start.rs"]
mod start;

#[path = "support/replica.rs"]
mod replica;
#[path = "support/world.rs"]
mod world;

use std::process::ExitCode;
use std::rc::Rc;

use api_server::{ApiServer, scenarios};
use kube::Client;

use self::replica::{Replica, Settings};

/// What the manifests run the activator as.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:knative-serving:pilotlight-activator";
/// The same account with nothing but the rights of an activator that is no gateway.
pub(crate) const ALONE: &str = "system:serviceaccount:knative-serving:pilotlight-activator-alone";
/// What upstream's run theirs as.
pub(crate) const UPSTREAM: &str = "system:serviceaccount:knative-serving:activator";
pub(crate) const SYSTEM: &str = "knative-serving";

type Scenario = api_server::scenarios::Scenario<Cluster>;

/// What all scenarios share.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
}

const SIDE_BY_SIDE: [Scenario; 9] = scenarios![
    addresses::from_endpoint_slices,
    addresses::from_endpoints_without_the_right,
    addresses::of_a_revision_that_comes_back,
    gateway::status,
    gateway::losing_writes,
    start::waits_for_the_api_server,
    start::ends_without_a_config_map,
    start::serves_once_all_is_listed,
    start::ends_in_order,
];

/// Run one after the other.
const IN_TURN: [Scenario; 3] = scenarios![
    settings::apply_live,
    outages::of_the_api_server,
    rights::of_an_activator_alone,
];

fn rights() -> Scenario {
    let [scenario] = scenarios![rights::exactly_those_of_the_manifests];
    scenario
}

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1);
    let texts: Vec<_> = arguments.filter(|it| !it.starts_with('-')).collect();
    let mut side_by_side = SIDE_BY_SIDE.to_vec();
    side_by_side.retain(|it| it.selected(&texts));
    let mut in_turn = IN_TURN.to_vec();
    in_turn.retain(|it| it.selected(&texts));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let failed = runtime.block_on(run(side_by_side, in_turn));
    ExitCode::from(u8::from(failed > 0))
}

/// Runs the scenarios; returns how many failed.
async fn run(side_by_side: Vec<Scenario>, in_turn: Vec<Scenario>) -> usize {
    let Some(server) = ApiServer::start(&[ACCOUNT, ALONE, UPSTREAM]).await else {
        api_server::scenarios::leave_out(side_by_side.len() + in_turn.len());
        return 0;
    };
    let client = server.client();
    world::prepare(&client).await;
    for manifest in rights::MANIFESTS {
        api_server::rights::grant(&client, manifest).await;
    }
    let manifest = rights::of_the_activator_alone();
    api_server::rights::grant(&client, &manifest).await;
    api_server::rights::grant(&client, rights::UPSTREAM_MANIFEST).await;
    let cluster = Rc::new(Cluster { server, client });
    let everything = side_by_side.len() == SIDE_BY_SIDE.len() && in_turn.len() == IN_TURN.len();
    let mut failed = api_server::scenarios::run(&cluster, side_by_side, in_turn).await;
    // Only all of them use every right.
    if everything {
        failed += rights().begin(&cluster).end().await;
    }
    failed
}

// === impl Cluster ===

impl Cluster {
    /// An activator with the rights of an account.
    pub(crate) async fn activator(&self, account: &'static str) -> Replica {
        Settings::new(self.server.address(), account).start().await
    }
}
