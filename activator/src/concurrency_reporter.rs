//! What the autoscaler is told about each revision: concurrency and requests, once a second, and
//! at once when a revision wakes.
//!
//! Pure: times are parameters, reports are values; the shell sends them. A request takes
//! only its own revision's short lock, except the first one after an idle period, which enters
//! the revision in the list of tracked ones. Upstream:
//! `pkg/activator/handler/concurrency_reporter.go`.

use std::sync::Arc;

use parking_lot::Mutex;
use serving::request_stats::RequestStats;
use serving::{RevisionId, UnixTime};

/// What was measured of one revision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RevisionReport {
    /// Average over the period.
    pub average_concurrency: f64,
    /// Requests that came in the period; one less where the poke counted one already.
    pub request_count: f64,
}

/// The accounting of one revision; tracked while there is activity.
#[derive(Debug)]
pub struct RevisionStats {
    id: Arc<RevisionId>,
    /// Boxed: most revisions have no activity.
    period: Mutex<Option<Box<Period>>>,
}

#[derive(Debug)]
struct Period {
    stats: RequestStats,
    /// Requests that are in; the entry outlives them.
    references: usize,
    /// 1 until the first report after a poke, which has announced one request.
    announced: f64,
}

/// The tracked revisions.
#[derive(Debug, Default)]
pub struct ConcurrencyReporter {
    tracked: Mutex<Vec<Arc<RevisionStats>>>,
}

// === impl RevisionReport ===

impl RevisionReport {
    /// The message that announces the first request of an idle revision.
    pub const POKE: Self = Self {
        average_concurrency: 1.0,
        request_count: 1.0,
    };
}

// === impl RevisionStats ===

impl RevisionStats {
    /// A revision without activity.
    pub fn new(id: impl Into<Arc<RevisionId>>) -> Arc<Self> {
        Arc::new(Self {
            id: id.into(),
            period: Mutex::new(None),
        })
    }

    /// Which revision.
    pub fn id(&self) -> &RevisionId {
        &self.id
    }

    /// A request that came in through [`ConcurrencyReporter::request_in`] is done.
    pub fn request_out(&self, now: UnixTime) {
        let mut period = self.period.lock();
        let period = period
            .as_mut()
            .expect("a request holds the entry it came in with");
        period.stats.depart(now, false);
        period.references -= 1;
    }

    /// Ends the period. No report when there was none to end; the flag tells whether the revision
    /// stays tracked.
    fn report(&self, now: UnixTime) -> (Option<RevisionReport>, bool) {
        let mut slot = self.period.lock();
        let Some(period) = slot.as_mut() else {
            return (None, false);
        };
        let measured = period.stats.report(now);
        let announced = std::mem::take(&mut period.announced);
        let report = RevisionReport {
            // A poke says 1, the period's average may be less.
            average_concurrency: (measured.average_concurrency - announced).max(0.0),
            request_count: measured.request_count - announced,
        };
        let idle = measured.average_concurrency == 0.0 && period.references == 0;
        if idle {
            *slot = None;
        }
        (Some(report), !idle)
    }
}

// === impl ConcurrencyReporter ===

impl ConcurrencyReporter {
    /// Nothing is tracked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request came in. True when the revision was idle: [`RevisionReport::POKE`] has to be sent
    /// at once.
    pub fn request_in(&self, revision: &Arc<RevisionStats>, now: UnixTime) -> bool {
        let mut slot = revision.period.lock();
        let wakes = slot.is_none();
        let period = slot.get_or_insert_with(|| {
            Box::new(Period {
                stats: RequestStats::new(now),
                references: 0,
                announced: 1.0,
            })
        });
        period.references += 1;
        period.stats.arrive(now, false);
        drop(slot);
        if wakes {
            self.tracked.lock().push(Arc::clone(revision));
        }
        wakes
    }

    /// Ends the period of all tracked revisions and hands over their reports; those without
    /// activity are no longer tracked afterwards.
    pub fn report(&self, now: UnixTime, mut each: impl FnMut(&RevisionId, RevisionReport)) {
        self.tracked.lock().retain(|revision| {
            let (report, stays) = revision.report(now);
            if let Some(report) = report {
                each(&revision.id, report);
            }
            stays
        });
    }

    /// How many revisions are tracked.
    pub fn tracked(&self) -> usize {
        self.tracked.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        reporter: ConcurrencyReporter,
        revision: Arc<RevisionStats>,
        sent: Vec<(f64, f64)>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                reporter: ConcurrencyReporter::new(),
                revision: RevisionStats::new(RevisionId::new("default", "hello")),
                sent: Vec::new(),
            }
        }

        fn enter(&mut self, milliseconds: i64) {
            if self.reporter.request_in(&self.revision, at(milliseconds)) {
                self.send(RevisionReport::POKE);
            }
        }

        fn leave(&mut self, milliseconds: i64) {
            self.revision.request_out(at(milliseconds));
        }

        fn tick(&mut self, milliseconds: i64) {
            let mut reports = Vec::new();
            self.reporter
                .report(at(milliseconds), |_, report| reports.push(report));
            reports.into_iter().for_each(|report| self.send(report));
        }

        fn send(&mut self, report: RevisionReport) {
            self.sent
                .push((report.average_concurrency, report.request_count));
        }
    }

    fn at(milliseconds: i64) -> UnixTime {
        UnixTime(milliseconds * 1_000_000)
    }

    /// Upstream's "single request" and "even reports"; edge case 43: the zero report is sent.
    #[test]
    fn edge_case_43_worked_series() {
        let mut case = Fixture::new();
        case.enter(0);
        case.leave(1);
        case.tick(1);
        case.tick(2);
        assert_eq!(case.reporter.tracked(), 0);
        case.enter(3);
        assert_eq!(case.sent, [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0)]);
    }

    #[test]
    fn two_requests() {
        let mut case = Fixture::new();
        case.enter(0);
        case.enter(0);
        case.tick(1);
        case.tick(2);
        assert_eq!(case.sent, [(1.0, 1.0), (1.0, 1.0), (2.0, 0.0)]);
    }

    /// Edge case 41: the second message of a short burst makes the totals add up.
    #[test]
    fn edge_case_41_short_request() {
        let mut case = Fixture::new();
        case.enter(0);
        case.leave(500);
        case.tick(1000);
        assert_eq!(case.sent, [(1.0, 1.0), (0.0, 0.0)]);
        case.tick(2000);
        case.tick(3000);
        assert_eq!(case.sent.len(), 3, "removed after its zero report");
    }

    /// A request that is in keeps the entry, whatever the average says.
    #[test]
    fn a_reference_keeps_the_entry() {
        let mut case = Fixture::new();
        case.enter(5);
        case.tick(5);
        assert_eq!(case.reporter.tracked(), 1);
        case.leave(6);
        case.tick(7);
        case.tick(8);
        assert_eq!(case.reporter.tracked(), 0);
    }
}
