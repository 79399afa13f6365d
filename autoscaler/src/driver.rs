//! The one shell around the pure modules: tasks for what takes time, one loop for everything else.
//!
//! A single task owns all state. It takes updates, frames of stats, finished rounds of scraping and
//! finished probes from bounded channels, serves one heap of deadlines, and hands batches of actions
//! to the platform. From a frame that wakes a revision to the batch that scales it there is no timer
//! and no other task.

pub(crate) mod core;
mod names;
mod reconcile;
pub(crate) mod revision;
mod revisions;
mod ticks;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use serving::AnchoredClock;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::core::{Core, Effect, Now};
use self::revision::Key;
use crate::activator_probe;
use crate::metrics::Metrics;
use crate::scraper::{self, Report, Round};
use crate::stat_server::FRAMES_CAPACITY;
use crate::world::{Batch, ProbeTargets, RevisionSnapshot, Update};

/// Rounds of scraping at a time. A dead pod occupies one for three seconds; healthy ones take a
/// millisecond, so that ten thousand revisions need about ten.
pub const MAX_ROUNDS: usize = 4096;
/// Updates, frames or finished tasks taken in one turn of the loop.
const MAX_PER_TURN: usize = 64;
/// Messages of other replicas that wait, up to 4 MiB each.
const HANDOVERS_CAPACITY: usize = 4;
/// Snapshots that are waited for at a time.
const QUERIES_CAPACITY: usize = 16;

/// What the driver is started with.
#[derive(Clone)]
pub struct Options {
    /// How pods are reached.
    pub scrape: scraper::Options,
    /// Where activator probes go.
    pub probe_targets: ProbeTargets,
    /// Rounds of scraping at a time; [`MAX_ROUNDS`] unless there is a reason.
    pub max_rounds: usize,
}

/// The driver's ends of the channels to its platform.
#[derive(Debug)]
pub struct World {
    /// What happens. Closing it ends the driver.
    pub updates: mpsc::Receiver<Update>,
    /// What is to be done, one batch per reconcile.
    pub actions: mpsc::Sender<Batch>,
}

/// For others to talk to a running driver.
#[derive(Clone, Debug)]
pub struct Handle {
    frames: mpsc::Sender<Bytes>,
    handovers: mpsc::Sender<Bytes>,
    queries: mpsc::Sender<Query>,
    metrics: Metrics,
}

/// A question to a running driver.
#[derive(Debug)]
enum Query {
    Snapshot(oneshot::Sender<Vec<RevisionSnapshot>>),
    HandOver(oneshot::Sender<Vec<Bytes>>),
}

/// The driver: see [`run`](Self::run).
#[derive(Debug)]
pub struct Autoscaler {
    core: Core,
    metrics: Metrics,
    clock: AnchoredClock,
    world: World,
    frames: mpsc::Receiver<Bytes>,
    handovers: mpsc::Receiver<Bytes>,
    queries: mpsc::Receiver<Query>,
    rounds: JoinSet<(Key, Report)>,
    /// Rounds beyond the limit; at most one per revision.
    waiting: VecDeque<(Key, Box<Round>)>,
    max_rounds: usize,
    probes: JoinSet<Probed>,
}

/// What became of a round.
type Finished = Result<(Key, Report), tokio::task::JoinError>;

/// A probe has ended.
#[derive(Debug)]
enum Probed {
    Inline(Key, bool),
    Background(Key),
}

// === impl Options ===

