//! Rounds of scraping that finish together, and those that do not finish.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::pod_autoscaler::{Metric, MetricSpec, MetricStatus};
use crate::scraper::Report;
use crate::spec::{Aggregation, ScalingMetric};
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

/// A driver without its loop, which the tests turn themselves.
struct Turning {
    driver: Autoscaler,
    /// Rounds that ran at a time.
    most_rounds: usize,
    _updates: mpsc::Sender<Update>,
    _actions: mpsc::Receiver<Batch>,
}

impl Turning {
    fn new(max_rounds: usize) -> Self {
        let (_updates, updates) = mpsc::channel(1);
        let (actions, _actions) = mpsc::channel(1);
        let options = Options {
            max_rounds,
            ..Options::new(scraper::Options::default(), probe_targets())
        };
        let world = World { updates, actions };
        let (driver, _handle) = Autoscaler::new(options, world, &mut Registry::default());
        Self {
            driver,
            most_rounds: 0,
            _updates,
            _actions,
        }
    }

    /// A revision with one pod there.
    fn collect(&mut self, name: &str, pod: SocketAddr) {
        let id = RevisionId::new("default", name);
        let pod = RevisionPod {
            stats: Some(pod),
            ..ready_pod(1)
        };
        let now = self.driver.now();
        self.driver.core.update(metric(&id), now);
        self.driver.core.update(Update::Pods(id, vec![pod]), now);
    }

    fn collecting(&self, name: &str) -> &super::super::revision::Collecting {
        let slot = self.driver.core.slot_of("default", name).unwrap();
        self.driver.core.revisions[slot]
            .collecting
            .as_ref()
            .unwrap()
    }

    fn has_recorded(&self, name: &str) -> bool {
        let now = self.driver.now().unix;
        let collection = &self.collecting(name).collection;
        collection
            .observe(ScalingMetric::Concurrency, now)
            .is_some()
    }

    /// Goes on as the driver's loop does until `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        let turning = async {
            while !wanted(self) {
                let now = self.driver.now();
                self.driver.core.tick(now);
                self.driver.start_tasks();
                self.most_rounds = self.most_rounds.max(self.driver.rounds.len());
                let due = self.driver.core.next_due().expect("a next round");
                tokio::select! {
                    Some(round) = self.driver.rounds.join_next() => {
                        self.driver.take(Event::Round(round));
                    }
                    () = tokio::time::sleep_until(due) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), turning)
            .await
            .expect("it comes to that");
    }
}

/// Accepts connections and never answers; counts them.
async fn hanging_pod() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    (address, accepted)
}

/// Says that nothing is going on.
async fn idle_pod() -> SocketAddr {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(ANSWER).await.unwrap();
        }
    });
    address
}

const HEALTHY: [&str; 3] = ["healthy-1", "healthy-2", "healthy-3"];

/// Pods that hang take all the room there is, and give it back when their rounds have failed.
#[tokio::test]
async fn rounds_beyond_the_limit_wait_their_turn() {
    let mut turning = Turning::new(2);
    let (first, first_accepted) = hanging_pod().await;
    let (second, second_accepted) = hanging_pod().await;
    turning.collect("hanging-1", first);
    turning.collect("hanging-2", second);
    turning.until(|it| it.driver.rounds.len() == 2).await;
    for name in HEALTHY {
        turning.collect(name, idle_pod().await);
    }
    turning
        .until(|it| HEALTHY.iter().all(|name| it.has_recorded(name)))
        .await;
    assert_eq!(turning.most_rounds, 2);
    // Not before a round that hung was given up, and before its pod was asked time and again.
    let has_failed = |name| turning.collecting(name).error.is_some();
    assert!(has_failed("hanging-1") || has_failed("hanging-2"));
    for accepted in [first_accepted, second_accepted] {
        assert!(accepted.load(Ordering::SeqCst) <= 2);
    }
}

#[tokio::test]
async fn pods_that_hang_do_not_stop_others_while_there_is_room() {
    let mut turning = Turning::new(3);
    turning.collect("hanging-1", hanging_pod().await.0);
    turning.collect("hanging-2", hanging_pod().await.0);
    turning.until(|it| it.driver.rounds.len() == 2).await;
    for name in HEALTHY {
        turning.collect(name, idle_pod().await);
    }
    turning
        .until(|it| HEALTHY.iter().all(|name| it.has_recorded(name)))
        .await;
    assert_eq!(turning.most_rounds, 3);
    for name in ["hanging-1", "hanging-2"] {
        let collecting = turning.collecting(name);
        assert!(collecting.scraping && collecting.error.is_none(), "{name}");
    }
}
