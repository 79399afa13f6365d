//! What the autoscaler scrapes, and what operators scrape.

use prost::Message;
use serving::UnixTime;
use serving::request_stats::RequestStats;
use serving::stat::{MAX_SCRAPE_BYTES, Stat};

use crate::app::{App, text};
use crate::client::{get, open, send};
use crate::instance::{Sidecar, eventually, run};

async fn scrape(sidecar: &Sidecar) -> Stat {
    let mut stream = open(sidecar.stats, "/metrics").await;
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes)
        .await
        .expect("readable");
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: application/protobuf\r\n"),
        "{head}"
    );
    let body = &bytes[end + 4..];
    assert!(body.len() <= MAX_SCRAPE_BYTES);
    Stat::decode(body).expect("a Stat")
}

#[test]
fn row_14_a_clock_that_steps_back_is_ignored() {
    let at = UnixTime::from_seconds;
    let stats = RequestStats::new(at(100));
    stats.arrive(at(101), false);
    stats.arrive(at(40), true);
    stats.depart(at(30), true);
    let report = stats.report(at(103));
    // One request for two of three seconds; what happened in the past took no time.
    assert_eq!(report.average_concurrency, 2.0 / 3.0);
    assert_eq!(report.average_proxied_concurrency, 0.0);
    assert_eq!(
        (report.request_count, report.proxied_request_count),
        (2.0, 1.0)
    );
    let earlier = stats.report(at(50));
    assert_eq!(earlier.average_concurrency, 0.0);
}

/// Scrapes until `wanted` holds of a report.
async fn scrape_until(sidecar: &Sidecar, wanted: impl Fn(&Stat) -> bool) -> Stat {
    loop {
        let stat = scrape(sidecar).await;
        if wanted(&stat) {
            return stat;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn row_12_before_the_first_report_there_is_only_the_pod() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let first = scrape(&sidecar).await;
        assert_eq!(first, Stat::of_pod("hello-00001-deployment-7d4f9c-abcde"));
        let reported = scrape_until(&sidecar, |stat| stat.process_uptime >= 1.0).await;
        assert_eq!(reported.timestamp, 0);
    });
}

#[test]
fn row_13_waiting_and_refused_requests_count() {
    run(async {
        let (release, wait) = tokio::sync::watch::channel(false);
        let app = App::start(move |_| {
            let mut wait = wait.clone();
            async move {
                wait.wait_for(|go| *go).await.expect("the test releases");
                text("ok")
            }
        })
        .await;
        let sidecar = Sidecar::start(
            app.address,
            &[
                ("CONTAINER_CONCURRENCY", "1"),
                ("PILOTLIGHT_QUEUE_DEPTH", "1"),
            ],
        )
        .await;
        let held: Vec<_> = (0..2)
            .map(|_| {
                tokio::task::spawn_local(get(sidecar.data, "/", "K-Proxy-Request: activator\r\n"))
            })
            .collect();
        let handle = sidecar.handle.clone();
        eventually("one executes and one waits", || handle.load() == (1, 1)).await;
        // Probes and kubelet-style requests are not load.
        let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
        assert_eq!(get(sidecar.data, "/", probe).await.status, 200);
        // A report of a whole second in which nothing arrived.
        let full = scrape_until(&sidecar, |stat| {
            stat.average_concurrent_requests > 1.99 && stat.request_count == 0.0
        })
        .await;
        assert!(full.average_concurrent_requests < 2.01, "{full:?}");
        assert!(full.average_proxied_concurrent_requests > 1.99, "{full:?}");
        assert_eq!(get(sidecar.data, "/", "").await.status, 503);
        let refused = scrape_until(&sidecar, |stat| stat.request_count > 0.0).await;
        assert_eq!(refused.request_count, 1.0);
        assert_eq!(refused.proxied_request_count, 0.0);
        release.send_replace(true);
        for held in held {
            assert_eq!(held.await.expect("no panic").status, 200);
        }
        scrape_until(&sidecar, |stat| stat.average_concurrent_requests == 0.0).await;
    });
}

#[test]
fn the_statistics_port_answers_any_method_on_one_path() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let post =
            "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert_eq!(send(sidecar.stats, post).await.status, 200);
        assert_eq!(get(sidecar.stats, "/metrics/", "").await.status, 404);
        let redirect = get(sidecar.stats, "/x/../metrics", "").await;
        assert_eq!(redirect.status, 307);
        assert_eq!(redirect.header("location"), Some("/metrics"));
    });
}

