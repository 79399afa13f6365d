//! One request's way: it waits for a slot, goes to the slot's destination, and goes on to another
//! one when that is safe.
//!
//! Safe is: the queue-proxy did not start it, nothing of it was written, or it may be repeated and
//! is complete. Every retry counts against the request's own limits, and those after a failure
//! against the revision's budget besides.

mod held;
mod mcp_search;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use serving::body::Body;
use serving::forward::{self, Fault, ForwardError, Forwarded};
use serving::http_metrics::error_type;
use serving::pool::Upstream;
use serving::server::Connection;
use serving::{header, names};
use tokio::time::Instant;

use self::held::{Unread, held_bytes, is_unread};
use self::mcp_search::Search;
use crate::activator::{Notice, Shared};
use crate::affinity::{Affinity, Session, Ticket, mcp_key};
use crate::error::{Failure, Refused};
use crate::exchange::{Exchange, Slot};
use crate::pod_tracker::PodTracker;
use crate::private_service::private_host;
use crate::replay::{self, Kept};
use crate::revision_throttler::{Acquire, RevisionThrottler};
use crate::spans::RequestSpans;
use crate::stowed::{CAPABILITY, Stowed};
use crate::table::Entry;

static NOT_STARTED: HeaderName = HeaderName::from_static(names::NOT_STARTED_HEADER);
static LOAD: HeaderName = HeaderName::from_static(names::LOAD_HEADER);

/// A response, and what it took to get it.
pub(crate) struct Proxied {
    pub(crate) forwarded: Forwarded,
    pub(crate) slot: Slot,
    /// How long the request waited for slots; `None` if it did not.
    pub(crate) held: Option<Duration>,
    /// Names the session that begins with this response. Boxed: few requests have one.
    pub(crate) cookie: Option<Box<HeaderValue>>,
}

/// What a request has left to try.
struct Attempts {
    redispatches: u32,
    retries: u32,
}

/// What is to be known of a wait at its end.
struct Waiting {
    start: Instant,
    queued: Queued,
}

/// What ends a wait besides a slot.
struct Watched<'a> {
    connection: Option<&'a Connection>,
    limit: Option<Duration>,
}

/// Counts a request as queued while it is.
struct Queued(Gauge);

// === impl Shared ===

