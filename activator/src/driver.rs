//! Keeps an activator's picture of the world: applies updates, probes destinations, reports stats.
//!
//! One task owns it all, so what concerns one revision happens in order. The request path sees the
//! results: the table of revisions and each throttler's destinations.

mod peers;

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
use crate::backends::{Answer, BackendsState, Effect, Pace, Probe, Target};
use crate::concurrency_reporter::RevisionStats;
use crate::metrics::RevisionMetrics;
use crate::options::ProbeOptions;
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
    /// Boxed, as a table has room for more than it holds.
    revisions: HashMap<Arc<RevisionId>, Box<Known>>,
    /// Entries to put into the table at the end of the batch.
    changes: HashMap<Arc<RevisionId>, Option<Arc<Entry>>>,
    probes: JoinSet<Done>,
    peers: Peers,
    pauses: JoinSet<(Arc<RevisionThrottler>, Arc<PodTracker>)>,
    slots: Rc<Semaphore>,
    /// Of all revisions' destinations together: most are as far away as the others.
    pace: Pace,
}

/// A probe's end.
#[derive(Debug)]
struct Done {
    id: Arc<RevisionId>,
    probe: Probe,
    answer: Answer,
    took: Duration,
}

/// One revision. Endpoints may come before their Revision and stay after it.
#[derive(Debug, Default)]
struct Known {
    live: Option<Live>,
    /// Boxed, as is everything that is there for a moment or for few revisions.
    backends: Option<Box<Backends>>,
    public: Option<PublicEndpoints>,
}

#[derive(Debug)]
struct Live {
    entry: Arc<Entry>,
    /// While addresses are listed.
    destinations: Option<Box<Destinations>>,
    /// The number of the next probe when there are destinations again: answers to older ones may
    /// still come.
    next_probe: u64,
}