#[test]
fn user_metrics_tell_requests_apart_by_status() {
    run(async {
        let app = App::start(|request| async move {
            let mut response = text("ok");
            if request.uri().path() == "/missing" {
                *response.status_mut() = http::StatusCode::NOT_FOUND;
            }
            response
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "5")]).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 200);
        assert_eq!(get(sidecar.data, "/missing", "").await.status, 404);
        let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
        assert_eq!(get(sidecar.data, "/", probe).await.status, 200);
        let handle = sidecar.handle.clone();
        eventually("both are over", || handle.in_flight() == 0).await;
        let scraped = get(sidecar.user_metrics, "/metrics", "").await;
        assert_eq!(
            scraped.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8; escaping=underscores")
        );
        for status in ["200", "404"] {
            let line = scraped
                .body
                .lines()
                .find(|line| {
                    line.starts_with("kn_serving_invocation_duration_seconds_count")
                        && line.contains(&format!("http_response_status_code=\"{status}\""))
                })
                .expect("a series");
            assert!(line.ends_with(" 1"), "{line}");
        }
        assert!(scraped.body.contains("kn_serving_queue_depth{"));
        let post =
            "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let refused = send(sidecar.user_metrics, post).await;
        assert_eq!(refused.status, 405);
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    });
}

/// How often each status was recorded by one of the histograms, as `200:1 503:2`.
async fn recorded(sidecar: &Sidecar, histogram: &str) -> String {
    let scraped = get(sidecar.user_metrics, "/metrics", "").await;
    let prefix = format!("{histogram}_seconds_count{{");
    let mut counts: Vec<String> = scraped
        .body
        .lines()
        .filter(|line| line.starts_with(&prefix))
        .map(|line| {
            let status = line
                .split_once("http_response_status_code=\"")
                .and_then(|(_, rest)| rest.split_once('"'))
                .expect("a status")
                .0;
            let count = line.rsplit_once(' ').expect("a value").1;
            format!("{status}:{count}")
        })
        .collect();
    counts.sort();
    counts.join(" ")
}

/// Compares what server metrics and invocation metrics say once nothing is in flight any more.
async fn check(sidecar: &Sidecar, what: &str, server: &str, invocation: &str) {
    let handle = sidecar.handle.clone();
    eventually("nothing is in flight", || handle.in_flight() == 0).await;
    assert_eq!(
        recorded(sidecar, "http_server_request_duration").await,
        server,
        "server, {what}"
    );
    assert_eq!(
        recorded(sidecar, "kn_serving_invocation_duration").await,
        invocation,
        "invocation, {what}"
    );
}

async fn silent() -> App {
    App::start(|_| async {
        std::future::pending::<()>().await;
        text("never")
    })
    .await
}

#[test]
fn each_recorder_sees_the_status_that_upstreams_sees() {
    run(async {
        let closed = crate::instance::bind().await;
        let nobody = closed.local_addr().expect("bound");
        drop(closed);
        let sidecar = Sidecar::start(nobody, &[]).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 502);
        check(&sidecar, "app unreachable", "502:1", "502:1").await;

        let app = silent().await;
        let sidecar = Sidecar::start(app.address, &[("REVISION_TIMEOUT_SECONDS", "1")]).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 504);
        check(&sidecar, "timeout before the first byte", "504:1", "200:1").await;

        let app = App::start(|_| async {
            let (sender, response) = crate::app::stream();
            sender.send(Ok("part")).await.expect("room");
            tokio::task::spawn_local(async move { sender.closed().await });
            response
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[("REVISION_TIMEOUT_SECONDS", "1")]).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 200);
        check(&sidecar, "timeout within the response", "200:1", "500:1").await;

        let app = App::start(|_| async {
            let (sender, response) = crate::app::stream();
            sender.send(Ok("part")).await.expect("room");
            tokio::task::spawn_local(async move {
                tokio::task::yield_now().await;
                sender.send(Err(crate::app::Broken)).await.expect("room");
            });
            response
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        get(sidecar.data, "/", "").await;
        check(&sidecar, "app died in its body", "", "500:1").await;

        let app = silent().await;
        let changes = [
            ("CONTAINER_CONCURRENCY", "1"),
            ("PILOTLIGHT_QUEUE_DEPTH", "1"),
        ];
        let sidecar = Sidecar::start(app.address, &changes).await;
        let executing = open(sidecar.data, "/").await;
        let handle = sidecar.handle.clone();
        eventually("one executes", || handle.load() == (1, 0)).await;
        let waiting = open(sidecar.data, "/").await;
        eventually("one waits", || handle.load() == (1, 1)).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 503);
        drop(waiting);
        eventually("nobody waits", || handle.load() == (1, 0)).await;
        drop(executing);
        check(
            &sidecar,
            "full, left the queue, left the app",
            "200:1 500:1 503:1",
            "200:1",
        )
        .await;
    });
}
