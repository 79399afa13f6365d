use super::*;

const PERIOD: Duration = Duration::from_secs(30);

fn second(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn each_request_restarts_the_quiet_period() {
    let start = Instant::now();
    let mut quiet = Quiet::new(PERIOD);
    quiet.request(start);
    assert_eq!(quiet.phase(start), Phase::Serving);
    quiet.signal(start, PERIOD);
    quiet.request(second(start, 29));
    assert_eq!(
        quiet.phase(second(start, 58)),
        Phase::Draining {
            until: second(start, 59)
        }
    );
    assert_eq!(quiet.phase(second(start, 59)), Phase::Quiet);
    // Nothing brings it back.
    quiet.request(second(start, 60));
    quiet.wait(second(start, 60));
    quiet.signal(second(start, 60), PERIOD);
    assert_eq!(quiet.phase(second(start, 61)), Phase::Quiet);
}

#[test]
fn a_wait_without_signal_is_cancelled_after_a_second() {
    let start = Instant::now();
    let mut quiet = Quiet::new(PERIOD);
    quiet.wait(start);
    assert_eq!(
        quiet.phase(start),
        Phase::Draining {
            until: second(start, 1)
        }
    );
    // A second caller shares the drain of the first.
    quiet.wait(start + Duration::from_millis(900));
    assert_eq!(quiet.phase(second(start, 1)), Phase::Serving);
}

#[test]
fn a_signal_within_the_second_takes_over_the_timer() {
    let start = Instant::now();
    let mut quiet = Quiet::new(PERIOD);
    quiet.wait(start);
    quiet.signal(start + Duration::from_millis(900), PERIOD);
    assert_eq!(
        quiet.phase(second(start, 2)),
        Phase::Draining {
            until: second(start, 30)
        }
    );
}

#[test]
fn a_period_below_a_second_never_ends_an_instance_without_signal() {
    let start = Instant::now();
    let mut quiet = Quiet::new(Duration::from_millis(10));
    quiet.wait(start);
    assert_eq!(quiet.phase(second(start, 1)), Phase::Serving);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_released_together_and_the_drain_is_cleared() {
    let drain = Drain::new(PERIOD);
    let start = Instant::now();
    let (first, second) = (drain.clone(), drain.clone());
    let waiters = tokio::spawn(async move { tokio::join!(first.wait(), second.wait()) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(drain.is_draining());
    waiters.await.expect("no panic");
    assert_eq!(Instant::now() - start, UNSIGNALLED_DRAIN);
    assert!(!drain.is_draining());
}

#[tokio::test(start_paused = true)]
async fn waiters_outlast_the_second_once_signalled() {
    let drain = Drain::new(PERIOD);
    let start = Instant::now();
    drain.signal(PERIOD);
    let waiter = {
        let drain = drain.clone();
        tokio::spawn(async move { drain.wait().await })
    };
    tokio::time::sleep(Duration::from_secs(10)).await;
    drain.request(Instant::now());
    drain.quiet().await;
    waiter.await.expect("no panic");
    assert_eq!(Instant::now() - start, Duration::from_secs(40));
    // A late caller returns at once.
    drain.wait().await;
    assert_eq!(Instant::now() - start, Duration::from_secs(40));
    assert!(drain.is_draining());
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_the_last_guard() {
    let in_flight = InFlight::default();
    in_flight.idle().await;
    let guards = [in_flight.enter(), in_flight.enter()];
    assert_eq!(in_flight.count(), 2);
    let waiting = tokio::spawn({
        let in_flight = in_flight.clone();
        async move { in_flight.idle().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(guards);
    waiting.await.expect("no panic");
    assert_eq!(in_flight.count(), 0);
}
