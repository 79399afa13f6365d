//! The controller in front of a simulated event loop under a simulated CPU quota.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// Microseconds of CPU for one request, in two turns of the loop, and for a refusal.
const REQUEST: (u64, u64) = (25, 20);
const REFUSAL: u64 = 7;
/// Until the app has answered.
const APP: u64 = 200;
/// Turns between two looks at the sockets and timers, as in tokio.
const TURNS: usize = 61;
const LOOK: u64 = 50_000;
const LIMIT: Duration = Duration::from_millis(100);

/// A CPU that gives `quota` of each `period`, all in microseconds.
#[derive(Clone, Copy)]
struct Quota {
    quota: u64,
    period: u64,
}

const FULL: Quota = Quota {
    quota: 100_000,
    period: 100_000,
};
const MILLI_50: Quota = Quota {
    quota: 5_000,
    period: 100_000,
};
const MILLI_100: Quota = Quota {
    quota: 10_000,
    period: 100_000,
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Arrival,
    Answer { arrived: u64 },
    Look,
}

/// What became of a run.
#[derive(Debug)]
struct Run {
    served: usize,
    refused: usize,
    p99: Duration,
}

/// An event loop with its queue of woken tasks.
struct Loop {
    quota: Quota,
    /// Between two arrivals.
    gap: u64,
    now: u64,
    used: u64,
    period: u64,
    coming: BinaryHeap<Reverse<(u64, Work)>>,
    woken: VecDeque<(u64, Work)>,
}

impl Loop {
    fn spend(&mut self, mut cost: u64) {
        while cost > 0 {
            let period = self.now / self.quota.period;
            if period != self.period {
                self.period = period;
                self.used = 0;
            }
            let left = self.quota.quota - self.used;
            if left == 0 {
                self.now = (period + 1) * self.quota.period;
                continue;
            }
            let until_end = (period + 1) * self.quota.period - self.now;
            let run = cost.min(left).min(until_end);
            self.now += run;
            self.used += run;
            cost -= run;
        }
    }

    fn wake(&mut self) {
        while let Some(Reverse((at, work))) = self.coming.peek().copied() {
            if at > self.now {
                break;
            }
            self.coming.pop();
            if work == Work::Arrival {
                self.coming.push(Reverse((at + self.gap, work)));
            }
            self.woken.push_back((at, work));
        }
    }
}

/// `rate` requests per second for `seconds`. `stop` says for how long the process is put aside.
fn run(quota: Quota, rate: u64, seconds: u64, stop: impl Fn(u64) -> u64) -> Run {
    let start = Instant::now();
    let mut share = Share::new(LIMIT);
    let mut it = Loop {
        quota,
        gap: 1_000_000 / rate,
        now: 0,
        used: 0,
        period: 0,
        coming: BinaryHeap::from([Reverse((0, Work::Arrival)), Reverse((LOOK, Work::Look))]),
        woken: VecDeque::new(),
    };
    let (mut latencies, mut refused) = (Vec::new(), 0);
    while it.now < seconds * 1_000_000 {
        it.wake();
        if it.woken.is_empty() {
            let Some(Reverse((at, _))) = it.coming.peek() else {
                break;
            };
            it.now = *at;
            continue;
        }
        it.now += stop(it.now);
        for _ in 0..TURNS {
            let Some((at, work)) = it.woken.pop_front() else {
                break;
            };
            match work {
                Work::Arrival => {
                    if share.refuses() {
                        refused += 1;
                        it.spend(REFUSAL);
                    } else {
                        it.spend(REQUEST.0);
                        let answer = Work::Answer { arrived: at };
                        it.coming.push(Reverse((it.now + APP, answer)));
                    }
                }
                Work::Answer { arrived } => {
                    it.spend(REQUEST.1);
                    latencies.push(it.now - arrived);
                }
                Work::Look => {
                    it.spend(3);
                    let now = start + Duration::from_micros(it.now);
                    share.look(Duration::from_micros(it.now - at), now);
                    it.coming.push(Reverse((it.now + LOOK, Work::Look)));
                }
            }
        }
    }
    latencies.sort_unstable();
    Run {
        served: latencies.len(),
        refused,
        p99: Duration::from_micros(latencies[latencies.len() * 99 / 100]),
    }
}

