//! Keeps an activator's picture of the world: applies updates, probes destinations, reports stats.
//!
//! One task owns it all, so what concerns one revision happens in order. The request path sees the
//! results: the table of revisions and each throttler's destinations.

mod peers;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serving::RevisionId;
use serving::stat::StatBatch;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use self::peers::Peers;
use crate::activator::{Notice, Shared};
use crate::affinity::{Affinity, MAX_SESSIONS, McpSessions};
use crate::backends::{Answer, BackendsState, Effect, Probe, Target};
use crate::concurrency_reporter::RevisionStats;
use crate::pod_tracker::PodTracker;
use crate::private_service::private_host;
use crate::prober::{self, MAX_CONCURRENT_PROBES};
use crate::revision_throttler::RevisionThrottler;
use crate::stat_sink::StatConnection;
use crate::table::{Entry, Sessions};
use crate::trackers::Usable;
use crate::world::{Backends, PublicEndpoints, Revision, UPDATES_CAPACITY, Update};

/// Upstream's `reportInterval`.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a pod that said it is full is left alone. A request of the other party that fills it
/// may end at any moment; asking costs one exchange.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// See the module. Made together with its [`crate::Activator`].
#[derive(Debug)]
pub struct Driver {
    shared: Rc<Shared>,
    updates: mpsc::Receiver<Update>,
    notices: mpsc::Receiver<Notice>,
    connection: Option<StatConnection>,
    world: World,
}

/// What is known of each revision, and the tasks at work for it.
#[derive(Debug)]
struct World {
    shared: Rc<Shared>,
    revisions: HashMap<RevisionId, Known>,
    /// Entries to put into the table at the end of the batch.
    changes: HashMap<RevisionId, Option<Arc<Entry>>>,
    probes: JoinSet<Done>,
    peers: Peers,
    pauses: JoinSet<(Arc<RevisionThrottler>, Arc<PodTracker>)>,
    slots: Rc<Semaphore>,
}

/// A probe's end.
#[derive(Debug)]
struct Done {
    id: RevisionId,
    probe: Probe,
    answer: Answer,
}

/// One revision. Endpoints may come before their Revision and stay after it.
#[derive(Debug, Default)]
struct Known {
    live: Option<Live>,
    backends: Option<Backends>,
    public: Option<PublicEndpoints>,
}

#[derive(Debug)]
struct Live {
    entry: Arc<Entry>,
    state: BackendsState,
    probes: HashMap<Target, AbortHandle>,
}

// === impl Driver ===

impl Driver {
    pub(crate) fn new(
        shared: Rc<Shared>,
        updates: mpsc::Receiver<Update>,
        notices: mpsc::Receiver<Notice>,
        connection: Option<StatConnection>,
    ) -> Self {
        Self {
            world: World::new(Rc::clone(&shared)),
            shared,
            updates,
            notices,
            connection,
        }
    }

    /// Runs for as long as the activator serves; it ends only by being dropped, and must be polled
    /// on a `LocalRuntime` or in a `LocalSet`.
    pub async fn run(mut self) {
        let connection = self.connection.take();
        let mut metrics = self.shared.metrics.clone();
        let connected = async {
            if let Some(connection) = connection {
                connection.run(&mut metrics).await;
            }
        };
        tokio::join!(connected, self.apply_and_report());
    }

    async fn apply_and_report(mut self) {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(UPDATES_CAPACITY);
        let mut updates_open = true;
        loop {
            tokio::select! {
                count = self.updates.recv_many(&mut batch, UPDATES_CAPACITY), if updates_open => {
                    updates_open = count > 0;
                    for update in batch.drain(..) {
                        self.world.apply(update);
                    }
                    self.world.publish_table();
                }
                Some(notice) = self.notices.recv() => self.world.note(notice),
                Some(done) = self.world.probes.join_next() => {
                    // A probe that was cancelled says nothing.
                    if let Ok(done) = done {
                        self.world.probed(&done);
                    }
                }
                Some((address, ours)) = self.world.peers.next() => {
                    self.world.peer_answered(address, ours);
                }
                Some(over) = self.world.pauses.join_next() => {
                    if let Ok((throttler, tracker)) = over {
                        throttler.not_full(&tracker);
                    }
                }
                _ = ticks.tick() => self.report(),
            }
        }
    }

