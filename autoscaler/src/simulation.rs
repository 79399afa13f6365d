//! The autoscaler in virtual time: the same collection, decider and reconcile plan as everywhere,
//! driven by recorded or made-up traffic instead of a cluster.
//!
//! Nothing here reads a clock or performs I/O; the same input gives the same output.

pub mod scenario;
