//! A real etcd and kube-apiserver for a test program, and what scenarios against them share: Knative's
//! kinds, a proxy that is slow or silent, roles from manifests, and running scenarios with a line
//! for each.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "a test, helpers included, fails by panicking and tells what it saw"
)]

pub mod definitions;
pub mod objects;
pub mod proxy;
pub mod rights;
pub mod scenarios;
mod server;

use std::net::TcpListener;
use std::time::Duration;

pub use self::server::{ApiServer, client, client_as};

/// Whatever a scenario waits for must have happened by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// A port that is free on every loopback address. Another program could take it before it is used.
pub fn port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits, at most two minutes, until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let attempts = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, attempts).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within {PATIENCE:?}"),
    }
}
