//! What the driver knows of one revision.

use std::sync::Arc;
use std::time::Duration;

use serving::{RevisionId, UnixTime};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::collection::Collection;
use crate::decider::{Decider, DeciderStatus, Observation};
use crate::metrics::RevisionGauges;
use crate::plan::{DeciderSnapshot, ScaleTarget};
use crate::pod_autoscaler::{
    MetricSpec, OperationMode, PodAutoscaler, PodAutoscalerStatus, ServerlessService,
    ServerlessServiceSpec,
};
use crate::pods::PodCounts;
use crate::pods::Supply;
use crate::scale::{ProbeOutcome, UNKNOWN_SCALE};
use crate::scraper::{ConnectionPool, PodTargets, ScrapeError};
use crate::spec::{DeciderSpec, Settings};
use crate::world::{BatchNumber, MetricObject, RevisionPod, RevisionSnapshot};

/// How long the driver goes on as if the world had changed as it asked, without being told so. A
/// write that was lost or undone is then noticed.
pub(super) const BELIEF_LIMIT: Duration = Duration::from_secs(30);

/// Names a revision in timers, queues and the answers of tasks; stale once the revision is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(super) slot: usize,
    pub(super) generation: u64,
}

/// Everything known of one revision. An entry exists as soon as anything is known, in whatever order
/// the platform tells.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) id: RevisionId,
    pub(super) generation: u64,
    pub(super) pod_autoscaler: Option<Box<PodAutoscaler>>,
    /// Derived from the PodAutoscaler and the config maps.
    pub(super) settings: Option<Box<Settings>>,
    pub(super) pods: SmallVec<[RevisionPod; 1]>,
    pub(super) counts: PodCounts,
    pub(super) sks: Option<Box<ServerlessService>>,
    /// `None` until the platform has said whether there is one.
    pub(super) scale_target: Option<Option<ScaleTarget>>,
    pub(super) metric: Option<Box<MetricObject>>,
    pub(super) asked: Asked,
    pub(super) decider: Option<RunningDecider>,
    pub(super) collecting: Option<Collecting>,
    pub(super) gauges: Option<Arc<RevisionGauges>>,
    pub(super) probe: Probe,
    /// The scale of the last reconcile.
    pub(super) want: i32,
}

/// What actions asked for and the world has not confirmed yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) sks: Option<Belief<ServerlessServiceSpec>>,
    pub(super) metric: Option<Belief<MetricSpec>>,
    pub(super) replicas: Option<Belief<i32>>,
    pub(super) status: Option<Belief<StatusWrite>>,
}

/// A status on its way.
#[derive(Debug)]
pub(super) struct StatusWrite {
    /// The status that the object had before.
    pub(super) before: PodAutoscalerStatus,
    /// The status to write when another action of the same batch fails.
    pub(super) on_failure: PodAutoscalerStatus,
}

/// Something that is taken for true for a while.
#[derive(Debug)]
pub(super) struct Belief<T> {
    pub(super) value: T,
    /// What asked for it.
    batch: BatchNumber,
    /// What the world has said to the contrary: the truth, should the belief not come true.
    observed: Option<T>,
    /// What was the case before it was asked for: the truth, should that fail.
    before: Option<T>,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct RunningDecider {
    pub(super) decider: Decider,
    pub(super) spec: DeciderSpec,
    pub(super) status: DeciderStatus,
    /// What the last valid tick saw, and when it was.
    pub(super) last: Option<(Observation, UnixTime)>,
    /// The next evaluation; a timer of another time belongs to a decider that is gone.
    pub(super) due: Instant,
}

#[derive(Debug)]
pub(super) struct Collecting {
    pub(super) collection: Collection,
    pub(super) spec: MetricSpec,
    /// `<scrape target>.<namespace>`; `None` where only activators report.
    pub(super) host: Option<Arc<str>>,
    /// Whether a round is running. Ticks pass unused meanwhile.
    pub(super) scraping: bool,
    pub(super) pods_addressable: bool,
    pub(super) connections: ConnectionPool,
    pub(super) error: Option<Box<ScrapeError>>,
    /// The next round; a timer of another time belongs to a collection that is gone.
    pub(super) due: Instant,
}

/// Activator probes of one revision.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probe {
    pub(super) inline: InlineProbe,
    /// Whether the revision is being probed in the background.
    pub(super) background: bool,
}

/// The probe that a reconcile waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InlineProbe {
    #[default]
    Idle,
    Running,
    /// To be used by the next reconcile, and only by that.
    Done(ProbeOutcome),
}

