//! Pilotlight on one machine: Knative Services as processes, without a cluster.
//!
//! Reads manifests, starts replicas behind queue-proxies, and joins the activator and the
//! autoscaler to them over their own wire. The binary `pilotlight` is a thin shell over this
//! library.

pub mod cluster;
pub mod console;
pub mod exit;
pub mod manifest;
pub mod options;
pub mod router;
pub mod sample_app;
pub mod service;
pub mod supervisor;
pub mod tether;
