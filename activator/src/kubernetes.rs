//! The cluster: watches of Revisions, Endpoints (or EndpointSlices) and Services become plain
//! [`crate::Update`]s, ConfigMaps become settings, and the process starts and drains as a pod does.
//!
//! `objects` says what is read of each object, `index` joins them, `watches` talks to the API
//! server. `ingress` does all of it for a gateway, and is the only one that writes: the status of
//! Ingresses.

pub mod certificates;
pub mod config_maps;
pub mod flags;
pub mod index;
pub mod ingress;
mod interner;
pub mod objects;
pub mod process;
pub mod watches;
pub(crate) mod workers;
