//! The cluster in memory: Services, revisions and replicas, and what a controller does with them.
//!
//! Documents come in from manifests, actions from the autoscaler, events from replicas; updates go
//! out to the autoscaler and the activator, routes to the gateway. Everything runs on one thread;
//! no borrow outlives a call. Makes no scaling decision of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use autoscaler::world::Action;
use serving::config::Autoscaler;
use serving::{AnchoredClock, RevisionId, UnixTime};
use tokio::sync::Notify;

use crate::console::Console;
use crate::manifest::{Finding, ServiceDocument};
use crate::router::RoutingTable;
use crate::service::{Catalog, Changes};
use crate::supervisor::port::Ports;
use crate::tether::Guard;

mod events;
pub mod outbox;
pub mod probe_board;
pub mod replica;
pub mod revision;
pub mod updates;

use outbox::{Changed, Outbox};
use probe_board::ProbeBoard;
use replica::{Replica, Seed, State};
use revision::Revision;

/// After a replica could not be made, for want of ports or descriptors.
const SCALE_RETRY: Duration = Duration::from_secs(1);

/// How a cluster behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long requests of a replica that goes away may still take.
    pub drain_timeout: Duration,
    /// Exits in a row before readiness until requests are refused.
    pub start_failures: u32,
    /// Replicas of one revision.
    pub max_replicas_per_revision: usize,
    /// Replicas of all revisions.
    pub max_replicas: usize,
    /// The feature `tag-header-based-routing`.
    pub tag_header: bool,
    /// The limit of open files of apps, where it is not to be this program's own.
    pub app_open_files: Option<u64>,
}

/// Where requests to public services may lead.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Tells the autoscaler.
    pub board: ProbeBoard,
    /// The activator's own port.
    pub activator: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    paths: Paths,
    settings: RefCell<Settings>,
    config: RefCell<Autoscaler>,
    clock: AnchoredClock,
    console: Console,
    catalog: RefCell<Catalog>,
    revisions: RefCell<BTreeMap<RevisionId, Rc<Revision>>>,
    routes: RefCell<Rc<RoutingTable>>,
    ports: RefCell<Ports>,
    guard: RefCell<Guard>,
    outbox: Outbox,
    next_replica: Cell<u64>,
    replicas: Cell<usize>,
    over_limit: Cell<bool>,
    retrying: Cell<bool>,
    replica_ended: Notify,
    ending: Cell<bool>,
}

// === impl Cluster: making ===

impl Cluster {
    /// A cluster without Services.
    pub fn new(
        settings: Settings,
        config: Autoscaler,
        console: Console,
        guard: Guard,
        ports: Ports,
        paths: Paths,
    ) -> Self {
        let outbox = Outbox::default();
        outbox.mark_config();
        Self {
            paths,
            settings: RefCell::new(settings),
            config: RefCell::new(config),
            clock: AnchoredClock::new(),
            console,
            catalog: RefCell::default(),
            revisions: RefCell::default(),
            routes: RefCell::default(),
            ports: RefCell::new(ports),
            guard: RefCell::new(guard),
            outbox,
            next_replica: Cell::new(1),
            replicas: Cell::new(0),
            over_limit: Cell::new(false),
            retrying: Cell::new(false),
            replica_ended: Notify::new(),
            ending: Cell::new(false),
        }
    }

    /// Where it prints.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// How long requests of a replica that goes away may still take.
    pub fn drain_timeout(&self) -> Duration {
        self.settings.borrow().drain_timeout
    }

    /// The limit of open files of apps, where it is not to be this program's own.
    pub fn app_open_files(&self) -> Option<u64> {
        self.settings.borrow().app_open_files
    }

    /// The autoscaler's settings.
    pub fn config(&self) -> Autoscaler {
        self.config.borrow().clone()
    }

    /// The present.
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// The routes in force.
    pub fn routes(&self) -> Rc<RoutingTable> {
        Rc::clone(&self.routes.borrow())
    }