// === impl Revision ===

impl Revision {
    /// Takes objects for what they are where they did not become what was asked for in time. When
    /// that has to be looked at again.
    pub(super) fn face_facts(&mut self, now: Instant) -> Option<Instant> {
        if let (Some(spec), Some(sks)) = (disproved(&mut self.asked.sks, now), &mut self.sks) {
            sks.spec = spec;
        }
        let metric = disproved(&mut self.asked.metric, now);
        if let (Some(spec), Some(object)) = (metric, &mut self.metric) {
            object.metric.spec = spec;
        }
        let sks = self.asked.sks.as_ref().and_then(Belief::doubted_until);
        let metric = self.asked.metric.as_ref().and_then(Belief::doubted_until);
        sks.into_iter().chain(metric).min()
    }

    /// A write of `batch` failed, and those that were to follow it were not tried: takes everything
    /// that it asked for, and nothing has asked for since, for what it was before. Writing twice what
    /// had come through changes nothing.
    pub(super) fn take_back(&mut self, batch: BatchNumber) {
        self.asked.replicas.take_if(|belief| belief.is_of(batch));
        let sks = self.asked.sks.take_if(|belief| belief.is_of(batch));
        if let (Some(belief), Some(sks)) = (sks, &mut self.sks)
            && let Some(spec) = belief.truth()
        {
            sks.spec = spec;
        }
        let metric = self.asked.metric.take_if(|belief| belief.is_of(batch));
        if let (Some(belief), Some(object)) = (metric, &mut self.metric)
            && let Some(spec) = belief.truth()
        {
            object.metric.spec = spec;
        }
    }

    /// Whether a stat of this concurrency asks for a decision at once: the revision is at zero.
    ///
    /// It also does when no decision has been made yet and the revision idles at zero since before
    /// this process began, or was created there. Upstream lets that wait for the next tick, up to
    /// two seconds (`pkg/autoscaler/scaling/multiscaler.go`, `Poke`); nobody can depend on the delay.
    pub(super) fn is_woken_by(&self, average_concurrent_requests: f64) -> bool {
        let Some(running) = &self.decider else {
            return false;
        };
        let at_zero = || {
            let object = self.pod_autoscaler.as_ref();
            self.counts.ready == 0 && object.is_some_and(|object| object.status.is_inactive())
        };
        running.status.is_poked_by(average_concurrent_requests)
            || average_concurrent_requests != 0.0
                && running.status.desired_scale == UNKNOWN_SCALE
                && at_zero()
    }

    /// Whether a stat may do more, the revision being as it is, than add to the windows.
    pub(super) fn heeds_stats(&self) -> bool {
        self.decider.as_ref().is_some_and(|running| {
            running.status.desired_scale <= 0 || running.spec.extensions.learn_start_time
        })
    }

    /// Whether what was just recorded is a burst that is not to wait for the next tick; only where
    /// an annotation asks for it.
    pub(super) fn is_urgent(&self, now: UnixTime) -> bool {
        let (Some(running), Some(collecting)) = (&self.decider, &self.collecting) else {
            return false;
        };
        let spec = &running.spec;
        spec.extensions.learn_start_time && {
            let observed = collecting.collection.observe_for(spec, now);
            let desired = running.status.desired_scale;
            let supply = Supply::of(&self.counts);
            running
                .decider
                .is_urgent(spec, observed, supply, desired, now)
        }
    }

    pub(super) fn new(id: RevisionId, generation: u64) -> Self {
        Self {
            id,
            generation,
            pod_autoscaler: None,
            settings: None,
            pods: SmallVec::new(),
            counts: PodCounts::default(),
            sks: None,
            scale_target: None,
            metric: None,
            asked: Asked::default(),
            decider: None,
            collecting: None,
            gauges: None,
            probe: Probe::default(),
            want: UNKNOWN_SCALE,
        }
    }

    /// Whether nothing is known any more, so that the entry can go.
    pub(super) fn is_forgotten(&self) -> bool {
        self.pod_autoscaler.is_none()
            && self.pods.is_empty()
            && self.sks.is_none()
            && self.scale_target.flatten().is_none()
            && self.metric.is_none()
            && self.collecting.is_none()
    }

    pub(super) fn decider_snapshot(&self) -> Option<DeciderSnapshot> {
        self.decider.as_ref().map(|running| DeciderSnapshot {
            spec: running.spec,
            status: running.status,
        })
    }

