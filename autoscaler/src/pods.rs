//! What the autoscaler wants to know of a Pod, and how it counts them.
//!
//! A watch turns Kubernetes Pods (or, on one machine, processes) into [`Pod`] values; counts come
//! from adding and removing single pods, so that no decision ever lists a namespace. Behaviour of
//! upstream's `pkg/resources/pods.go`.

use std::net::IpAddr;

use serving::UnixTime;

/// `status.phase` of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PodPhase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// The fields of a Pod that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    pub phase: PodPhase,
    /// A deletion time stamp is set.
    pub deleting: bool,
    /// Condition `Ready` is True.
    pub ready: bool,
    /// `status.startTime`.
    pub start_time: Option<UnixTime>,
    /// `status.podIP`.
    pub ip: Option<IpAddr>,
}

/// How many pods of one revision are in which state. A pod may count twice: pending and
/// terminating ones are also not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodCounts {
    pub ready: u32,
    pub not_ready: u32,
    pub pending: u32,
    pub terminating: u32,
}

/// The pods there are. One number stands for ready pods and none starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Supply {
    pub ready: u32,
    /// Not ready yet, and not about to go. Counts only where the spec says so.
    pub starting: u32,
}

// === impl PodPhase ===

impl PodPhase {
    /// Reads the word on the wire; anything unknown is [`PodPhase::Unknown`].
    pub fn parse(text: &str) -> Self {
        match text {
            "Pending" => Self::Pending,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

// === impl Pod ===

impl Pod {
    /// Whether the pod counts as ready capacity and may be scraped: running, not being deleted,
    /// and ready.
    pub fn is_ready(&self) -> bool {
        self.phase == PodPhase::Running && !self.deleting && self.ready
    }

    /// Whether the pod has existed for at least `window_ns` at `now`. One without a start time
    /// counts as old: it is ready, so it was started at some time.
    pub fn is_older_than(&self, window_ns: i64, now: UnixTime) -> bool {
        self.start_time
            .is_none_or(|start| now.0.saturating_sub(start.0) >= window_ns)
    }

    /// What this pod alone adds to the counts of its revision.
    pub fn counts(&self) -> PodCounts {
        let mut counts = PodCounts::default();
        match self.phase {
            PodPhase::Pending => {
                counts.pending = 1;
                counts.not_ready = 1;
            }
            PodPhase::Running if self.deleting => {
                counts.terminating = 1;
                counts.not_ready = 1;
            }
            PodPhase::Running if self.ready => counts.ready = 1,
            PodPhase::Running => counts.not_ready = 1,
            PodPhase::Succeeded | PodPhase::Failed | PodPhase::Unknown => {}
        }
        counts
    }
}

// === impl PodCounts ===

impl PodCounts {
    /// Counts a pod in.
    pub fn add(&mut self, pod: &Pod) {
        let one = pod.counts();
        self.ready += one.ready;
        self.not_ready += one.not_ready;
        self.pending += one.pending;
        self.terminating += one.terminating;
    }

    /// Counts a pod out that was counted in before with the same fields.
    pub fn remove(&mut self, pod: &Pod) {
        let one = pod.counts();
        self.ready = self.ready.saturating_sub(one.ready);
        self.not_ready = self.not_ready.saturating_sub(one.not_ready);
        self.pending = self.pending.saturating_sub(one.pending);
        self.terminating = self.terminating.saturating_sub(one.terminating);
    }
}

impl<'a> FromIterator<&'a Pod> for PodCounts {
    fn from_iter<I: IntoIterator<Item = &'a Pod>>(pods: I) -> Self {
        let mut counts = Self::default();
        for pod in pods {
            counts.add(pod);
        }
        counts
    }
}

// === impl Supply ===

impl Supply {
    /// Those of a revision. Pods that are neither ready nor terminating are starting.
    pub fn of(counts: &PodCounts) -> Self {
        Self {
            ready: counts.ready,
            starting: counts.not_ready.saturating_sub(counts.terminating),
        }
    }
}

impl From<u32> for Supply {
    fn from(ready: u32) -> Self {
        Self { ready, starting: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: PodPhase, deleting: bool, ready: bool) -> Pod {
        Pod {
            phase,
            deleting,
            ready,
            ..Pod::default()
        }
    }

    fn counts(ready: u32, not_ready: u32, pending: u32, terminating: u32) -> PodCounts {
        PodCounts {
            ready,
            not_ready,
            pending,
            terminating,
        }
    }

    #[test]
    fn every_state_is_counted_as_the_reference_does() {
        let table = [
            (PodPhase::Pending, false, false, counts(0, 1, 1, 0)),
            (PodPhase::Pending, true, false, counts(0, 1, 1, 0)),
            (PodPhase::Running, true, true, counts(0, 1, 0, 1)),
            (PodPhase::Running, false, true, counts(1, 0, 0, 0)),
            (PodPhase::Running, false, false, counts(0, 1, 0, 0)),
            (PodPhase::Succeeded, false, true, counts(0, 0, 0, 0)),
            (PodPhase::Failed, true, false, counts(0, 0, 0, 0)),
            (PodPhase::Unknown, false, true, counts(0, 0, 0, 0)),
        ];
        for (phase, deleting, ready, expected) in table {
            assert_eq!(pod(phase, deleting, ready).counts(), expected, "{phase:?}");
        }
    }

    #[test]
    fn adding_and_removing_one_by_one_equals_counting_anew() {
        let pods = [
            pod(PodPhase::Running, false, true),
            pod(PodPhase::Pending, false, false),
            pod(PodPhase::Running, true, true),
        ];
        let mut incremental: PodCounts = pods.iter().collect();
        assert_eq!(incremental, counts(1, 2, 1, 1));
        incremental.remove(&pods[0]);
        assert_eq!(incremental, pods[1..].iter().collect());
    }

    #[test]
    fn age_is_inclusive_and_a_missing_start_time_is_old() {
        let mut young = pod(PodPhase::Running, false, true);
        young.start_time = Some(UnixTime::from_seconds(100));
        let window = 60_000_000_000;
        assert!(!young.is_older_than(window, UnixTime::from_seconds(159)));
        assert!(young.is_older_than(window, UnixTime::from_seconds(160)));
        young.start_time = None;
        assert!(young.is_older_than(window, UnixTime::from_seconds(0)));
    }
}
