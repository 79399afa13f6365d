//! A real etcd and kube-apiserver for a test program, and what scenarios against them share: Knative's
//! kinds, a proxy that is slow or silent, roles from manifests, what replicas log, and running
//! scenarios with a line for each.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "a test, helpers included, fails by panicking and tells what it saw"
)]

pub mod definitions;
pub mod log;
pub mod objects;
pub mod proxy;
pub mod rights;
pub mod scenarios;
mod server;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

pub use self::server::{ApiServer, client, client_as};

/// Whatever a scenario waits for must have happened by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ports that the kernel gives to no client (those begin at 32768): one that it had given away, even
/// to a connection that has just ended, could not be listened on.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that nothing listens on, and that this program was not given before. Another program could
/// take it before it is used.
pub fn port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let count = u32::try_from(PORTS.len()).unwrap();
    // Programs that run at the same time begin far from each other.
    let first = std::process::id().wrapping_mul(2_654_435_761) % count;
    let is_free = |port| {
        let everywhere = TcpListener::bind(("::", port));
        everywhere
            .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
            .is_ok()
    };
    let mut ports = (0..count).map(|_| {
        let given = u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        PORTS.start + u16::try_from((first + given) % count).unwrap()
    });
    ports
        .find(|port| is_free(*port))
        .expect("one of so many ports is free")
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
