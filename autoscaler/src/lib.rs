//! Knative Serving's autoscaler (KPA): collects what revisions do, decides how many pods they need,
//! and brings them there, to zero and back.
//!
//! The pure modules decide; `driver` is the one shell around them and runs the same on a cluster
//! and on one machine, because the world reaches it only as `world::Update` and leaves it only as
//! `world::Action`:
//!
//! ```text
//!   activators --WebSocket--> stat_server --frames--+
//!   pods <------GET---------- scraper  <--ticks---- driver ---Action---> platform
//!                                                   ^  (window, decider, scale, plan)
//!                                                   +------Update------- platform
//! ```

// Pure: values in, values out.
pub mod burst;
pub mod collection;
pub mod decider;
pub mod delay_window;
pub mod handover;
pub mod plan;
pub mod pod_autoscaler;
pub mod pods;
pub mod sample_size;
pub mod scale;
pub mod simulation;
pub mod spec;
pub mod stat_frame;
pub mod timers;
pub mod window;
pub mod work_queue;

// How the driver and its platform meet.
pub mod world;

// Shells.
mod activator_probe;
pub mod driver;
mod http_client;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod metrics;
pub mod scraper;
pub mod stat_forwarder;
pub mod stat_server;

pub use driver::{Autoscaler, Handle, Options, World};
