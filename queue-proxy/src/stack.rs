//! The handler chain of the data ports, in upstream's order (`pkg/queue/sharedmain/handlers.go`):
//!
//! 1. request log and server metrics, which see everything but what they are told to leave out;
//! 2. probes and drain: probes are answered here and reach nothing below, so that they never wait
//!    for a place, count as load or time out;
//! 3. refusal for want of CPU time, and in-flight count, for the last phase of the shutdown;
//! 4. timeouts: all three clocks run while a request waits for its place;
//! 5. `Forwarded`, from what earlier proxies noted, before our peer is added to it;
//! 6. statistics, which count waiting and refused requests too;
//! 7. Host restoration, admission;
//! 8. app metrics, and the hop to the app.
//!
//! It is one hand-written future: each stage is a few lines, and none of them allocates unless
//! metrics or the log are on.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serving::body::Body;
use serving::breaker::Breaker;
use serving::deadline::{Deadline, Timeouts};
use serving::forward::{self, ForwardError, Forwarded, error_response, text_response};
use serving::header::{self as knative, Marks, RequestClass};
use serving::names::{CAPABILITY_HEADER, CAPABLE_WITHOUT_WAITING, LOAD_HEADER, NOT_STARTED_HEADER};
use serving::pool::Upstream;
use serving::server::{Connection, Handler};
use serving::upgrade::Tunnels;
use tokio::time::Instant;

use crate::accounting::{RequestGuard, TimeoutNames};
use crate::endpoint::is_any_target;
use crate::handle::Shared;
use crate::metrics::{Metrics, ServerFacts};
use crate::overload::Overload;
use crate::readiness::Readiness;
use crate::request_log::{Entry, RequestLogger};
use crate::statistics::Statistics;
use crate::telemetry::Tracing;

static CAPABILITY: HeaderName = HeaderName::from_static(CAPABILITY_HEADER);
static NOT_STARTED: HeaderName = HeaderName::from_static(NOT_STARTED_HEADER);
static LOAD: HeaderName = HeaderName::from_static(LOAD_HEADER);

/// The values of [`NOT_STARTED_HEADER`].
const QUEUE_FULL: HeaderValue = HeaderValue::from_static("queue-full");
const OVERLOADED: HeaderValue = HeaderValue::from_static("overloaded");

/// Seconds after which a request that was refused for want of CPU time may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Upstream's body of a 504, and of a response whose body has not begun in time, without a newline.
const TIMEOUT_TEXT: &str = "request timeout";

type GuardedBody = Body<Option<RequestGuard>>;

/// The data ports' handler.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) shared: Rc<Shared>,
    pub(crate) readiness: Rc<Readiness>,
    pub(crate) statistics: Rc<Statistics>,
    pub(crate) timeouts: Timeouts,
    pub(crate) timeout_names: TimeoutNames,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) tunnels: Tunnels,
    pub(crate) metrics: Option<Rc<Metrics>>,
    pub(crate) log: Option<Rc<RequestLogger>>,
    pub(crate) tracing: Tracing,
    pub(crate) overload: Rc<Overload>,
}

/// Why the app's answer is not to be had.
#[derive(Debug)]
enum Refusal {
    QueueFull,
    Forward(ForwardError),
}

/// What a request's headers make of it, without borrowing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Ordinary,
    /// Forwarded past statistics, admission and Host restoration.
    KubeletStyle,
    /// Forwarded and counted, but neither logged nor measured.
    ForwardedProbe,
}

/// What is known of a request that goes on to the app.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    class: Class,
    /// As received.
    marks: Marks,
    now: Instant,
}

impl Handler for Stack {
    type Guard = Option<RequestGuard>;

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<GuardedBody> {
        if is_any_target(&request) {
            return Response::new(Body::empty(None));
        }
        let now = Instant::now();
        let marks = Marks::scan(request.headers());
        let class = RequestClass::of_marked(request.headers(), marks);
        let guard = self.guard(&request, connection, class.is_probe(), now);
        let class = match class {
            RequestClass::HealthCheck { probe, .. } => {
                return recorded(self.health_check(probe).await, guard);
            }
            RequestClass::NetworkProbe(hash) => return recorded(self.network_probe(hash), guard),
            RequestClass::Ordinary if self.overload.refuses(connection.is_weighed()) => {
                return self.refuse(request.headers(), guard, now);
            }
            RequestClass::Ordinary => Class::Ordinary,
            RequestClass::KubeletStyle => Class::KubeletStyle,
            RequestClass::ForwardedProbe => Class::ForwardedProbe,
        };
        let arrival = Arrival { class, marks, now };
        self.serve(request, arrival, connection, guard).await
    }
}

// === impl Stack: probes ===

