//! Spans of this process: who is in them, whether they are recorded, and the bounded queue in
//! which finished ones wait for an exporter.
//!
//! A [`Tracer`] belongs to one part (a queue-proxy, an activator) and to one thread; nothing is
//! global. Only recorded spans cost an allocation; the others are ids that travel on. Exporting is
//! done by [`stdout`] or, with the feature `otel`, by `otlp`. Upstream: OpenTelemetry's Go SDK as
//! `knative.dev/pkg/observability/tracing` sets it up.

mod export;
pub mod http;
mod sampler;
pub mod stdout;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ::http::HeaderValue;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::export::{SpanExport, SpanExportError};
pub use self::sampler::{Sampler, SamplerError};
use crate::clock::{AnchoredClock, UnixTime};
use crate::trace_context::{RemoteContext, SAMPLED, SpanContext, SpanId, TraceId};

/// Finished spans that wait for an exporter, as many as Go's SDK keeps; more are dropped and
/// counted.
pub const MAX_QUEUED_SPANS: usize = 2048;

/// Attributes of one span, as many as Go's SDK keeps; more are dropped and counted.
pub const MAX_ATTRIBUTES: usize = 128;

/// The library that a span or a metric is attributed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// An import path.
    pub name: &'static str,
    /// Empty if it has none.
    pub version: &'static str,
}

/// Which side of a call a span describes. The numbers are those of Go's API, and of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within the process.
    Internal = 1,
    /// A request that was received.
    Server = 2,
    /// A request that was sent.
    Client = 3,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    String(Cow<'static, str>),
    /// A whole number.
    Integer(i64),
}

/// A named value.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// The name, in OpenTelemetry's spelling.
    pub key: Cow<'static, str>,
    /// The value.
    pub value: Value,
}

/// What became of the work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing to complain about.
    #[default]
    Unset,
    /// It failed, perhaps with a reason.
    Error(String),
}

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanData {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Which side it describes.
    pub kind: SpanKind,
    /// Its ids.
    pub context: SpanContext,
    /// `tracestate`, which it shares with its parent.
    pub state: Option<HeaderValue>,
    /// The parent, and whether it is in another process.
    pub parent: Option<(SpanContext, bool)>,
    /// The library it is attributed to.
    pub scope: Scope,
    /// When it began.
    pub start: UnixTime,
    /// When it ended.
    pub end: UnixTime,
    /// What is known about it.
    pub attributes: Vec<Attribute>,
    /// Attributes beyond [`MAX_ATTRIBUTES`].
    pub dropped_attributes: u32,
    /// What became of it.
    pub status: Status,
}

/// What a tracer has to know.
#[derive(Clone, Debug)]
pub struct TracerOptions {
    /// Decides which traces are recorded.
    pub sampler: Sampler,
    /// Tells the time of spans.
    pub clock: AnchoredClock,
    /// See [`MAX_QUEUED_SPANS`].
    pub max_queued: usize,
}

impl Default for TracerOptions {
    fn default() -> Self {
        Self {
            sampler: Sampler::Always,
            clock: AnchoredClock::new(),
            max_queued: MAX_QUEUED_SPANS,
        }
    }
}

/// Begins spans. Clones share one queue; lives on one thread.
#[derive(Clone, Debug)]
pub struct Tracer {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: TracerOptions,
    random: RefCell<fastrand::Rng>,
    finished: RefCell<VecDeque<SpanData>>,
    dropped: Counter,
    /// How many spans the exporter waits for, and what it waits on.
    wanted: Cell<usize>,
    waiting: Notify,
}

/// A span under way. Dropping it ends it.
#[derive(Debug)]
pub struct Span {
    tracer: Tracer,
    context: SpanContext,
    state: Option<HeaderValue>,
    /// Absent if nobody records it, or when it has ended.
    record: Option<Box<SpanData>>,
}

