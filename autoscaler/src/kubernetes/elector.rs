//! Competes for the Leases of all buckets, each on its own. Upstream:
//! `cmd/autoscaler/leaderelection.go` and client-go's elector.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::RwLock;
use serving::RevisionId;
use serving::config::leader_election::LeaseTiming;
use serving::hash::BucketSet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::election::Candidate;
use crate::world::{Ownership, Update};

/// A failed attempt to become leader is repeated after the retry period and up to this share of it
/// more (`JitterFactor`).
const JITTER: f64 = 1.2;
/// Releasing a Lease on the way out takes no longer.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Which buckets are this replica's, by their position.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    set: Arc<BucketSet>,
    held: Arc<RwLock<Vec<Held>>>,
}

/// Whether a bucket is this replica's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    No,
    /// As long as its Lease is not renewed: a process that was stopped for a while must not act as
    /// the leader that it was, before it has had time to notice.
    Until(Instant),
    Always,
}

/// The buckets that were owned at one moment, as long as they are: what the driver reconciles.
#[derive(Debug)]
struct Owned {
    set: Arc<BucketSet>,
    then: Vec<bool>,
    held: Arc<RwLock<Vec<Held>>>,
}

// === impl Held ===

impl Held {
    fn is_now(self, now: Instant) -> bool {
        match self {
            Self::No => false,
            Self::Until(end) => now < end,
            Self::Always => true,
        }
    }
}

/// What every elector needs.
#[derive(Clone)]
pub(super) struct Elector {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// `<pod name>_<pod IP>`.
    pub(super) identity: String,
    pub(super) timing: LeaseTiming,
    pub(super) buckets: Buckets,
    pub(super) updates: mpsc::Sender<Update>,
}

// === impl Buckets ===

impl Buckets {
    /// None is owned yet.
    pub(super) fn new(set: BucketSet) -> Self {
        let held = vec![Held::No; set.names().len()];
        Self {
            set: Arc::new(set),
            held: Arc::new(RwLock::new(held)),
        }
    }

    /// Marks one bucket as owned and no other: StatefulSet mode.
    pub(super) fn own_only(&self, position: usize) {
        for (at, held) in self.held.write().iter_mut().enumerate() {
            *held = if at == position {
                Held::Always
            } else {
                Held::No
            };
        }
    }

    pub(super) fn ownership(&self) -> Update {
        Update::Ownership(Arc::new(Owned {
            set: Arc::clone(&self.set),
            then: self.held.read().iter().map(|it| *it != Held::No).collect(),
            held: Arc::clone(&self.held),
        }))
    }

    fn set(&self, position: usize, held: Held) {
        if let Some(entry) = self.held.write().get_mut(position) {
            *entry = held;
        }
    }
}

impl Ownership for Owned {
    fn owns(&self, revision: &RevisionId) -> bool {
        let bucket = match self.then.len() {
            1 => 0,
            _ => self.set.owner_index(&revision.to_string()),
        };
        let was = self.then.get(bucket).is_some_and(|it| *it);
        was && self
            .held
            .read()
            .get(bucket)
            .is_some_and(|held| held.is_now(Instant::now()))
    }
}

// === impl Elector ===