/// What is known of a revision's destinations.
#[derive(Debug)]
struct Destinations {
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
            pace: Pace::default(),
        }
    }

    fn apply(&mut self, update: Update) {
        match update {
            Update::Revision(revision) => self.revision(revision),
            Update::RevisionDeleted(id) => self.revision_deleted(&id),
            Update::Backends(id, backends) => self.backends(&id, Some(backends)),
            Update::BackendsDeleted(id) => self.backends(&id, None),
            Update::PublicEndpoints(id, public) => self.public_endpoints(&id, public),
        }
    }

    fn known(&mut self, id: &RevisionId) -> &mut Known {
        if !self.revisions.contains_key(id) {
            self.revisions.insert(Arc::new(id.clone()), Box::default());
        }
        self.revisions.get_mut(id).expect("inserted")
    }

    fn publish_table(&mut self) {
        if !self.changes.is_empty() {
            self.shared.table.apply(self.changes.drain());
        }
        let listed = &self.shared.listed;
        if listed.receiver_count() > 0
            && let Some(listing) = self.shared.upstreams.changed()
        {
            listed.send_replace(listing);
        }
    }

    fn revision(&mut self, revision: Revision) {
        let id = Arc::clone(&revision.id);
        let known = self.revisions.entry(Arc::clone(&id)).or_default();
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
                    metrics: RevisionMetrics::default(),
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
        let id = Arc::clone(&revision.id);
        let entry = Arc::new(Entry {
            throttler: RevisionThrottler::new(
                Arc::clone(&id),
                revision.container_concurrency,
                shared.budget.clone(),
                fastrand::u64(..),
            ),
            stats: RevisionStats::new(Arc::clone(&id)),
            metrics: RevisionMetrics::default(),
            http: Arc::default(),
            cold_start: Arc::default(),
            sessions: sessions(&revision),
            revision,
        });
        self.changes
            .insert(Arc::clone(&id), Some(Arc::clone(&entry)));
        let known = self.known(&id);
        known.live = Some(Live {
            entry,
            destinations: None,
            next_probe: 0,
        });
        if let Some(public) = known.public.clone() {
            self.public_endpoints(&id, public);
        }
        self.list(&id);
    }

    fn revision_deleted(&mut self, id: &RevisionId) {
        let Some(known) = self.revisions.get_mut(id) else {
            return;
        };
        if let Some(live) = known.live.take() {
            let probes = live.destinations.iter().flat_map(|it| it.probes.values());
            probes.for_each(AbortHandle::abort);
            live.entry.throttler.delete();
            self.shared.metrics.forget(&live.entry);
            let id = Arc::clone(&live.entry.revision.id);
            self.changes.insert(id, None);
        }
        self.forget_if_empty(id);
    }

    fn backends(&mut self, id: &RevisionId, backends: Option<Backends>) {
        let known = self.known(id);
        let before = std::mem::replace(&mut known.backends, backends.map(Box::new));
        let (old, new) = (
            destinations(before.as_deref()),
            destinations(known.backends.as_deref()),
        );
        for dest in new.difference(&old) {
            self.shared.upstreams.list(*dest);
        }
        self.list(id);
        // Last, so that a destination which leaves is out of the choice before its pool closes.
        let live = self.live(id).map(|live| Arc::clone(&live.entry.http));
        for dest in old.difference(&new) {
            self.shared.upstreams.unlist(*dest);
            if let Some(http) = &live {
                self.shared.metrics.http.forget_pod(http, *dest);
            }
        }
        self.forget_if_empty(id);
    }

    fn public_endpoints(&mut self, id: &RevisionId, public: PublicEndpoints) {
        let shared = Rc::clone(&self.shared);
        let known = self.known(id);
        if let Some(live) = &known.live {
            let throttler = &live.entry.throttler;
            throttler.public_endpoints(&public.addresses[..], &shared.options.pod_ip);
        }
        known.public = Some(public);
        self.meet_peers(id);
    }

    fn forget_if_empty(&mut self, id: &RevisionId) {
        let known = self.revisions.get(id);
        if known.is_some_and(|known| known.live.is_none() && known.backends.is_none()) {
            self.revisions.remove(id);
        }
    }

    /// Tells the revision's state what is listed now.
    fn list(&mut self, id: &RevisionId) {
        let options = self.shared.options.probe;
        let Some(known) = self.revisions.get_mut(id) else {
            return;
        };
        let Some(live) = &mut known.live else {
            return;
        };
        let none = Backends::default();
        let listed = known.backends.as_deref().unwrap_or(&none);
        if live.destinations.is_none() && listed.has_no_pods() {
            return;
        }
        let mut effects = Vec::new();
        live.destinations(options).state.list(listed, &mut effects);
        self.act(id, effects);
        if let Some(live) = self.live(id) {
            live.rest();
        }
    }

    fn probed(&mut self, done: &Done) {
        if done.answer == Answer::Pass {
            self.pace.passed(done.took);
        }
        let mut effects = Vec::new();
        if let Some(known) = self.destinations(&done.id) {
            known.state.answered(&done.probe, done.answer, &mut effects);
        }
        self.act(&done.id, effects);
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Lost(id, dest) => {
                let mut effects = Vec::new();
                if let Some(known) = self.destinations(&id) {
                    known.state.lost(dest, &mut effects);
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

    fn destinations(&mut self, id: &RevisionId) -> Option<&mut Destinations> {
        self.live(id)?.destinations.as_deref_mut()
    }

    fn act(&mut self, id: &RevisionId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(usable) => {
                    self.publish(id, &usable);
                }
                Effect::Probe(probe) => self.probe(id, probe),
                Effect::Cancel(target) => {
                    if let Some(known) = self.destinations(id)
                        && let Some(probe) = known.probes.remove(&target)
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

    fn probe(&mut self, id: &RevisionId, mut probe: Probe) {
        probe.timeout = self.pace.stretch(probe.timeout);
        let (Target::Pod(dest) | Target::ClusterIp(dest)) = probe.target;
        let upstream = self.shared.upstreams.plain(dest);
        let addressable = self.shared.options.probe.mesh_pod_addressability;
        let passthrough = addressable.then(|| private_host(id)).flatten();
        let made = prober::make(upstream, probe, passthrough, Rc::clone(&self.slots));
        let Some(live) = self.live(id) else {
            return;
        };
        let owner = Arc::clone(&live.entry.revision.id);
        let task = self.probes.spawn_local(async move {
            let (answer, took) = made.await;
            Done {
                id: owner,
                probe,
                answer,
                took,
            }
        });
        let superseded = self
            .destinations(id)
            .and_then(|known| known.probes.insert(probe.target, task));
        if let Some(superseded) = superseded {
            superseded.abort();
        }
    }
}

// === impl Live ===

impl Live {
    fn destinations(&mut self, options: ProbeOptions) -> &mut Destinations {
        let (optimization, number) = (self.entry.revision.probe_optimization, self.next_probe);
        self.destinations.get_or_insert_with(|| {
            Box::new(Destinations {
                state: BackendsState::new(options, optimization, number),
                probes: HashMap::new(),
            })
        })
    }

    /// Keeps nothing for a revision at zero.
    fn rest(&mut self) {
        let at_rest = self.destinations.as_ref().and_then(|it| it.state.at_rest());
        if let Some(next) = at_rest {
            self.next_probe = next;
            self.destinations = None;
        }
    }
}

/// Everything a list names; the ClusterIP is of no use without pods.
fn destinations(backends: Option<&Backends>) -> BTreeSet<SocketAddr> {
    backends
        .into_iter()
        .filter(|it| !it.has_no_pods())
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
