//! Scraping a revision through its private Service, where a mesh hides the single pods: each request
//! may reach any pod, so pods are told apart by the name they answer with.

use std::collections::HashSet;
use std::io;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use serving::stat::Stat;

use super::client::{self, Heading, PodScrapeError, SCRAPE_TIMEOUT};
use super::{ScrapeError, extrapolate};
use crate::sample_size::{Sample, sample_size};

/// From this attempt on an error ends a worker (`scraperMaxRetries`).
const MAX_ATTEMPTS: usize = 10;

/// What is scraped.
pub(super) struct Target<'a> {
    /// `<scrape target>.<namespace>`.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Ready pods.
    pub(super) population: u32,
    /// Seconds after which a pod is old.
    pub(super) old_uptime: f64,
}

/// What the workers of a round found out together.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    old: Vec<Stat>,
    young: Vec<Stat>,
}

enum AttemptError {
    Duplicate,
    Scrape(PodScrapeError),
    Resolve(io::Error),
}

/// Asks until as many different pods as the sample needs have answered.
pub(super) async fn scrape(target: Target<'_>) -> Result<Sample, ScrapeError> {
    let sample = sample_size(target.population);
    let seen = Mutex::new(Seen::default());
    let mut workers: FuturesUnordered<_> = (0..sample)
        .map(|_| worker(&target, &seen, sample))
        .collect();
    let mut error = None;
    while let Some(result) = workers.next().await {
        if let Err(first) = result {
            error = Some(first);
            break;
        }
    }
    drop(workers);
    let Seen { old, young, .. } = seen.into_inner();
    let enough = old.len() + young.len() >= sample as usize;
    match error {
        None => {}
        Some(AttemptError::Duplicate) if enough => {}
        Some(error) => return Err(error.into_scrape_error(&target, sample)),
    }
    let chosen = old.into_iter().chain(young).take(sample as usize);
    Ok(extrapolate(chosen, sample, target.population))
}

/// Ends with the first old pod, or when young ones alone are enough.
async fn worker(target: &Target<'_>, seen: &Mutex<Seen>, sample: u32) -> Result<(), AttemptError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let stat = match attempt(target).await {
            Ok(stat) => stat,
            Err(error) if attempts >= MAX_ATTEMPTS => return Err(error),
            Err(_) => continue,
        };
        let mut seen = seen.lock();
        if !seen.names.insert(stat.pod_name.clone()) {
            if attempts >= MAX_ATTEMPTS {
                return Err(AttemptError::Duplicate);
            }
        } else if stat.process_uptime >= target.old_uptime {
            seen.old.push(stat);
            return Ok(());
        } else if seen.young.len() < sample as usize {
            seen.young.push(stat);
        } else {
            return Ok(());
        }
    }
}

/// One request on a connection of its own, so that it may reach another pod than the last.
async fn attempt(target: &Target<'_>) -> Result<Stat, AttemptError> {
    let lookup = tokio::net::lookup_host((target.host, target.port));
    let address = tokio::time::timeout(SCRAPE_TIMEOUT, lookup)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .and_then(|mut addresses| addresses.next().ok_or(io::ErrorKind::NotFound.into()))
        .map_err(AttemptError::Resolve)?;
    let heading = Heading {
        host: Some(format!("{}:{}", target.host, target.port)),
        direct: false,
        close: true,
    };
    let (result, _) = client::scrape(None, address, &heading).await;
    result.map_err(AttemptError::Scrape)
}

// === impl AttemptError ===

impl AttemptError {
    fn into_scrape_error(self, target: &Target<'_>, sample: u32) -> ScrapeError {
        match self {
            Self::Duplicate => ScrapeError::DidNotReceiveStat { sample },
            Self::Scrape(source) => ScrapeError::Service { sample, source },
            Self::Resolve(source) => ScrapeError::Resolve {
                sample,
                host: target.host.to_owned(),
                source,
            },
        }
    }
}
