//! One round of scraping one revision: which pods are asked, what their answers amount to, and when
//! the revision's Service is asked instead.
//!
//! The driver starts a round per revision and second, and none while one is running, so a slow pod
//! costs its own revision rounds and nobody else anything. Upstream:
//! `pkg/autoscaler/metrics/stats_scraper.go`, with two differences that it leaves room for. No
//! request is cancelled because another one failed, so a mesh is recognised however many pods there
//! are. And a round in which at least half of the sample answered counts: what is missing is
//! extrapolated, where upstream throws the second away.

pub mod client;
mod pods;
mod service;

use std::sync::Arc;
use std::time::Duration;

use serving::config::network::MeshCompatibilityMode;
use serving::stat::Stat;
use tokio::time::Instant;

use self::client::{Heading, PodScrapeError};
pub use self::pods::{ConnectionPool, PodTargets};
use crate::sample_size::Sample;

/// How pods are reached; the same for all revisions and fixed at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether pods can be addressed one by one.
    pub mesh: MeshCompatibilityMode,
    /// `enable-mesh-pod-addressability`: the mesh passes requests to single pods through.
    pub passthrough: bool,
    /// Port of a revision's private Service for service scrapes.
    pub service_port: u16,
}

/// The statistics port of a queue-proxy and of the private Service
/// (`networking.AutoscalingQueueMetricsPort`).
pub const METRICS_PORT: u16 = 9090;

/// Why a round gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// Too few pods answered.
    #[error("pods exhausted")]
    PodsExhausted,
    /// Every pod answered as a mesh does that does not let pods be addressed.
    #[error("all pod scrapes returned 503 error")]
    DirectScrapingNotAvailable,
    /// The Service led to pods that had answered already.
    #[error("unsuccessful scrape, sampleSize={sample}: did not receive stat from an unscraped pod")]
    DidNotReceiveStat {
        /// How many different pods were wanted.
        sample: u32,
    },
    /// The Service did not answer.
    #[error("unsuccessful scrape, sampleSize={sample}: {source}")]
    Service {
        /// How many different pods were wanted.
        sample: u32,
        /// The answer that ended the round.
        source: PodScrapeError,
    },
    /// The Service's name has no address.
    #[error("unsuccessful scrape, sampleSize={sample}: failed to resolve {host}: {source}")]
    Resolve {
        /// How many different pods were wanted.
        sample: u32,
        /// The name.
        host: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// Everything one round needs. It owns its connections while it runs.
#[derive(Debug)]
pub struct Round {
    /// How pods are reached.
    pub options: Options,
    /// `<scrape target>.<namespace>`.
    pub host: Arc<str>,
    /// The ready pods, by age.
    pub targets: PodTargets,
    /// Connections kept from earlier rounds.
    pub connections: ConnectionPool,
    /// Whether pods have answered directly so far, or have not been asked yet.
    pub pods_addressable: bool,
    /// A pod younger than this is asked only when there are too few old ones.
    pub stable_window: Duration,
}

/// What a round gives back.
#[derive(Debug)]
pub struct Report {
    /// `None` when there was no pod to ask.
    pub result: Result<Option<Sample>, ScrapeError>,
    /// For the next round.
    pub connections: ConnectionPool,
    /// For the next round.
    pub pods_addressable: bool,
    /// How long it took; `None` when there was no pod to ask.
    pub duration: Option<Duration>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            mesh: MeshCompatibilityMode::default(),
            passthrough: false,
            service_port: METRICS_PORT,
        }
    }
}

// === impl Round ===

impl Round {
    /// Runs the round. Dropping the future closes the connections it uses.
    // Boxed, as a future has the room of its arguments twice, and this one is moved into a task.
    pub async fn run(mut self: Box<Self>) -> Report {
        let started = Instant::now();
        let result = if self.targets.is_empty() {
            Ok(None)
        } else {
            self.scrape().await.map(Some)
        };
        let duration =
            (!matches!(result, Ok(None))).then(|| Instant::now().duration_since(started));
        Report {
            result,
            connections: self.connections,
            pods_addressable: self.pods_addressable,
            duration,
        }
    }

    async fn scrape(&mut self) -> Result<Sample, ScrapeError> {
        match self.options.mesh {
            MeshCompatibilityMode::Enabled => self.scrape_service().await,
            MeshCompatibilityMode::Disabled => self.scrape_pods().await,
            MeshCompatibilityMode::Auto => self.scrape_auto().await,
        }
    }

    /// Pods first, until they turn out not to be addressable.
    async fn scrape_auto(&mut self) -> Result<Sample, ScrapeError> {
        if self.pods_addressable || self.options.passthrough {
            let result = self.scrape_pods().await;
            let unavailable = matches!(result, Err(ScrapeError::DirectScrapingNotAvailable));
            if !unavailable || self.options.passthrough {
                return result;
            }
        }
        let result = self.scrape_service().await;
        if result.is_ok() && self.pods_addressable {
            tracing::info!(
                host = &*self.host,
                "direct pod scraping off, service scraping on"
            );
            self.pods_addressable = false;
        }
        result
    }

    async fn scrape_pods(&mut self) -> Result<Sample, ScrapeError> {
        let heading = if self.options.passthrough {
            Heading {
                host: Some(self.host.to_string()),
                direct: true,
                close: false,
            }
        } else {
            Heading::default()
        };
        pods::scrape(&mut self.targets, &mut self.connections, &heading).await
    }

    async fn scrape_service(&mut self) -> Result<Sample, ScrapeError> {
        let target = service::Target {
            host: &self.host,
            port: self.options.service_port,
            population: self.targets.len(),
            old_uptime: self.stable_window.as_secs_f64(),
        };
        // On the heap: few rounds get here, and all would carry the room for it.
        Box::pin(service::scrape(target)).await
    }
}

// === impl ScrapeError ===

impl ScrapeError {
    /// Whether two errors are of the same kind, so that a Metric need not be looked at again.
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// The sum of what `sampled` pods said, extrapolated to all. Identity and uptime are dropped.
fn extrapolate(stats: impl IntoIterator<Item = Stat>, sampled: u32, population: u32) -> Sample {
    let mut sum = Sample::default();
    for stat in stats {
        sum.add(&Sample {
            average_concurrent_requests: stat.average_concurrent_requests,
            average_proxied_concurrent_requests: stat.average_proxied_concurrent_requests,
            request_count: stat.request_count,
            proxied_request_count: stat.proxied_request_count,
        });
    }
    sum.extrapolated(sampled, population)
}

#[cfg(test)]
mod tests;
