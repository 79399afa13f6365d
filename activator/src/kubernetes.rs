//! The cluster: watches of Revisions, Endpoints (or EndpointSlices) and Services become plain
//! [`crate::Update`]s.
//!
//! `objects` says what is read of each object, `index` joins them, `watches` talks to the API
//! server. Nothing is ever written to it.

pub mod index;
pub mod objects;
pub mod watches;

pub use watches::{Watches, may_list_endpoint_slices};