impl Shared {
    /// See the module. Dropping the future gives back what the request holds.
    // There is one for every request that is held, so it is not an async function, which would keep
    // each argument twice; nor are the parts of it that wait.
    pub(crate) fn proxy(
        &self,
        exchange: &Exchange,
        request: &mut Option<Box<Request<Body>>>,
        connection: &Connection,
        spans: &mut Option<Box<RequestSpans>>,
    ) -> impl Future<Output = Result<Proxied, Failure>> {
        let entry = exchange.counted.entry();
        async move {
            let (session, cookie) = self.session(entry, request.as_deref());
            let mut search = Search::of(entry, session);
            let mut unread = Unread::new(connection);
            let mut acquire = entry
                .throttler
                .acquire_for(session, || held_bytes(request.as_deref_mut(), &mut unread));
            let mut attempts = Attempts {
                redispatches: self.options.limits.max_redispatches,
                retries: self.options.limits.max_connect_retries,
            };
            let mut held = None;
            loop {
                if let Some(spans) = spans {
                    spans.trying(Instant::now());
                }
                let is_unread = request.as_deref().is_some_and(is_unread);
                let slot = if acquire.is_waiting() {
                    let headers = request.as_deref_mut().map(Stowed::take);
                    let waiting = self.begin_wait(entry, &acquire);
                    // One await for both: what lives across two has its room in every other as well.
                    let watched = self.watched(entry, is_unread.then_some(connection), held);
                    let permit = match watched {
                        None => Either::Left((&mut acquire).map(Ok)),
                        // Boxed: most requests have no use for it.
                        Some(watched) => Either::Right(Box::pin(watched.wait(&mut acquire))),
                    };
                    connection.set_waiting(!is_unread);
                    let permit = permit.await;
                    connection.set_waiting(false);
                    unread.forget();
                    let waited = permit.and_then(|permit| self.end_wait(entry, waiting, permit));
                    let (slot, waited) = waited.inspect_err(|failure| refused(spans, failure))?;
                    held = Some(held.unwrap_or(Duration::ZERO) + waited);
                    if let (Some(request), Some(headers)) = (request.as_deref_mut(), headers) {
                        headers.put_back(request);
                    }
                    slot
                } else {
                    self.slot(entry, (&mut acquire).await)
                        .inspect_err(|failure| refused(spans, failure))?
                };
                if let Some(spans) = spans {
                    spans.obtained(Instant::now());
                }
                let is_searched = search
                    .as_ref()
                    .is_some_and(|it| it.may_go_on_from(slot.permit().tracker().dest()));
                let spare = match (entry.revision.container_concurrency, &mut *request) {
                    // Without a limit a queue-proxy is never full.
                    (0, _) if !is_searched => None,
                    (_, None) => None,
                    (_, Some(sent)) => {
                        let limit = self.options.limits.max_replayed_body;
                        match replay::keep(sent, limit, entry.revision.full_duplex) {
                            Kept::Copy(copy) => Some(copy),
                            Kept::Nothing => None,
                            Kept::Later => Some(Box::pin(replay::read(sent)).await?),
                        }
                    }
                };
                let mut sent = request.take().expect("kept, or the loop has ended");
                let tracker = slot.permit().tracker();
                let upstream = self.upstreams.get(tracker, &entry.revision.id.namespace);
                self.address(entry, &mut sent, &upstream);
                if spare.is_some() && entry.revision.container_concurrency > 0 {
                    // The last attempt may wait at the pod: other activators may be quicker for ever.
                    let waits = attempts.redispatches == 0 || !entry.throttler.is_sharing();
                    say_capability(&mut sent, waits);
                }
                if let Some(spans) = spans {
                    spans.asking(&mut sent, upstream.address(), Instant::now());
                }
                let asked = sent.headers().contains_key(&CAPABILITY);
                // Boxed: its size would be that of every request that waits, and of every connection
                // that idles.
                let start = Instant::now();
                let exchanged = Box::pin(forward::exchange_boxed(&upstream, sent)).await;
                let status = exchanged.as_ref().map(|it| it.response.status());
                if let Some(spans) = spans {
                    spans.answered(status);
                }
                self.metrics.http.exchanged(
                    &entry.http,
                    &entry.revision,
                    exchange.facts,
                    upstream.address(),
                    status.map_err(error_type),
                    Instant::now().duration_since(start),
                );
                let tracker = slot.permit().tracker();
                let mut next = None;
                match exchanged {
                    Ok(mut forwarded) => {
                        if let Some(sessions) = &entry.sessions
                            && let Some(key) = mcp_key(forwarded.response.headers())
                        {
                            sessions.lock().learn(key, tracker.dest());
                        }
                        let may_go_on = spare.is_some() && attempts.redispatches > 0;
                        let is_not_started =
                            self.is_not_started(entry, tracker, asked, &mut forwarded);
                        if let Some(search) = &mut search
                            && !is_not_started
                        {
                            let status = forwarded.response.status();
                            next = search.after(entry, tracker.dest(), status, may_go_on);
                        }
                        if !may_go_on || !is_not_started && next.is_none() {
                            return Ok(Proxied {
                                forwarded,
                                slot,
                                held,
                                cookie,
                            });
                        }
                        attempts.redispatches -= 1;
                        *request = spare;
                    }
                    Err(failed) => {
                        let unsent = failed.nothing_written();
                        if failed.is_lost() {
                            self.note_lost(entry, tracker, &failed);
                        }
                        if !self.may_go_on(
                            &entry.throttler,
                            tracker,
                            &failed,
                            spare.as_deref(),
                            &mut attempts,
                        ) {
                            return Err(Failure::Forward(failed));
                        }
                        *request = if unsent { failed.into_boxed() } else { spare };
                    }
                }
                // In line before the slot is free, so that it keeps its turn.
                let session = next
                    .or_else(|| search.as_ref()?.once_more())
                    .or_else(|| self.session_again(entry, request.as_deref(), cookie.as_deref()));
                acquire = entry
                    .throttler
                    .acquire_again(session, || held_bytes(request.as_deref_mut(), &mut unread));
                drop(slot);
            }
        }
    }

