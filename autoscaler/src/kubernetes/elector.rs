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
    owned: Arc<RwLock<Vec<bool>>>,
}

/// The buckets that were owned at one moment: what the driver reconciles.
#[derive(Debug)]
struct Owned {
    set: Arc<BucketSet>,
    owned: Vec<bool>,
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
        let owned = vec![false; set.names().len()];
        Self {
            set: Arc::new(set),
            owned: Arc::new(RwLock::new(owned)),
        }
    }

    /// Marks one bucket as owned and no other: StatefulSet mode.
    pub(super) fn own_only(&self, position: usize) {
        for (at, owned) in self.owned.write().iter_mut().enumerate() {
            *owned = at == position;
        }
    }

    pub(super) fn ownership(&self) -> Update {
        Update::Ownership(Arc::new(Owned {
            set: Arc::clone(&self.set),
            owned: self.owned.read().clone(),
        }))
    }
}

impl Ownership for Owned {
    fn owns(&self, revision: &RevisionId) -> bool {
        if let [owned] = *self.owned {
            return owned;
        }
        let bucket = self.set.owner_index(&revision.to_string());
        self.owned.get(bucket).copied().unwrap_or_default()
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
            // An API server that takes the request and never answers must not end the competition.
            let attempt = self.attempt(&api, &bucket, &mut candidate);
            let acquired = tokio::time::timeout(self.timing.renew_deadline, attempt).await;
            if acquired.is_ok_and(|acquired| acquired) {
                tracing::info!(bucket, "became the leader");
                self.change(position, true).await;
                self.hold(&api, &bucket, &mut candidate, &shutdown).await;
                self.change(position, false).await;
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
            let attempt = self.attempt(api, bucket, candidate);
            match tokio::time::timeout_at(deadline, attempt).await {
                Ok(true) => renewed = Instant::now(),
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

    async fn change(&self, position: usize, owned: bool) {
        if let Some(entry) = self.buckets.owned.write().get_mut(position) {
            *entry = owned;
        }
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
