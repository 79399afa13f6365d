//! The driver without its tasks: takes in what happened, and says what is to be done about it.
//!
//! Synchronous and told the time, so that whole lives of revisions can be tested in virtual time.
//! The shell around it (`driver`) brings updates, frames, finished rounds and probes, and carries
//! out the effects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serving::{RevisionId, UnixTime};
use tokio::time::Instant;

use super::names::Names;
use super::revision::{Belief, Key, Revision, StatusWrite, still_believed};
use super::revisions::Revisions;
use crate::decider::TICK_SECONDS;
use crate::handover::{self, HandedOver, InvalidHandover};
use crate::metrics::Metrics;
use crate::plan::ScaleTarget;
use crate::pod_autoscaler::{PodAutoscaler, ServerlessService};
use crate::pods::Supply;
use crate::scale::UNKNOWN_SCALE;
use crate::scraper::{self, Round};
use crate::spec::{Settings, Source};
use crate::timers::{Phases, Timers};
use crate::work_queue::{Lane, WorkQueue};
use crate::world::{
    Action, Batch, BatchNumber, ClusterConfig, EventObject, FailedAction, Failure, MetricObject,
    Ownership, OwnsAll, ProbeTarget, ProbeTargets, RevisionPod, RevisionSnapshot, Update,
};

/// Between the creation of a decider and its first evaluation, and between any two; those that are
/// created by the thousand are spread over two ticks.
pub(super) const TICK: Duration = Duration::from_secs(TICK_SECONDS as u64);
/// Between two rounds of scraping one revision.
pub(super) const SCRAPE_TICK: Duration = Duration::from_secs(1);
/// Batches that wait for room in the channel of actions; while there are so many, nothing is
/// reconciled. The keys wait in the work queue instead, each once.
const MAX_OUTBOX: usize = 256;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) unix: UnixTime,
}

/// Work for tasks.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Scrape; answer with [`Core::scraped`].
    Scrape(Key, Box<Round>),
    /// Probe once; answer with [`Core::probed`].
    Probe(Key, ProbeTarget),
    /// Probe until an activator answers, or give up; answer with [`Core::background_probed`].
    ProbeInBackground(Key, ProbeTarget),
}

/// What comes up at its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// Evaluate a decider.
    Decide(Key),
    /// Scrape a collection.
    Scrape(Key),
}

/// All state of the driver.
pub(crate) struct Core {
    pub(super) revisions: Revisions,
    pub(super) names: Names,
    generations: u64,
    pub(super) queue: WorkQueue<usize>,
    pub(super) timers: Timers<Due>,
    pub(super) decide_phases: Phases,
    pub(super) scrape_phases: Phases,
    pub(super) config: Option<Arc<ClusterConfig>>,
    pub(super) ownership: Arc<dyn Ownership>,
    pub(super) scrape: scraper::Options,
    pub(super) probe_targets: ProbeTargets,
    pub(super) metrics: Metrics,
    pub(super) effects: Vec<Effect>,
    last_batch: BatchNumber,
    outbox: VecDeque<Batch>,
    /// From a leader that has gone, for when revisions become this replica's.
    pub(super) handed_over: HandedOver,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(
        scrape: scraper::Options,
        probe_targets: ProbeTargets,
        metrics: Metrics,
    ) -> Self {
        Self {
            revisions: Revisions::default(),
            names: Names::default(),
            generations: 0,
            queue: WorkQueue::new(),
            timers: Timers::new(),
            decide_phases: Phases::new(TICK),
            scrape_phases: Phases::new(SCRAPE_TICK),
            config: None,
            ownership: Arc::new(OwnsAll),
            scrape,
            probe_targets,
            metrics,
            effects: Vec::new(),
            last_batch: BatchNumber::default(),
            outbox: VecDeque::new(),
            handed_over: HandedOver::default(),
        }
    }

