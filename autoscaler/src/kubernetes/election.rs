//! The rules by which replicas hold a Lease, those of client-go
//! (`tools/leaderelection/leaderelection.go`), as a pure state: a Lease as it was read and the time
//! in, what to write out.
//!
//! Whether a holder has gone is judged by when its record was last *seen to change*, never by the
//! times in it, so clocks need not agree.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// One replica's view of one Lease.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    lease_duration: Duration,
    observed: Option<Observed>,
}

/// A Lease's record, and when it was first seen so.
#[derive(Debug)]
struct Observed {
    record: LeaseSpec,
    at: Instant,
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(identity: String, lease_duration: Duration) -> Self {
        Self {
            identity,
            lease_duration,
            observed: None,
        }
    }

    /// Takes in a record that was read or written.
    pub(super) fn observe(&mut self, record: &LeaseSpec, now: Instant) {
        let changed = self
            .observed
            .as_ref()
            .is_none_or(|observed| observed.record != *record);
        if changed {
            self.observed = Some(Observed {
                record: record.clone(),
                at: now,
            });
        }
    }

    /// Whether this replica holds the Lease, as far as is known.
    pub(super) fn is_leader(&self) -> bool {
        let holder = self
            .observed
            .as_ref()
            .and_then(|observed| observed.record.holder_identity.as_deref());
        holder == Some(&*self.identity)
    }

    /// The record to write: to become leader, or to stay it. `None` while another replica holds a
    /// Lease that has not run out.
    pub(super) fn claim(&self, now: Instant, wall: Timestamp) -> Option<LeaseSpec> {
        let time = Some(MicroTime(wall));
        let mut record = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(whole_seconds(self.lease_duration)),
            acquire_time: time.clone(),
            renew_time: time,
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let Some(observed) = &self.observed else {
            return Some(record);
        };
        let old = &observed.record;
        let transitions = old.lease_transitions.unwrap_or_default();
        if self.is_leader() {
            record.acquire_time.clone_from(&old.acquire_time);
            record.lease_transitions = Some(transitions);
            return Some(record);
        }
        let held = old
            .holder_identity
            .as_deref()
            .is_some_and(|it| !it.is_empty());
        let seconds = old.lease_duration_seconds.unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        if held && now < observed.at + duration {
            return None;
        }
        record.lease_transitions = Some(transitions.saturating_add(1));
        Some(record)
    }

    /// The record that gives the Lease up, so that another replica need not wait for its end.
    pub(super) fn release(&self, wall: Timestamp) -> Option<LeaseSpec> {
        let observed = self.observed.as_ref().filter(|_| self.is_leader())?;
        let time = Some(MicroTime(wall));
        Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: time.clone(),
            renew_time: time,
            lease_transitions: observed.record.lease_transitions,
            ..LeaseSpec::default()
        })
    }
}

fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::Value;

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    /// Writes `claim` where everybody sees it.
    fn write(record: &LeaseSpec, to: &mut [&mut Candidate], now: Instant) {
        for candidate in to {
            candidate.observe(record, now);
        }
    }

    #[test]
    fn the_first_takes_a_lease_that_does_not_exist_and_keeps_it() {
        let start = Instant::now();
        let mut a = Candidate::new("a_10.0.0.1".to_owned(), LEASE);
        let first = a.claim(start, wall(0)).unwrap();
        assert_eq!(first.lease_duration_seconds, Some(60));
        assert_eq!(first.lease_transitions, Some(0));
        a.observe(&first, start);
        assert!(a.is_leader());
        let later = start + Duration::from_secs(10);
        let renewed = a.claim(later, wall(10)).unwrap();
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.renew_time, Some(MicroTime(wall(10))));
        assert_eq!(renewed.lease_transitions, Some(0));
    }

    #[test]
    fn a_lease_is_taken_over_only_after_it_stood_still_for_its_duration() {
        let start = Instant::now();
        let mut a = Candidate::new("a".to_owned(), LEASE);
        let mut b = Candidate::new("b".to_owned(), LEASE);
        // The holder's clock is a year behind; that changes nothing.
        let record = a.claim(start, wall(-31_536_000)).unwrap();
        write(&record, &mut [&mut a, &mut b], start);
        let soon = start + Duration::from_secs(59);
        assert_eq!(b.claim(soon, wall(59)), None);
        let renewed = a.claim(soon, wall(-31_535_941)).unwrap();
        write(&renewed, &mut [&mut a, &mut b], soon);
        assert_eq!(b.claim(soon + Duration::from_secs(59), wall(118)), None);
        let taken = b.claim(soon + LEASE, wall(119)).unwrap();
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(taken.lease_transitions, Some(1));
        write(&taken, &mut [&mut a, &mut b], soon + LEASE);
        assert!(b.is_leader() && !a.is_leader());
    }

    /// What client-go 0.35.4 sends to the API server: a replica takes a Lease that does not exist,
    /// renews and releases it, and another one takes it.
    fn recorded() -> [Lease; 4] {
        let lines = include_str!("election/recorded.jsonl").lines();
        let leases: Vec<Lease> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        leases.try_into().unwrap()
    }

    /// The line of the recording, which keeps every digit.
    fn recorded_json(line: usize) -> Value {
        let mut lines = include_str!("election/recorded.jsonl").lines();
        serde_json::from_str(lines.nth(line).unwrap()).unwrap()
    }

    fn json(spec: LeaseSpec) -> Value {
        let metadata = ObjectMeta {
            name: Some("autoscaler-bucket-00-of-01".to_owned()),
            namespace: Some("knative-serving".to_owned()),
            ..ObjectMeta::default()
        };
        let spec = Some(spec);
        serde_json::to_value(Lease { metadata, spec }).unwrap()
    }

    /// Upstream's replicas, and whoever looks at Leases, find in ours what they find in upstream's.
    #[test]
    fn leases_are_written_as_upstream_writes_them() {
        // Clocks count finer than the format does.
        let wall = |lease: &Lease| {
            let time = lease.spec.as_ref().and_then(|it| it.renew_time.clone());
            time.unwrap().0 + Duration::from_nanos(999)
        };
        let now = Instant::now();
        let leases = recorded();
        let mut a = Candidate::new("autoscaler-a_10.0.0.1".to_owned(), LEASE);
        let mut b = Candidate::new("autoscaler-b_10.0.0.2".to_owned(), LEASE);
        let first = a.claim(now, wall(&leases[0])).unwrap();
        assert_eq!(json(first.clone()), recorded_json(0));
        write(&first, &mut [&mut a, &mut b], now);
        let renewed = a.claim(now, wall(&leases[1])).unwrap();
        assert_eq!(json(renewed.clone()), recorded_json(1));
        write(&renewed, &mut [&mut a, &mut b], now);
        let released = a.release(wall(&leases[2])).unwrap();
        assert_eq!(json(released.clone()), recorded_json(2));
        write(&released, &mut [&mut a, &mut b], now);
        let taken = b.claim(now, wall(&leases[3])).unwrap();
        assert_eq!(json(taken), recorded_json(3));
    }

    /// During an upgrade both kinds compete for one Lease.
    #[test]
    fn upstreams_leases_are_understood() {
        let now = Instant::now();
        let [first, renewed, released, taken] = recorded().map(|lease| lease.spec.unwrap());
        let mut ours = Candidate::new("autoscaler-c_10.0.0.3".to_owned(), LEASE);
        ours.observe(&first, now);
        assert_eq!(ours.claim(now, wall(0)), None);
        // A renewal starts the wait anew.
        ours.observe(&renewed, now + LEASE / 2);
        assert_eq!(ours.claim(now + LEASE, wall(0)), None);
        ours.observe(&released, now + LEASE);
        let claimed = ours.claim(now + LEASE, wall(0)).unwrap();
        assert_eq!(claimed.lease_transitions, Some(1));
        // Upstream's replica was faster.
        ours.observe(&taken, now + LEASE);
        assert_eq!(ours.claim(now + LEASE + LEASE / 2, wall(0)), None);
        let claimed = ours.claim(now + 2 * LEASE, wall(0)).unwrap();
        assert_eq!(claimed.lease_transitions, Some(2));
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let start = Instant::now();
        let mut a = Candidate::new("a".to_owned(), LEASE);
        let mut b = Candidate::new("b".to_owned(), LEASE);
        assert_eq!(b.release(wall(0)), None, "not its to release");
        let record = a.claim(start, wall(0)).unwrap();
        write(&record, &mut [&mut a, &mut b], start);
        let released = a.release(wall(1)).unwrap();
        assert_eq!(released.holder_identity.as_deref(), Some(""));
        assert_eq!(released.lease_duration_seconds, Some(1));
        write(&released, &mut [&mut a, &mut b], start);
        assert!(!a.is_leader());
        assert_eq!(b.claim(start, wall(1)).unwrap().lease_transitions, Some(1));
    }
}
