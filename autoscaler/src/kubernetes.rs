//! The autoscaler in a cluster: what the driver wants to know comes from watches of the API server,
//! what it wants done becomes writes.

mod apply;
mod cache;
mod election;
mod elector;
mod events;
mod index;
mod objects;
mod rate_limit;
mod watches;
