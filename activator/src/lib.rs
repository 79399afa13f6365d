//! Knative Serving's activator: holds requests for revisions without ready pods, has them woken,
//! and releases, balances and routes the requests once there is somewhere to send them.
//!
//! The world comes in as plain [`Update`]s on a bounded channel; requests come in through
//! a [`serving::server`] or straight from a caller in the same process. Nothing in the default
//! parts knows Kubernetes; the watches live behind the feature `kubernetes`.

pub mod backends;
pub mod capacity;
pub mod concurrency_reporter;
pub mod endpoints;
pub mod options;
pub mod picker;
pub mod pod_tracker;
pub mod revision_throttler;
pub mod trackers;
pub mod world;

pub use options::{Limits, MeshMode, Options, ProbeOptions, RevisionSnapshot};
pub use world::{Backends, Protocol, PublicEndpoints, Revision, UPDATES_CAPACITY, Update};
