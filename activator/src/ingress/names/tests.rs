//! With a clock of their own and look-ups that a test ends.

use std::cell::Cell;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{advance, sleep};

use super::*;

/// Look-ups wait for a permit and then find what the test says, or fail.
struct Script {
    began: Cell<usize>,
    gate: Semaphore,
    finds: RefCell<Option<Vec<SocketAddr>>>,
}

impl Script {
    fn new() -> (Rc<Self>, Rc<Names>) {
        let script = Rc::new(Self {
            began: Cell::new(0),
            gate: Semaphore::new(0),
            finds: RefCell::new(Some(vec![address(1)])),
        });
        let scripted = Rc::clone(&script);
        let names = Names::new(Box::new(move |_| {
            let script = Rc::clone(&scripted);
            async move {
                script.began.set(script.began.get() + 1);
                script.gate.acquire().await.unwrap().forget();
                let found = script.finds.borrow().clone();
                found.ok_or_else(|| io::Error::other("no DNS server"))
            }
            .boxed_local()
        }));
        (script, names)
    }

    fn end(&self, count: usize) {
        self.gate.add_permits(count);
    }

    fn finds(&self, last: u8) {
        self.finds.replace(Some(vec![address(last)]));
    }

    fn fails(&self) {
        self.finds.replace(None);
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// What a request gets that does not wait.
fn at_once(names: &Rc<Names>) -> Vec<SocketAddr> {
    let found = names.resolve("a:80").now_or_never();
    found.expect("nobody waits").to_vec()
}

/// Lets look-ups run that may.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

const MOMENT: Duration = Duration::from_millis(1);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn one_look_up_serves_all_and_is_remembered() {
    run(async {
        let (script, names) = Script::new();
        let all = join_all((0..10).map(|_| names.resolve("a:80")));
        script.end(1);
        let found = all.await;
        assert!(found.iter().all(|it| it[..] == [address(1)]));
        assert_eq!(script.began.get(), 1);
        advance(TTL - Duration::from_millis(1)).await;
        assert_eq!(names.resolve("a:80").await[..], [address(1)]);
        assert_eq!(script.began.get(), 1);
        // Then it is asked again.
        advance(Duration::from_millis(1)).await;
        script.finds(2);
        script.end(1);
        assert_eq!(at_once(&names), [address(1)]);
        settle().await;
        assert_eq!(at_once(&names), [address(2)]);
        assert_eq!(script.began.get(), 2);
        assert_eq!(names.addresses(), [address(2)]);
    });
}

#[test]
fn failures_are_remembered_for_a_moment() {
    run(async {
        for finds in [None, Some(Vec::new())] {
            let (script, names) = Script::new();
            script.finds.replace(finds);
            script.end(2);
            for _ in 0..3 {
                assert!(names.resolve("a:80").await.is_empty());
            }
            assert_eq!(script.began.get(), 1);
            advance(FAILURE_TTL - MOMENT).await;
            assert!(at_once(&names).is_empty());
            assert_eq!(script.began.get(), 1);
            advance(MOMENT).await;
            assert!(names.resolve("a:80").await.is_empty());
            assert_eq!(script.began.get(), 2);
        }
    });
}

/// What was found last is used until the limit, and asked for every so often meanwhile; then the name
/// is as unknown as it was at first.
#[test]
fn a_refresh_that_fails_leaves_the_last_addresses_for_a_while() {
    run(async {
        let (script, names) = Script::new();
        script.end(1);
        assert_eq!(names.resolve("a:80").await[..], [address(1)]);
        let found = Instant::now();
        script.fails();
        script.end(usize::MAX >> 8);
        advance(TTL).await;
        for failures in 1..10 {
            assert_eq!(at_once(&names), [address(1)]);
            settle().await;
            assert_eq!(script.began.get(), 1 + failures);
            advance(FAILURE_TTL - MOMENT).await;
            assert_eq!(at_once(&names), [address(1)]);
            settle().await;
            assert_eq!(script.began.get(), 1 + failures, "not before its time");
            advance(MOMENT).await;
        }
        advance(found + STALE - MOMENT - Instant::now()).await;
        assert_eq!(at_once(&names), [address(1)]);
        settle().await;
        assert_eq!(names.addresses(), [address(1)]);
        // Within the time for which the last failure is believed.
        let began = script.began.get();
        advance(MOMENT).await;
        assert!(at_once(&names).is_empty());
        assert_eq!(script.began.get(), began);
        advance(FAILURE_TTL).await;
        assert!(names.resolve("a:80").await.is_empty());
        assert_eq!(script.began.get(), began + 1);
        assert!(names.addresses().is_empty());
    });
}

/// The time that addresses are kept for begins anew with each look-up that finds some.
#[test]
fn a_refresh_that_succeeds_ends_the_failure() {
    run(async {
        let (script, names) = Script::new();
        script.end(1);
        names.resolve("a:80").await;
        script.fails();
        script.end(1);
        advance(STALE - FAILURE_TTL).await;
        assert_eq!(at_once(&names), [address(1)]);
        settle().await;
        advance(FAILURE_TTL - MOMENT).await;
        assert_eq!(at_once(&names), [address(1)]);
        advance(MOMENT).await;
        script.finds(2);
        script.end(1);
        assert_eq!(names.resolve("a:80").await[..], [address(2)]);
        script.fails();
        script.end(1);
        advance(STALE - MOMENT).await;
        assert_eq!(at_once(&names), [address(2)]);
        settle().await;
        assert_eq!(at_once(&names), [address(2)]);
        advance(MOMENT).await;
        assert!(at_once(&names).is_empty());
    });
}

/// A look-up that does not end is waited for by nobody for as long as there are addresses.
#[test]
fn a_refresh_that_hangs_holds_nobody() {
    run(async {
        let (script, names) = Script::new();
        script.end(1);
        names.resolve("a:80").await;
        advance(TTL).await;
        assert_eq!(at_once(&names), [address(1)]);
        assert_eq!(names.addresses(), [address(1)]);
        advance(STALE - TTL - MOMENT).await;
        assert_eq!(at_once(&names), [address(1)]);
        names.retain(|_| true);
        assert_eq!(names.addresses(), [address(1)]);
        // It began too long ago to be waited for.
        advance(MOMENT).await;
        let asked = Instant::now();
        assert!(names.resolve("a:80").await.is_empty());
        assert_eq!(Instant::now(), asked);
        assert_eq!(script.began.get(), 2);
        script.finds(2);
        script.end(1);
        settle().await;
        assert_eq!(at_once(&names), [address(2)]);
    });
}

/// Of a name that was not used for long, nothing old is used.
#[test]
fn addresses_beyond_the_limit_are_waited_for() {
    run(async {
        let (script, names) = Script::new();
        script.end(1);
        names.resolve("a:80").await;
        advance(STALE).await;
        script.finds(2);
        assert!(names.resolve("a:80").now_or_never().is_none());
        script.end(1);
        assert_eq!(names.resolve("a:80").await[..], [address(2)]);
    });
}

/// It is an answer, and no failure to get one.
#[test]
fn an_answer_without_addresses_takes_the_last_ones_away() {
    run(async {
        let (script, names) = Script::new();
        script.end(1);
        names.resolve("a:80").await;
        script.finds.replace(Some(Vec::new()));
        script.end(1);
        advance(TTL).await;
        assert_eq!(at_once(&names), [address(1)]);
        settle().await;
        assert!(at_once(&names).is_empty());
        assert!(names.addresses().is_empty());
    });
}

/// Without a route to it, nothing of a name is kept.
#[test]
fn names_without_routes_are_forgotten_while_they_fail() {
    run(async {
        let (script, names) = Script::new();
        script.end(1);
        names.resolve("a:80").await;
        script.fails();
        script.end(1);
        advance(TTL).await;
        assert_eq!(at_once(&names), [address(1)]);
        settle().await;
        names.retain(|_| false);
        assert!(names.addresses().is_empty());
        assert!(names.resolve("a:80").now_or_never().is_none());
    });
}

/// Nobody waits beyond the limit, and meanwhile no second look-up of the name is begun.
#[test]
fn a_look_up_that_hangs_is_waited_for_until_the_limit() {
    run(async {
        let (script, names) = Script::new();
        let began = Instant::now();
        assert!(names.resolve("a:80").await.is_empty());
        assert_eq!(Instant::now() - began, LIMIT);
        assert!(names.resolve("a:80").await.is_empty());
        assert_eq!(Instant::now() - began, LIMIT);
        assert_eq!(script.began.get(), 1);
        // What it finds in the end is believed.
        script.end(1);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(names.resolve("a:80").await[..], [address(1)]);
        assert_eq!(script.began.get(), 1);
    });
}

/// Who asked may leave; who asks next has the answer.
#[test]
fn a_look_up_goes_on_without_who_asked() {
    run(async {
        let (script, names) = Script::new();
        assert!(names.resolve("a:80").now_or_never().is_none());
        script.end(1);
        sleep(Duration::from_millis(1)).await;
        let found = names.resolve("a:80").now_or_never();
        assert_eq!(found.unwrap()[..], [address(1)]);
    });
}

#[test]
fn look_ups_and_names_are_bounded() {
    run(async {
        let (script, names) = Script::new();
        let name = |number: usize| format!("{number}:80");
        for number in 0..MAX_NAMES {
            assert!(names.resolve(&name(number)).now_or_never().is_none());
        }
        sleep(Duration::from_millis(1)).await;
        assert_eq!(script.began.get(), MAX_LOOKUPS);
        let refused = names.resolve("another:80").now_or_never();
        assert!(refused.unwrap().is_empty());
        script.end(MAX_NAMES);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(script.began.get(), MAX_NAMES);
        // All are known now, and make room.
        script.end(1);
        assert_eq!(names.resolve("another:80").await[..], [address(1)]);
        assert_eq!(names.all.borrow().len(), 1);
        names.retain(|it| it != "another:80");
        assert!(names.all.borrow().is_empty());
    });
}
