//! `pilotlight status`: what runs now, asked over a socket that only its user can open.
//!
//! The running program answers every connection with one JSON document and closes it. [`Report`]
//! is that document; it is what `-o json` prints.

use serde::{Deserialize, Serialize};

pub mod collect;
pub mod socket;
pub mod table;

/// Everything that runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The program's version.
    pub version: String,
    /// The program's process id.
    pub pid: u32,
    /// Addresses of the front port.
    pub listen: Vec<String>,
    /// Requests in progress at the front port.
    pub requests: usize,
    /// Requests that wait for a replica.
    pub held: usize,
    /// In order of first appearance.
    pub services: Vec<Service>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// Where it is reached.
    pub url: String,
    /// The newest revision.
    pub latest_created: String,
    /// The newest revision that was ready once; empty before.
    pub latest_ready: String,
    /// Routes in force.
    pub traffic: Vec<Traffic>,
    /// Oldest first.
    pub revisions: Vec<Revision>,
}

/// A route in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// The revision.
    pub revision: String,
    /// Share of the requests.
    pub percent: u32,
    /// Whether it follows the latest ready revision.
    pub latest: bool,
    /// Its tag, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Where the tag is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Its name.
    pub name: String,
    /// Whether it was ready once.
    pub ready: bool,
    /// The sum of its shares.
    pub traffic_percent: u32,
    /// Replicas by state.
    pub replicas: Replicas,
    /// Replicas that the autoscaler wants.
    pub desired_scale: i64,
    /// Average concurrency (or requests per second) over the stable window.
    pub concurrency: f64,
    /// The same over the panic window.
    pub panic_concurrency: f64,
    /// `stable` or `panic`.
    pub mode: String,
    /// Whether requests go through the activator.
    pub in_path: bool,
    /// Requests that fit beyond the load of now; below zero the activator stays in the path.
    pub excess_burst_capacity: i32,
    /// The PodAutoscaler's condition `Active`, with its reason.
    pub active: String,
    /// Requests that wait for a replica.
    pub held: usize,
    /// Why statistics cannot be read, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_error: Option<String>,
    /// What keeps it from serving, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its replicas by number.
    pub pods: Vec<Pod>,
}

/// Replicas by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replicas {
    /// Serving.
    pub ready: usize,
    /// On their way to readiness.
    pub starting: usize,
    /// Exited, waiting for their next start.
    pub waiting: usize,
    /// On their way out.
    pub draining: usize,
}

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its number, as in front of its output.
    pub replica: u64,
    /// `ready`, `starting`, `waiting` or `draining`.
    pub state: String,
    /// The app's process; 0 when there is none.
    pub pid: i32,
    /// The app's port.
    pub port: u16,
    /// Requests in its queue-proxy.
    pub in_flight: usize,
    /// Starts after the first.
    pub restarts: u32,
}
