//! Brings stats to the replica that owns their revision. Frames arrive from the stat server; what
//! this replica owns goes on to the driver, everything else to the owner over a WebSocket.
//!
//! One task per bucket holds what is on its way, so an owner that cannot be reached delays its own
//! bucket and no other, and what cannot be delivered in fifteen seconds is dropped. Upstream
//! (`pkg/autoscaler/statforwarder`) blocks all buckets meanwhile and never gives up.

mod bucket;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::encode_varint;
use serving::AnchoredClock;
use serving::hash::{BucketSet, LeaseHolder};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::stat_frame::{self, Malformed, Message};

/// Messages that wait for one bucket's owner; further ones are dropped.
pub const MAX_WAITING: usize = 1000;

/// Who records the stats of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Assignment {
    /// Nobody has held the Lease yet.
    #[default]
    Unknown,
    /// This replica.
    Local,
    /// The replica behind these URLs, to be tried in order.
    Remote(Vec<String>),
}

/// Assigns buckets to holders. Clones share the assignments.
#[derive(Clone, Debug)]
pub struct Assignments {
    set: Arc<BucketSet>,
    buckets: Arc<[watch::Sender<Assignment>]>,
}

/// How this replica and the others are addressed.
#[derive(Clone, Debug)]
pub struct Addressing {
    /// `POD_IP`.
    pub own_ip: String,
    /// Namespace of the bucket Services.
    pub namespace: String,
    /// `CLUSTER_DOMAIN`.
    pub cluster_domain: String,
    /// The port of the stat server.
    pub port: u16,
}

/// Routes frames until its input ends.
#[derive(Debug)]
pub struct StatForwarder {
    assignments: Assignments,
    clock: AnchoredClock,
    queues: Vec<mpsc::Sender<Bytes>>,
    tasks: JoinSet<()>,
    local: mpsc::Sender<Bytes>,
}

// === impl Assignments ===

impl Assignments {
    /// No bucket is assigned yet.
    pub fn new(set: BucketSet) -> Self {
        let buckets = set
            .names()
            .iter()
            .map(|_| watch::Sender::default())
            .collect();
        Self {
            set: Arc::new(set),
            buckets,
        }
    }

    /// All names, in order.
    pub fn names(&self) -> &[String] {
        self.set.names()
    }

    /// Assigns a bucket; unknown names are ignored. True when that changes something.
    pub fn assign(&self, bucket: &str, assignment: Assignment) -> bool {
        let Some(position) = self.set.position(bucket) else {
            return false;
        };
        self.buckets[position].send_if_modified(|present| {
            let changed = *present != assignment;
            *present = assignment;
            changed
        })
    }

    /// Assigns a bucket to the holder of its Lease. A Lease that was released, or is held by a
    /// program of another kind, changes nothing: until there is a new holder the old one goes on.
    pub fn assign_to_holder(&self, bucket: &str, holder: &str, addressing: &Addressing) -> bool {
        let Ok(holder) = LeaseHolder::parse(holder) else {
            return false;
        };
        self.assign(bucket, addressing.assignment(bucket, &holder))
    }

    /// Whether a bucket is recorded here.
    pub fn is_local(&self, bucket: &str) -> bool {
        self.set
            .position(bucket)
            .is_some_and(|position| *self.buckets[position].borrow() == Assignment::Local)
    }

    fn owner(&self, message: &Message<'_>) -> usize {
        if self.buckets.len() == 1 {
            return 0;
        }
        self.set
            .owner_index(&format!("{}/{}", message.namespace, message.name))
    }

    fn is_local_at(&self, position: usize) -> bool {
        *self.buckets[position].borrow() == Assignment::Local
    }
}

// === impl Addressing ===

