use std::future::{pending, poll_fn};

use tokio::time::advance;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready};

use super::*;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const TIMEOUTS: Timeouts = Timeouts {
    total: seconds(300),
    response_start: Some(seconds(60)),
    idle: Some(seconds(20)),
};

/// Only this clock.
fn only_total(total: Duration) -> Timeouts {
    Timeouts {
        total,
        response_start: None,
        idle: None,
    }
}

async fn fires_after(timeouts: Timeouts) -> (Expired, Duration) {
    let start = Instant::now();
    let deadline = Deadline::detached(&timeouts);
    let expired = deadline.limit(pending::<()>()).await;
    (
        expired.expect_err("the work never ends"),
        Instant::now() - start,
    )
}

/// `TestTimeoutHandler`: each of the three, before anything is written.
#[tokio::test(start_paused = true)]
async fn the_earliest_clock_fires() {
    assert_eq!(fires_after(TIMEOUTS).await, (Expired::Idle, seconds(20)));
    let timeouts = Timeouts {
        idle: None,
        ..TIMEOUTS
    };
    assert_eq!(
        fires_after(timeouts).await,
        (Expired::ResponseStart, seconds(60))
    );
    let timeouts = only_total(seconds(300));
    assert_eq!(fires_after(timeouts).await, (Expired::Total, seconds(300)));
}

/// Section 12 row 19: with no time at all, the work is not even begun.
#[tokio::test(start_paused = true)]
async fn zero_expires_at_once() {
    let deadline = Deadline::detached(&only_total(Duration::ZERO));
    let mut begun = false;
    let result = deadline.limit(async { begun = true }).await;
    assert_eq!(result, Err(Expired::Total));
    assert!(!begun);
}

#[tokio::test(start_paused = true)]
async fn an_endless_timeout_is_legal() {
    let deadline = Deadline::detached(&only_total(Duration::MAX));
    assert_eq!(deadline.limit(async { 7 }).await, Ok(7));
}

/// Section 12 row 20 and knative/serving#16169: what has begun is not cut by the first clock.
#[tokio::test(start_paused = true)]
async fn a_started_response_meets_its_start_deadline() {
    let deadline = Deadline::detached(&Timeouts {
        idle: None,
        ..TIMEOUTS
    });
    advance(seconds(59)).await;
    deadline.started(false);
    let start = Instant::now();
    let mut waiting = spawn(deadline.limit(pending::<()>()));
    assert_pending!(waiting.poll());
    advance(seconds(240)).await;
    assert_pending!(waiting.poll());
    advance(seconds(1)).await;
    assert_eq!(assert_ready!(waiting.poll()), Err(Expired::Total));
    assert_eq!(Instant::now() - start, seconds(241));
}

/// `TestTimeoutHandler` "idle": every write puts it off.
#[tokio::test(start_paused = true)]
async fn each_write_restarts_the_idle_clock() {
    let deadline = Deadline::detached(&TIMEOUTS);
    let mut waiting = spawn(deadline.limit(pending::<()>()));
    for _ in 0..5 {
        advance(seconds(19)).await;
        assert_pending!(waiting.poll());
        deadline.wrote();
    }
    assert_pending!(waiting.poll());
    advance(seconds(20)).await;
    assert_eq!(assert_ready!(waiting.poll()), Err(Expired::Idle));
}

/// A task that serves many short requests is woken once per timeout, not once per request.
#[tokio::test(start_paused = true)]
async fn a_sleep_is_armed_once_for_many_requests() {
    let watch = Watch::supervised(Rc::default());
    let mut task = spawn(poll_fn(|cx| match watch.poll(cx) {
        Some(due) => Poll::Ready(due),
        None => Poll::Pending,
    }));
    let mut wakes = 0;
    let mut last = None;
    for _ in 0..1000 {
        last = Some(Deadline::start(
            &watch,
            &only_total(seconds(10)),
            Instant::now(),
        ));
        assert_pending!(task.poll());
        advance(Duration::from_millis(100)).await;
        wakes += u32::from(task.is_woken());
        assert_pending!(task.poll());
    }
    assert!((9..=11).contains(&wakes), "woken {wakes} times");
    // The last one still fires in time.
    advance(Duration::from_millis(9_800)).await;
    assert_pending!(task.poll());
    advance(Duration::from_millis(101)).await;
    assert!(task.is_woken());
    assert_eq!(assert_ready!(task.poll()), Due::Answer);
    assert_eq!(
        last.and_then(|deadline| deadline.expired()),
        Some(Expired::Total)
    );
}

/// A text may stand for the body once; a request that does not take it then is cut, and so is one
/// whose body has begun.
#[tokio::test(start_paused = true)]
async fn a_started_response_is_polled_once_before_it_is_cut() {
    for begun in [false, true] {
        let watch = Watch::supervised(Rc::default());
        let mut task = spawn(poll_fn(|cx| {
            watch.poll(cx).map_or(Poll::Pending, Poll::Ready)
        }));
        let deadline = Deadline::start(&watch, &only_total(seconds(10)), Instant::now());
        deadline.started(true);
        if begun {
            deadline.wrote();
        }
        assert_pending!(task.poll());
        advance(seconds(11)).await;
        if !begun {
            assert_eq!(assert_ready!(task.poll()), Due::Answer);
        }
        assert_eq!(assert_ready!(task.poll()), Due::Abort);
        assert_pending!(task.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_rearms_the_sleep() {
    let watch = Watch::supervised(Rc::default());
    let mut task = spawn(poll_fn(|cx| match watch.poll(cx) {
        Some(due) => Poll::Ready(due),
        None => Poll::Pending,
    }));
    drop(Deadline::start(
        &watch,
        &only_total(seconds(100)),
        Instant::now(),
    ));
    let deadline = Deadline::start(&watch, &only_total(seconds(5)), Instant::now());
    assert_pending!(task.poll());
    deadline.started(false);
    advance(seconds(5)).await;
    assert_eq!(assert_ready!(task.poll()), Due::Abort);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_due() {
    let watch = Watch::supervised(Rc::default());
    watch.expect_head(Some(Instant::now() + seconds(60)));
    let mut task = spawn(poll_fn(|cx| match watch.poll(cx) {
        Some(due) => Poll::Ready(due),
        None => Poll::Pending,
    }));
    assert_pending!(task.poll());
    advance(seconds(60)).await;
    assert!(task.is_woken());
    assert_eq!(assert_ready!(task.poll()), Due::Head);
}

#[tokio::test(start_paused = true)]
async fn spare_sleeps_are_bounded() {
    let timers = Rc::new(Timers::default());
    let at = Instant::now() + seconds(1);
    let taken: Vec<_> = (0..MAX_SPARE_TIMERS + 10)
        .map(|_| timers.take(at))
        .collect();
    taken.into_iter().for_each(|timer| timers.put(timer));
    assert_eq!(timers.spare.borrow().len(), MAX_SPARE_TIMERS);
}