/// What a new span hangs under.
#[derive(Clone, Copy, Debug)]
pub enum Parent<'p> {
    /// Nothing: it begins a trace.
    None,
    /// A span of another process.
    Remote(&'p RemoteContext),
    /// A span of this process, which shares its fate.
    Local(&'p Span),
}

// === impl Tracer ===

impl Tracer {
    /// A tracer whose queue is empty.
    pub fn new(options: TracerOptions) -> Self {
        Self {
            inner: Rc::new(Inner {
                options,
                random: RefCell::new(fastrand::Rng::new()),
                finished: RefCell::default(),
                dropped: Counter::default(),
                wanted: Cell::new(1),
                waiting: Notify::new(),
            }),
        }
    }

    /// Begins a span at `start`.
    pub fn span(
        &self,
        scope: Scope,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Parent<'_>,
        start: Instant,
    ) -> Span {
        let (above, is_remote, state) = match parent {
            Parent::None => (None, false, None),
            Parent::Remote(remote) => (Some(remote.context), true, remote.state.clone()),
            Parent::Local(span) => (Some(span.context), false, span.state.clone()),
        };
        let trace_id = above.map_or_else(|| self.trace_id(), |above| above.trace_id);
        let is_sampled = match parent {
            Parent::Local(span) => span.context.is_sampled(),
            _ => self.inner.options.sampler.samples(trace_id, above),
        };
        let inherited = above.map_or(0, |above| above.flags) & !SAMPLED;
        let context = SpanContext {
            trace_id,
            span_id: self.span_id(),
            flags: inherited | if is_sampled { SAMPLED } else { 0 },
        };
        let record = is_sampled.then(|| {
            let start = self.inner.options.clock.unix(start);
            Box::new(SpanData {
                name: name.into(),
                kind,
                context,
                state: state.clone(),
                parent: above.map(|above| (above, is_remote)),
                scope,
                start,
                end: start,
                attributes: Vec::new(),
                dropped_attributes: 0,
                status: Status::Unset,
            })
        });
        Span {
            tracer: self.clone(),
            context,
            state,
            record,
        }
    }

    /// Spans that were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.get()
    }

    /// The counter behind [`Tracer::dropped`], for a registry.
    pub fn dropped_counter(&self) -> Counter {
        self.inner.dropped.clone()
    }

    /// Finished spans that nobody has taken yet.
    pub fn queued(&self) -> usize {
        self.inner.finished.borrow().len()
    }

    /// Takes up to `most` finished spans, oldest first.
    pub fn take(&self, most: usize) -> Vec<SpanData> {
        let mut finished = self.inner.finished.borrow_mut();
        let count = finished.len().min(most);
        finished.drain(..count).collect()
    }

    /// Resolves when `count` spans are waiting. For one exporter. Cancel safe.
    pub async fn filled(&self, count: usize) {
        self.inner.wanted.set(count);
        while self.queued() < count {
            self.inner.waiting.notified().await;
        }
    }

    fn finish(&self, span: SpanData) {
        let mut finished = self.inner.finished.borrow_mut();
        if finished.len() >= self.inner.options.max_queued {
            self.inner.dropped.inc();
            return;
        }
        finished.push_back(span);
        if finished.len() >= self.inner.wanted.get() {
            self.inner.waiting.notify_one();
        }
    }

    fn trace_id(&self) -> TraceId {
        let mut random = self.inner.random.borrow_mut();
        TraceId(random.u128(1..).to_be_bytes())
    }

    fn span_id(&self) -> SpanId {
        let mut random = self.inner.random.borrow_mut();
        SpanId(random.u64(1..).to_be_bytes())
    }
}

// === impl Span ===

impl Span {
    /// What a callee is told.
    pub fn context(&self) -> &SpanContext {
        &self.context
    }

    /// `tracestate` for a callee.
    pub fn state(&self) -> Option<&HeaderValue> {
        self.state.as_ref()
    }

    /// Whether attributes are worth computing.
    pub fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let Some(record) = &mut self.record else {
            return;
        };
        if record.attributes.len() < MAX_ATTRIBUTES {
            record.attributes.push(Attribute::new(key, value));
        } else {
            record.dropped_attributes += 1;
        }
    }

    /// The work failed.
    pub fn fail(&mut self, reason: impl Into<String>) {
        if let Some(record) = &mut self.record {
            record.status = Status::Error(reason.into());
        }
    }

    /// Ends the span at `end`. What happens to it afterwards has no effect.
    pub fn end(&mut self, end: Instant) {
        if let Some(mut record) = self.record.take() {
            record.end = self.tracer.inner.options.clock.unix(end).max(record.start);
            self.tracer.finish(*record);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.record.is_some() {
            self.end(Instant::now());
        }
    }
}

// === impl Attribute ===

impl Attribute {
    /// An attribute.
    pub fn new(key: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
        }
    }
}

// === impl Value ===

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(Cow::Owned(text))
    }
}

impl From<Cow<'static, str>> for Value {
    fn from(text: Cow<'static, str>) -> Self {
        Self::String(text)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Integer(i64::from(number))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests;
