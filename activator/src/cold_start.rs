//! How long requests of a revision were held, and what they waited for.
//!
//! Nothing here is touched by a request that did not wait. A revision's histograms are made when it
//! first holds a request, so that a revision which never does costs nothing.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use serving::histogram::Histogram;
use tokio::time::Instant;

use crate::metrics::RevisionLabels;
use crate::world::Revision;

/// Bounds in seconds: from a warm pod's queue to the slowest start that a timeout allows.
pub const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

type Histograms = Family<RevisionLabels, Histogram, fn() -> Histogram>;

/// The histograms of all revisions.
#[derive(Clone, Debug)]
pub struct ColdStartMetrics {
    held: Histograms,
    pod_ready: Histograms,
    first_byte: Histograms,
}

/// One revision's. Survives updates of the Revision unless its labels change.
#[derive(Debug, Default)]
pub struct ColdStart {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first request came that found no pod at all.
    since: Option<Instant>,
    /// Boxed: most revisions hold nothing.
    observed: Option<Box<Observed>>,
    /// The revision is gone: its last requests bring nothing back.
    gone: bool,
}

#[derive(Clone, Debug)]
struct Observed {
    held: Histogram,
    pod_ready: Histogram,
    first_byte: Histogram,
}

// === impl ColdStartMetrics ===

impl ColdStartMetrics {
    /// Adds the histograms to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let mut family = |name, help| {
            let new: fn() -> Histogram = || Histogram::new(SECONDS);
            let family = Family::new_with_constructor(new);
            registry.register_with_unit(name, help, Unit::Seconds, Family::clone(&family));
            family
        };
        Self {
            held: family(
                "pilotlight_activator_held",
                "How long requests waited that had to wait for a slot",
            ),
            pod_ready: family(
                "pilotlight_activator_pod_ready",
                "From the first request for a revision without pods to its first usable pod",
            ),
            first_byte: family(
                "pilotlight_activator_first_byte",
                "From the arrival of requests that were held to the head of their response",
            ),
        }
    }

    /// A request waited for so long.
    pub fn held(&self, of: &ColdStart, revision: &Revision, held: Duration) {
        self.observe(of, revision, held, |it| &it.held);
    }

    /// The head of the response to a request that was held came so long after the request.
    pub fn first_byte(&self, of: &ColdStart, revision: &Revision, took: Duration) {
        self.observe(of, revision, took, |it| &it.first_byte);
    }

    /// There is a usable pod.
    pub fn pod_ready(&self, of: &ColdStart, revision: &Revision, now: Instant) {
        let since = of.state.lock().since.take();
        if let Some(since) = since {
            let took = now.saturating_duration_since(since);
            self.observe(of, revision, took, |it| &it.pod_ready);
            let seconds = took.as_secs_f64();
            tracing::info!(revision = %revision.id, seconds, "cold start");
        }
    }

    /// Forgets a revision's series.
    pub fn remove(&self, of: &ColdStart, revision: &Revision) {
        *of.state.lock() = State {
            gone: true,
            ..State::default()
        };
        let labels = RevisionLabels::of(revision);
        for family in [&self.held, &self.pod_ready, &self.first_byte] {
            family.remove(&labels);
        }
    }

    fn observe(
        &self,
        of: &ColdStart,
        revision: &Revision,
        value: Duration,
        which: fn(&Observed) -> &Histogram,
    ) {
        let mut state = of.state.lock();
        if state.gone {
            return;
        }
        let observed = state.observed.get_or_insert_with(|| {
            let labels = RevisionLabels::of(revision);
            Box::new(Observed {
                held: self.held.get_or_create_owned(&labels),
                pod_ready: self.pod_ready.get_or_create_owned(&labels),
                first_byte: self.first_byte.get_or_create_owned(&labels),
            })
        });
        which(observed).observe(value.as_secs_f64());
    }
}

// === impl ColdStart ===

impl ColdStart {
    /// A request came and there is no pod.
    pub fn begun(&self, now: Instant) {
        self.state.lock().since.get_or_insert(now);
    }
}
