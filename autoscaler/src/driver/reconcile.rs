//! From a plan to effects, actions and what the driver believes from then on.

use serving::UnixTime;

use super::core::{Core, Due, Effect, Now};
use super::revision::{
    Belief, Collecting, InlineProbe, Revision, RunningDecider, StatusWrite, asked_before,
};
use crate::collection::Collection;
use crate::decider::{Decider, DeciderStatus};
use crate::metrics::RevisionLabels;
use crate::plan::{self, Observed, Plan};
use crate::pod_autoscaler::{
    CONFIGURATION_LABEL, Metric, MetricSpec, PodAutoscaler, REVISION_LABEL, SERVICE_LABEL,
    names_revision,
};
use crate::scale::ProbeOutcome;
use crate::scraper::ScrapeError;
use crate::spec::{Aggregation, CollectionSpec, DeciderSpec, Settings};
use crate::world::{Action, Batch, BatchNumber, EventObject, MetricObject};

impl Core {
    /// Reconciles one PodAutoscaler, unless it is another replica's or must be probed first.
    pub(super) fn reconcile(&mut self, slot: usize, now: Now) {
        if let Some(again) = self.revisions[slot].face_facts(now.instant) {
            self.queue.add_at(slot, again);
        }
        let revision = &self.revisions[slot];
        let (Some(object), Some(settings)) = (&revision.pod_autoscaler, &revision.settings) else {
            return;
        };
        if !self.ownership.owns(&revision.id) || revision.scale_target.is_none() {
            return;
        }
        let observed = observe(revision, object, settings, now);
        let probe = if plan::needs_probe(&observed) {
            match revision.probe.inline {
                InlineProbe::Done(outcome) => outcome,
                InlineProbe::Running => return,
                InlineProbe::Idle => match self.probe_target(object) {
                    Some(target) => {
                        let key = self.key(slot);
                        self.effects.push(Effect::Probe(key, target));
                        self.revisions[slot].probe.inline = InlineProbe::Running;
                        return;
                    }
                    None => ProbeOutcome::Failed,
                },
            }
        } else {
            ProbeOutcome::NotProbed
        };
        let plan = plan::plan(&observed, probe);
        self.revisions[slot].probe.inline = match self.revisions[slot].probe.inline {
            InlineProbe::Running => InlineProbe::Running,
            InlineProbe::Idle | InlineProbe::Done(_) => InlineProbe::Idle,
        };
        self.carry_out(slot, plan, now);
    }

    /// Whether an activator answered the inline probe.
    pub(crate) fn probed(&mut self, key: super::revision::Key, activator: bool) {
        if let Some(revision) = self.get(key) {
            revision.probe.inline = InlineProbe::Done(if activator {
                ProbeOutcome::Activator
            } else {
                ProbeOutcome::Failed
            });
            self.queue.add(key.slot, crate::work_queue::Lane::Normal);
        }
    }

    /// The background probe has ended, however. The PodAutoscaler is looked at again a second later
    /// (`reenqeuePeriod`).
    pub(crate) fn background_probed(&mut self, key: super::revision::Key, now: Now) {
        if let Some(revision) = self.get(key) {
            revision.probe.background = false;
            self.queue
                .add_at(key.slot, now.instant + std::time::Duration::from_secs(1));
        }
    }

    fn probe_target(&self, object: &PodAutoscaler) -> Option<crate::world::ProbeTarget> {
        if object.status.service_name.is_empty() {
            return None;
        }
        (self.probe_targets)(object)
    }

