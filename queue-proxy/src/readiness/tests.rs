use serving::lifecycle::{Drain, InFlight};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

fn readiness(port: u16) -> Rc<Readiness> {
    let shared = Rc::new(Shared {
        drain: Drain::new(Duration::ZERO),
        in_flight: InFlight::default(),
        breaker: None,
        ready: Cell::new(false),
        cut_short: Notify::new(),
    });
    let probe = Probe {
        action: Action::TcpSocket {
            host: "127.0.0.1".to_owned(),
            port,
        },
        timeout: Some(Duration::from_secs(5)),
        aggressive: false,
        success_threshold: 1,
    };
    let pacing = ProbePacing {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(1),
    };
    Readiness::new(vec![probe], pacing, Report::Log, shared)
}

#[tokio::test(flavor = "local")]
async fn a_good_verdict_stands_for_a_while_and_a_bad_one_ends_it() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let readiness = readiness(app.local_addr().unwrap().port());
    let now = Instant::now;
    assert!(!readiness.was_ready(now()), "nobody has looked yet");
    assert!(readiness.ready().await);
    assert!(readiness.was_ready(now()));
    assert!(!readiness.was_ready(now() + MEMORY));
    // What was begun meanwhile, and then a round that finds nobody.
    readiness.ready().await;
    drop(app);
    assert!(!readiness.ready().await);
    assert!(!readiness.was_ready(now()));
}
