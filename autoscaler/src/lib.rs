//! Knative Serving's autoscaler: what a revision's pods report becomes a number of replicas.

// Pure: values in, values out.
pub mod collection;
pub mod decider;
pub mod delay_window;
pub mod plan;
pub mod pod_autoscaler;
pub mod pods;
pub mod sample_size;
pub mod scale;
pub mod simulation;
pub mod spec;
pub mod window;