    /// A request is about to wait for a slot.
    fn begin_wait(&self, entry: &Entry, acquire: &Acquire) -> Waiting {
        let start = Instant::now();
        if acquire.is_cold() {
            entry.cold_start.begun(start);
        }
        Waiting {
            start,
            queued: Queued::new(&self.metrics.gauges(entry).queued),
        }
    }

    /// What ends a wait besides a slot, of a request that has waited for so long before. `connection`
    /// is that of a client whose leaving nobody else would notice.
    fn watched<'a>(
        &self,
        entry: &Entry,
        connection: Option<&'a Connection>,
        before: Option<Duration>,
    ) -> Option<Watched<'a>> {
        let limits = [self.options.limits.max_wait, entry.revision.max_wait];
        let limit = limits.into_iter().flatten().min();
        let limit = limit.map(|limit| limit.saturating_sub(before.unwrap_or_default()));
        let is_any = connection.is_some() || limit.is_some();
        is_any.then_some(Watched { connection, limit })
    }

    /// The wait is over; says how long it was.
    fn end_wait(
        &self,
        entry: &Arc<Entry>,
        waiting: Waiting,
        permit: Granted,
    ) -> Result<(Slot, Duration), Failure> {
        drop(waiting.queued);
        let waited = Instant::now().duration_since(waiting.start);
        let metrics = &self.metrics.cold_start;
        metrics.held(&entry.cold_start, &entry.revision, waited);
        Ok((self.slot(entry, permit)?, waited))
    }

    fn slot(&self, entry: &Arc<Entry>, permit: Granted) -> Result<Slot, Failure> {
        permit
            .map(|permit| Slot::new(permit, entry, &self.metrics))
            .map_err(Failure::Refused)
    }

    /// The session of a request, and the cookie that will name it if it is a new one.
    fn session(
        &self,
        entry: &Entry,
        request: Option<&Request<Body>>,
    ) -> (Option<Session>, Option<Box<HeaderValue>>) {
        let (Some(affinity), Some(request)) = (&entry.revision.affinity, request) else {
            return (None, None);
        };
        let known = affinity.key(request.headers(), &self.signer);
        let (key, cookie) = match (known, affinity) {
            (Some(key), _) => (key, None),
            (None, Affinity::Cookie) => {
                let ticket = Ticket::new(fastrand::u128(..));
                (ticket.key(), Some(Box::new(self.signer.cookie(ticket))))
            }
            (None, _) => return (None, None),
        };
        let sessions = entry.sessions.as_ref();
        let pod = sessions.and_then(|sessions| sessions.lock().place(key));
        (Some(Session::new(key, pod)), cookie)
    }

    /// The session of a request that is sent once more. `cookie` names one that began with it.
    fn session_again(
        &self,
        entry: &Entry,
        request: Option<&Request<Body>>,
        cookie: Option<&HeaderValue>,
    ) -> Option<Session> {
        let affinity = entry.revision.affinity.as_ref()?;
        let key = match cookie {
            Some(cookie) => self.signer.ticket_of(cookie)?.key(),
            None => affinity.key(request?.headers(), &self.signer)?,
        };
        let sessions = entry.sessions.as_ref();
        let pod = sessions.and_then(|sessions| sessions.lock().place(key));
        Some(Session::new(key, pod))
    }

    /// Whether the queue-proxy was full and did not start the request. Takes what only we
    /// understand out of its answer. `asked`: one of ours would have said how busy it is.
    fn is_not_started(
        &self,
        entry: &Arc<Entry>,
        tracker: &Arc<PodTracker>,
        asked: bool,
        forwarded: &mut Forwarded,
    ) -> bool {
        let status = forwarded.response.status();
        let headers = forwarded.response.headers_mut();
        let load = headers.remove(&LOAD);
        if let Some((executing, waiting)) = load.as_ref().and_then(read_load) {
            entry.throttler.reported(tracker, executing, waiting);
        } else if asked && (status.is_success() || status.is_redirection()) {
            // An error may be anybody's: a mesh's, or that of a queue-proxy of ours which took the
            // request for a probe or did not get as far as to look.
            entry.throttler.not_reporting(tracker);
        }
        let not_started = headers.remove(&NOT_STARTED).is_some();
        if !not_started || status != StatusCode::SERVICE_UNAVAILABLE {
            return false;
        }
        self.note_full(&entry.throttler, tracker);
        true
    }

    /// Whether a request that failed is tried at another destination.
    fn may_go_on(
        &self,
        throttler: &RevisionThrottler,
        tracker: &Arc<PodTracker>,
        failed: &ForwardError,
        spare: Option<&Request<Body>>,
        attempts: &mut Attempts,
    ) -> bool {
        let repeatable = failed.nothing_written()
            || failed.fault() == Fault::Upstream && spare.is_some_and(is_idempotent);
        if !repeatable
            || attempts.retries == 0
            || !throttler.has_other(tracker)
            || !throttler.may_retry(Instant::now())
        {
            return false;
        }
        attempts.retries -= 1;
        true
    }

    /// The Host is the destination's, or the private Service's where a mesh has to pass the request
    /// on to the pod.
    fn address(&self, entry: &Entry, request: &mut Request<Body>, upstream: &Upstream) {
        let passthrough = self.options.probe.mesh_pod_addressability;
        let private = passthrough
            .then(|| private_host(&entry.revision.id))
            .flatten();
        if private.is_some() {
            let passes = HeaderValue::from_static("true");
            request
                .headers_mut()
                .insert(&header::PASSTHROUGH_LOAD_BALANCING, passes);
        }
        let host = private.unwrap_or_else(|| upstream.host().clone());
        forward::set_host(request, host);
    }

    /// Has a destination probed before it gets further requests. Those that it has get their own
    /// answers.
    fn note_lost(&self, entry: &Entry, tracker: &PodTracker, failed: &ForwardError) {
        tracing::info!(revision = %entry.revision.id, destination = tracker.text(), error = %failed, "destination may be gone");
        let id = Arc::clone(&entry.revision.id);
        let noted = self.notices.try_send(Notice::Lost(id, tracker.dest()));
        // When the driver has fallen behind it will hear it from the next request. Otherwise it puts
        // a new tracker in the place of this one, which nobody is to be bound to in the meantime.
        if noted.is_ok() && !tracker.is_cluster_ip() {
            entry.throttler.full(tracker);
        }
    }

    fn note_full(&self, throttler: &Arc<RevisionThrottler>, tracker: &Arc<PodTracker>) {
        if !throttler.full(tracker) {
            return;
        }
        let notice = Notice::Full(Arc::clone(throttler), Arc::clone(tracker));
        if self.notices.try_send(notice).is_err() {
            // Nobody would end the pause.
            throttler.not_full(tracker);
        }
    }
}