    /// The replicas that the target has or is about to have.
    pub(super) fn effective_scale_target(&self, now: Instant) -> Option<ScaleTarget> {
        let observed = self.scale_target.flatten()?;
        match &self.asked.replicas {
            Some(belief) if belief.holds(now) => Some(ScaleTarget {
                replicas: Some(belief.value),
            }),
            _ => Some(observed),
        }
    }

    /// The ready pods with an address, by age.
    pub(super) fn targets(&self, stable_window_ns: i64, now: UnixTime) -> PodTargets {
        let mut targets = PodTargets::default();
        for RevisionPod { pod, stats } in &self.pods {
            if let Some(address) = stats.filter(|_| pod.is_ready()) {
                if pod.is_older_than(stable_window_ns, now) {
                    targets.old.push(address);
                } else {
                    targets.young.push(address);
                }
            }
        }
        targets
    }

    pub(super) fn snapshot(&self) -> Option<RevisionSnapshot> {
        self.pod_autoscaler.as_ref()?;
        let running = self.decider.as_ref();
        let (observed, decided_at) = running
            .and_then(|running| running.last)
            .map_or((Observation::default(), None), |(observed, at)| {
                (observed, Some(at))
            });
        let error = self.collecting.as_ref().and_then(|c| c.error.as_ref());
        Some(RevisionSnapshot {
            revision: self.id.clone(),
            desired: running.map_or(UNKNOWN_SCALE, |running| running.status.desired_scale),
            want: self.want,
            ready: self.counts.ready,
            not_ready: self.counts.not_ready,
            stable: observed.stable,
            panic: observed.panic,
            panic_mode: running.is_some_and(|running| running.decider.is_panicking()),
            excess_burst_capacity: running
                .map_or(0, |running| running.status.excess_burst_capacity),
            proxied: self
                .sks
                .as_ref()
                .and_then(|sks| sks.spec.mode)
                .map(|mode| mode == OperationMode::Proxy),
            decided_at,
            scrape_error: error.map(ToString::to_string),
        })
    }
}

// === impl Collecting ===

impl Collecting {
    /// Whether nothing is heard of the pods at present, so that averages may fall for want of data:
    /// the last round failed, or the one that is running takes so long that its second is missing.
    pub(super) fn is_blind(&self, now: UnixTime) -> bool {
        self.error.is_some() || self.scraping && self.collection.falls_in_silence(now)
    }
}

// === impl Belief ===

impl<T> Belief<T> {
    pub(super) fn new(value: T, batch: BatchNumber, now: Instant) -> Self {
        Self {
            value,
            batch,
            observed: None,
            before: None,
            until: now + BELIEF_LIMIT,
        }
    }

    /// Takes the place of `before`.
    pub(super) fn instead_of(mut self, before: T) -> Self {
        self.before = Some(before);
        self
    }

    /// Holds on to the belief against `observed`.
    pub(super) fn contradicted(&mut self, observed: T) {
        self.observed = Some(observed);
    }

    /// Whether `batch` asked for it.
    pub(super) fn is_of(&self, batch: BatchNumber) -> bool {
        self.batch == batch
    }

    /// What is the case if it did not come true, as far as that is known.
    fn truth(self) -> Option<T> {
        self.observed.or(self.before)
    }

    /// When the truth is due, if it has been heard.
    fn doubted_until(&self) -> Option<Instant> {
        self.observed.as_ref().map(|_| self.until)
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// What has been the case all along if `belief` did not come true in time, in which case it is
/// forgotten. Somebody may have changed an object just after it was written as believed.
pub(super) fn disproved<T>(belief: &mut Option<Belief<T>>, now: Instant) -> Option<T> {
    let overdue = belief.as_ref().is_some_and(|belief| !belief.holds(now));
    belief.take_if(|_| overdue)?.observed
}

/// What was the case before everything that has been asked for and not been confirmed, the last of
/// which has made it `known`.
pub(super) fn asked_before<T>(belief: &mut Option<Belief<T>>, known: T) -> T {
    belief.take().and_then(Belief::truth).unwrap_or(known)
}

/// Whether `belief` is still to be held against the contrary `observed`; forgets it otherwise.
pub(super) fn still_believed<T: PartialEq>(
    belief: &mut Option<Belief<T>>,
    observed: &T,
    now: Instant,
) -> bool {
    let held = belief
        .as_ref()
        .is_some_and(|belief| belief.holds(now) && belief.value != *observed);
    if !held {
        *belief = None;
    }
    held
}
