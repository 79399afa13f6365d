//! The autoscaler's process beside the cluster that this process plays.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use benches::api_server::ApiServer;
use benches::fleet::{Fleet, SYSTEM};
use benches::pods::{Idle, Pods};
use benches::process::Process;
use tempfile::TempDir;
use tokio::time::Instant;

use super::Bench;

/// Where the autoscaler takes stats.
pub(super) const STATS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// The longest that an autoscaler may take until it leads, scrapes all pods and has nothing left to
/// write.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);
/// So long nothing must be written.
const QUIET: Duration = Duration::from_secs(6);

/// A settled autoscaler.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(super) api_server: ApiServer,
    pub(super) pods: Pods,
    _folder: TempDir,
}

impl Running {
    /// Starts everything and waits until it has settled.
    pub(crate) async fn start(bench: &Bench, fleet: Fleet, idle: Idle) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let api_server = ApiServer::start(fleet.objects())?;
        let pods = Pods::start(fleet.active, idle)?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api_server.kubeconfig())?;
        let mut command = Command::new(&bench.program);
        command
            .env_clear()
            .envs([
                ("SYSTEM_NAMESPACE", SYSTEM),
                ("POD_NAME", "autoscaler-bench"),
                ("POD_IP", "127.0.0.1"),
                ("KUBERNETES_MIN_VERSION", "v1.30.0"),
            ])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--kube-api-qps=-1", "--kube-api-burst=1000000"]);
        let mut running = Self {
            process: Process::start("autoscaler", &mut command)?,
            api_server,
            pods,
            _folder: folder,
        };
        running.settle(fleet).await?;
        Ok(running)
    }

    async fn settle(&mut self, fleet: Fleet) -> anyhow::Result<()> {
        self.process.listening_within(STATS, SETTLE_LIMIT).await?;
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut writes = self.api_server.writes();
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.api_server.writes();
            if now != writes {
                writes = now;
                since = Instant::now();
            }
            let scraped = !fleet.scraped || self.pods.scrapes().iter().all(|count| *count >= 3);
            if scraped && Instant::now() - since > QUIET {
                // Scale patches of the start are of no interest.
                while self.api_server.scaled.try_recv().is_ok() {}
                return Ok(());
            }
            self.process.still_runs()?;
            if Instant::now() > deadline {
                let missing = self.pods.scrapes().iter().filter(|it| **it < 3).count();
                bail!(
                    "not settled after {SETTLE_LIMIT:?}: {missing} pods not scraped, {now} writes"
                );
            }
        }
    }
}