    /// Takes in something that happened.
    pub(crate) fn update(&mut self, update: Update, now: Now) {
        self.queue.at(now.instant);
        match update {
            Update::Config(config) => self.configure(config),
            Update::Ownership(ownership) => self.change_ownership(ownership, now),
            Update::PodAutoscaler(object) => self.pod_autoscaler(*object, now),
            Update::PodAutoscalerDeleted(id) => self.pod_autoscaler_deleted(&id),
            Update::Pods(id, pods) => self.pods(id, pods, now),
            Update::ServerlessService(id, object) => self.serverless_service(id, object, now),
            Update::ScaleTarget(id, target) => self.scale_target(id, target, now),
            Update::Metric(id, object) => self.metric(id, object, now),
            Update::Failed(id, failure) => self.failed(&id, failure, now),
        }
    }

    /// Reconciles what waits, while there is room for its actions. Returns how many.
    pub(crate) fn work(&mut self, now: Now) -> u32 {
        let mut count = 0;
        self.queue.promote(now.instant);
        while self.outbox.len() < MAX_OUTBOX {
            let Some((slot, waited)) = self.queue.pop() else {
                break;
            };
            count += 1;
            self.metrics.queues().pod_autoscalers.waited(waited);
            if self.revisions.contains(slot) {
                self.reconcile(slot, now);
            }
        }
        count
    }

    /// Lets a scrape see how many wait.
    pub(crate) fn count_queued(&self) {
        let counts = self.queue.counts();
        let queue = &self.metrics.queues().pod_autoscalers;
        queue.counted(self.queue.len(), counts.adds, counts.retries);
    }