    /// A revision by its id.
    pub fn revision(&self, id: &RevisionId) -> Option<Rc<Revision>> {
        self.revisions.borrow().get(id).map(Rc::clone)
    }

    /// All revisions, sorted.
    pub fn revisions(&self) -> Vec<Rc<Revision>> {
        self.revisions.borrow().values().map(Rc::clone).collect()
    }

    /// Looks at the Services.
    pub fn with_catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.catalog.borrow())
    }

    /// What is still to be told to the others.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}

// === impl Cluster: manifests ===

impl Cluster {
    /// Makes documents true, with the cluster's settings as given by the same manifests. Nothing
    /// changes when a problem is found.
    pub fn apply(
        self: &Rc<Self>,
        documents: &[ServiceDocument],
        config: &Autoscaler,
        tag_header: bool,
    ) -> Result<Changes, Vec<Finding>> {
        let changes = self.catalog.borrow_mut().apply(documents)?;
        self.settings.borrow_mut().tag_header = tag_header;
        // The autoscaler reconciles nothing before it has heard the first.
        if self.config.replace(config.clone()) != *config {
            self.outbox.mark_config();
        }
        for id in &changes.removed {
            self.remove(id);
        }
        for id in &changes.created {
            self.create(id);
        }
        self.settle();
        Ok(changes)
    }

    fn create(self: &Rc<Self>, id: &RevisionId) {
        let catalog = self.catalog.borrow();
        let Some((service, found)) = catalog.find(id) else {
            return;
        };
        let revision = Rc::new(Revision::new(
            id.clone(),
            &service.name,
            found.template.clone(),
            catalog.reachability(id),
            &self.config.borrow(),
        ));
        drop(catalog);
        self.revisions
            .borrow_mut()
            .insert(id.clone(), Rc::clone(&revision));
        self.outbox.mark(id, Changed::ALL);
        self.scale(&revision);
    }

    fn remove(self: &Rc<Self>, id: &RevisionId) {
        let Some(revision) = self.revisions.borrow_mut().remove(id) else {
            return;
        };
        self.paths.board.forget(id);
        revision.removed.set(true);
        revision.wanted.set(0);
        self.outbox.mark(id, Changed::ALL);
        self.scale(&revision);
    }

    /// Brings routes and reachability in line with the catalog.
    fn settle(self: &Rc<Self>) {
        let catalog = self.catalog.borrow();
        let tag_header = self.settings.borrow().tag_header;
        self.routes.replace(Rc::new(catalog.routes(tag_header)));
        for revision in self.revisions() {
            if revision.set_reachability(catalog.reachability(&revision.id)) {
                self.outbox.mark(
                    &revision.id,
                    Changed {
                        pod_autoscaler: true,
                        ..Changed::default()
                    },
                );
            }
        }
    }
}

// === impl Cluster: actions of the autoscaler ===

impl Cluster {
    /// Carries out what the autoscaler asks for.
    pub fn act(self: &Rc<Self>, action: Action) {
        let Some(revision) = self.revision(action.revision()) else {
            return;
        };
        match action {
            Action::Scale { replicas, .. } => {
                let wanted = u32::try_from(replicas).unwrap_or(0);
                let before = revision.wanted.replace(wanted);
                if before != wanted {
                    self.console.say(format_args!(
                        "{} scales from {before} to {wanted}",
                        revision.id.name
                    ));
                }
                self.mark(&revision, |changed| changed.scale_target = true);
                self.scale(&revision);
            }
            Action::ServerlessService { spec, .. } => {
                revision.set_serverless_service(spec, self.now());
                self.note_path(&revision);
                self.mark(&revision, |changed| changed.serverless_service = true);
            }
            Action::Status { status, .. } => {
                let initialized = status.is_scale_target_initialized();
                revision.objects.borrow_mut().status = *status;
                if initialized && self.catalog.borrow_mut().mark_ready(&revision.id) {
                    self.settle();
                }
            }
            Action::Event {
                reason, message, ..
            } => tracing::warn!(revision = %revision.id, reason, message, "autoscaler"),
            // The autoscaler collects what its own Metrics say; nobody here reads them.
            Action::Metric { .. } | Action::MetricStatus { .. } => {}
        }
    }