    fn carry_out(&mut self, slot: usize, plan: Plan, now: Now) {
        let Plan {
            actions,
            status,
            status_on_failure,
            requeue_after_ns,
            background_probe,
            want,
            error,
        } = plan;
        if let Some(after) = requeue_after_ns {
            let after = std::time::Duration::from_nanos(after.max(0).unsigned_abs());
            self.queue.add_at(slot, now.instant + after);
        }
        if background_probe {
            self.probe_in_background(slot);
        }
        self.ensure_gauges(slot);
        let owed = self.retry_metric_status(slot, now.unix);
        let mut batch = self.new_batch();
        for action in actions {
            self.act(slot, action, &mut batch, now);
        }
        self.write_status(slot, status, status_on_failure, &mut batch, now);
        let revision = &mut self.revisions[slot];
        if let Some(want) = want {
            revision.want = want;
            if let Some(gauges) = &revision.gauges {
                gauges.reconciled(want, revision.counts);
            }
        }
        match error {
            Some(error) => {
                batch.actions.push(Action::Event {
                    revision: revision.id.clone(),
                    about: EventObject::PodAutoscaler,
                    reason: "InternalError",
                    message: error.to_string(),
                });
                self.queue.add_failed(slot, now.instant);
            }
            // Nothing left to do means that what was asked for before has been done.
            None if batch.actions.is_empty() && !owed => self.queue.forget_failures(&slot),
            None => {}
        }
        self.send(batch);
    }

    fn ensure_gauges(&mut self, slot: usize) {
        let revision = &mut self.revisions[slot];
        if let (None, Some(object), Some(settings)) = (
            &revision.gauges,
            &revision.pod_autoscaler,
            &revision.settings,
        ) {
            let metric = settings.decider.scaling_metric;
            revision.gauges = Some(self.metrics.revision(labels(object), metric));
        }
    }

    fn probe_in_background(&mut self, slot: usize) {
        if self.revisions[slot].probe.background {
            return;
        }
        let target = self.revisions[slot]
            .pod_autoscaler
            .as_ref()
            .and_then(|object| self.probe_target(object));
        if let Some(target) = target {
            let key = self.key(slot);
            self.revisions[slot].probe.background = true;
            self.effects.push(Effect::ProbeInBackground(key, target));
        }
    }

    fn act(&mut self, slot: usize, action: plan::Action, batch: &mut Batch, now: Now) {
        let revision = &mut self.revisions[slot];
        let id = revision.id.clone();
        match action {
            plan::Action::CreateDecider(spec) => self.create_decider(slot, spec, now),
            plan::Action::UpdateDecider(spec) => {
                if let Some(running) = &mut revision.decider {
                    running.spec = spec;
                }
            }
            plan::Action::CreateMetric(spec) | plan::Action::UpdateMetric(spec) => {
                self.ask_metric(slot, spec.clone(), batch.number, now);
                batch.actions.push(Action::Metric { revision: id, spec });
            }
            plan::Action::Scale(replicas) => {
                revision.asked.replicas = Some(Belief::new(replicas, batch.number, now.instant));
                let target = revision
                    .pod_autoscaler
                    .as_ref()
                    .map(|object| object.spec.scale_target_ref.clone())
                    .unwrap_or_default();
                batch.actions.push(Action::Scale {
                    revision: id,
                    target,
                    replicas,
                });
            }
            plan::Action::CreateServerlessService(spec)
            | plan::Action::UpdateServerlessService(spec) => {
                let asked = revision.asked.sks.as_ref();
                if asked.is_some_and(|asked| asked.value == spec && asked.holds(now.instant)) {
                    return;
                }
                let mut belief = Belief::new(spec.clone(), batch.number, now.instant);
                if let Some(sks) = &mut revision.sks {
                    let known = std::mem::replace(&mut sks.spec, spec.clone());
                    belief = belief.instead_of(asked_before(&mut revision.asked.sks, known));
                    sks.generation += 1;
                }
                revision.asked.sks = Some(belief);
                batch
                    .actions
                    .push(Action::ServerlessService { revision: id, spec });
            }
        }
    }

