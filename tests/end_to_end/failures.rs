//! Apps that misbehave, and limits that are reached: every request ends in an answer that says why.

use std::time::Duration;

use tests::load::at_once;
use tests::manifest::Service;
use tests::pilotlight::{Options, Pilotlight};
use tests::{eventually, within};

use crate::scaling::{at_zero, ready};

#[tokio::test]
async fn an_app_that_exits_at_start_gets_its_requests_refused_with_the_status() {
    let service = Service::new("broken")
        .argument("--fail-start=7")
        .autoscaling("initial-scale", "1");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let answer = eventually("a refusal", async || {
        let answer = pilotlight.get("broken.localhost", "/").await;
        if answer.status == 503 {
            Ok(answer)
        } else {
            Err(answer)
        }
    })
    .await;
    assert!(
        answer.header("retry-after").parse::<u64>().is_ok(),
        "{answer:?}"
    );
    let reason = answer.header("pilotlight-reason");
    assert!(
        reason.contains('7'),
        "the reason names the exit status: {reason:?}"
    );
    let status = pilotlight.status().await.to_string();
    assert!(status.contains('7'), "{status}");
}

#[tokio::test]
async fn a_crash_ends_one_request_and_the_app_comes_back() {
    let service = Service::new("crash").autoscaling("min-scale", "1");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    pilotlight
        .until("a ready replica", |status| {
            ready(status, "crash-00001") == 1
        })
        .await;
    let answer = pilotlight.get("crash.localhost", "/?exit=3").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let again = within(
        Duration::from_secs(30),
        "an answer after the crash",
        async || {
            let answer = pilotlight.get("crash.localhost", "/").await;
            if answer.status == 200 {
                Ok(answer)
            } else {
                Err(answer)
            }
        },
    )
    .await;
    assert_eq!(again.text(), "Hello from crash-00001!\n");
}

#[tokio::test]
async fn an_app_that_never_listens_times_out_with_the_reason() {
    let service = Service::new("deaf")
        .argument("--never-listen")
        .spec("timeoutSeconds: 3");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let answer = pilotlight.get("deaf.localhost", "/").await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(answer.text(), "activator request timeout");
    assert!(!answer.header("pilotlight-reason").is_empty(), "{answer:?}");
}

#[tokio::test]
async fn an_app_on_another_port_is_told_which() {
    let service = Service::new("astray")
        .argument("--port=18479")
        .spec("timeoutSeconds: 5");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let answer = pilotlight.get("astray.localhost", "/").await;
    assert!(answer.status == 503 || answer.status == 504, "{answer:?}");
    pilotlight.until_printed("18479").await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let service = Service::new("full").argument("--start-delay=8s");
    let arguments = ["--max-held-requests", "5"];
    let pilotlight = Pilotlight::start(Options {
        manifest: &service.yaml(),
        arguments: &arguments,
    })
    .await;
    let answers = at_once(&pilotlight.call("full.localhost", "/"), 20).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 503)
        .collect();
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 200).count(),
        5,
        "{answers:?}"
    );
    assert_eq!(refused.len(), 15, "{answers:?}");
    for answer in refused {
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        assert!(!answer.header("pilotlight-reason").is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn the_limit_of_requests_in_progress_holds_for_ready_revisions_too() {
    let service = Service::new("busy").autoscaling("min-scale", "1");
    let arguments = ["--max-requests", "4"];
    let pilotlight = Pilotlight::start(Options {
        manifest: &service.yaml(),
        arguments: &arguments,
    })
    .await;
    pilotlight
        .until("a ready replica", |status| ready(status, "busy-00001") == 1)
        .await;
    let answers = at_once(&pilotlight.call("busy.localhost", "/?sleep=1s"), 12).await;
    let refused = answers
        .iter()
        .flatten()
        .filter(|answer| answer.status == 503)
        .count();
    let served = answers
        .iter()
        .flatten()
        .filter(|answer| answer.status == 200)
        .count();
    assert_eq!((served, refused), (4, 8), "{answers:?}");
}

#[tokio::test]
async fn the_limit_of_replicas_holds_and_requests_still_end() {
    let service = Service::new("many").spec("containerConcurrency: 1");
    let arguments = ["--max-replicas-per-revision", "2"];
    let pilotlight = Pilotlight::start(Options {
        manifest: &service.yaml(),
        arguments: &arguments,
    })
    .await;
    let answers = at_once(&pilotlight.call("many.localhost", "/?sleep=200"), 20).await;
    tests::load::all_ok(&answers);
    assert!(ready(&pilotlight.status().await, "many-00001") <= 2);
}

#[tokio::test]
async fn memory_stays_flat_while_a_flood_is_refused() {
    let service = Service::new("flood").argument("--start-delay=600s");
    let arguments = ["--max-held-requests", "50"];
    let pilotlight = Pilotlight::start(Options {
        manifest: &service.yaml(),
        arguments: &arguments,
    })
    .await;
    let call = pilotlight
        .call("flood.localhost", "/")
        .timeout(Duration::from_secs(2));
    at_once(&call, 100).await;
    let before = resident_kib(pilotlight.pid());
    for _ in 0..10 {
        at_once(&call, 100).await;
    }
    let after = resident_kib(pilotlight.pid());
    // A thousand leaked requests would be tens of megabytes.
    assert!(
        after < before + 8 * 1024,
        "{before} KiB before, {after} KiB after"
    );
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_that_leaves_is_gone_from_the_queue() {
    let service = Service::new("leave").argument("--start-delay=600s");
    let pilotlight = Pilotlight::run(&service.yaml()).await;
    let impatient = pilotlight
        .call("leave.localhost", "/")
        .timeout(Duration::from_millis(500));
    assert!(impatient.send().await.is_err());
    let posting = pilotlight
        .call("leave.localhost", "/echo")
        .post(vec![b'x'; 32 << 10]);
    assert!(
        posting
            .timeout(Duration::from_millis(500))
            .send()
            .await
            .is_err()
    );
    pilotlight
        .until("an empty queue", |status| {
            status["held"] == 0 && status["requests"] == 0
        })
        .await;
}

#[tokio::test]
async fn a_revision_that_failed_still_goes_to_zero_quietly() {
    let pilotlight = Pilotlight::run(&Service::new("quiet").yaml()).await;
    at_zero(&pilotlight, "quiet-00001").await;
    assert_eq!(
        pilotlight
            .get("quiet.localhost", "/?status=500")
            .await
            .status,
        500
    );
    at_zero(&pilotlight, "quiet-00001").await;
}
