//! What a request holds while it is here: its place in the statistics, its slot, its line in the
//! request log. All of it ends with the response body, or with the request when it is dropped.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use serving::body::{End, Guard, Outcome};
use tokio::time::Instant;

use crate::activator::Shared;
use crate::http_metrics::Facts;
use crate::metrics::Metrics;
use crate::request_log::Line;
use crate::revision_throttler::Permit;
use crate::spans::RequestSpans;
use crate::table::Entry;

/// A request that counts: in from the revision lookup on, out when dropped.
#[derive(Debug)]
pub struct Counted {
    shared: Rc<Shared>,
    entry: Arc<Entry>,
}

/// The guard of a response body.
#[derive(Debug)]
pub struct Exchange {
    /// Declared first: the slot is free before the request stops counting.
    pub(crate) slot: Option<Slot>,
    pub(crate) counted: Counted,
    pub(crate) arrived: Instant,
    pub(crate) facts: Facts,
    pub(crate) status: StatusCode,
    pub(crate) line: Option<Box<Line>>,
    pub(crate) spans: Option<Box<RequestSpans>>,
}

/// A slot in use.
#[derive(Debug)]
pub struct Slot {
    permit: Permit,
    entry: Arc<Entry>,
}

// === impl Counted ===

impl Counted {
    pub(crate) fn new(shared: Rc<Shared>, entry: Arc<Entry>) -> Self {
        shared.request_in(&entry);
        Self { shared, entry }
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.entry.stats.request_out(self.shared.clock.now());
    }
}

// === impl Exchange ===

impl Drop for Exchange {
    fn drop(&mut self) {
        // The client left before there was a response: nobody saw this status, but upstream's log
        // has it.
        if let Some(line) = self.line.take() {
            let took = Instant::now().duration_since(self.arrived);
            line.write(&self.counted.entry.revision, self.status, 0, took);
        }
    }
}

impl Guard for Exchange {
    fn ended(&mut self, end: End) {
        // The app is done: its slot must not wait for the drop of what surrounds this.
        self.slot = None;
        let Counted { shared, entry } = &self.counted;
        let took = Instant::now().duration_since(self.arrived);
        // Upstream's handler panics to abort a stream: such an exchange is not measured, and its
        // line says 500.
        let aborted = matches!(end.outcome, Outcome::Failed | Outcome::Expired(_));
        if end.outcome == Outcome::Complete {
            shared.metrics.http.served(
                &entry.http,
                &entry.revision,
                self.facts,
                self.status,
                end.bytes,
                took,
            );
        }
        if let Some(mut spans) = self.spans.take() {
            spans.ended(end.bytes, aborted);
        }
        if let Some(line) = self.line.take() {
            let status = match (aborted, self.status) {
                (true, _) => StatusCode::INTERNAL_SERVER_ERROR,
                // The tunnel is hidden from upstream's recorder.
                (false, StatusCode::SWITCHING_PROTOCOLS) => StatusCode::OK,
                (false, status) => status,
            };
            line.write(&entry.revision, status, end.bytes, took);
        }
    }
}

// === impl Slot ===

impl Slot {
    pub(crate) fn new(permit: Permit, entry: &Arc<Entry>, metrics: &Metrics) -> Self {
        metrics.gauges(entry).active.inc();
        Self {
            permit,
            entry: Arc::clone(entry),
        }
    }

    pub(crate) fn permit(&self) -> &Permit {
        &self.permit
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let gauges = self.entry.metrics.get();
        gauges.expect("made when the slot was taken").active.dec();
    }
}
