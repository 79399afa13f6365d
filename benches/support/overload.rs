//! Open-loop load that a server cannot bear: each request leaves when it is due, on a new
//! connection when every other one still waits for its answer, so that a slow server is not spared.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::load::{Connection, get};

/// After this a request counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kubelet's default timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub address: SocketAddr,
    /// Requests per second.
    pub rate: u64,
    pub duration: Duration,
    /// A request that finds all of them waiting is not sent.
    pub max_connections: usize,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub offered: u64,
    /// Answers with status 200.
    pub served: u64,
    /// Answers with status 503 and `Retry-After`.
    pub refused: u64,
    /// Other answers, broken connections, no answer in time.
    pub lost: u64,
    /// No connection was free: it never reached the server.
    pub unsent: u64,
    /// From the time at which a request should have left to the end of its answer.
    pub served_p50_ms: f64,
    pub served_p99_ms: f64,
    pub refused_p99_ms: f64,
    pub probes: u64,
    /// Probes that were not answered with readiness within the kubelet's timeout.
    pub failed_probes: u64,
}

#[derive(Debug)]
struct Run {
    request: Vec<u8>,
    offer: Offer,
    idle: RefCell<Vec<Connection>>,
    open: Cell<usize>,
    lost: Cell<u64>,
    unsent: Cell<u64>,
    served: RefCell<Histogram<u64>>,
    refused: RefCell<Histogram<u64>>,
}

/// Offers all of it and waits for the last answer; probes like the kubelet once a second.
///
/// # Errors
/// When a histogram cannot be made.
pub async fn offer(offer: Offer) -> anyhow::Result<Outcome> {
    let run = Rc::new(Run {
        request: get(offer.address, "/"),
        offer,
        idle: RefCell::default(),
        open: Cell::new(0),
        lost: Cell::new(0),
        unsent: Cell::new(0),
        served: RefCell::new(Histogram::new(3)?),
        refused: RefCell::new(Histogram::new(3)?),
    });
    LocalSet::new().run_until(run.all()).await
}

impl Run {
    async fn all(self: Rc<Self>) -> anyhow::Result<Outcome> {
        let start = Instant::now();
        let end = start + self.offer.duration;
        let probing = tokio::task::spawn_local(probe(self.offer.address, end));
        let mut requests = JoinSet::new();
        let total = self.offer.rate * self.offer.duration.as_secs();
        let gap = 1_000_000_000 / self.offer.rate;
        for index in 0..total {
            let due = start + Duration::from_nanos(index * gap);
            if Instant::now() < due {
                sleep_until(due).await;
            }
            requests.spawn_local(Rc::clone(&self).one(due));
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
        let (probes, failed_probes) = probing.await?;
        let (served, refused) = (self.served.borrow(), self.refused.borrow());
        let ms = |histogram: &Histogram<u64>, quantile| {
            histogram.value_at_quantile(quantile) as f64 / 1e3
        };
        Ok(Outcome {
            offered: total,
            served: served.len(),
            refused: refused.len(),
            lost: self.lost.get(),
            unsent: self.unsent.get(),
            served_p50_ms: ms(&served, 0.5),
            served_p99_ms: ms(&served, 0.99),
            refused_p99_ms: ms(&refused, 0.99),
            probes,
            failed_probes,
        })
    }

    async fn one(self: Rc<Self>, due: Instant) {
        let answer = timeout(PATIENCE, self.exchange()).await;
        let taken = u64::try_from((Instant::now() - due).as_micros()).unwrap_or(u64::MAX);
        match answer {
            Ok(Some(Answer::Served)) => drop(self.served.borrow_mut().record(taken)),
            Ok(Some(Answer::Refused)) => drop(self.refused.borrow_mut().record(taken)),
            Ok(Some(Answer::Unsent)) => self.unsent.set(self.unsent.get() + 1),
            Ok(Some(Answer::Other) | None) | Err(_) => self.lost.set(self.lost.get() + 1),
        }
    }

    /// One request on a connection of its own for as long as it lasts.
    async fn exchange(&self) -> Option<Answer> {
        let idle = self.idle.borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None if self.open.get() < self.offer.max_connections => {
                self.open.set(self.open.get() + 1);
                Opening(self).open().await?
            }
            None => return Some(Answer::Unsent),
        };
        let status = match connection.exchange(&self.request).await {
            Ok(status) => status,
            Err(_) => {
                self.open.set(self.open.get() - 1);
                return None;
            }
        };
        let answer = match status {
            200 => Answer::Served,
            503 if connection.has_header("retry-after") => Answer::Refused,
            _ => Answer::Other,
        };
        self.idle.borrow_mut().push(connection);
        Some(answer)
    }
}

enum Answer {
    Served,
    Refused,
    Unsent,
    Other,
}

/// Counts a connection out that did not come about.
struct Opening<'a>(&'a Run);

impl Opening<'_> {
    async fn open(self) -> Option<Connection> {
        match Connection::open(self.0.offer.address).await {
            Ok(connection) => Some(connection),
            Err(_) => {
                self.0.open.set(self.0.open.get() - 1);
                None
            }
        }
    }
}

/// Probes once a second as the kubelet does, each time over a new connection: how many there were,
/// and how many failed.
async fn probe(address: SocketAddr, end: Instant) -> (u64, u64) {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.34\r\n\
         K-Network-Probe: queue\r\n\r\n"
    );
    let (mut probes, mut failed) = (0, 0);
    let mut next = Instant::now() + Duration::from_secs(1);
    while next < end {
        sleep_until(next).await;
        next += Duration::from_secs(1);
        probes += 1;
        let probe = async {
            let mut connection = Connection::open(address).await.ok()?;
            connection.exchange(request.as_bytes()).await.ok()
        };
        if timeout(PROBE_TIMEOUT, probe).await.ok().flatten() != Some(200) {
            failed += 1;
        }
    }
    (probes, failed)
}
