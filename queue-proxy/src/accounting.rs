//! What a request holds while it lasts, and what is written down when it has ended.
//!
//! Everything is released by dropping one [`RequestGuard`]: it travels from the handler into the
//! response body or the tunnel, and a client that leaves drops it wherever it is.

use std::rc::Rc;

use http::{HeaderMap, StatusCode};
use serving::body::{End, Guard, Outcome};
use serving::breaker::Permit;
use serving::deadline::Expired;
use serving::forward::ForwardError;
use serving::lifecycle::InFlightGuard;
use tokio::time::Instant;

use crate::metrics::{Metrics, ServerFacts, error_type};
use crate::request_log::Entry;
use crate::statistics::Statistics;
use crate::telemetry::RequestSpans;

/// One request's share of everything that counts requests.
#[derive(Debug, Default)]
pub(crate) struct RequestGuard {
    /// First, so that the slot is free before anything slow happens.
    permit: Option<Permit>,
    departure: Option<Departure>,
    invocation: Option<Invocation>,
    record: Option<Box<Record>>,
    spans: Option<Box<RequestSpans>>,
    _in_flight: Option<InFlightGuard>,
    /// Without a free place the request is refused at once.
    pub(crate) no_wait: bool,
    /// Warned of when a deadline cuts the response.
    timeouts: Option<TimeoutNames>,
}

/// The configured durations in Go's spelling, for log lines.
#[derive(Clone, Debug)]
pub(crate) struct TimeoutNames(pub(crate) Rc<[String; 3]>);

/// Tells the statistics that a request is over.
#[derive(Debug)]
struct Departure {
    statistics: Rc<Statistics>,
    proxied: bool,
}

/// The time the app took, for `kn.serving.invocation.duration`.
#[derive(Debug)]
struct Invocation {
    metrics: Rc<Metrics>,
    started: Instant,
    status: StatusCode,
}

/// What request log and server metrics want to know.
#[derive(Debug)]
struct Record {
    metrics: Option<(Rc<Metrics>, ServerFacts)>,
    log: Option<Entry>,
    started: Instant,
    status: StatusCode,
    end: Option<End>,
}

// === impl RequestGuard ===

impl RequestGuard {
    /// Counts the request as in flight.
    pub(crate) fn enter(&mut self, in_flight: InFlightGuard, timeouts: TimeoutNames) {
        self._in_flight = Some(in_flight);
        self.timeouts = Some(timeouts);
    }

    /// Measures the request from `started`, if anybody wants to know.
    pub(crate) fn record(
        &mut self,
        metrics: Option<(Rc<Metrics>, ServerFacts)>,
        log: Option<Entry>,
        started: Instant,
    ) {
        if metrics.is_some() || log.is_some() {
            self.record = Some(Box::new(Record {
                metrics,
                log,
                started,
                status: StatusCode::OK,
                end: None,
            }));
        }
    }

    /// The spans that end with the request, if there are any.
    pub(crate) fn trace(&mut self, spans: Option<Box<RequestSpans>>) {
        self.spans = spans;
    }

    /// The spans, to be told what happens.
    pub(crate) fn spans(&mut self) -> Option<&mut RequestSpans> {
        self.spans.as_deref_mut()
    }

    /// Whether anybody wants to know how the request ends.
    pub(crate) fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// The headers are now as the app will see them.
    pub(crate) fn rewritten(&mut self, headers: &HeaderMap) {
        if let Some(log) = self.record.as_mut().and_then(|record| record.log.as_mut()) {
            log.rewritten(headers);
        }
    }

    /// Counts the request in the statistics from now on.
    pub(crate) fn arrive(&mut self, statistics: &Rc<Statistics>, proxied: bool, now: Instant) {
        statistics.arrive(now, proxied);
        self.departure = Some(Departure {
            statistics: Rc::clone(statistics),
            proxied,
        });
    }

    /// Waits for a place: a client that leaves now is written down with 500, as upstream does.
    pub(crate) fn queued(&mut self, now: Instant) {
        if let Some(spans) = &mut self.spans {
            spans.waiting(now);
        }
        self.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    }