impl Elector {
    /// Competes until `shutdown`, then releases what it holds.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut electors = JoinSet::new();
        for (position, name) in self.buckets.set.names().iter().enumerate() {
            let elector = self.clone();
            electors.spawn(elector.compete(position, name.clone(), shutdown.clone()));
        }
        while electors.join_next().await.is_some() {}
    }

    async fn compete(self, position: usize, bucket: String, shutdown: CancellationToken) {
        let mut candidate = Candidate::new(self.identity.clone(), self.timing.lease_duration);
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            // An API server that takes the request and never answers must not end the competition.
            let attempt = self.attempt(&api, &bucket, &mut candidate);
            let acquired = tokio::time::timeout(self.timing.renew_deadline, attempt).await;
            if acquired.is_ok_and(|acquired| acquired) {
                tracing::info!(bucket, "became the leader");
                let lease = Held::Until(began + self.timing.lease_duration);
                self.change(position, lease).await;
                self.hold(&api, position, &bucket, &mut candidate, &shutdown)
                    .await;
                self.change(position, Held::No).await;
                tracing::info!(bucket, "stopped leading");
                continue;
            }
            let pause = self
                .timing
                .retry_period
                .mul_f64(1.0 + JITTER * fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.release(&api, &bucket, &candidate).await;
    }

    /// Renews until that has failed for the renew deadline, somebody else took the Lease, or the
    /// shutdown.
    async fn hold(
        &self,
        api: &Api<Lease>,
        position: usize,
        bucket: &str,
        candidate: &mut Candidate,
        shutdown: &CancellationToken,
    ) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry_period) => {}
                () = shutdown.cancelled() => return,
            }
            let deadline = renewed + self.timing.renew_deadline;
            let began = Instant::now();
            let attempt = self.attempt(api, bucket, candidate);
            match tokio::time::timeout_at(deadline, attempt).await {
                Ok(true) => {
                    renewed = Instant::now();
                    // Others count from when they see the renewal, which is not before it began.
                    let lease = Held::Until(began + self.timing.lease_duration);
                    self.buckets.set(position, lease);
                }
                Ok(false) if candidate.is_leader() && Instant::now() < deadline => {}
                _ => return,
            }
        }
    }

    /// Reads the Lease and claims it if it may be claimed.
    async fn attempt(&self, api: &Api<Lease>, bucket: &str, candidate: &mut Candidate) -> bool {
        match self.try_claim(api, bucket, candidate).await {
            Ok(leader) => leader,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(bucket, error, "failed to claim a Lease");
                false
            }
        }
    }

    async fn try_claim(
        &self,
        api: &Api<Lease>,
        bucket: &str,
        candidate: &mut Candidate,
    ) -> kube::Result<bool> {
        let lease = api.get_opt(bucket).await?;
        if let Some(lease) = &lease {
            let record = lease.spec.clone().unwrap_or_default();
            candidate.observe(&record, Instant::now());
        }
        let Some(record) = candidate.claim(Instant::now(), Timestamp::now()) else {
            return Ok(false);
        };
        let written = write(api, bucket, lease, record).await?;
        let record = written.spec.unwrap_or_default();
        candidate.observe(&record, Instant::now());
        Ok(candidate.is_leader())
    }

    async fn release(&self, api: &Api<Lease>, bucket: &str, candidate: &Candidate) {
        let Some(record) = candidate.release(Timestamp::now()) else {
            return;
        };
        let release = async {
            let lease = api.get(bucket).await?;
            let holder = lease
                .spec
                .as_ref()
                .and_then(|it| it.holder_identity.clone());
            if holder.as_deref() == Some(&*self.identity) {
                write(api, bucket, Some(lease), record).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(RELEASE_LIMIT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(bucket, error, "failed to release a Lease");
            }
            Err(_elapsed) => tracing::warn!(bucket, "failed to release a Lease in time"),
        }
    }

    async fn change(&self, position: usize, held: Held) {
        self.buckets.set(position, held);
        // Nobody listens any more once the driver has ended.
        let _ = self.updates.send(self.buckets.ownership()).await;
    }
}

async fn write(
    api: &Api<Lease>,
    bucket: &str,
    lease: Option<Lease>,
    record: LeaseSpec,
) -> kube::Result<Lease> {
    let parameters = PostParams::default();
    match lease {
        Some(lease) => {
            let lease = Lease {
                spec: Some(record),
                ..lease
            };
            api.replace(bucket, &parameters, &lease).await
        }
        None => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(bucket.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(record),
            };
            api.create(&parameters, &lease).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Lease that is not renewed ends by itself, and an older view does not own what came later.
    #[tokio::test(start_paused = true)]
    async fn a_bucket_is_held_as_long_as_its_lease() {
        let lease = Duration::from_secs(15);
        let buckets = Buckets::new(BucketSet::new(["a".to_owned()]));
        let revision = RevisionId::new("default", "hello-00001");
        let view = |buckets: &Buckets| match buckets.ownership() {
            Update::Ownership(ownership) => ownership,
            other => panic!("{other:?}"),
        };
        let before = view(&buckets);
        buckets.set(0, Held::Until(Instant::now() + lease));
        let leading = view(&buckets);
        assert!(leading.owns(&revision) && !before.owns(&revision));
        tokio::time::advance(lease - Duration::from_millis(1)).await;
        assert!(leading.owns(&revision));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!leading.owns(&revision));
        buckets.set(0, Held::Until(Instant::now() + lease));
        assert!(leading.owns(&revision));
        buckets.own_only(0);
        tokio::time::advance(lease).await;
        assert!(view(&buckets).owns(&revision));
    }
}
