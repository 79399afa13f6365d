//! Rounds of scraping that finish together.

use super::*;
use crate::pod_autoscaler::{Metric, MetricSpec, MetricStatus};
use crate::scraper::Report;
use crate::spec::Aggregation;
use crate::world::MetricObject;

/// More than one turn of the loop takes.
const ROUNDS: usize = 2 * MAX_PER_TURN + 2;

fn metric(id: &RevisionId) -> Update {
    let object = MetricObject {
        metric: Metric {
            id: id.clone(),
            controller_uid: None,
            spec: MetricSpec {
                stable_window_ns: 60_000_000_000,
                panic_window_ns: 6_000_000_000,
                scrape_target: "private".to_owned(),
            },
        },
        generation: 1,
        aggregation: Aggregation::Linear,
        names_revision: true,
        status: MetricStatus::default(),
    };
    Update::Metric(id.clone(), Some(Box::new(object)))
}

/// A round whose outcome is dropped leaves its revision without another one for ever.
#[tokio::test]
async fn every_round_that_finishes_is_taken_in() {
    let (_updates, updates) = mpsc::channel(1);
    let (actions, _actions) = mpsc::channel(1);
    let world = World { updates, actions };
    let options = Options::new(scraper::Options::default(), probe_targets());
    let (mut driver, _handle) = Autoscaler::new(options, world, &mut Registry::default());
    let now = driver.now();
    for number in 0..ROUNDS {
        let id = RevisionId::new("default", format!("revision-{number:05}"));
        driver.core.update(metric(&id), now);
    }
    let slots = driver.core.revisions.slots();
    for slot in &slots {
        let key = driver.core.key(*slot);
        let collecting = driver.core.revisions[*slot].collecting.as_mut().unwrap();
        collecting.scraping = true;
        let report = Report {
            result: Ok(None),
            connections: Default::default(),
            pods_addressable: true,
            duration: None,
        };
        driver.rounds.spawn(async move { (key, report) });
    }
    // One turn of the runtime finishes them all.
    tokio::task::yield_now().await;
    let mut turns = 0;
    while let Some(finished) = driver.rounds.join_next().await {
        driver.take(Event::Round(finished));
        turns += 1;
    }
    assert_eq!(turns, ROUNDS.div_ceil(MAX_PER_TURN));
    let waiting = slots.iter().filter(|slot| {
        let collecting = driver.core.revisions[**slot].collecting.as_ref();
        collecting.is_some_and(|collecting| collecting.scraping)
    });
    assert_eq!(waiting.count(), 0);
}