    /// Has a place.
    pub(crate) fn admitted(&mut self, permit: Permit) {
        self.permit = Some(permit);
        if let Some(spans) = &mut self.spans {
            spans.admitted(Instant::now());
        }
        self.set_status(StatusCode::OK);
    }

    /// The app is asked from now on.
    pub(crate) fn invoke(&mut self, metrics: &Rc<Metrics>, now: Instant) {
        self.invocation = Some(Invocation {
            metrics: Rc::clone(metrics),
            started: now,
            status: StatusCode::OK,
        });
    }

    /// The app's answer, or the lack of one.
    pub(crate) fn exchanged(&mut self, answer: Result<StatusCode, &ForwardError>) {
        if let Some(spans) = &mut self.spans {
            match answer {
                Ok(status) => spans.answered(status),
                Err(error) => spans.failed(error),
            }
        }
        if let Some(invocation) = &self.invocation
            && let Some((metrics, facts)) = self.record.as_ref().and_then(|r| r.metrics.as_ref())
        {
            let elapsed = Instant::now() - invocation.started;
            metrics.exchanged(facts, answer.map_err(error_type), elapsed);
        }
    }

    /// The status that the client gets from the app, or from us in its stead.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.set_status(status);
        if let Some(invocation) = &mut self.invocation {
            invocation.status = status;
        }
    }

    /// Gives everything back but the record: a timeout answers in the app's stead.
    pub(crate) fn abandon(&mut self, status: StatusCode) {
        self.permit = None;
        self.invocation = None;
        self.departure = None;
        if let Some(spans) = &mut self.spans {
            spans.abandoned();
        }
        self.set_status(status);
    }

    /// Answers with `status` without having asked the app.
    pub(crate) fn refused(&mut self, status: StatusCode) {
        self.set_status(status);
    }

    fn set_status(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.record {
            record.status = status;
        }
        if let Some(spans) = &mut self.spans {
            spans.set_status(status);
        }
    }
}

impl Guard for RequestGuard {
    fn ended(&mut self, end: End) {
        if let (Outcome::Expired(expired), Some(names)) = (end.outcome, &self.timeouts) {
            names.warn(expired);
        }
        if let Some(invocation) = &mut self.invocation
            && matches!(end.outcome, Outcome::Failed | Outcome::Expired(_))
        {
            invocation.status = StatusCode::INTERNAL_SERVER_ERROR;
        }
        if let Some(record) = &mut self.record {
            record.end = Some(end);
        }
        if let Some(spans) = &mut self.spans {
            spans.ended(end.bytes, end.outcome == Outcome::Failed);
        }
    }
}

// === impl TimeoutNames ===

impl TimeoutNames {
    /// One line per timeout, in upstream's words.
    pub(crate) fn warn(&self, expired: Expired) {
        let [total, response_start, idle] = &*self.0;
        match expired {
            Expired::Total => tracing::warn!("Request timeout: {total}"),
            Expired::ResponseStart => tracing::warn!("Response start timeout: {response_start}"),
            Expired::Idle => tracing::warn!("Idle timeout: {idle}"),
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.statistics.depart(Instant::now(), self.proxied);
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        let elapsed = Instant::now() - self.started;
        self.metrics.invoked(self.status, elapsed);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = Instant::now() - self.started;
        let bytes = self.end.map_or(0, |end| end.bytes);
        let failed = self.end.is_some_and(|end| end.outcome == Outcome::Failed);
        let (status, bytes) = if failed {
            (StatusCode::INTERNAL_SERVER_ERROR, 0)
        } else {
            (self.status, bytes)
        };
        // Upstream aborts the connection by a panic, which its instrumentation never records.
        if let Some((metrics, facts)) = self.metrics.as_ref().filter(|_| !failed) {
            metrics.served(facts, status, bytes, elapsed);
        }
        if let Some(log) = &self.log {
            log.write(status, bytes, elapsed);
        }
    }
}
