//! The threads that serve beside the first one, where `PILOTLIGHT_THREADS` asks for more.
//!
//! Each accepts from the same sockets as the first, serves what it accepted, and drains with it. The
//! kernel has whoever is free accept; a connection stays where it is from then on.

use std::io;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use serving::server::{DetachedListener, Listener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::process::serve;
use crate::Activator;
#[cfg(feature = "otel")]
pub(crate) use crate::export::SpanSettings;
use crate::ingress::front::{self, Front};
use crate::threads::Sibling;

/// Nothing is recorded without the feature.
#[cfg(not(feature = "otel"))]
pub(crate) type SpanSettings = std::convert::Infallible;

/// What a thread serves with.
struct Worker {
    sibling: Sibling,
    gateway: Option<front::Sibling>,
    listeners: Vec<DetachedListener>,
    /// With whether each is the entry for the cluster.
    entries: Vec<(bool, Vec<DetachedListener>)>,
    spans: Option<SpanSettings>,
    drain: Duration,
    stop: CancellationToken,
}

/// The threads that were started.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    running: Vec<oneshot::Receiver<()>>,
}

// === impl Workers ===

impl Workers {
    /// Starts one more. It serves what `activator` serves, on these sockets, until it has drained
    /// after `stop`.
    pub(crate) fn start(
        &mut self,
        activator: &Activator,
        (listeners, entries): (&[Listener], &[(Front, Vec<Listener>)]),
        spans: Option<SpanSettings>,
        (drain, stop): (Duration, CancellationToken),
    ) -> io::Result<()> {
        let worker = Worker {
            sibling: activator.sibling(),
            gateway: entries.first().map(|(front, _)| front.gateway().sibling()),
            listeners: detached(listeners)?,
            entries: entries
                .iter()
                .map(|(front, listeners)| Ok((front.is_local(), detached(listeners)?)))
                .collect::<io::Result<_>>()?,
            spans,
            drain,
            stop,
        };
        let (started, running) = oneshot::channel();
        let mut builder = Builder::new_current_thread();
        builder.enable_all();
        thread::Builder::new()
            .name(format!("serve-{}", self.running.len() + 2))
            .spawn(move || {
                // Dropped at the end, however the thread ends.
                let _started = started;
                match builder.build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime.block_on(worker.run()),
                    Err(error) => tracing::error!(%error, "a thread serves nothing"),
                }
            })?;
        self.running.push(running);
        Ok(())
    }

    /// Waits until all have ended.
    pub(crate) async fn ended(self) {
        join_all(self.running).await;
    }
}

// === impl Worker ===

impl Worker {
    async fn run(self) {
        let activator = self.sibling.activator();
        let mut tasks = JoinSet::new();
        #[cfg(feature = "otel")]
        let spans = self.spans.and_then(|spans| {
            spans.start(&activator, &mut tasks).unwrap_or_else(|error| {
                tracing::error!(%error, "a thread records no spans");
                None
            })
        });
        #[cfg(not(feature = "otel"))]
        let None = self.spans;
        let (gateway, own) = (self.gateway, activator.clone());
        let gateway = gateway.map(|it| it.gateway(own, fastrand::u64(..)));
        let entries = self.entries.into_iter().filter_map(|(local, listeners)| {
            Some((gateway.as_ref()?.front(local), attached(listeners)))
        });
        let entries = entries.collect();
        let listeners = attached(self.listeners);
        let stop = self.stop.cancelled();
        serve(&activator, listeners, entries, self.drain, stop).await;
        #[cfg(feature = "otel")]
        if let Some(spans) = spans {
            spans.flush().await;
        }
        tasks.abort_all();
    }
}

fn detached(listeners: &[Listener]) -> io::Result<Vec<DetachedListener>> {
    listeners.iter().map(Listener::detached).collect()
}

/// Those that the thread can serve; the others of the process go on with the rest.
fn attached(listeners: Vec<DetachedListener>) -> Vec<Listener> {
    let attached = listeners.into_iter().filter_map(|listener| {
        let listener = listener.attach();
        listener
            .inspect_err(|error| tracing::error!(%error, "a thread cannot take a socket"))
            .ok()
    });
    attached.collect()
}
