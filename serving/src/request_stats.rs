//! Time-weighted concurrency and request counts: what queue-proxy and the activator know about
//! their load, and what a report makes of it.
//!
//! Queueing and executing requests both count. Pure: every event brings its own time, and events
//! may come out of order, since each is stamped before it gets here.
//! Upstream: `knative.dev/networking/pkg/http/stats/request.go`, `pkg/queue/protobuf_stats_reporter.go`.

use std::time::Duration;

use parking_lot::Mutex;

use crate::UnixTime;
use crate::stat::Stat;

/// Collects the requests of one queue-proxy, or of one revision in an activator.
///
/// The lock is taken for a few additions and never across an await; on a single-threaded data plane
/// it has no contention at all.
#[derive(Debug)]
pub struct RequestStats {
    state: Mutex<State>,
}

/// `RequestStatsReport`: averages over the time between two reports, and counts in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestStatsReport {
    /// Two requests of half a second in a second make 1.
    pub average_concurrency: f64,
    /// The part of requests that came through an activator.
    pub average_proxied_concurrency: f64,
    /// Requests that arrived.
    pub request_count: f64,
    /// The part that came through an activator.
    pub proxied_request_count: f64,
}

#[derive(Debug)]
struct State {
    /// Survives a report.
    in_flight: Load,
    last_change: UnixTime,
    /// Begins anew with each report.
    window: Window,
}

/// All requests, and those that came through an activator, which are a part of them.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    total: i64,
    proxied: i64,
}

#[derive(Debug, Default)]
struct Window {
    arrived: Load,
    /// Request-seconds.
    total_seconds: f64,
    proxied_seconds: f64,
    elapsed_seconds: f64,
}

// === impl RequestStats ===

impl RequestStats {
    /// Nothing in flight, counting from `now`.
    pub fn new(now: UnixTime) -> Self {
        Self {
            state: Mutex::new(State {
                in_flight: Load::default(),
                last_change: now,
                window: Window::default(),
            }),
        }
    }

    /// A request came in, `proxied` if an activator forwarded it.
    pub fn arrive(&self, now: UnixTime, proxied: bool) {
        let mut state = self.state.lock();
        state.advance(now);
        state.in_flight.add(1, proxied);
        state.window.arrived.add(1, proxied);
    }

    /// A request that [arrived](Self::arrive) is done; `proxied` as it was then.
    pub fn depart(&self, now: UnixTime, proxied: bool) {
        let mut state = self.state.lock();
        state.advance(now);
        state.in_flight.add(-1, proxied);
    }

    /// Requests that have arrived and not departed.
    pub fn in_flight(&self) -> i64 {
        self.state.lock().in_flight.total
    }

    /// What happened since the last report; requests in flight stay so.
    pub fn report(&self, now: UnixTime) -> RequestStatsReport {
        let mut state = self.state.lock();
        state.advance(now);
        std::mem::take(&mut state.window).report()
    }
}

// === impl State ===