    fn write_status(
        &mut self,
        slot: usize,
        status: crate::pod_autoscaler::PodAutoscalerStatus,
        on_failure: crate::pod_autoscaler::PodAutoscalerStatus,
        batch: &mut Batch,
        now: Now,
    ) {
        let revision = &mut self.revisions[slot];
        let Some(object) = &mut revision.pod_autoscaler else {
            return;
        };
        if !status.differs_from(&object.status) {
            return;
        }
        let known = std::mem::replace(&mut object.status, status.clone());
        let before = match revision.asked.status.take() {
            // The object still has what it had before the write that is on its way.
            Some(write) if write.holds(now.instant) => write.value.before,
            _ => known,
        };
        let write = StatusWrite { before, on_failure };
        revision.asked.status = Some(Belief::new(write, batch.number, now.instant));
        batch.actions.push(Action::Status {
            revision: revision.id.clone(),
            status: Box::new(status),
        });
    }

    fn create_decider(&mut self, slot: usize, spec: DeciderSpec, now: Now) {
        let key = self.key(slot);
        let due = self.decide_phases.first(now.instant);
        let revision = &mut self.revisions[slot];
        let decider = Decider::new(&spec, revision.counts.ready, now.unix);
        if let Some(gauges) = &revision.gauges {
            gauges.start(decider.is_panicking());
        }
        revision.decider = Some(RunningDecider {
            decider,
            spec,
            status: DeciderStatus::initial(&spec),
            last: None,
            due,
        });
        self.timers.add(due, Due::Decide(key));
    }

    /// Collects as the Metric being written says, without waiting for it to come back.
    fn ask_metric(&mut self, slot: usize, spec: MetricSpec, batch: BatchNumber, now: Now) {
        let revision = &mut self.revisions[slot];
        let Some(object) = &revision.pod_autoscaler else {
            return;
        };
        match &mut revision.metric {
            Some(metric) => {
                let known = std::mem::replace(&mut metric.metric.spec, spec.clone());
                let before = asked_before(&mut revision.asked.metric, known);
                let belief = Belief::new(spec, batch, now.instant).instead_of(before);
                revision.asked.metric = Some(belief);
            }
            None => {
                revision.asked.metric = Some(Belief::new(spec.clone(), batch, now.instant));
                revision.metric = Some(Box::new(MetricObject::of(object, spec)));
            }
        }
        self.reconcile_metric(slot, now);
    }

    /// Starts or changes collection as the Metric says.
    pub(super) fn reconcile_metric(&mut self, slot: usize, now: Now) {
        let revision = &self.revisions[slot];
        let Some(object) = &revision.metric else {
            return;
        };
        if !self.ownership.owns(&revision.id) {
            return;
        }
        self.metrics.queues().metrics.passed();
        let spec = object.metric.spec.clone();
        let collection_spec = CollectionSpec {
            stable_window_ns: spec.stable_window_ns,
            panic_window_ns: spec.panic_window_ns,
            scrape: !spec.scrape_target.is_empty(),
            aggregation: object.aggregation,
        };
        let host = (!spec.scrape_target.is_empty())
            .then(|| format!("{}.{}", spec.scrape_target, revision.id.namespace).into());
        let key = self.key(slot);
        let revision = &mut self.revisions[slot];
        let handed_over = match revision.collecting {
            None => self.handed_over.claim(&revision.id),
            Some(_) => None,
        };
        match &mut revision.collecting {
            Some(collecting) => {
                collecting.collection.update(&collection_spec, now.unix);
                collecting.spec = spec;
                collecting.host = host;
                // How pods can be reached is found out anew.
                collecting.pods_addressable = true;
            }
            None => {
                let due = self.scrape_phases.first(now.instant);
                let mut collection = Collection::new(&collection_spec);
                if let Some(windows) = handed_over {
                    collection.take_over(&windows, now.unix);
                }
                revision.collecting = Some(Collecting {
                    collection,
                    spec,
                    host,
                    scraping: false,
                    pods_addressable: true,
                    connections: Default::default(),
                    error: None,
                    due,
                });
                self.timers.add(due, Due::Scrape(key));
            }
        }
        self.write_metric_status(slot, now.unix);
    }

