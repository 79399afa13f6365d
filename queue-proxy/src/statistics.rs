//! The statistics endpoint: what the autoscaler scrapes every second from every pod.
//!
//! Requests are counted in periods of a second from the start. There is no ticker: whatever happens
//! first after a period's end, a request or a scrape, ends it as of then, so that a pod at rest is
//! not woken (upstream: `pkg/queue/protobuf_stats_reporter.go`, `cmd/queue/main.go`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use serving::body::Body;
use serving::header::PROTOBUF_MIME_TYPE;
use serving::request_stats::{RequestStats, RequestStatsReport};
use serving::server::{Connection, Handler};
use serving::stat::Stat;
use serving::{AnchoredClock, UnixTime};
use tokio::time::Instant;

use crate::endpoint::{self, Route};

/// How often the statistics are reported, and the nominal period of their rates
/// (`reportingPeriod`).
const REPORTING_PERIOD: Duration = Duration::from_secs(1);

const PATH: &str = "/metrics";

/// Counts this pod's requests.
#[derive(Debug)]
pub(crate) struct Statistics {
    pod: String,
    clock: AnchoredClock,
    started: UnixTime,
    stats: RequestStats,
    /// When the present period ends.
    end: Cell<UnixTime>,
    /// What the period before it was like.
    last: Cell<Option<RequestStatsReport>>,
}

/// Serves the last report.
#[derive(Debug)]
pub(crate) struct StatisticsEndpoint(pub(crate) Rc<Statistics>);

// === impl Statistics ===

impl Statistics {
    /// Counts from `started`.
    pub(crate) fn new(pod: &str, clock: AnchoredClock, started: Instant) -> Rc<Self> {
        let started = clock.unix(started);
        Rc::new(Self {
            pod: pod.to_owned(),
            clock,
            started,
            stats: RequestStats::new(started),
            end: Cell::new(started.after(REPORTING_PERIOD)),
            last: Cell::new(None),
        })
    }

    /// A request came in, `proxied` if an activator forwarded it.
    pub(crate) fn arrive(&self, now: Instant, proxied: bool) {
        let now = self.clock.unix(now);
        self.end_periods(now);
        self.stats.arrive(now, proxied);
    }

    /// A request that [arrived](Self::arrive) is done; `proxied` as it was then.
    pub(crate) fn depart(&self, now: Instant, proxied: bool) {
        let now = self.clock.unix(now);
        self.end_periods(now);
        self.stats.depart(now, proxied);
    }

    /// The last period that has ended by `now`. In the first there is nothing but the pod's name.
    fn stat(&self, now: Instant) -> Stat {
        self.end_periods(self.clock.unix(now));
        let Some(report) = self.last.get() else {
            return Stat::of_pod(&self.pod);
        };
        let uptime = self.end.get().since(self.started) - REPORTING_PERIOD;
        report.to_stat(&self.pod, REPORTING_PERIOD, uptime)
    }

    /// Ends every period that is over at `now`, each at its own time.
    fn end_periods(&self, now: UnixTime) {
        let end = self.end.get();
        if now < end {
            return;
        }
        let mut report = self.stats.report(end);
        let period = REPORTING_PERIOD.as_secs();
        let further = now.since(end).as_secs() / period * period;
        let last = end.after(Duration::from_secs(further));
        if last > end {
            // Nothing has changed since `end`, so all of these periods were like their average.
            report = self.stats.report(last);
        }
        self.last.set(Some(report));
        self.end.set(last.after(REPORTING_PERIOD));
    }
}

impl Handler for StatisticsEndpoint {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        match endpoint::route(&request, PATH) {
            Route::Found => {
                let stat = self.0.stat(Instant::now()).encode_to_vec();
                endpoint::content(PROTOBUF_MIME_TYPE, Bytes::from(stat))
            }
            other => endpoint::elsewhere(other, PATH, request.method()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stat: &Stat) -> (f64, f64, f64) {
        let Stat {
            average_concurrent_requests,
            request_count,
            process_uptime,
            ..
        } = *stat;
        (average_concurrent_requests, request_count, process_uptime)
    }

    /// As a ticker would have it, without one.
    #[test]
    fn a_scrape_gets_the_last_whole_second_whatever_happened_when() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let statistics = Statistics::new("pod", AnchoredClock::new(), start);
        assert_eq!(statistics.stat(at(999)), Stat::of_pod("pod"));
        assert_eq!(seen(&statistics.stat(at(1_000))), (0.0, 0.0, 1.0));
        // At rest for a while, then a request for a second and a half.
        statistics.arrive(at(7_500), false);
        assert_eq!(seen(&statistics.stat(at(7_999))), (0.0, 0.0, 7.0));
        assert_eq!(seen(&statistics.stat(at(8_300))), (0.5, 1.0, 8.0));
        statistics.depart(at(9_000), false);
        assert_eq!(seen(&statistics.stat(at(9_999))), (1.0, 0.0, 9.0));
        assert_eq!(seen(&statistics.stat(at(10_000))), (0.0, 0.0, 10.0));
        // One that nobody asks about for seconds.
        statistics.arrive(at(11_000), true);
        assert_eq!(seen(&statistics.stat(at(15_999))), (1.0, 0.0, 15.0));
        statistics.depart(at(20_250), true);
        let stat = statistics.stat(at(21_000));
        assert_eq!(seen(&stat), (0.25, 0.0, 21.0));
        assert_eq!(stat.average_proxied_concurrent_requests, 0.25);
    }
}