impl State {
    /// Accounts for the time since the last event. One that lies before it changes nothing: the
    /// difference is a rounding error between two stamps.
    fn advance(&mut self, now: UnixTime) {
        let elapsed = now.since(self.last_change);
        if elapsed.is_zero() {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        self.window.elapsed_seconds += seconds;
        self.window.total_seconds += self.in_flight.total as f64 * seconds;
        self.window.proxied_seconds += self.in_flight.proxied as f64 * seconds;
        self.last_change = now;
    }
}

// === impl Load ===

impl Load {
    fn add(&mut self, change: i64, proxied: bool) {
        self.total += change;
        if proxied {
            self.proxied += change;
        }
    }
}

// === impl Window ===

impl Window {
    fn report(self) -> RequestStatsReport {
        let average = |seconds: f64| {
            if self.elapsed_seconds > 0.0 {
                seconds / self.elapsed_seconds
            } else {
                0.0
            }
        };
        RequestStatsReport {
            average_concurrency: average(self.total_seconds),
            average_proxied_concurrency: average(self.proxied_seconds),
            request_count: self.arrived.total as f64,
            proxied_request_count: self.arrived.proxied as f64,
        }
    }
}

// === impl RequestStatsReport ===

impl RequestStatsReport {
    /// queue-proxy's Stat: counts become rates over the nominal reporting `period` (which must not
    /// be zero), averages stay as they are, and the receiver stamps the time.
    pub fn to_stat(&self, pod_name: &str, period: Duration, uptime: Duration) -> Stat {
        let period = period.as_secs_f64();
        Stat {
            pod_name: pod_name.to_owned(),
            average_concurrent_requests: self.average_concurrency,
            average_proxied_concurrent_requests: self.average_proxied_concurrency,
            request_count: self.request_count / period,
            proxied_request_count: self.proxied_request_count / period,
            process_uptime: uptime.as_secs_f64(),
            timestamp: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(seconds: f64) -> UnixTime {
        UnixTime((seconds * SECOND as f64) as i64)
    }

    /// Scenario `TestRequestStats` of upstream: requests that overlap, cross a report and are proxied.
    #[test]
    fn weighs_concurrency_by_time() {
        let stats = RequestStats::new(at(0.0));
        stats.arrive(at(0.0), false);
        stats.arrive(at(0.5), true);
        let report = stats.report(at(1.0));
        assert_eq!(report.average_concurrency, 1.5);
        assert_eq!(report.average_proxied_concurrency, 0.5);
        assert_eq!(
            (report.request_count, report.proxied_request_count),
            (2.0, 1.0)
        );
        stats.depart(at(1.5), false);
        let report = stats.report(at(2.0));
        assert_eq!(report.average_concurrency, 1.5);
        assert_eq!(report.average_proxied_concurrency, 1.0);
        assert_eq!(
            (report.request_count, report.proxied_request_count),
            (0.0, 0.0)
        );
        assert_eq!(stats.in_flight(), 1);
    }

    #[test]
    fn a_report_of_no_time_has_counts_and_no_averages() {
        let stats = RequestStats::new(at(5.0));
        stats.arrive(at(4.0), true);
        let report = stats.report(at(5.0));
        assert_eq!(report.average_concurrency, 0.0);
        assert_eq!(report.request_count, 1.0);
    }

    #[test]
    fn a_stat_has_rates_and_averages() {
        let report = RequestStatsReport {
            average_concurrency: 2.5,
            average_proxied_concurrency: 1.5,
            request_count: 30.0,
            proxied_request_count: 12.0,
        };
        let stat = report.to_stat("pod", Duration::from_secs(3), Duration::from_millis(1250));
        assert_eq!(stat.average_concurrent_requests, 2.5);
        assert_eq!(
            (stat.request_count, stat.proxied_request_count),
            (10.0, 4.0)
        );
        assert_eq!((stat.process_uptime, stat.timestamp), (1.25, 0));
    }

    proptest! {
        /// Whatever the order of stamps, an average never leaves the range of concurrencies there were.
        #[test]
        fn averages_stay_within_what_was_in_flight(
            events in prop::collection::vec((any::<bool>(), any::<bool>(), -SECOND..SECOND), 1..60)
        ) {
            let stats = RequestStats::new(UnixTime(0));
            let mut open = Vec::new();
            let mut most = 0;
            let mut now = 0;
            for (arrive, proxied, step) in events {
                now += step;
                if arrive {
                    stats.arrive(UnixTime(now), proxied);
                    open.push(proxied);
                } else if let Some(proxied) = open.pop() {
                    stats.depart(UnixTime(now), proxied);
                }
                most = most.max(open.len());
            }
            let report = stats.report(UnixTime(now + SECOND));
            prop_assert!(report.average_concurrency >= 0.0);
            prop_assert!(report.average_concurrency <= most as f64 + 1e-9);
            prop_assert!(report.average_proxied_concurrency <= report.average_concurrency + 1e-9);
            prop_assert_eq!(stats.in_flight(), open.len() as i64);
        }
    }
}
