//! Replicas as child processes: ports, environment, output, start, restart and end.
//!
//! Driven by the cluster in memory, one task per replica. Knows processes and queue-proxies, and
//! nothing of scaling or traffic.

pub mod back_off;
pub mod diagnosis;
pub mod kubelet;
pub mod listening;
pub mod output;
pub mod port;
pub mod process;
