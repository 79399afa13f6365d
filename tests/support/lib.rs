//! Support for the end-to-end tests: the built `pilotlight`, a plain HTTP client, and waiting on
//! conditions with a bound instead of sleeping.

pub mod app;
pub mod client;
pub mod h2;
pub mod load;
pub mod manifest;
pub mod pilotlight;
pub mod recorder;
pub mod sidecar;
pub mod wire;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How long a condition may take to come true on a slow, shared machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `probe` until it returns `Ok`, at most for [`PATIENCE`]; panics with the last `Err`.
pub async fn eventually<T, E, F, Fut>(what: &str, probe: F) -> T
where
    E: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    within(PATIENCE, what, probe).await
}

/// Like [`eventually`] with a bound of the caller's.
pub async fn within<T, E, F, Fut>(bound: Duration, what: &str, mut probe: F) -> T
where
    E: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + bound;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => {
                panic!("{what} did not come true within {bound:?}; last seen: {last:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