    /// One frame (or a few, when it is full) with a message for every tracked revision.
    fn report(&self) {
        let shared = &self.shared;
        let mut batch = StatBatch::new();
        shared.reporter.report(shared.clock.now(), |id, report| {
            match shared.table.get_id(id) {
                Some(entry) => shared
                    .metrics
                    .set_concurrency(&entry.revision, report.average_concurrency),
                None => tracing::error!(revision = %id, "revision of a report is gone"),
            }
            shared.add(&mut batch, id, report);
        });
        shared.send(&mut batch);
    }
}

// === impl World ===

impl World {
    fn new(shared: Rc<Shared>) -> Self {
        Self {
            shared,
            revisions: HashMap::new(),
            changes: HashMap::new(),
            probes: JoinSet::new(),
            peers: Peers::default(),
            pauses: JoinSet::new(),
            slots: Rc::new(Semaphore::new(MAX_CONCURRENT_PROBES)),
        }
    }

    fn apply(&mut self, update: Update) {
        match update {
            Update::Revision(revision) => self.revision(revision),
            Update::RevisionDeleted(id) => self.revision_deleted(&id),
            Update::Backends(id, backends) => self.backends(id, Some(backends)),
            Update::BackendsDeleted(id) => self.backends(id, None),
            Update::PublicEndpoints(id, public) => self.public_endpoints(id, public),
        }
    }

    fn publish_table(&mut self) {
        if !self.changes.is_empty() {
            self.shared.table.apply(self.changes.drain());
        }
    }

    fn revision(&mut self, revision: Revision) {
        let id = revision.id.clone();
        let known = self.revisions.entry(id.clone()).or_default();
        if let Some(live) = &mut known.live {
            let old = &live.entry;
            if old.revision == revision {
                // Its status changed, which happens all the time.
                return;
            }
            if old.revision.container_concurrency == revision.container_concurrency {
                let mut http = Arc::clone(&old.http);
                let mut cold_start = Arc::clone(&old.cold_start);
                if relabelled(&old.revision, &revision) {
                    self.shared.metrics.forget(old);
                    http = Arc::default();
                    cold_start = Arc::default();
                }
                live.entry = Arc::new(Entry {
                    throttler: Arc::clone(&old.throttler),
                    stats: Arc::clone(&old.stats),
                    metrics: self.shared.metrics.revision(&id),
                    http,
                    cold_start,
                    sessions: old.sessions.clone().or_else(|| sessions(&revision)),
                    revision,
                });
                let entry = Arc::clone(&live.entry);
                self.changes.insert(id, Some(entry));
                return;
            }
            // A Revision's spec does not change; another one of the same name does.
            self.revision_deleted(&id);
        }
        self.start(revision);
    }

    fn start(&mut self, revision: Revision) {
        let shared = &self.shared;
        let id = revision.id.clone();
        let state = BackendsState::new(shared.options.probe, revision.probe_optimization);
        let entry = Arc::new(Entry {
            throttler: RevisionThrottler::new(
                id.clone(),
                revision.container_concurrency,
                shared.budget.clone(),
                fastrand::u64(..),
            ),
            stats: RevisionStats::new(id.clone()),
            metrics: shared.metrics.revision(&id),
            http: Arc::default(),
            cold_start: Arc::default(),
            sessions: sessions(&revision),
            revision,
        });
        self.changes.insert(id.clone(), Some(Arc::clone(&entry)));
        let known = self.revisions.entry(id.clone()).or_default();
        known.live = Some(Live {
            entry,
            state,
            probes: HashMap::new(),
        });
        if let Some(public) = known.public.clone() {
            self.public_endpoints(id.clone(), public);
        }
        self.list(&id);
    }

    fn revision_deleted(&mut self, id: &RevisionId) {
        let Some(known) = self.revisions.get_mut(id) else {
            return;
        };
        if let Some(live) = known.live.take() {
            live.probes.values().for_each(AbortHandle::abort);
            live.entry.throttler.delete();
            self.shared.metrics.forget(&live.entry);
            self.changes.insert(id.clone(), None);
        }
        self.forget_if_empty(id);
    }

    fn backends(&mut self, id: RevisionId, backends: Option<Backends>) {
        let known = self.revisions.entry(id.clone()).or_default();
        let before = std::mem::replace(&mut known.backends, backends);
        let (old, new) = (
            destinations(before.as_ref()),
            destinations(known.backends.as_ref()),
        );
        for dest in new.difference(&old) {
            self.shared.upstreams.list(*dest);
        }
        self.list(&id);
        // Last, so that a destination which leaves is out of the choice before its pool closes.
        let live = self.live(&id).map(|live| Arc::clone(&live.entry.http));
        for dest in old.difference(&new) {
            self.shared.upstreams.unlist(*dest);
            if let Some(http) = &live {
                self.shared.metrics.http.forget_pod(http, *dest);
            }
        }
        self.forget_if_empty(&id);
    }

