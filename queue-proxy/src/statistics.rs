//! The statistics endpoint: what the autoscaler scrapes every second from every pod.
//!
//! A ticker turns the request statistics into one encoded Stat and publishes it; a scrape only
//! reads it (upstream: `pkg/queue/protobuf_stats_reporter.go`, `cmd/queue/main.go`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use serving::AnchoredClock;
use serving::body::Body;
use serving::header::PROTOBUF_MIME_TYPE;
use serving::request_stats::RequestStats;
use serving::server::{Connection, Handler};
use serving::stat::Stat;
use tokio::time::{Instant, MissedTickBehavior};

use crate::endpoint::{self, Route};

/// How often the statistics are reported, and the nominal period of their rates
/// (`reportingPeriod`).
const REPORTING_PERIOD: Duration = Duration::from_secs(1);

const PATH: &str = "/metrics";

/// The last report, encoded.
#[derive(Debug)]
pub(crate) struct Statistics {
    pod: String,
    started: Instant,
    snapshot: RefCell<Bytes>,
}

/// Serves the last report.
#[derive(Debug)]
pub(crate) struct StatisticsEndpoint(pub(crate) Rc<Statistics>);

// === impl Statistics ===

impl Statistics {
    /// Publishes a Stat with nothing but the pod's name until the first report.
    pub(crate) fn new(pod: &str, started: Instant) -> Rc<Self> {
        let first = Stat::of_pod(pod).encode_to_vec();
        Rc::new(Self {
            pod: pod.to_owned(),
            started,
            snapshot: RefCell::new(first.into()),
        })
    }

    /// Reports every second; never ends.
    pub(crate) async fn report(&self, stats: &RequestStats, clock: AnchoredClock) {
        let first = self.started + REPORTING_PERIOD;
        let mut ticker = tokio::time::interval_at(first, REPORTING_PERIOD);
        // As Go's ticker: a late reader gets the latest tick, not one for each that was missed.
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let tick = ticker.tick().await;
            let uptime = tick.duration_since(self.started);
            let stat = stats
                .report(clock.unix(tick))
                .to_stat(&self.pod, REPORTING_PERIOD, uptime);
            self.snapshot.replace(stat.encode_to_vec().into());
        }
    }
}

impl Handler for StatisticsEndpoint {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        match endpoint::route(&request, PATH) {
            Route::Found => endpoint::content(PROTOBUF_MIME_TYPE, self.0.snapshot.borrow().clone()),
            other => endpoint::elsewhere(other, PATH, request.method()),
        }
    }
}
