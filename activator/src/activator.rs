//! The request path: probes answered here, everything else held until there is a slot, then proxied.
//!
//! One [`Activator`] per thread; its clones share, and those of other threads are its siblings
//! ([`crate::threads`]). It is a [`serving::server::Handler`], and can be
//! called by a front of the same process that has matched a request to a revision already. The
//! order of steps is upstream's (`cmd/activator/main.go`); each step says where it differs.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::Either;
use http::header::{HOST, SET_COOKIE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use serving::body::Body;
use serving::forward::{self, Forwarded};
use serving::header;
use serving::server::{Connection, Handler};
use serving::stat::StatBatch;
use serving::telemetry::LineWriter;
use serving::trace::Tracer;
use serving::upgrade::Tunnels;
use serving::{AnchoredClock, RevisionId, names};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::affinity::Signer;
use crate::concurrency_reporter::{ConcurrencyReporter, RevisionReport};
use crate::error::{self, Failure, TIMEOUT_TEXT};
use crate::exchange::{Counted, Exchange};
use crate::http_metrics::Facts;
use crate::metrics::Metrics;
use crate::options::{Options, RevisionSnapshot};
use crate::pod_tracker::PodTracker;
use crate::probe_handler;
use crate::proxy::Proxied;
use crate::queue_budget::QueueBudget;
use crate::request_log::{RequestLogger, TemplateRefused};
use crate::revision_lookup::Named;
use crate::revision_throttler::RevisionThrottler;
use crate::spans::Tracing;
use crate::stat_sink::StatSink;
use crate::stowed::SAID;
use crate::table::{Entry, Table};
use crate::upstreams::{Listing, Upstreams};

/// The body of every response of an activator.
pub type ActivatorBody = Body<Option<Exchange>>;

static HELD: HeaderName = HeaderName::from_static(names::HELD_HEADER);

/// See the module. Clones share.
#[derive(Clone, Debug)]
pub struct Activator {
    shared: Rc<Shared>,
}

/// What all threads share, with the driver.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) options: Options,
    pub(crate) clock: AnchoredClock,
    pub(crate) table: Table,
    pub(crate) reporter: ConcurrencyReporter,
    pub(crate) sink: Option<StatSink>,
    pub(crate) metrics: Metrics,
    pub(crate) budget: QueueBudget,
    pub(crate) notices: mpsc::Sender<Notice>,
    pub(crate) draining: AtomicBool,
    pub(crate) request_log: RequestLogger,
    pub(crate) signer: Signer,
    /// What the driver's thread has listed; kept up to date while there are other threads.
    pub(crate) listed: watch::Sender<Listing>,
}

/// What the requests of one thread share: what all threads do, and its connections.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) common: Arc<Common>,
    pub(crate) upstreams: Rc<Upstreams>,
    pub(crate) tunnels: Tunnels,
    /// Empty while nobody wants spans.
    pub(crate) tracing: OnceCell<Tracing>,
}

/// For whom a request was that got an error of our own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose<'a> {
    Revision(&'a RevisionId),
    /// At the gateway: straight to a Service's addresses.
    Service {
        namespace: &'a str,
        name: &'a str,
    },
}

/// What traffic tells the driver.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A destination took no connection, or broke one without an answer.
    Lost(Arc<RevisionId>, SocketAddr),
    /// A queue-proxy is full; it may be asked again after a pause.
    Full(Arc<RevisionThrottler>, Arc<PodTracker>),
}

// === impl Activator ===