impl Stack {
    /// A prober's user agent: the only right question is whether the app is ready. The answers are
    /// read by kubelet and activator (`pkg/queue/health/handler.go`).
    async fn health_check(&self, probe: &[u8]) -> Response<GuardedBody> {
        if self.shared.drain.is_draining() {
            return shutting_down();
        }
        if probe != knative::QUEUE_NAME.as_bytes() {
            let value = String::from_utf8_lossy(probe);
            let text = format!("unexpected probe header value: {value}");
            return error_response(StatusCode::BAD_REQUEST, &text, None);
        }
        // While requests are refused, a round takes longer than kubelet waits for it.
        let is_known = self.overload.is_refusing() && self.readiness.was_ready(Instant::now());
        if is_known || self.readiness.ready().await {
            text_response(StatusCode::OK, knative::QUEUE_NAME, None)
        } else {
            // The activator takes another status for a mesh that refuses it.
            let mut response = Response::new(Body::empty(None));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }

    /// An ingress asks whether its configuration leads here; says nothing about the app.
    fn network_probe(&self, hash: &[u8]) -> Response<GuardedBody> {
        if self.shared.drain.is_draining() {
            return shutting_down();
        }
        match HeaderValue::from_bytes(hash) {
            Ok(hash) if !hash.is_empty() => {
                let mut response = Response::new(Body::empty(None));
                response.headers_mut().insert(knative::HASH.clone(), hash);
                response
            }
            _ => {
                let text = "a probe request must contain a non-empty \"K-Network-Hash\" header";
                error_response(StatusCode::BAD_REQUEST, text, None)
            }
        }
    }
}

fn shutting_down() -> Response<GuardedBody> {
    error_response(StatusCode::SERVICE_UNAVAILABLE, "shutting down", None)
}

/// Puts the answer to a probe on record, where probes are.
fn recorded(response: Response<GuardedBody>, mut guard: RequestGuard) -> Response<GuardedBody> {
    if !guard.is_recorded() {
        return response;
    }
    guard.refused(response.status());
    response.map(|body| body.map_guard(|_| Some(guard)))
}

// === impl Stack: requests ===

impl Stack {
    /// A guard that records what log and metrics want to know of this request.
    fn guard(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
        is_probe: bool,
        now: Instant,
    ) -> RequestGuard {
        let mut guard = RequestGuard::default();
        let metrics = self.metrics.as_ref().filter(|_| !is_probe);
        let log = self.log.as_ref().filter(|log| !is_probe || log.probes);
        guard.record(
            metrics.map(|metrics| {
                let facts = ServerFacts::of(request, connection.is_tls());
                (Rc::clone(metrics), facts)
            }),
            log.map(|log| Entry::new(log, request, connection)),
            now,
        );
        guard
    }

    /// Answers at once for want of CPU time: nothing is waited for, no body is read. The autoscaler
    /// counts the request all the same.
    fn refuse(
        &self,
        headers: &HeaderMap,
        guard: RequestGuard,
        now: Instant,
    ) -> Response<GuardedBody> {
        self.shared.arrived(now);
        let proxied = knative::is_proxied(headers);
        self.statistics.arrive(now, proxied);
        self.statistics.depart(now, proxied);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = recorded(error_response(status, "overloaded", None), guard);
        let answer = response.headers_mut();
        answer.insert(header::RETRY_AFTER, RETRY_AFTER);
        if headers.contains_key(&CAPABILITY) {
            answer.insert(&NOT_STARTED, OVERLOADED);
            self.show_load(answer);
        }
        response
    }

    async fn serve(
        &self,
        mut request: Request<Incoming>,
        arrival: Arrival,
        connection: &Connection,
        mut guard: RequestGuard,
    ) -> Response<GuardedBody> {
        let Arrival { class, marks, now } = arrival;
        self.shared.arrived(now);
        let is_instrumented = class == Class::Ordinary;
        guard.trace(
            self.tracing
                .begin(&request, connection, is_instrumented, now),
        );
        if let Some(spans) = guard.spans() {
            spans.tag(request.headers());
        }
        guard.enter(self.shared.in_flight.enter(), self.timeout_names.clone());
        let capability = if marks.ours() {
            request.headers_mut().remove(&CAPABILITY)
        } else {
            None
        };
        let capable = capability.is_some();
        guard.no_wait = capability.is_some_and(|value| value == CAPABLE_WITHOUT_WAITING);
        let deadline = connection.deadline_at(&self.timeouts, now);
        let answer = deadline
            .limit(self.answer(request, arrival, connection, &mut guard))
            .await;
        let mut response = match answer {
            Ok(Ok(forwarded)) => self.relay(forwarded, deadline, guard),
            Ok(Err(Refusal::QueueFull)) => queue_full(capable, guard),
            Ok(Err(Refusal::Forward(error))) => bad_gateway(&error, guard),
            Err(expired) => {
                self.timeout_names.warn(expired);
                guard.abandon(StatusCode::GATEWAY_TIMEOUT);
                text_response(StatusCode::GATEWAY_TIMEOUT, TIMEOUT_TEXT, Some(guard))
            }
        };
        if capable {
            self.show_load(response.headers_mut());
        }
        response
    }

