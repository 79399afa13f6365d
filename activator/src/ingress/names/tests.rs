//! With a clock of their own and look-ups that a test ends.

use std::cell::Cell;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{advance, sleep};

use super::*;

/// Look-ups wait for a permit and then find what the test says.
struct Script {
    began: Cell<usize>,
    gate: Semaphore,
    finds: RefCell<Vec<SocketAddr>>,
}

impl Script {
    fn new() -> (Rc<Self>, Rc<Names>) {
        let script = Rc::new(Self {
            began: Cell::new(0),
            gate: Semaphore::new(0),
            finds: RefCell::new(vec![address(1)]),
        });
        let scripted = Rc::clone(&script);
        let names = Names::new(Box::new(move |_| {
            let script = Rc::clone(&scripted);
            async move {
                script.began.set(script.began.get() + 1);
                script.gate.acquire().await.unwrap().forget();
                Ok(script.finds.borrow().clone())
            }
            .boxed_local()
        }));
        (script, names)
    }

    fn end(&self, count: usize) {
        self.gate.add_permits(count);
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

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
        script.finds.replace(vec![address(2)]);
        script.end(1);
        assert_eq!(names.resolve("a:80").await[..], [address(2)]);
        assert_eq!(names.addresses(), [address(2)]);
    });
}

#[test]
fn failures_are_remembered_for_a_moment() {
    run(async {
        let (script, names) = Script::new();
        script.finds.replace(Vec::new());
        script.end(2);
        for _ in 0..3 {
            assert!(names.resolve("a:80").await.is_empty());
        }
        assert_eq!(script.began.get(), 1);
        advance(FAILURE_TTL).await;
        assert!(names.resolve("a:80").await.is_empty());
        assert_eq!(script.began.get(), 2);
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