impl Options {
    /// The usual limits.
    pub fn new(scrape: scraper::Options, probe_targets: ProbeTargets) -> Self {
        Self {
            scrape,
            probe_targets,
            max_rounds: MAX_ROUNDS,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("scrape", &self.scrape)
            .field("max_rounds", &self.max_rounds)
            .finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    /// Where [`stat_server::serve`](crate::stat_server::serve) puts the frames of activators.
    pub fn frames(&self) -> mpsc::Sender<Bytes> {
        self.frames.clone()
    }

    /// The state of every revision that has a PodAutoscaler, sorted; `None` when the driver has
    /// ended. Cancel safe.
    pub async fn snapshot(&self) -> Option<Vec<RevisionSnapshot>> {
        let (answer, answered) = oneshot::channel();
        self.queries.send(Query::Snapshot(answer)).await.ok()?;
        answered.await.ok()
    }

    /// What the driver measures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where [`stat_server::serve`](crate::stat_server::serve) puts what other replicas hand over.
    pub fn handovers(&self) -> mpsc::Sender<Bytes> {
        self.handovers.clone()
    }

    /// Messages with the windows of the revisions that are this replica's, for the one that will
    /// own them next; none when the driver has ended. Cancel safe.
    pub async fn hand_over(&self) -> Vec<Bytes> {
        let (answer, answered) = oneshot::channel();
        match self.queries.send(Query::HandOver(answer)).await {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(_ended) => Vec::new(),
        }
    }
}

// === impl Autoscaler ===

impl Autoscaler {
    /// A driver that has not started. Its metrics go into `registry`.
    pub fn new(options: Options, world: World, registry: &mut Registry) -> (Self, Handle) {
        let (frames, frames_receiver) = mpsc::channel(FRAMES_CAPACITY);
        let (handovers, handovers_receiver) = mpsc::channel(HANDOVERS_CAPACITY);
        let (queries, queries_receiver) = mpsc::channel(QUERIES_CAPACITY);
        let metrics = Metrics::register(registry);
        let driver = Self {
            core: Core::new(options.scrape, options.probe_targets, metrics.clone()),
            metrics: metrics.clone(),
            clock: AnchoredClock::new(),
            world,
            frames: frames_receiver,
            handovers: handovers_receiver,
            queries: queries_receiver,
            rounds: JoinSet::new(),
            waiting: VecDeque::new(),
            max_rounds: options.max_rounds,
            probes: JoinSet::new(),
        };
        let handle = Handle {
            frames,
            handovers,
            queries,
            metrics,
        };
        (driver, handle)
    }

    /// Runs until `shutdown` is cancelled or the platform closes its channel of updates. Needs a
    /// tokio runtime of any flavour; the future is `Send`. Dropping it aborts its tasks.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let alarm = tokio::time::sleep_until(Instant::now());
        tokio::pin!(alarm);
        let mut running = true;
        while running {
            let now = self.now();
            let more = self.core.tick(now);
            self.work(now);
            self.start_tasks();
            self.send_batches();
            let hurry = more || self.core.has_work();
            let due = self.core.next_due();
            if let Some(due) = due.filter(|due| *due != alarm.deadline()) {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                () = shutdown.cancelled() => running = false,
                event = self.event() => running = self.take(event),
                () = &mut alarm, if due.is_some() => {}
                () = tokio::task::yield_now(), if hurry => {}
            }
        }
    }

    fn now(&self) -> Now {
        let instant = Instant::now();
        Now {
            instant,
            unix: self.clock.unix(instant),
        }
    }

    /// Reconciles what waits, and takes the time of it.
    fn work(&mut self, now: Now) {
        let began = Instant::now();
        let count = self.core.work(now);
        if count > 0 {
            let spent = Instant::now() - began;
            self.metrics
                .queues()
                .pod_autoscalers
                .processed(count, spent);
        }
        self.core.count_queued();
    }

    /// Hands over as many batches as there is room for.
    fn send_batches(&mut self) {
        while self.core.has_batch() {
            let Ok(room) = self.world.actions.try_reserve() else {
                return;
            };
            if let Some(batch) = self.core.next_batch() {
                room.send(batch);
            }
        }
    }

    fn start_tasks(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Scrape(key, round) => self.waiting.push_back((key, round)),
                Effect::Probe(key, target) => {
                    self.probes.spawn(async move {
                        Probed::Inline(key, activator_probe::probe(&target).await)
                    });
                }
                Effect::ProbeInBackground(key, target) => {
                    self.probes.spawn(async move {
                        activator_probe::probe_until_success(&target).await;
                        Probed::Background(key)
                    });
                }
            }
        }
        while self.rounds.len() < self.max_rounds
            && let Some((key, round)) = self.waiting.pop_front()
        {
            self.rounds.spawn(async move { (key, round.run().await) });
        }
    }

    /// Waits for something to happen. Cancel safe.
    async fn event(&mut self) -> Event {
        tokio::select! {
            Some(frame) = self.frames.recv() => Event::Frame(frame),
            update = self.world.updates.recv() => Event::Update(update),
            Some(round) = self.rounds.join_next() => Event::Round(round),
            Some(probe) = self.probes.join_next() => Event::Probe(probe),
            Some(message) = self.handovers.recv() => Event::Handover(message),
            Some(query) = self.queries.recv() => Event::Query(query),
            room = self.world.actions.reserve(), if self.core.has_batch() => {
                match room {
                    Ok(_room) => Event::Room,
                    Err(_closed) => Event::Update(None),
                }
            }
        }
    }

    /// Takes in an event and what else has come of its kind; false when the platform has gone.
    fn take(&mut self, event: Event) -> bool {
        let now = self.now();
        match event {
            Event::Frame(frame) => self.take_frames(&frame, now),
            Event::Update(None) => return false,
            Event::Update(Some(update)) => {
                self.core.update(update, now);
                for _ in 1..MAX_PER_TURN {
                    let Ok(update) = self.world.updates.try_recv() else {
                        break;
                    };
                    self.core.update(update, now);
                }
            }
            Event::Round(round) => self.take_rounds(round, now),
            Event::Probe(Ok(Probed::Inline(key, activator))) => self.core.probed(key, activator),
            Event::Probe(Ok(Probed::Background(key))) => self.core.background_probed(key, now),
            Event::Probe(Err(error)) => tracing::error!(%error, "a probe panicked"),
            Event::Handover(message) => {
                if let Err(error) = self.core.take_over(&message, now) {
                    tracing::warn!(%error, "windows of another replica are not used");
                }
            }
            // A caller that has gone away is no failure.
            Event::Query(Query::Snapshot(answer)) => drop(answer.send(self.core.snapshot())),
            Event::Query(Query::HandOver(answer)) => drop(answer.send(self.core.hand_over(now))),
            Event::Room => {}
        }
        true
    }

    fn take_frames(&mut self, first: &Bytes, now: Now) {
        self.record(first, now);
        for _ in 1..MAX_PER_TURN {
            let Ok(frame) = self.frames.try_recv() else {
                break;
            };
            self.record(&frame, now);
        }
    }

    fn record(&mut self, frame: &[u8], now: Now) {
        if let Err(error) = self.core.record_frame(frame, now) {
            tracing::error!(%error, bytes = frame.len(), "failed to decode stats");
        }
    }

    fn take_rounds(&mut self, first: Finished, now: Now) {
        self.take_round(first, now);
        for _ in 1..MAX_PER_TURN {
            // Whatever is taken from the set here is used here: a round that got lost would leave
            // its revision waiting for it, and unscraped, for ever.
            let Some(round) = self.rounds.try_join_next() else {
                break;
            };
            self.take_round(round, now);
        }
    }

    fn take_round(&mut self, round: Finished, now: Now) {
        match round {
            Ok((key, report)) => self.core.scraped(key, report, now),
            Err(error) => tracing::error!(%error, "a round of scraping panicked"),
        }
    }
}

/// What the loop waits for.
enum Event {
    Frame(Bytes),
    /// `None`: the platform has gone.
    Update(Option<Update>),
    Round(Finished),
    Probe(Result<Probed, tokio::task::JoinError>),
    Handover(Bytes),
    Query(Query),
    /// There is room for another batch.
    Room,
}

/// The loop's future can be moved to any thread.
const _: fn() = || {
    fn is_send(_: impl Future + Send) {}
    let _ = |autoscaler: Autoscaler, shutdown| is_send(autoscaler.run(shutdown));
};

#[cfg(test)]
mod tests;