    /// Admission and the hop; everything that the timeouts may cut short.
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        arrival: Arrival,
        connection: &Connection,
        guard: &mut RequestGuard,
    ) -> Result<Forwarded, Refusal> {
        let Arrival { class, marks, now } = arrival;
        let headers = request.headers_mut();
        if marks.forwarded() {
            knative::shim_forwarded(headers);
        }
        if marks.revision() {
            // They named the revision to the activator and are nothing to the app.
            headers.remove(&knative::REVISION_NAME);
            headers.remove(&knative::REVISION_NAMESPACE);
        }
        if class != Class::KubeletStyle {
            if let Some(spans) = guard.spans() {
                spans.proxying(now);
            }
            let proxied = marks.knative() && knative::is_proxied(request.headers());
            guard.arrive(&self.statistics, proxied, now);
            if marks.knative() {
                restore_host(&mut request);
            }
            guard.rewritten(request.headers());
            self.admit(guard, now).await?;
        } else {
            guard.rewritten(request.headers());
        }
        if class == Class::Ordinary
            && let Some(metrics) = &self.metrics
        {
            guard.invoke(metrics, Instant::now());
        }
        self.trace_hop(&mut request, arrival, guard);
        let forwarded = forward::forward(&self.upstream, request, connection).await;
        let answer = forwarded.as_ref().map(|answer| answer.response.status());
        guard.exchanged(answer);
        forwarded.map_err(Refusal::Forward)
    }

    /// Tells the app whose child it is: our span's, or without spans that of whoever asked us.
    fn trace_hop(
        &self,
        request: &mut Request<Incoming>,
        Arrival { class, marks, .. }: Arrival,
        guard: &mut RequestGuard,
    ) {
        let is_instrumented = class == Class::Ordinary;
        match guard.spans() {
            Some(spans) => spans.asking(request, is_instrumented, Instant::now()),
            None if is_instrumented && marks.trace() => self.tracing.pass_on(request.headers_mut()),
            None => {}
        }
    }

    /// Waits for one of the places, if their number is limited.
    async fn admit(&self, guard: &mut RequestGuard, now: Instant) -> Result<(), Refusal> {
        let in_flight = match &self.breaker {
            // One thread: who sees a free place gets it.
            Some(breaker)
                if guard.no_wait && breaker.in_flight() >= u64::from(breaker.capacity()) =>
            {
                return Err(Refusal::QueueFull);
            }
            Some(breaker) => {
                guard.queued(now);
                let permit = breaker.enter().await.map_err(|_| Refusal::QueueFull)?;
                guard.admitted(permit);
                breaker.in_flight()
            }
            None => return Ok(()),
        };
        if let Some(metrics) = &self.metrics {
            metrics.admitted(in_flight);
        }
        Ok(())
    }

    /// Passes the app's answer on; an upgraded connection takes the guard with it.
    fn relay(
        &self,
        forwarded: Forwarded,
        deadline: Deadline,
        mut guard: RequestGuard,
    ) -> Response<GuardedBody> {
        let Forwarded {
            mut response,
            upgrade,
        } = forwarded;
        strip_own_names(response.headers_mut());
        match upgrade {
            Some(upgrade) => {
                // Upstream's recorders never see the 101.
                guard.answered(StatusCode::OK);
                self.tunnels.spawn(upgrade, deadline.lifetime(), guard);
                response.map(|_| Body::empty(None))
            }
            None => {
                guard.answered(response.status());
                let mut response = response.map(|body| Body::upstream(body, Some(guard)));
                response.body_mut().set_deadline(deadline, TIMEOUT_TEXT);
                response
            }
        }
    }

    /// Tells an activator of ours how busy this pod is.
    fn show_load(&self, headers: &mut HeaderMap) {
        let (executing, waiting) = self.shared.load();
        if let Ok(load) = HeaderValue::try_from(format!("{executing}/{waiting}")) {
            headers.insert(&LOAD, load);
        }
    }
}

/// Puts the Host that the client asked for in place of the one that routed the request here.
fn restore_host(request: &mut Request<Incoming>) {
    if let Some(host) = knative::restore_host(request.headers_mut()) {
        forward::set_host(request, host);
    }
}

fn queue_full(capable: bool, mut guard: RequestGuard) -> Response<GuardedBody> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    guard.refused(status);
    let mut response = error_response(status, "pending request queue full", Some(guard));
    if capable {
        response.headers_mut().insert(&NOT_STARTED, QUEUE_FULL);
    }
    response
}

fn bad_gateway(error: &ForwardError, mut guard: RequestGuard) -> Response<GuardedBody> {
    tracing::error!(error = %error, "error reverse proxying request");
    guard.answered(StatusCode::BAD_GATEWAY);
    error.response(Some(guard))
}

/// An app must not speak in this process's name.
fn strip_own_names(headers: &mut HeaderMap) {
    if !Marks::scan(headers).ours() {
        return;
    }
    for name in [&CAPABILITY, &NOT_STARTED, &LOAD] {
        headers.remove(name);
    }
}