    fn public_endpoints(&mut self, id: RevisionId, public: PublicEndpoints) {
        let known = self.revisions.entry(id.clone()).or_default();
        if let Some(live) = &known.live {
            let own = &self.shared.options.pod_ip;
            let throttler = &live.entry.throttler;
            throttler.public_endpoints(&public.addresses, own);
        }
        known.public = Some(public);
        self.meet_peers(&id);
    }

    fn forget_if_empty(&mut self, id: &RevisionId) {
        if let MapEntry::Occupied(known) = self.revisions.entry(id.clone())
            && known.get().live.is_none()
            && known.get().backends.is_none()
        {
            known.remove();
        }
    }

    /// Tells the revision's state what is listed now.
    fn list(&mut self, id: &RevisionId) {
        let mut effects = Vec::new();
        if let Some(known) = self.revisions.get_mut(id)
            && let Some(live) = &mut known.live
        {
            let none = Backends::default();
            live.state
                .list(known.backends.as_ref().unwrap_or(&none), &mut effects);
        }
        self.act(id, effects);
    }

    fn probed(&mut self, done: &Done) {
        let mut effects = Vec::new();
        if let Some(live) = self.live(&done.id) {
            live.state.answered(&done.probe, done.answer, &mut effects);
        }
        self.act(&done.id, effects);
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Refused(id, dest) => {
                let mut effects = Vec::new();
                if let Some(live) = self.live(&id) {
                    live.state.refused(dest, &mut effects);
                }
                self.act(&id, effects);
            }
            Notice::Full(throttler, tracker) => {
                self.pauses.spawn_local(async move {
                    tokio::time::sleep(FULL_PAUSE).await;
                    (throttler, tracker)
                });
            }
        }
    }

    fn live(&mut self, id: &RevisionId) -> Option<&mut Live> {
        self.revisions.get_mut(id)?.live.as_mut()
    }

    fn act(&mut self, id: &RevisionId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(usable) => {
                    self.publish(id, &usable);
                }
                Effect::Probe(probe) => self.probe(id, probe),
                Effect::Cancel(target) => {
                    if let Some(live) = self.live(id)
                        && let Some(probe) = live.probes.remove(&target)
                    {
                        probe.abort();
                    }
                }
            }
        }
    }

    fn publish(&mut self, id: &RevisionId, usable: &Usable) {
        let metrics = self.shared.metrics.cold_start.clone();
        let Some(live) = self.live(id) else {
            return;
        };
        tracing::debug!(revision = %id, ?usable, "destinations changed");
        let entry = &live.entry;
        entry.throttler.update(usable);
        if !usable.is_empty() {
            metrics.pod_ready(&entry.cold_start, &entry.revision, Instant::now());
        }
    }

    fn probe(&mut self, id: &RevisionId, probe: Probe) {
        let (Target::Pod(dest) | Target::ClusterIp(dest)) = probe.target;
        let upstream = self.shared.upstreams.plain(dest);
        let addressable = self.shared.options.probe.mesh_pod_addressability;
        let passthrough = addressable.then(|| private_host(id)).flatten();
        let made = prober::make(upstream, probe, passthrough, Rc::clone(&self.slots));
        let owner = id.clone();
        let task = self.probes.spawn_local(async move {
            Done {
                id: owner,
                probe,
                answer: made.await,
            }
        });
        let superseded = self
            .live(id)
            .and_then(|live| live.probes.insert(probe.target, task));
        if let Some(superseded) = superseded {
            superseded.abort();
        }
    }
}

/// Everything a list names.
fn destinations(backends: Option<&Backends>) -> BTreeSet<SocketAddr> {
    backends
        .into_iter()
        .flat_map(|it| it.ready.iter().chain(&it.not_ready).chain(&it.cluster_ip))
        .copied()
        .collect()
}

fn sessions(revision: &Revision) -> Option<Arc<Sessions>> {
    let is_mcp = revision.affinity == Some(Affinity::Mcp);
    is_mcp.then(|| Arc::new(Mutex::new(McpSessions::new(MAX_SESSIONS))))
}

fn relabelled(old: &Revision, new: &Revision) -> bool {
    old.service != new.service || old.configuration != new.configuration
}
