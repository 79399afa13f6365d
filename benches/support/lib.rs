//! Support for the measurements: processes and their cost, load, peers, and reports.
//!
//! Whole-process comparisons run every subject beside the others in the same minutes, in turns,
//! and speak in ratios of pairs: the absolute figures of a shared machine mean little.

pub mod api_server;
pub mod awake;
pub mod fleet;
pub mod h2c;
pub mod held;
pub mod idle;
pub mod load;
pub mod open_loop;
pub mod overload;
pub mod peers;
pub mod pods;
pub mod process;
pub mod queue_pod;
pub mod quota;
pub mod report;
pub mod revisions;
pub mod sample;
pub mod websocket;