impl Activator {
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        Self { shared }
    }

    /// Serves a request through the whole chain, probes included. Dropping the future (the client
    /// left) takes the request out of its queue, or aborts the exchange.
    // Not an async function: that would keep a place for the request beside the one of `dispatch`.
    pub fn handle(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<ActivatorBody>> {
        if let Some(answer) = probe_handler::answer(&request, || self.health()) {
            let answer = answer.map(|text| Body::full(Bytes::from(text), None));
            return Either::Left(std::future::ready(answer));
        }
        request.headers_mut().remove(&header::HASH);
        Either::Right(self.dispatch(request, connection))
    }

    /// Serves a request that is no probe of the platform: the entry for a front in the same process,
    /// which has named the revision by `Knative-Serving-Revision` and `-Namespace`. It counts from
    /// the call on. Cancel-safe as [`Self::handle`].
    // What happens before the first wait is outside of the future, and the request is boxed: each
    // would be in the future twice, of which there is one for every request that is held.
    pub fn dispatch(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<ActivatorBody>> {
        let shared = &self.shared;
        let domain = &shared.options.cluster_domain;
        let arrived = Instant::now();
        let tracing = shared.tracing.get();
        let mut spans = tracing.map(|it| it.begin(&request, connection, arrived));
        let named = Named::of(request.uri(), request.headers(), domain);
        let Some(entry) = shared.table.get(&named) else {
            let text = named.not_found();
            if let Some(spans) = &mut spans {
                spans.set_status(StatusCode::NOT_FOUND);
            }
            let status = StatusCode::NOT_FOUND;
            let response = forward::error_response(status, &text, None);
            let bytes = response.body().size_hint().exact().unwrap_or_default();
            let facts = Facts::of(&request, connection.is_tls());
            let took = Instant::now().duration_since(arrived);
            shared.metrics.http.refused(facts, status, bytes, took);
            return Either::Left(std::future::ready(response));
        };
        if let Some(spans) = &mut spans {
            spans.belongs_to(&entry.revision);
        }
        let facts = Facts::of(&request, connection.is_tls());
        let deadline = connection.deadline_at(&entry.timeouts(), arrived);
        let line = shared.request_log.line(&request, connection);
        let mut exchange = Exchange {
            slot: None,
            counted: Counted::new(Rc::clone(shared), entry),
            arrived,
            facts,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            line,
            spans: None,
        };
        let mut prepared = Some(Box::new(shared.prepare(request, connection)));
        Either::Right(async move {
            let result = {
                let shared = exchange.counted.shared();
                // Pinned here, or the deadline's future would hold it twice.
                let work = pin!(shared.proxy(&exchange, &mut prepared, connection, &mut spans));
                match deadline.limit(work).await {
                    Ok(result) => result,
                    Err(expired) => Err(Failure::Expired(expired)),
                }
            };
            exchange.spans = spans;
            let shared = Rc::clone(exchange.counted.shared());
            match result {
                Ok(proxied) => {
                    let Forwarded { response, upgrade } = shared.received(proxied, &mut exchange);
                    match upgrade {
                        Some(upgrade) => {
                            let lifetime = deadline.lifetime();
                            shared.tunnels.spawn(upgrade, lifetime, exchange);
                            response.map(|body| Body::upstream(body, None))
                        }
                        None => response.map(|body| {
                            Body::upstream(body, Some(exchange))
                                .with_deadline(deadline, TIMEOUT_TEXT)
                        }),
                    }
                }
                Err(failure) => shared.failed(&failure, exchange),
            }
        })
    }

    /// Per revision, sorted: what waits, what runs, and where.
    pub fn snapshot(&self) -> Vec<RevisionSnapshot> {
        let entries = self.shared.table.all();
        let mut all: Vec<_> = entries
            .iter()
            .map(|entry| entry.throttler.snapshot())
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Requests that wait, of all revisions.
    pub fn queued(&self) -> usize {
        self.shared.budget.queued()
    }

    /// From now on health fails, on all threads, while requests are served as before.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Where request log lines go; nowhere until this is called.
    pub fn log_requests_to(&self, output: LineWriter) {
        self.shared.request_log.write_to(output);
    }

    /// Records spans of this thread's requests from now on; with `b3` also in the headers of before Knative 1.19. Only the
    /// first call counts.
    pub fn trace_to(&self, tracer: Tracer, b3: bool) {
        // Whoever calls twice has two exporters, of which one must lose.
        let _ = self.shared.tracing.set(Tracing { tracer, b3 });
    }

    /// Turns the request log on with a template, or off. A template that cannot be used changes
    /// nothing.
    pub fn set_request_log(&self, template: Option<&str>) -> Result<(), TemplateRefused> {
        self.shared.request_log.set_template(template)
    }

    /// Why this activator should get no traffic, if so.
    pub fn health(&self) -> Result<(), &'static str> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err("received SIGTERM from kubelet");
        }
        match &self.shared.sink {
            Some(sink) if !sink.is_connected() => Err("connection has not yet been established"),
            _ => Ok(()),
        }
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.shared.signer
    }

    /// See [`Shared::note_error`].
    pub(crate) fn note_error(&self, whose: Whose<'_>, reason: &'static str) {
        self.shared.note_error(whose, reason);
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// The upgraded connections of this thread, to be awaited when draining.
    pub fn tunnels(&self) -> &Tunnels {
        &self.shared.tunnels
    }
}

impl Handler for Activator {
    type Guard = Option<Exchange>;

    fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<ActivatorBody>> {
        Activator::handle(self, request, connection)
    }
}

// === impl Shared ===

impl Deref for Shared {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Shared {
    /// Counts a request in; the first after an idle period is announced to the autoscaler at once.
    pub(crate) fn request_in(&self, entry: &Entry) {
        if !self.reporter.request_in(&entry.stats, self.clock.now()) {
            return;
        }
        let mut batch = StatBatch::new();
        self.add(&mut batch, &entry.revision.id, RevisionReport::POKE);
        self.send(&mut batch);
    }

    /// Adds a report to a batch, which is sent first when it is full.
    pub(crate) fn add(&self, batch: &mut StatBatch, id: &RevisionId, report: RevisionReport) {
        let stat = serving::stat::StatRef {
            pod_name: &self.options.pod_name,
            average_concurrent_requests: report.average_concurrency,
            request_count: report.request_count,
            ..Default::default()
        };
        if batch.push(&id.namespace, &id.name, &stat).is_err() {
            self.send(batch);
            // An empty batch takes any revision Kubernetes can name.
            let _ = batch.push(&id.namespace, &id.name, &stat);
        }
    }

    pub(crate) fn send(&self, batch: &mut StatBatch) {
        if batch.is_empty() {
            return;
        }
        let frame = batch.take();
        if let Some(sink) = &self.sink {
            sink.send(frame);
        }
    }

    /// The head of a response has come.
    fn received(&self, proxied: Proxied, exchange: &mut Exchange) -> Forwarded {
        let Proxied {
            mut forwarded,
            slot,
            held,
            cookie,
        } = proxied;
        exchange.slot = Some(slot);
        if let Some(cookie) = cookie {
            let headers = forwarded.response.headers_mut();
            headers.append(SET_COOKIE, *cookie);
        }
        exchange.status = forwarded.response.status();
        if let Some(spans) = &mut exchange.spans {
            spans.set_status(exchange.status);
        }
        if let Some(held) = held {
            let entry = exchange.counted.entry();
            let took = Instant::now().duration_since(exchange.arrived);
            let metrics = &self.metrics.cold_start;
            metrics.first_byte(&entry.cold_start, &entry.revision, took);
            if self.options.held_header {
                let seconds = format!("{:.6}", held.as_secs_f64());
                let value = HeaderValue::try_from(seconds).expect("digits and a point");
                forwarded.response.headers_mut().insert(&HELD, value);
            }
        }
        forwarded
    }

    /// Counts and logs a 5xx of our own; the response says the reason, too.
    pub(crate) fn note_error(&self, whose: Whose<'_>, reason: &'static str) {
        self.metrics.error(reason);
        match whose {
            Whose::Revision(revision) => tracing::info!(%revision, reason, "request failed"),
            Whose::Service { namespace, name } => {
                tracing::info!(namespace, service = name, reason, "request failed");
            }
        }
    }

    /// There is no response but our own.
    fn failed(&self, failure: &Failure, mut exchange: Exchange) -> Response<ActivatorBody> {
        let revision = &exchange.counted.entry().revision.id;
        self.note_error(Whose::Revision(revision), failure.reason());
        let response = error::response(failure, ());
        exchange.status = response.status();
        if let Some(spans) = &mut exchange.spans {
            spans.abandoned();
            spans.set_status(exchange.status);
        }
        response.map(|body| body.map_guard(|_| Some(exchange)))
    }

    /// What a queue-proxy expects of an activator, and the rewriting of any proxy.
    fn prepare(&self, mut request: Request<Incoming>, connection: &Connection) -> Request<Body> {
        let host = match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            // Not copied, as it has to go anyway.
            None => request.headers_mut().remove(HOST),
        };
        let host = host.unwrap_or_else(|| HeaderValue::from_static(""));
        let headers = request.headers_mut();
        header::hide_host(headers, host);
        for (name, value) in SAID {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.remove(&header::REVISION_NAME);
        headers.remove(&header::REVISION_NAMESPACE);
        forward::prepare_request(request, connection)
    }
}
