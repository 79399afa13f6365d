//! One request's way: it waits for a slot, goes to the slot's destination, and goes on to another
//! one when that is safe.
//!
//! Safe is: the queue-proxy did not start it, nothing of it was written, or it may be repeated and
//! is complete. Every retry counts against the request's own limits, and those after a failure
//! against the revision's budget besides.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Either;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header as http_header,
};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use prometheus_client::metrics::gauge::Gauge;
use serving::body::Body;
use serving::forward::{self, Fault, ForwardError, Forwarded};
use serving::http_metrics::error_type;
use serving::pool::Upstream;
use serving::server::Connection;
use serving::{header, names};
use tokio::time::Instant;

use crate::activator::{Notice, Shared};
use crate::affinity::{Affinity, Session, Ticket, mcp_key};
use crate::error::Failure;
use crate::exchange::{Exchange, Slot};
use crate::pod_tracker::PodTracker;
use crate::private_service::private_host;
use crate::revision_throttler::{Acquire, Refused, RevisionThrottler};
use crate::spans::RequestSpans;
use crate::table::Entry;

static CAPABILITY: HeaderName = HeaderName::from_static(names::CAPABILITY_HEADER);
/// What every request says to a queue-proxy.
pub(crate) static SAID: [(&HeaderName, &str); 2] = [
    (&header::PROXY, header::ACTIVATOR_NAME),
    (&CAPABILITY, names::CAPABLE),
];
static NOT_STARTED: HeaderName = HeaderName::from_static(names::NOT_STARTED_HEADER);
static LOAD: HeaderName = HeaderName::from_static(names::LOAD_HEADER);

/// What hyper reads of an HTTP/1 body with the head, before anybody asks for it.
const READ_AHEAD: u64 = 8 << 10;
/// The same for a stream of HTTP/2: the connection's window is shared by its streams.
const STREAM_READ_AHEAD: u64 = 64 << 10;
/// Headers that a request gets when it has a destination, at most.
const ADDED_HEADERS: usize = 4;
/// What a header costs besides its text.
const HEADER_OVERHEAD: usize = 64;

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

