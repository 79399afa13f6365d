//! What the driver does by the clock and for stats: scraping, recording, deciding.

use std::sync::Arc;

use serving::UnixTime;
use tokio::time::Instant;

use super::core::{Core, Due, Effect, Now};
use super::core::{SCRAPE_TICK, TICK};
use super::revision::Key;
use crate::pods::Supply;
use crate::scraper::{Report, Round};
use crate::stat_frame::{self, Malformed, Message};
use crate::timers::next_period;
use crate::work_queue::Lane;

/// Deadlines served before the driver looks at its channels again, so that a stat that wakes a
/// revision never waits for ten thousand others to tick.
const MAX_DUE: usize = 256;

impl Core {
    /// Serves deadlines, a bounded number at a time; returns whether more are due.
    pub(crate) fn tick(&mut self, now: Now) -> bool {
        self.queue.at(now.instant);
        self.handed_over.expire(now.instant);
        for _ in 0..MAX_DUE {
            let Some((due, event)) = self.timers.pop_due(now.instant) else {
                return false;
            };
            match event {
                Due::Decide(key) => self.decide_at(key, due, now),
                Due::Scrape(key) => self.scrape_at(key, due, now),
            }
        }
        true
    }

    fn decide_at(&mut self, key: Key, due: Instant, now: Now) {
        let next = next_period(due, TICK, now.instant);
        let running = self.get(key).and_then(|it| it.decider.as_mut());
        if let Some(running) = running.filter(|running| running.due == due) {
            running.due = next;
            self.timers.add(next, Due::Decide(key));
            self.decide(key.slot, now.unix);
        }
    }

    fn scrape_at(&mut self, key: Key, due: Instant, now: Now) {
        let next = next_period(due, SCRAPE_TICK, now.instant);
        let collecting = self.get(key).and_then(|it| it.collecting.as_mut());
        if let Some(collecting) = collecting.filter(|collecting| collecting.due == due) {
            collecting.due = next;
            self.timers.add(next, Due::Scrape(key));
            self.start_round(key, now.unix);
        }
    }

    /// Records a frame of stats, and decides at once for revisions that it wakes.
    pub(crate) fn record_frame(&mut self, frame: &[u8], now: Now) -> Result<usize, Malformed> {
        self.queue.at(now.instant);
        let mut messages = Vec::with_capacity(frame.len() / 64);
        stat_frame::decode(frame, &mut messages)?;
        let names = messages.iter().map(|it| (it.namespace, it.name));
        let slots = self.names.get_all(names);
        for (message, slot) in messages.iter().zip(slots) {
            if let Some(slot) = slot {
                self.record(slot, message, now.unix);
            }
        }
        Ok(messages.len())
    }

    fn record(&mut self, slot: usize, message: &Message<'_>, now: UnixTime) {
        let second = match message.timestamp {
            0 => now.seconds(),
            seconds => seconds,
        };
        let concurrency =
            message.average_concurrent_requests - message.average_proxied_concurrent_requests;
        let requests = message.request_count - message.proxied_request_count;
        if self.revisions.add(slot, second, concurrency, requests) {
            return;
        }
        let revision = &mut self.revisions[slot];
        let Some(collecting) = &mut revision.collecting else {
            return;
        };
        let time = UnixTime::from_seconds(second);
        collecting.collection.record(time, concurrency, requests);
        let concurrency = message.average_concurrent_requests;
        if revision.is_woken_by(concurrency) || revision.is_urgent(now) {
            self.decide(slot, now);
        } else if !revision.heeds_stats() {
            self.revisions.add_up(slot, second);
        }
    }

    /// Evaluates a decider; the reconciler hears of a notable outcome.
    fn decide(&mut self, slot: usize, now: UnixTime) {
        let revision = &mut self.revisions[slot];
        let (Some(running), Some(collecting)) = (&mut revision.decider, &revision.collecting)
        else {
            return;
        };
        let observed = collecting.collection.observe_for(&running.spec, now);
        let decision =
            running
                .decider
                .decide(&running.spec, observed, Supply::of(&revision.counts), now);
        let (Some(observed), Some(mut decision)) = (observed, decision) else {
            return;
        };
        if collecting.is_blind(now) {
            let ready = revision.counts.ready;
            decision = running.status.without_lowering(decision, ready);
        }
        let notable = running.status.store(decision);
        running.last = Some((observed, now));
        if let Some(gauges) = &revision.gauges {
            gauges.decided(
                running.status,
                observed,
                running.spec.target_value,
                running.decider.is_panicking(),
            );
        }
        if notable {
            self.queue.add(slot, Lane::Normal);
        }
    }

    /// Starts a round of scraping, unless the last one is still running.
    fn start_round(&mut self, key: Key, now: UnixTime) {
        let revision = &mut self.revisions[key.slot];
        let Some(collecting) = &revision.collecting else {
            return;
        };
        if collecting.scraping {
            return;
        }
        let stable_window_ns = collecting.spec.stable_window_ns;
        let targets = revision.targets(stable_window_ns, now);
        let Some(collecting) = &mut revision.collecting else {
            return;
        };
        let Some(host) = collecting.host.as_ref().filter(|_| !targets.is_empty()) else {
            if collecting.error.take().is_some() {
                self.write_metric_status(key.slot, now);
            }
            return;
        };
        let round = Round {
            options: self.scrape.clone(),
            host: Arc::clone(host),
            targets,
            connections: std::mem::take(&mut collecting.connections),
            pods_addressable: collecting.pods_addressable,
            stable_window: std::time::Duration::from_nanos(stable_window_ns.max(0).unsigned_abs()),
        };
        collecting.scraping = true;
        self.effects.push(Effect::Scrape(key, Box::new(round)));
    }

    /// Takes in what a round found out.
    pub(crate) fn scraped(&mut self, key: Key, report: Report, now: Now) {
        self.queue.at(now.instant);
        let Some(revision) = self.get(key) else {
            return;
        };
        let Some(collecting) = &mut revision.collecting else {
            return;
        };
        collecting.scraping = false;
        collecting.pods_addressable = report.pods_addressable;
        collecting.connections = report.connections;
        let pods = &revision.pods;
        collecting
            .connections
            .retain(|address| pods.iter().any(|pod| pod.stats == Some(address)));
        if let (Some(gauges), Some(duration)) = (&revision.gauges, report.duration) {
            gauges.scraped(duration);
        }
        let mut recorded = false;
        let error = match report.result {
            Ok(sample) => {
                if let Some(sample) = sample {
                    collecting.collection.record(
                        now.unix,
                        sample.net_concurrency(),
                        sample.net_request_count(),
                    );
                    recorded = true;
                }
                None
            }
            Err(error) => Some(Box::new(error)),
        };
        let changed = match (&collecting.error, &error) {
            (Some(before), Some(after)) => !before.same_kind(after),
            (None, None) => false,
            _ => true,
        };
        collecting.error = error;
        let urgent = recorded && revision.is_urgent(now.unix);
        if changed {
            self.write_metric_status(key.slot, now.unix);
        }
        if urgent {
            self.decide(key.slot, now.unix);
        }
    }
}