impl Addressing {
    fn assignment(&self, bucket: &str, holder: &LeaseHolder) -> Assignment {
        if holder.pod_ip == self.own_ip {
            return Assignment::Local;
        }
        let port = self.port;
        let host = match holder.pod_ip.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => holder.pod_ip.clone(),
        };
        let (namespace, domain) = (&self.namespace, &self.cluster_domain);
        Assignment::Remote(vec![
            format!("ws://{host}:{port}"),
            format!("ws://{bucket}.{namespace}.svc.{domain}:{port}"),
        ])
    }
}

// === impl StatForwarder ===

impl StatForwarder {
    /// Spawns the tasks of all buckets. `local` leads to the driver.
    pub fn new(assignments: Assignments, local: mpsc::Sender<Bytes>) -> Self {
        let mut tasks = JoinSet::new();
        let start = |assignment: &watch::Sender<Assignment>| {
            let (sender, receiver) = mpsc::channel(MAX_WAITING);
            let assignment = assignment.subscribe();
            tasks.spawn(bucket::run(receiver, assignment, local.clone()));
            sender
        };
        let queues = assignments.buckets.iter().map(start).collect();
        Self {
            assignments,
            clock: AnchoredClock::new(),
            queues,
            tasks,
            local,
        }
    }

    /// Routes until `frames` ends or `shutdown`; what is on its way is given up then.
    pub async fn run(mut self, mut frames: mpsc::Receiver<Bytes>, shutdown: CancellationToken) {
        loop {
            let frame = tokio::select! {
                frame = frames.recv() => frame,
                () = shutdown.cancelled() => None,
            };
            let Some(frame) = frame else {
                break;
            };
            match self.route(&frame) {
                Ok(Some(local)) => {
                    if self.local.send(local).await.is_err() {
                        break;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, bytes = frame.len(), "failed to decode stats");
                }
            }
        }
        self.tasks.shutdown().await;
    }

    /// Queues what is other replicas', and returns a frame with what is to be recorded here.
    fn route(&self, frame: &Bytes) -> Result<Option<Bytes>, Malformed> {
        if self.queues.len() == 1 && self.assignments.is_local_at(0) {
            return Ok(Some(frame.clone()));
        }
        let mut local = BytesMut::new();
        let mut remote = Vec::new();
        stat_frame::for_each_message(frame, |bytes, message| {
            if !message.has_stat() {
                return;
            }
            let position = self.assignments.owner(&message);
            if self.assignments.is_local_at(position) {
                put_message(bytes, &mut local);
            } else {
                remote.push((position, stamped(bytes, &message, || self.now_seconds())));
            }
        })?;
        for (position, message) in remote {
            if self.queues[position].try_send(message).is_err() {
                let bucket = &self.assignments.names()[position];
                tracing::warn!(bucket, "dropping a stat: too many wait for their owner");
            }
        }
        Ok((!local.is_empty()).then(|| local.freeze()))
    }

    fn now_seconds(&self) -> i64 {
        self.clock.now().seconds()
    }
}

/// Appends a message to a frame.
fn put_message(message: &[u8], frame: &mut BytesMut) {
    frame.reserve(message.len() + 11);
    frame.put_u8(0x0a);
    encode_varint(message.len() as u64, frame);
    frame.put_slice(message);
}

/// The message with a time stamp: the second in which it arrived first counts, however long it
/// takes to its owner. A second occurrence of the stat adds its fields to the first one's.
fn stamped(bytes: &[u8], message: &Message<'_>, now: impl FnOnce() -> i64) -> Bytes {
    if message.timestamp != 0 {
        return Bytes::copy_from_slice(bytes);
    }
    let mut stat = BytesMut::new();
    stat.put_u8(0x38);
    encode_varint(now().cast_unsigned(), &mut stat);
    let mut out = BytesMut::with_capacity(bytes.len() + stat.len() + 2);
    out.put_slice(bytes);
    out.put_u8(0x1a);
    encode_varint(stat.len() as u64, &mut out);
    out.put_slice(&stat);
    out.freeze()
}

#[cfg(test)]
mod tests;