/// The headers of a request while it waits, in their order: a map has room for more of them than
/// there are, and each takes half as much again in it. What we say to every queue-proxy is left out.
struct Stowed {
    headers: Box<[(Option<HeaderName>, HeaderValue)]>,
    /// Which of [`SAID`] were there: a client may have called them hop-by-hop.
    said: [bool; SAID.len()],
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
            let mut acquire = entry
                .throttler
                .acquire_for(session, || held_bytes(request.as_deref()));
            let mut attempts = Attempts {
                redispatches: self.options.limits.max_redispatches,
                retries: self.options.limits.max_connect_retries,
            };
            let mut held = None;
            loop {
                if let Some(spans) = spans {
                    spans.trying(Instant::now());
                }
                let unread = request.as_deref().is_some_and(is_unread);
                let slot = if acquire.is_waiting() {
                    let headers = request.as_deref_mut().map(Stowed::take);
                    let waiting = self.begin_wait(entry, &acquire);
                    // One await for both: what lives across two has its room in every other as well.
                    let permit = match self.watched(entry, unread.then_some(connection)) {
                        None => Either::Left((&mut acquire).map(Ok)),
                        // Boxed: most requests have no use for it.
                        Some(watched) => Either::Right(Box::pin(watched.wait(&mut acquire))),
                    };
                    let waited = permit
                        .await
                        .and_then(|permit| self.end_wait(entry, waiting, permit));
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
                let spare = match (entry.revision.container_concurrency, &mut *request) {
                    // Without a limit a queue-proxy is never full.
                    (0, _) => None,
                    (_, Some(sent)) if http_body::Body::is_end_stream(sent.body()) => {
                        Some(Box::new(copy(sent, Bytes::new())))
                    }
                    (_, Some(sent)) if self.is_replayed(entry, sent) => {
                        Some(Box::pin(keep_body(sent)).await?)
                    }
                    _ => None,
                };
                let mut sent = request.take().expect("kept, or the loop has ended");
                let tracker = slot.permit().tracker();
                let upstream = self.upstreams.get(tracker, &entry.revision.id.namespace);
                self.address(entry, &mut sent, &upstream);
                if spare.is_some() {
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
                match exchanged {
                    Ok(mut forwarded) => {
                        if let Some(sessions) = &entry.sessions
                            && let Some(key) = mcp_key(forwarded.response.headers())
                        {
                            sessions.lock().learn(key, tracker.dest());
                        }
                        if !self.is_not_started(entry, tracker, asked, &mut forwarded) {
                            return Ok(Proxied {
                                forwarded,
                                slot,
                                held,
                                cookie,
                            });
                        }
                        if spare.is_none() || attempts.redispatches == 0 {
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
                        if unsent {
                            self.note_refused(entry, tracker);
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
                acquire = entry
                    .throttler
                    .acquire_again(|| held_bytes(request.as_deref()));
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

    /// What ends a wait besides a slot. `connection` is that of a client whose leaving nobody else
    /// would notice.
    fn watched<'a>(
        &self,
        entry: &Entry,
        connection: Option<&'a Connection>,
    ) -> Option<Watched<'a>> {
        let limits = [self.options.limits.max_wait, entry.revision.max_wait];
        let limit = limits.into_iter().flatten().min();
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
        (Some(Session { key, pod }), cookie)
    }

    /// Whether the body of a request is small enough to be kept, and all of it will come without
    /// the app's doing.
    fn is_replayed(&self, entry: &Entry, request: &Request<Body>) -> bool {
        let limit = self.options.limits.max_replayed_body as u64;
        request.version() != Version::HTTP_2
            && http_body::Body::size_hint(request.body())
                .exact()
                .is_some_and(|length| length <= limit)
            && !entry.revision.full_duplex
            && !request.headers().contains_key(http_header::EXPECT)
            && request.extensions().get::<OnUpgrade>().is_none()
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

    fn note_refused(&self, entry: &Entry, tracker: &PodTracker) {
        tracing::info!(revision = %entry.revision.id, destination = tracker.text(), "destination takes no connection");
        // When the driver has fallen behind it will hear it from the next request.
        let id = Arc::clone(&entry.revision.id);
        let _ = self.notices.try_send(Notice::Refused(id, tracker.dest()));
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

/// What a request holds while it waits: its head, and what of its body may have come with it.
fn held_bytes(request: Option<&Request<Body>>) -> usize {
    let Some(request) = request else {
        return 0;
    };
    let headers = request.headers().iter();
    let head: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
        .sum();
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    let read_ahead = if request.version() == Version::HTTP_2 {
        STREAM_READ_AHEAD
    } else {
        READ_AHEAD
    };
    let body = if http_body::Body::is_end_stream(request.body()) {
        0
    } else {
        let hint = http_body::Body::size_hint(request.body());
        hint.exact().unwrap_or(read_ahead).min(read_ahead)
    };
    head + target + usize::try_from(body).unwrap_or(usize::MAX)
}

/// Whether the body of an HTTP/1 request is still in the socket.
fn is_unread(request: &Request<Body>) -> bool {
    request.version() != Version::HTTP_2 && !http_body::Body::is_end_stream(request.body())
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

/// Reads the whole body, gives it back to the request, and makes a copy of both.
async fn keep_body(request: &mut Request<Body>) -> Result<Box<Request<Body>>, Failure> {
    let body = std::mem::replace(request.body_mut(), Body::empty(()));
    let Ok(body) = body.collect().await else {
        return Err(Failure::ClientLeft);
    };
    let bytes = body.to_bytes();
    *request.body_mut() = Body::full(bytes.clone(), ());
    Ok(Box::new(copy(request, bytes)))
}

/// A copy of a request that can be sent once more.
fn copy(request: &Request<Body>, body: Bytes) -> Request<Body> {
    let mut copy = Request::new(Body::full(body, ()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
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

// === impl Stowed ===

impl Stowed {
    fn take(request: &mut Request<Body>) -> Self {
        let headers = std::mem::take(request.headers_mut());
        let said = SAID.map(|(name, value)| headers.get(name).is_some_and(|it| it == value));
        // Each was inserted, so no second value follows it.
        let is_left_out = |name: &HeaderName| {
            let mut all = SAID.iter().zip(said);
            all.any(|((ours, _), said)| said && *ours == name)
        };
        let left_out = said.into_iter().filter(|said| *said).count();
        let mut kept = Vec::with_capacity(headers.len() - left_out);
        let all = headers.into_iter();
        kept.extend(all.filter(|(name, _)| !name.as_ref().is_some_and(is_left_out)));
        Self {
            headers: kept.into_boxed_slice(),
            said,
        }
    }

    fn put_back(self, request: &mut Request<Body>) {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + ADDED_HEADERS);
        headers.extend(self.headers);
        for ((name, value), said) in SAID.iter().zip(self.said) {
            if said {
                headers.insert(*name, HeaderValue::from_static(value));
            }
        }
        *request.headers_mut() = headers;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(headers: &[(&str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty(()));
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(name, value);
        }
        let stowed = Stowed::take(&mut request);
        assert!(request.headers().is_empty());
        stowed.put_back(&mut request);
        request
    }

    fn pairs(request: &Request<Body>) -> Vec<(&str, &str)> {
        let headers = request.headers().iter();
        headers
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn stowed_headers_come_back_in_their_order() {
        let headers = [
            ("user-agent", "bench"),
            ("cookie", "a=1"),
            ("x-own", "first"),
            ("cookie", "b=2"),
            ("accept", "*/*"),
        ];
        let request = round_trip(&headers);
        let expected = [
            ("user-agent", "bench"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-own", "first"),
            ("accept", "*/*"),
        ];
        assert_eq!(pairs(&request), expected);
    }

    /// Neither invented, if it was not there, nor taken for the usual, if it said something else.
    #[test]
    fn what_was_said_is_said_again() {
        assert_eq!(
            pairs(&round_trip(&[("accept", "*/*")])),
            [("accept", "*/*")]
        );
        let other = [("accept", "*/*"), (names::CAPABILITY_HEADER, "no-wait")];
        assert_eq!(pairs(&round_trip(&other)), other);
        let said = SAID.map(|(name, value)| (name.as_str(), value));
        assert_eq!(pairs(&round_trip(&said)), said);
    }
}
