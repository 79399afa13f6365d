//! The tasks that export: batches of spans as they finish, metrics at an interval; and what is
//! left at the end of the process.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::exporter::Exporter;
use super::metrics::{self, ScopeSnapshot};
use super::traces;
use crate::clock::{AnchoredClock, UnixTime};
use crate::trace::{Attribute, Tracer};

/// Spans in one message, as with Go's batches.
pub const MAX_EXPORT_BATCH: usize = 512;

/// Spans that are encoded without letting requests go on; divides [`MAX_EXPORT_BATCH`].
const MAX_ENCODED_AT_ONCE: usize = 32;

/// How long a span waits at most for its batch.
pub const SPAN_DELAY: Duration = Duration::from_secs(5);

/// Exports spans as they finish, for ever. While a collector does not answer, the tracer's queue
/// fills and drops. Dropping the future loses the batch under way at most.
pub async fn export_spans(tracer: Tracer, resource: Rc<[Attribute]>, exporter: Rc<Exporter>) {
    loop {
        tracer.filled(1).await;
        // A full batch does not wait.
        let _ = timeout(SPAN_DELAY, tracer.filled(MAX_EXPORT_BATCH)).await;
        export_batch(&tracer, &resource, &exporter).await;
    }
}

/// Exports what is left, within `limit`; what does not get through is counted as lost.
pub async fn flush_spans(
    tracer: &Tracer,
    resource: &[Attribute],
    exporter: &Exporter,
    limit: Duration,
) {
    let flush = async {
        while tracer.queued() > 0 {
            export_batch(tracer, resource, exporter).await;
        }
    };
    if timeout(limit, flush).await.is_err() {
        exporter.give_up(tracer.queued() as u64);
    }
    let lost = exporter.lost() + tracer.dropped();
    if lost > 0 {
        tracing::warn!(lost, "spans were lost to a slow or absent collector");
    }
}

/// The spans are taken when it is their turn, so that a flush finds them in the queue or waits for
/// them to be sent. Requests go on between the parts of a batch: encoded messages may be joined.
async fn export_batch(tracer: &Tracer, resource: &[Attribute], exporter: &Exporter) {
    let turn = exporter.turn().await;
    let mut message = Vec::new();
    let mut count = 0;
    while count < MAX_EXPORT_BATCH {
        let spans = tracer.take(MAX_ENCODED_AT_ONCE);
        if spans.is_empty() {
            break;
        }
        count += spans.len();
        traces::encode(spans, resource, &mut message);
        yield_now().await;
    }
    if count > 0 {
        turn.send(&message, count as u64).await;
    }
}

/// Exports a snapshot at each `interval`, for ever; `start` is when the process began to count.
/// Cancel safe.
pub async fn export_metrics(
    snapshot: impl Fn() -> Vec<ScopeSnapshot>,
    resource: Rc<[Attribute]>,
    exporter: Rc<Exporter>,
    (clock, start): (AnchoredClock, UnixTime),
    interval: Duration,
) {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        export_snapshot(snapshot(), &resource, &exporter, (start, clock.now())).await;
    }
}

/// Exports a last snapshot within `limit`.
pub async fn flush_metrics(
    snapshot: Vec<ScopeSnapshot>,
    resource: &[Attribute],
    exporter: &Exporter,
    (start, now): (UnixTime, UnixTime),
    limit: Duration,
) {
    let flush = export_snapshot(snapshot, resource, exporter, (start, now));
    // What does not get through counts as lost.
    let _ = timeout(limit, flush).await;
}

async fn export_snapshot(
    snapshot: Vec<ScopeSnapshot>,
    resource: &[Attribute],
    exporter: &Exporter,
    (start, now): (UnixTime, UnixTime),
) {
    if let Some(message) = metrics::encode(snapshot, resource, start, now) {
        exporter.turn().await.send(&message, 1).await;
    }
}