    /// When something is due that no update brings.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = [
            self.queue.next_due(),
            self.timers.next_due(),
            self.handed_over.until(),
        ];
        due.into_iter().flatten().min()
    }

    /// The next batch to send.
    pub(crate) fn next_batch(&mut self) -> Option<Batch> {
        self.outbox.pop_front()
    }

    /// Whether a batch waits to be sent.
    pub(crate) fn has_batch(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether [`work`](Self::work) would do something.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() && self.outbox.len() < MAX_OUTBOX
    }

    /// The tasks that have become due.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What another replica needs to go on with the revisions that are this one's.
    pub(crate) fn hand_over(&mut self, now: Now) -> Vec<Bytes> {
        self.revisions.settle();
        let windows = self.revisions.iter().filter_map(|revision| {
            let collecting = revision.collecting.as_ref()?;
            let owned = self.ownership.owns(&revision.id);
            let windows = collecting.collection.hand_over(&revision.id, now.unix);
            windows.filter(|_| owned)
        });
        handover::encode(windows)
    }

    /// Takes in what another replica handed over: at once where this one collects already, else
    /// when it begins to.
    pub(crate) fn take_over(&mut self, message: &[u8], now: Now) -> Result<(), InvalidHandover> {
        for windows in handover::decode(message)? {
            let slot = self.slot_of(&windows.namespace, &windows.name);
            let revision = slot.map(|slot| &mut self.revisions[slot]);
            match revision.and_then(|revision| revision.collecting.as_mut()) {
                Some(collecting) => collecting.collection.take_over(&windows, now.unix),
                None => self.handed_over.keep(windows, now.instant),
            }
        }
        Ok(())
    }

    /// All revisions that have a PodAutoscaler, sorted.
    pub(crate) fn snapshot(&self) -> Vec<RevisionSnapshot> {
        let mut snapshots: Vec<_> = self
            .revisions
            .iter()
            .filter_map(Revision::snapshot)
            .collect();
        snapshots.sort_by(|a, b| a.revision.cmp(&b.revision));
        snapshots
    }

    /// A batch to be filled and sent.
    pub(super) fn new_batch(&mut self) -> Batch {
        self.last_batch = self.last_batch.next();
        Batch {
            number: self.last_batch,
            actions: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, batch: Batch) {
        if !batch.actions.is_empty() {
            self.outbox.push_back(batch);
        }
    }

    pub(super) fn key(&self, slot: usize) -> Key {
        Key {
            slot,
            generation: self.revisions[slot].generation,
        }
    }

    /// The revision that `key` was made for, if it is still there.
    pub(super) fn get(&mut self, key: Key) -> Option<&mut Revision> {
        self.revisions
            .get_mut(key.slot)
            .filter(|revision| revision.generation == key.generation)
    }

    pub(super) fn slot_of(&self, namespace: &str, name: &str) -> Option<usize> {
        self.names.get(namespace, name)
    }

    fn slot(&mut self, id: &RevisionId) -> usize {
        if let Some(slot) = self.slot_of(&id.namespace, &id.name) {
            return slot;
        }
        self.generations += 1;
        let revision = Revision::new(id.clone(), self.generations);
        let slot = self.revisions.insert(revision);
        self.names.insert(&id.namespace, &id.name, slot);
        slot
    }

    fn forget_if_empty(&mut self, slot: usize) {
        if self.revisions[slot].is_forgotten() {
            let revision = self.revisions.remove(slot);
            self.names.remove(&revision.id.namespace, &revision.id.name);
            self.queue.remove(&slot);
        }
    }

    fn configure(&mut self, config: Arc<ClusterConfig>) {
        for slot in self.revisions.slots() {
            let revision = &mut self.revisions[slot];
            if let Some(object) = &revision.pod_autoscaler {
                revision.settings = Some(derive(object, &config));
                self.queue.add(slot, Lane::Slow);
            }
        }
        self.config = Some(config);
    }

    /// What is no longer this replica's stops being scraped and decided; it starts again as after a
    /// restart.
    fn change_ownership(&mut self, ownership: Arc<dyn Ownership>, now: Now) {
        self.ownership = ownership;
        for slot in self.revisions.slots() {
            if self.ownership.owns(&self.revisions[slot].id) {
                self.reconcile_metric(slot, now);
                self.queue.add(slot, Lane::Slow);
            } else {
                self.drop_decider(slot);
                self.revisions[slot].collecting = None;
            }
        }
    }

    fn pod_autoscaler(&mut self, mut object: PodAutoscaler, now: Now) {
        let slot = self.slot(&object.id);
        let revision = &mut self.revisions[slot];
        if let (Some(write), Some(known)) = (&revision.asked.status, &revision.pod_autoscaler) {
            // Until the write arrives, what comes is older than what is known.
            if write.holds(now.instant) && object.status.differs_from(&known.status) {
                object.status.clone_from(&known.status);
            } else {
                revision.asked.status = None;
            }
        }
        revision.settings = self.config.as_deref().map(|config| derive(&object, config));
        revision.pod_autoscaler = Some(Box::new(object));
        self.queue.add(slot, Lane::Normal);
    }

    fn pod_autoscaler_deleted(&mut self, id: &RevisionId) {
        let Some(slot) = self.slot_of(&id.namespace, &id.name) else {
            return;
        };
        self.drop_decider(slot);
        let revision = &mut self.revisions[slot];
        revision.pod_autoscaler = None;
        revision.settings = None;
        revision.asked = super::revision::Asked::default();
        revision.want = UNKNOWN_SCALE;
        // A platform that has Metric objects says itself when this one goes.
        if revision
            .metric
            .as_ref()
            .is_none_or(|metric| metric.is_ours())
        {
            revision.metric = None;
            revision.collecting = None;
        }
        self.forget_if_empty(slot);
    }

    fn pods(&mut self, id: RevisionId, pods: Vec<RevisionPod>, now: Now) {
        let slot = self.slot(&id);
        let revision = &mut self.revisions[slot];
        revision.counts = pods.iter().map(|pod| &pod.pod).collect();
        revision.pods = pods.into();
        if let Some(running) = &mut revision.decider {
            let supply = Supply::of(&revision.counts);
            running
                .decider
                .observe_supply(&running.spec, supply, now.unix);
        }
        if let Some(collecting) = &mut revision.collecting {
            let present = &revision.pods;
            collecting
                .connections
                .retain(|address| present.iter().any(|pod| pod.stats == Some(address)));
        }
        self.queue.add(slot, Lane::Normal);
        self.forget_if_empty(slot);
    }

    fn serverless_service(
        &mut self,
        id: RevisionId,
        object: Option<Box<ServerlessService>>,
        now: Now,
    ) {
        let slot = self.slot(&id);
        let revision = &mut self.revisions[slot];
        revision.sks = object.map(|mut object| {
            let asked = &mut revision.asked.sks;
            if still_believed(asked, &object.spec, now.instant)
                && let Some(belief) = asked
            {
                let observed = std::mem::replace(&mut object.spec, belief.value.clone());
                belief.contradicted(observed);
                // Its controller cannot have seen that yet.
                object.generation += 1;
            }
            object
        });
        if revision.sks.is_none() {
            revision.asked.sks = None;
        }
        self.queue.add(slot, Lane::Normal);
        self.forget_if_empty(slot);
    }

    fn scale_target(&mut self, id: RevisionId, target: Option<ScaleTarget>, now: Now) {
        let slot = self.slot(&id);
        let revision = &mut self.revisions[slot];
        let unknown = revision.scale_target.is_none();
        let before = revision.effective_scale_target(now.instant);
        let observed = target.map_or(0, |target| target.replicas.unwrap_or(1));
        still_believed(&mut revision.asked.replicas, &observed, now.instant);
        revision.scale_target = Some(target);
        // Somebody else changed it, or it has just appeared.
        if unknown || revision.effective_scale_target(now.instant) != before {
            self.queue.add(slot, Lane::Normal);
        }
        self.forget_if_empty(slot);
    }

    fn metric(&mut self, id: RevisionId, object: Option<Box<MetricObject>>, now: Now) {
        let slot = self.slot(&id);
        let revision = &mut self.revisions[slot];
        match object {
            Some(mut object) => {
                let asked = &mut revision.asked.metric;
                if still_believed(asked, &object.metric.spec, now.instant)
                    && let Some(belief) = asked
                {
                    let observed = std::mem::replace(&mut object.metric.spec, belief.value.clone());
                    belief.contradicted(observed);
                }
                revision.metric = Some(object);
                self.reconcile_metric(slot, now);
            }
            None => {
                revision.metric = None;
                revision.collecting = None;
                revision.asked.metric = None;
            }
        }
        self.queue.add(slot, Lane::Normal);
        self.forget_if_empty(slot);
    }

    /// An action failed: what its batch asked for is no longer taken for true, the status is the one
    /// for this case, and the revision is tried again. What later batches asked for is still on its
    /// way, a later status too: that one says more than what this one would have.
    fn failed(&mut self, id: &RevisionId, failure: Failure, now: Now) {
        let Some(slot) = self.slot_of(&id.namespace, &id.name) else {
            return;
        };
        let mut batch = self.new_batch();
        if let Some(message) = failure.message {
            batch.actions.push(Action::Event {
                revision: id.clone(),
                about: match failure.action {
                    FailedAction::MetricStatus => EventObject::Metric,
                    _ => EventObject::PodAutoscaler,
                },
                reason: match failure.action {
                    FailedAction::Status | FailedAction::MetricStatus => "UpdateFailed",
                    _ => "InternalError",
                },
                message,
            });
        }
        let revision = &mut self.revisions[slot];
        if failure.action == FailedAction::MetricStatus {
            if let Some(metric) = &mut revision.metric {
                metric.owe_status();
            }
        } else {
            revision.take_back(failure.batch);
            let written = &mut revision.asked.status;
            if let (Some(write), Some(object)) = (
                written.take_if(|write| write.is_of(failure.batch)),
                &mut revision.pod_autoscaler,
            ) {
                let StatusWrite { before, on_failure } = write.value;
                let on_failure_wanted =
                    failure.action != FailedAction::Status && on_failure.differs_from(&before);
                object.status = before.clone();
                if on_failure_wanted {
                    object.status.clone_from(&on_failure);
                    batch.actions.push(Action::Status {
                        revision: id.clone(),
                        status: Box::new(on_failure.clone()),
                    });
                    let write = StatusWrite { before, on_failure };
                    *written = Some(Belief::new(write, batch.number, now.instant));
                }
            }
        }
        self.send(batch);
        self.queue.add_failed(slot, now.instant);
    }

    fn drop_decider(&mut self, slot: usize) {
        let revision = &mut self.revisions[slot];
        revision.decider = None;
        if let Some(gauges) = revision.gauges.take() {
            self.metrics.remove(&gauges);
        }
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("revisions", &self.revisions.len())
            .field("queued", &self.queue.len())
            .field("outbox", &self.outbox.len())
            .finish_non_exhaustive()
    }
}

fn derive(object: &PodAutoscaler, config: &ClusterConfig) -> Box<Settings> {
    let deadline = i64::try_from(config.progress_deadline.as_nanos()).unwrap_or(i64::MAX);
    Box::new(Settings::derive(&Source::of(
        object,
        &config.autoscaler,
        deadline,
    )))
}