    fn mark(&self, revision: &Revision, change: impl FnOnce(&mut Changed)) {
        let mut changed = Changed::default();
        change(&mut changed);
        self.outbox.mark(&revision.id, changed);
    }

    /// Starts and ends replicas until there are as many as wanted, within the limits.
    fn scale(self: &Rc<Self>, revision: &Rc<Revision>) {
        let living = revision.living();
        let wanted = if self.ending.get() {
            0
        } else {
            usize::try_from(revision.wanted.get()).unwrap_or(usize::MAX)
        };
        let settings = self.settings.borrow().clone();
        let allowed = wanted.min(settings.max_replicas_per_revision);
        if living.len() > allowed {
            let mut leaving = living;
            // As a ReplicaSet: those that serve nobody first, and of the rest the youngest.
            leaving.sort_by_key(|replica| {
                (
                    replica.state() == State::Ready,
                    replica.in_flight(),
                    std::cmp::Reverse(replica.number),
                )
            });
            let excess = leaving.len() - allowed;
            for replica in leaving.into_iter().take(excess) {
                self.send_away(revision, &replica);
            }
        } else {
            for _ in living.len()..allowed {
                if self.retrying.get() {
                    break;
                }
                if self.replicas.get() >= settings.max_replicas {
                    if !self.over_limit.replace(true) {
                        self.console.complain(format_args!(
                            "{} replicas run, which is the limit; raise --max-replicas for more",
                            settings.max_replicas
                        ));
                    }
                    break;
                }
                self.add(revision, settings.drain_timeout);
            }
        }
        if wanted == 0 {
            // The next request starts anew; one more failure is then enough to refuse again.
            revision.set_trouble(None);
        }
    }

    fn add(self: &Rc<Self>, revision: &Rc<Revision>, drain_timeout: Duration) {
        let number = self.next_replica.get();
        let made = self
            .ports
            .borrow_mut()
            .take()
            .map_err(|error| error.to_string())
            .and_then(|port| {
                Replica::new(revision, number, port, drain_timeout, self.now()).map_err(|error| {
                    self.ports.borrow_mut().release(port);
                    error.to_string()
                })
            });
        let (replica, seed): (Replica, Seed) = match made {
            Ok(made) => made,
            Err(error) => {
                self.console.complain(format_args!(
                    "{}: no further replica: {error}",
                    revision.id.name
                ));
                self.not_ready_because(revision, error);
                self.scale_later();
                return;
            }
        };
        self.next_replica.set(number + 1);
        self.replicas.set(self.replicas.get() + 1);
        let replica = Rc::new(replica);
        revision
            .replicas
            .borrow_mut()
            .insert(number, Rc::clone(&replica));
        self.mark(revision, |changed| changed.pods = true);
        tokio::task::spawn_local(replica::live(
            Rc::clone(self),
            Rc::clone(revision),
            replica,
            seed,
        ));
    }

    /// Tries again what could not be done now.
    fn scale_later(self: &Rc<Self>) {
        if self.retrying.replace(true) {
            return;
        }
        let cluster = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(SCALE_RETRY).await;
            cluster.retrying.set(false);
            for revision in cluster.revisions() {
                cluster.scale(&revision);
            }
        });
    }

    fn send_away(self: &Rc<Self>, revision: &Rc<Revision>, replica: &Rc<Replica>) {
        replica.go_away();
        self.replica_changed(revision);
    }

    /// Ends every replica and starts no more.
    pub async fn end(self: &Rc<Self>) {
        self.ending.set(true);
        for revision in self.revisions() {
            self.scale(&revision);
        }
        while self.replicas.get() > 0 {
            self.replica_ended.notified().await;
        }
    }
}
