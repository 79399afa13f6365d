//! Scraping a sample of a revision's pods at their own addresses.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serving::stat::Stat;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::client::{self, Connection, Heading, PodScrapeError};
use super::{ScrapeError, extrapolate};
use crate::sample_size::{Sample, sample_size};

/// When a round has lasted so long and half of its sample has answered, the rest is not waited for:
/// the next round starts a second after this one did.
const STRAGGLER_LIMIT: Duration = Duration::from_millis(700);

/// Connections that one revision keeps: the largest sample is sixteen pods, and it changes from
/// round to round.
const MAX_KEPT_CONNECTIONS: usize = 32;

/// The ready pods of a revision, by age.
#[derive(Clone, Debug, Default)]
pub struct PodTargets {
    /// Older than the stable window.
    pub old: SmallVec<[SocketAddr; 2]>,
    /// The others.
    pub young: SmallVec<[SocketAddr; 2]>,
}

/// Idle connections to the pods of one revision.
#[derive(Debug, Default)]
pub struct ConnectionPool {
    idle: SmallVec<[(SocketAddr, Connection); 1]>,
}

type Attempt = (SocketAddr, Result<Stat, PodScrapeError>, Option<Connection>);

// === impl PodTargets ===

impl PodTargets {
    /// How many pods there are.
    pub fn len(&self) -> u32 {
        u32::try_from(self.old.len() + self.young.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is no pod to ask.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The order in which pods are asked: old ones first. Whichever group the sample does not take
    /// as a whole is shuffled; young pods are a reserve when there are enough old ones.
    fn in_order(&mut self, sample: u32) -> SmallVec<[SocketAddr; 4]> {
        if self.old.len() < sample as usize {
            fastrand::shuffle(&mut self.young);
        } else {
            fastrand::shuffle(&mut self.old);
        }
        self.old.iter().chain(&self.young).copied().collect()
    }
}

// === impl ConnectionPool ===

impl ConnectionPool {
    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether no connection is kept.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Drops the connections to pods that are no longer there: addresses are used again.
    pub fn retain(&mut self, present: impl Fn(SocketAddr) -> bool) {
        self.idle.retain(|(address, _)| present(*address));
    }

    fn take(&mut self, address: SocketAddr) -> Option<Connection> {
        let position = self.idle.iter().position(|(of, _)| *of == address)?;
        Some(self.idle.swap_remove(position).1)
    }

    fn put(&mut self, address: SocketAddr, connection: Option<Connection>) {
        if let Some(connection) = connection
            && self.idle.len() < MAX_KEPT_CONNECTIONS
        {
            self.idle.push((address, connection));
        }
    }
}

/// Asks a sample of the pods, each failed one replaced while there are others.
pub(super) async fn scrape(
    targets: &mut PodTargets,
    connections: &mut ConnectionPool,
    heading: &Heading,
) -> Result<Sample, ScrapeError> {
    if targets.len() == 1 {
        return scrape_only(targets, connections, heading).await;
    }
    // On the heap, so that the rounds of ten thousand small revisions, each a task that is made and
    // moved every second, are not as large as this one.
    Box::pin(scrape_many(targets, connections, heading)).await
}

async fn scrape_many(
    targets: &mut PodTargets,
    connections: &mut ConnectionPool,
    heading: &Heading,
) -> Result<Sample, ScrapeError> {
    let population = targets.len();
    let sample = sample_size(population);
    let order = targets.in_order(sample);
    let mut next = order.into_iter();
    let mut running = FuturesUnordered::new();
    for address in next.by_ref().take(sample as usize) {
        running.push(attempt(address, connections.take(address), heading));
    }
    let mut stats: SmallVec<[Stat; 16]> = SmallVec::new();
    let mut only_mesh_errors = true;
    let straggler_limit = tokio::time::sleep_until(Instant::now() + STRAGGLER_LIMIT);
    tokio::pin!(straggler_limit);
    let mut late = false;
    while count(&stats) < sample {
        let enough = count(&stats) * 2 >= sample;
        if late && enough {
            break;
        }
        let finished = tokio::select! {
            finished = running.next() => finished,
            () = &mut straggler_limit, if !late => {
                late = true;
                continue;
            }
        };
        let Some((address, result, connection)) = finished else {
            break;
        };
        connections.put(address, connection);
        match result {
            Ok(stat) => stats.push(stat),
            Err(error) => {
                only_mesh_errors &= error.is_potential_mesh_error();
                tracing::debug!(%address, error = &error as &dyn std::error::Error, "failed to scrape pod");
                if let Some(address) = next.next() {
                    running.push(attempt(address, connections.take(address), heading));
                }
            }
        }
    }
    conclude(stats, sample, population, only_mesh_errors)
}

fn conclude(
    stats: SmallVec<[Stat; 16]>,
    sample: u32,
    population: u32,
    only_mesh_errors: bool,
) -> Result<Sample, ScrapeError> {
    let answered = count(&stats);
    if answered > 0 && answered * 2 >= sample {
        Ok(extrapolate(stats, answered, population))
    } else if answered == 0 && only_mesh_errors {
        Err(ScrapeError::DirectScrapingNotAvailable)
    } else {
        Err(ScrapeError::PodsExhausted)
    }
}

fn count(stats: &[Stat]) -> u32 {
    u32::try_from(stats.len()).unwrap_or(u32::MAX)
}

/// The usual case of ten thousand small revisions, without the machinery of many.
async fn scrape_only(
    targets: &PodTargets,
    connections: &mut ConnectionPool,
    heading: &Heading,
) -> Result<Sample, ScrapeError> {
    let address = targets
        .old
        .first()
        .or(targets.young.first())
        .copied()
        .expect("the caller counted one pod");
    let (_, result, connection) = attempt(address, connections.take(address), heading).await;
    connections.put(address, connection);
    match result {
        Ok(stat) => Ok(extrapolate([stat], 1, 1)),
        Err(error) => {
            tracing::debug!(%address, error = &error as &dyn std::error::Error, "failed to scrape pod");
            conclude(SmallVec::new(), 1, 1, error.is_potential_mesh_error())
        }
    }
}

async fn attempt(address: SocketAddr, kept: Option<Connection>, heading: &Heading) -> Attempt {
    let (result, connection) = client::scrape(kept, address, heading).await;
    (address, result, connection)
}