fn refused(spans: &mut Option<Box<RequestSpans>>, failure: &Failure) {
    if let Some(spans) = spans {
        spans.refused(failure.reason());
    }
}

type Granted = Result<crate::revision_throttler::Permit, Refused>;

/// Tells a queue-proxy of ours that we understand it, and whether the request may wait there.
fn say_capability(request: &mut Request<Body>, waits: bool) {
    let value = if waits {
        names::CAPABLE
    } else {
        names::CAPABLE_WITHOUT_WAITING
    };
    let value = HeaderValue::from_static(value);
    request.headers_mut().insert(&CAPABILITY, value);
}

/// `executing/waiting`.
fn read_load(value: &HeaderValue) -> Option<(u32, u32)> {
    let (executing, waiting) = value.to_str().ok()?.split_once('/')?;
    Some((executing.parse().ok()?, waiting.parse().ok()?))
}

/// Whether doing it twice is doing it once (RFC 9110 section 9.2.2), or the client says so.
fn is_idempotent(request: &Request<Body>) -> bool {
    let headers = request.headers();
    matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    ) || headers.contains_key("idempotency-key")
        || headers.contains_key("x-idempotency-key")
}

// === impl Watched ===

impl Watched<'_> {
    /// Waits for no longer than the limit, and while the client is there.
    async fn wait(self, acquire: &mut Acquire) -> Result<Granted, Failure> {
        let hung_up = async {
            match self.connection {
                Some(connection) => connection.hung_up().await,
                None => std::future::pending().await,
            }
        };
        let too_long = async {
            match self.limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            permit = acquire => Ok(permit),
            () = hung_up => Err(Failure::ClientLeft),
            () = too_long => Err(Failure::Refused(Refused::WaitedTooLong)),
        }
    }
}

// === impl Queued ===

impl Queued {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.dec();
    }
}
