//! The autoscaler in virtual time: the same collection, decider and reconcile plan as everywhere,
//! driven by recorded or made-up traffic instead of a cluster.
//!
//! Nothing here reads a clock or performs I/O; the same input gives the same output.

mod control;
mod engine;
pub mod scenario;
pub mod traffic;

pub use engine::{InvalidRun, MAX_DURATION, Model, Outcome, Row, Run, Setting, Summary, simulate};