    /// Writes how collection goes, where the platform has Metric objects.
    pub(super) fn write_metric_status(&mut self, slot: usize, now: UnixTime) {
        let revision = &mut self.revisions[slot];
        let (Some(object), Some(collecting)) = (&mut revision.metric, &revision.collecting) else {
            return;
        };
        if object.is_ours() {
            return;
        }
        let mut status = object.status.clone();
        status.initialize_conditions(now);
        let unlabelled = collecting.host.is_some() && !object.names_revision;
        match collecting.error.as_deref() {
            _ if unlabelled => {
                let message = format!(
                    "Failed to reconcile metric collection: label {REVISION_LABEL:?} not found or empty in Metric {}",
                    revision.id.name
                );
                status.mark_failed("CollectionFailed", message, now);
            }
            None => status.mark_ready(now),
            Some(error @ ScrapeError::DidNotReceiveStat { .. }) => {
                status.mark_failed("DidNotReceiveStat", error.to_string(), now);
            }
            Some(error) => {
                let message = format!("Failed to reconcile metric collection: {error}");
                status.mark_failed("CollectionFailed", message, now);
            }
        }
        status.observed_generation = object.generation;
        status
            .conditions
            .keep_unchanged_times(&object.status.conditions, now);
        if status.differs_from(&object.status) {
            object.status = status.clone();
            let revision = revision.id.clone();
            let mut batch = self.new_batch();
            batch.actions.push(Action::MetricStatus {
                revision,
                status: Box::new(status),
            });
            self.send(batch);
        }
    }

    /// Writes once more what could not be written. Whether there was something.
    fn retry_metric_status(&mut self, slot: usize, now: UnixTime) -> bool {
        let metric = self.revisions[slot].metric.as_ref();
        let owed = metric.is_some_and(|object| object.is_status_owed());
        if owed {
            self.write_metric_status(slot, now);
        }
        owed
    }
}

fn observe<'a>(
    revision: &'a Revision,
    pod_autoscaler: &'a PodAutoscaler,
    settings: &'a Settings,
    now: Now,
) -> Observed<'a> {
    Observed {
        pod_autoscaler,
        settings,
        sks: revision.sks.as_deref(),
        metric: revision.metric.as_ref().map(|object| &object.metric),
        decider: revision.decider_snapshot(),
        pods: revision.counts,
        scale_target: revision.effective_scale_target(now.instant),
        now: now.unix,
    }
}

fn labels(object: &PodAutoscaler) -> RevisionLabels {
    let label = |name: &str| object.labels.get(name).cloned().unwrap_or_default();
    RevisionLabels {
        k8s_namespace_name: object.id.namespace.clone(),
        kn_service_name: label(SERVICE_LABEL),
        kn_configuration_name: label(CONFIGURATION_LABEL),
        kn_revision_name: object.id.name.clone(),
    }
}

// === impl MetricObject ===

impl MetricObject {
    /// What is taken for true until the platform shows the object it made; for ever, where there are
    /// no such objects.
    fn of(object: &PodAutoscaler, spec: MetricSpec) -> Self {
        Self {
            metric: Metric {
                id: object.id.clone(),
                controller_uid: Some(object.uid.clone()),
                spec,
            },
            generation: UNSEEN,
            aggregation: Aggregation::of(&object.annotations),
            names_revision: names_revision(&object.labels),
            status: Default::default(),
        }
    }

    /// Whether no platform has shown this object yet.
    pub(super) fn is_ours(&self) -> bool {
        self.generation == UNSEEN
    }

    /// The status that was to be written is not there.
    pub(super) fn owe_status(&mut self) {
        self.status.observed_generation = UNWRITTEN;
    }

    fn is_status_owed(&self) -> bool {
        self.status.observed_generation == UNWRITTEN
    }
}

/// The generation of an object that the platform has not shown; real ones begin at 1.
const UNSEEN: i64 = 0;

/// The observed generation of a status of which nothing is known; it differs from all that are
/// written.
const UNWRITTEN: i64 = -1;