fn capacity(quota: Quota) -> u64 {
    quota.quota * 1_000_000 / quota.period / (REQUEST.0 + REQUEST.1)
}

fn undisturbed(_: u64) -> u64 {
    0
}

#[test]
fn nothing_is_refused_below_the_capacity() {
    for quota in [MILLI_50, MILLI_100, FULL] {
        for percent in [10, 50, 80, 90, 95] {
            let done = run(quota, capacity(quota) * percent / 100, 20, undisturbed);
            assert_eq!(done.refused, 0, "{percent} %: {done:?}");
        }
    }
}

#[test]
fn at_twice_the_capacity_what_is_admitted_stays_in_time() {
    for quota in [MILLI_50, MILLI_100] {
        let capacity = capacity(quota);
        let done = run(quota, 2 * capacity, 60, undisturbed);
        assert!(done.p99 < Duration::from_secs(1), "{done:?}");
        // Refusals have their price: with every request answered no more than this can be served.
        let cost = REFUSAL as f64 / (REQUEST.0 + REQUEST.1) as f64;
        let most = (1.0 - 2.0 * cost) / (1.0 - cost);
        let goodput = done.served as f64 / (60 * capacity) as f64;
        assert!(goodput > 0.9 * most, "{goodput} of {most}: {done:?}");
        let answered = done.served + done.refused;
        assert!(answered as f64 > 0.98 * (120 * capacity) as f64, "{done:?}");
    }
}

/// A neighbour that takes the CPU for some milliseconds now and then, and rare long stops.
#[test]
fn short_and_rare_stops_refuse_nothing() {
    let hog = |now: u64| if now.is_multiple_of(7) { 12_000 } else { 0 };
    assert_eq!(run(FULL, 200, 20, hog).refused, 0);
    let next = std::cell::Cell::new(1_000_000);
    let hiccup = |now: u64| {
        if now < next.get() {
            return 0;
        }
        next.set(now + 1_000_000);
        400_000
    };
    assert_eq!(run(FULL, 2_000, 20, hiccup).refused, 0);
}

#[test]
fn refusals_are_spread_evenly() {
    let mut share = Share::new(LIMIT);
    share.share = 0.25;
    let refused: Vec<bool> = (0..8).map(|_| share.refuses()).collect();
    assert_eq!(
        refused,
        [false, false, false, true, false, false, false, true]
    );
}

#[test]
fn one_late_look_is_not_enough_and_rest_forgets() {
    let now = Instant::now();
    let at = |millis| now + Duration::from_millis(millis);
    let mut share = Share::new(LIMIT);
    share.look(Duration::ZERO, at(0));
    share.look(Duration::from_secs(5), at(5_000));
    assert!(!share.is_refusing());
    share.look(Duration::from_secs(5), at(10_000));
    assert!(share.is_refusing());
    share.rest();
    assert!(!share.is_refusing());
    share.look(Duration::from_secs(5), at(20_000));
    assert!(!share.is_refusing());
}

#[test]
fn the_share_falls_to_nothing_when_the_delay_is_gone() {
    let now = Instant::now();
    let mut share = Share::new(LIMIT);
    for look in 0..10 {
        share.look(
            Duration::from_millis(300),
            now + Duration::from_millis(350) * look,
        );
    }
    assert_eq!(share.share, 1.0);
    let mut looks = 0;
    while share.is_refusing() {
        looks += 1;
        share.look(
            Duration::ZERO,
            now + Duration::from_secs(4) + Duration::from_micros(LOOK) * looks,
        );
    }
    assert!(looks < 30, "{looks}");
}
