//! Load for an activator: through it to a pod that is there, and held until there is one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use benches::any_pod::AnyPod;
use benches::load::{Done, closed_loop_of};
use benches::peers::nginx_pods;
use benches::revisions::Revision;
use benches::{h2c, held};

use crate::activator::running::{Running, host, ports_are_free, post, request};

/// Requests per kind of load.
const REQUESTS: u64 = 30_000;
/// The longest that one kind of load may take.
const BOUND: Duration = Duration::from_secs(120);
/// What it may take the activator to drain, of which 45 seconds go on as if nothing were, and to
/// write what it has recorded.
const PATIENCE: Duration = Duration::from_secs(75);
/// Requests that are held at a time, and how often.
const HELD: (usize, usize) = (1_000, 10);
/// Pods of a revision with a limit, and the limit.
const LIMITED: (usize, u32) = (8, 10);

/// The revisions, by what they are for.
const UNLIMITED: usize = 0;
const LIMIT: usize = 1;
const HTTP2: usize = 2;
const COLD: usize = 3;
const COLD_LIMIT: usize = 4;

pub(super) async fn run(program: &Path) -> anyhow::Result<()> {
    ports_are_free()?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let nginx = nginx_pods(folder.path()).await?;
    let any = AnyPod::start()?;
    let (count, limit) = LIMITED;
    let pod = |index| SocketAddr::from((benches::pods::address(index), nginx.address.port()));
    let pods: Vec<_> = (0..count).map(pod).collect();
    let revision = |container_concurrency, pods: &[SocketAddr]| Revision {
        container_concurrency,
        pods: pods.to_vec(),
    };
    let revisions = [
        revision(0, &pods[..1]),
        revision(limit, &pods),
        revision(0, &[any.address]),
        revision(0, &[]),
        revision(limit, &[]),
    ];
    let running = Running::start(program, &revisions, &[]).await?;
    let address = running.server.address;
    for (connections, request) in [
        (64, request(UNLIMITED)),
        (1_000, request(UNLIMITED)),
        (64, request(LIMIT)),
        // More than the pods take: some wait, some are held by a full pod.
        (200, request(LIMIT)),
        (16, post(UNLIMITED, b"a request's body")),
        (16, post(LIMIT, b"a request's body")),
    ] {
        all(closed_loop_of(request, address, connections, REQUESTS, BOUND).await?)?;
    }
    all(h2c::closed_loop_of(&host(HTTP2), address, 10, 10, REQUESTS, BOUND).await?)?;
    let (requests, times) = HELD;
    for index in [COLD, COLD_LIMIT].repeat(times) {
        let clients = held::open(address, requests).await?;
        let clients = held::send(clients, &request(index), 1);
        running.holds(requests).await?;
        running.list(index, &pods).await?;
        all(held::answered(clients, BOUND).await?)?;
        running.list(index, &[]).await?;
        // Until it is known that they are gone.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (server, _world) = running.split();
    server.process.terminate(PATIENCE).await
}

fn all(done: Done) -> anyhow::Result<()> {
    if done.other > 0 || done.ok == 0 {
        bail!(
            "{} of {} answers were not 200",
            done.other,
            done.ok + done.other
        );
    }
    Ok(())
}
