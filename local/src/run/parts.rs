//! The parts of the data plane in one process: autoscaler, activator and cluster, joined by their
//! own wire.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ::activator::Activator;
use prometheus_client::registry::Registry;
use serving::server::{self, Listener, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::probe_board::ProbeBoard;
use crate::cluster::{self, Cluster, updates};
use crate::console::Console;
use crate::manifest::Manifest;
use crate::options::Run;
use crate::supervisor::port::Ports;
use crate::tether::{Guard, raise_open_files};

/// The activator probes a replica for as long as its queue-proxy waits for the app, so that the
/// answer comes the moment the app is ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(11);

/// Between probes that are answered at once, which only probes with a period are.
const PROBE_FREQUENCY: Duration = Duration::from_millis(20);

/// Between looks at whether the parts have found each other, and how long that may take.
const JOIN_PAUSE: Duration = Duration::from_millis(1);
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// The parts of the data plane, joined by their wire.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) cluster: Rc<Cluster>,
    pub(super) activator: Activator,
    pub(super) autoscaler: autoscaler::driver::Handle,
    pub(super) tasks: tokio::task::JoinSet<()>,
    stop: CancellationToken,
    activator_shutdown: Shutdown,
}

impl Parts {
    /// Starts all parts.
    pub(super) async fn join(
        options: &Run,
        manifest: &Manifest,
        guard: Guard,
        console: Console,
    ) -> io::Result<Self> {
        let mut tasks = tokio::task::JoinSet::new();
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let config = &manifest.settings.autoscaler;
        let board = ProbeBoard::default();

        let (autoscaler_updates, updates_received) =
            mpsc::channel(autoscaler::world::UPDATES_CAPACITY);
        let (actions, mut actions_received) = mpsc::channel(autoscaler::world::ACTIONS_CAPACITY);
        let (driver, autoscaler) = autoscaler::driver::Autoscaler::new(
            autoscaler::driver::Options::new(
                autoscaler::scraper::Options {
                    mesh: serving::config::network::MeshCompatibilityMode::Disabled,
                    ..autoscaler::scraper::Options::default()
                },
                board.targets(),
            ),
            autoscaler::driver::World {
                updates: updates_received,
                actions,
            },
            &mut registry,
        );
        let stats = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let stats_address = stats.local_addr()?;
        tasks.spawn_local(autoscaler::stat_server::serve(
            stats,
            autoscaler::stat_server::Options {
                frames: autoscaler.frames(),
                bucket_owner: None,
                handovers: None,
            },
            stop.clone(),
        ));
        tasks.spawn_local(driver.run(stop.clone()));

        let (activator_updates, updates_received) = mpsc::channel(::activator::UPDATES_CAPACITY);
        let (activator, activator_driver) = ::activator::new(
            activator_options(options, stats_address),
            updates_received,
            &mut registry,
        );
        tasks.spawn_local(activator_driver.run());
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let activator_address = own.local_addr()?;
        let activator_shutdown = Shutdown::new();
        tasks.spawn_local(server::serve(
            vec![Listener::plain(own)],
            Rc::new(activator.clone()),
            ::activator::server_options(),
            activator_shutdown.clone(),
        ));

        let cluster = Rc::new(Cluster::new(
            cluster::Settings {
                drain_timeout: options.drain_timeout,
                start_failures: options.start_failures,
                max_replicas_per_revision: options.limits.max_replicas_per_revision,
                max_replicas: options.limits.max_replicas,
                tag_header: manifest.settings.tag_header_based_routing,
                app_open_files: raise_open_files(),
            },
            config.clone(),
            console,
            guard,
            Ports::new(
                std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
                    .ok()
                    .as_deref(),
                fastrand::u16(..),
            ),
            cluster::Paths {
                board,
                activator: activator_address,
            },
        ));
        let to = updates::Listeners {
            autoscaler: autoscaler_updates,
            activator: activator_updates,
        };
        tasks.spawn_local(updates::send(Rc::clone(&cluster), to));
        tasks.spawn_local(Rc::clone(&cluster).keep_guard());
        let acting = Rc::clone(&cluster);
        tasks.spawn_local(async move {
            while let Some(batch) = actions_received.recv().await {
                for action in batch.actions {
                    acting.act(action);
                }
            }
        });
        Ok(Self {
            cluster,
            activator,
            autoscaler,
            tasks,
            stop,
            activator_shutdown,
        })
    }

    /// Ends all parts; replicas are gone by then.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        self.activator_shutdown.stop();
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn activator_options(options: &Run, stats: SocketAddr) -> ::activator::Options {
    let mut activator = ::activator::Options::new("activator", Ipv4Addr::LOCALHOST.to_string());
    activator.autoscaler_url = Some(format!("ws://{stats}"));
    activator.probe.timeout = PROBE_TIMEOUT;
    activator.probe.frequency = PROBE_FREQUENCY;
    activator.limits.max_queued = options.limits.max_held_requests;
    activator.limits.max_queued_per_revision = options.limits.max_held_requests;
    activator
}

/// Waits until the activator reports to the autoscaler, and that knows every revision: the first
/// request would otherwise wait for the next report, a second later. Clients that connect meanwhile
/// wait in the socket's queue.
pub(super) async fn joined(activator: &Activator, autoscaler: &autoscaler::Handle) {
    let all_known = async {
        while activator.health().is_err() {
            tokio::time::sleep(JOIN_PAUSE).await;
        }
        while let Some(revisions) = autoscaler.snapshot().await
            && revisions.iter().any(|revision| revision.proxied.is_none())
        {
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    };
    // Whatever keeps them apart, requests are better held than refused.
    let _ = tokio::time::timeout(JOIN_PATIENCE, all_known).await;
}
