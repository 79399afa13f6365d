//! The built `pilotlight` as a user runs it: real manifests, real processes, real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "end_to_end/cold_start.rs"]
mod cold_start;
#[path = "end_to_end/failures.rs"]
mod failures;
#[path = "end_to_end/lifecycle.rs"]
mod lifecycle;
#[path = "end_to_end/manifests.rs"]
mod manifests;
#[path = "end_to_end/protocols.rs"]
mod protocols;
#[path = "end_to_end/scaling.rs"]
mod scaling;
#[path = "end_to_end/simulate.rs"]
mod simulate;
#[path = "end_to_end/traffic.rs"]
mod traffic;
