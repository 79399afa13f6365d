//! The concurrency limit, its queue, and what happens to those who do not fit.

use std::time::Duration;

use serving::names::{CAPABILITY_HEADER, CAPABLE_WITHOUT_WAITING, LOAD_HEADER, NOT_STARTED_HEADER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::app::{App, read_head, text};
use crate::client::{Raw, connect, get, open, read_to_end};
use crate::instance::{Sidecar, eventually, run};

/// An app that holds every request until it is told to go on.
async fn holding() -> (watch::Sender<bool>, App) {
    let (release, wait) = watch::channel(false);
    let app = App::start(move |_| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.expect("the test releases");
            text("ok")
        }
    })
    .await;
    (release, app)
}

async fn occupy(sidecar: &Sidecar, requests: usize) -> Vec<tokio::task::JoinHandle<Raw>> {
    (0..requests)
        .map(|_| tokio::task::spawn_local(get(sidecar.data, "/", "")))
        .collect()
}

#[test]
fn row_15_eleven_times_the_limit_are_admitted_and_the_next_is_refused_at_once() {
    run(async {
        for (limit, admitted) in [("1", 11), ("2", 22)] {
            let (release, app) = holding().await;
            let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", limit)]).await;
            let held = occupy(&sidecar, admitted).await;
            let handle = sidecar.handle.clone();
            eventually("all places are taken", || handle.in_flight() == admitted).await;
            let refused = get(sidecar.data, "/", "").await;
            assert_eq!(refused.status, 503);
            assert_eq!(refused.body, "pending request queue full\n");
            assert_eq!(
                refused.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
            assert_eq!(refused.header(NOT_STARTED_HEADER), None);
            assert_eq!(refused.header(LOAD_HEADER), None);
            release.send_replace(true);
            for held in held {
                assert_eq!(held.await.expect("no panic").status, 200);
            }
            assert_eq!(app.most.get().to_string(), limit);
        }
    });
}

#[test]
fn a_capable_activator_learns_that_nothing_was_started() {
    run(async {
        let (release, app) = holding().await;
        let sidecar = Sidecar::start(
            app.address,
            &[
                ("CONTAINER_CONCURRENCY", "1"),
                ("PILOTLIGHT_QUEUE_DEPTH", "2"),
            ],
        )
        .await;
        let held = occupy(&sidecar, 3).await;
        let handle = sidecar.handle.clone();
        eventually("one executes and two wait", || handle.load() == (1, 2)).await;
        let capable = format!("{CAPABILITY_HEADER}: 1\r\n");
        let refused = get(sidecar.data, "/", &capable).await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header(NOT_STARTED_HEADER), Some("queue-full"));
        assert_eq!(refused.header(LOAD_HEADER), Some("1/2"));
        release.send_replace(true);
        for held in held {
            assert_eq!(held.await.expect("no panic").status, 200);
        }
        let served = get(sidecar.data, "/", &capable).await;
        assert_eq!(served.status, 200);
        assert!(served.header(LOAD_HEADER).is_some());
        assert!(!app.last().headers.contains_key(CAPABILITY_HEADER));
    });
}

/// Without a free place such a request goes back at once, although the queue has room.
#[test]
fn a_request_that_must_not_wait_is_not_queued() {
    run(async {
        let (release, app) = holding().await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        let held = occupy(&sidecar, 1).await;
        let handle = sidecar.handle.clone();
        eventually("one executes", || handle.load() == (1, 0)).await;
        let no_wait = format!("{CAPABILITY_HEADER}: {CAPABLE_WITHOUT_WAITING}\r\n");
        let refused = get(sidecar.data, "/", &no_wait).await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header(NOT_STARTED_HEADER), Some("queue-full"));
        assert_eq!(refused.header(LOAD_HEADER), Some("1/0"));
        release.send_replace(true);
        for held in held {
            assert_eq!(held.await.expect("no panic").status, 200);
        }
        eventually("the place is free", || handle.load() == (0, 0)).await;
        assert_eq!(get(sidecar.data, "/", &no_wait).await.status, 200);
    });
}

#[test]
fn an_app_cannot_speak_in_the_sidecars_name() {
    run(async {
        let app = App::start(|_| async {
            let mut response = text("ok");
            for name in [NOT_STARTED_HEADER, LOAD_HEADER] {
                let value = http::HeaderValue::from_static("9/9");
                response.headers_mut().insert(name, value);
            }
            response
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(answer.header(NOT_STARTED_HEADER), None);
        assert_eq!(answer.header(LOAD_HEADER), None);
    });
}

#[test]
fn row_7_probes_are_answered_while_every_place_is_taken() {
    run(async {
        let (release, app) = holding().await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        let held = occupy(&sidecar, 11).await;
        let handle = sidecar.handle.clone();
        eventually("all places are taken", || handle.in_flight() == 11).await;
        let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
        assert_eq!(get(sidecar.data, "/", probe).await.body, "queue");
        release.send_replace(true);
        for held in held {
            assert_eq!(held.await.expect("no panic").status, 200);
        }
    });
}

#[test]
fn row_16_a_client_that_leaves_the_queue_frees_its_slot() {
    run(async {
        let (release, app) = holding().await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        let executing = open(sidecar.data, "/").await;
        let handle = sidecar.handle.clone();
        eventually("one executes", || handle.load() == (1, 0)).await;
        for _ in 0..30 {
            let waiting = open(sidecar.data, "/").await;
            eventually("one waits", || handle.queued() == 1).await;
            drop(waiting);
            eventually("nobody waits", || handle.queued() == 0).await;
        }
        // The one that executes leaves too: its place goes to the next.
        let mut next = open(sidecar.data, "/").await;
        eventually("one waits", || handle.queued() == 1).await;
        drop(executing);
        eventually("the next executes", || handle.load() == (1, 0)).await;
        release.send_replace(true);
        assert_eq!(read_to_end(&mut next).await.status, 200);
        eventually("nothing is left", || handle.in_flight() == 0).await;
        assert_eq!(handle.load(), (0, 0));
    });
}

#[test]
fn a_place_is_held_until_the_response_has_ended() {
    run(async {
        let (bodies, mut opened) = tokio::sync::mpsc::channel(4);
        let app = App::start(move |_| {
            let bodies = bodies.clone();
            async move {
                let (sender, response) = crate::app::stream();
                sender.send(Ok("part")).await.expect("room");
                bodies.send(sender).await.expect("room");
                response
            }
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        let first = tokio::task::spawn_local(get(sidecar.data, "/1", ""));
        let body = opened.recv().await.expect("a body");
        let second = tokio::task::spawn_local(get(sidecar.data, "/2", ""));
        let handle = sidecar.handle.clone();
        eventually("the second waits", || handle.load() == (1, 1)).await;
        assert_eq!(app.requests(), 1);
        drop(body);
        assert_eq!(first.await.expect("no panic").body, "part");
        drop(opened.recv().await.expect("a body"));
        assert_eq!(second.await.expect("no panic").body, "part");
    });
}

#[test]
fn a_waiter_that_reaches_the_revision_timeout_gets_its_504() {
    run(async {
        let (release, app) = holding().await;
        let sidecar = Sidecar::start(
            app.address,
            &[
                ("CONTAINER_CONCURRENCY", "1"),
                ("REVISION_TIMEOUT_SECONDS", "1"),
            ],
        )
        .await;
        let started = tokio::time::Instant::now();
        let held = occupy(&sidecar, 3).await;
        for held in held {
            let answer = held.await.expect("no panic");
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (504, "request timeout")
            );
        }
        assert!(tokio::time::Instant::now() - started >= Duration::from_secs(1));
        let handle = sidecar.handle.clone();
        eventually("every place is free", || handle.in_flight() == 0).await;
        release.send_replace(true);
        assert_eq!(get(sidecar.data, "/", "").await.status, 200);
    });
}

/// One step of a random load.
#[derive(Clone, Copy, Debug)]
enum Step {
    Http1,
    Http2,
    Upgrade,
    /// A client leaves, executing or waiting.
    Leave(usize),
    /// The app answers some of those it works on.
    Answer,
}

fn step(random: &mut fastrand::Rng) -> Step {
    match random.u32(0..10) {
        0..=2 => Step::Http1,
        3..=5 => Step::Http2,
        6 => Step::Upgrade,
        7 | 8 => Step::Leave(random.usize(0..32)),
        _ => Step::Answer,
    }
}

#[test]
fn the_limit_holds_for_any_mix_of_protocols_upgrades_and_departures() {
    const SEEDS: u64 = 12;
    const STEPS: usize = 60;
    const LIMIT: usize = 3;
    for seed in 0..SEEDS {
        run(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let answers = std::rc::Rc::new(tokio::sync::Semaphore::new(0));
            let permits = std::rc::Rc::clone(&answers);
            let app = App::start(move |mut request| {
                let permits = std::rc::Rc::clone(&permits);
                async move {
                    permits.acquire().await.expect("open").forget();
                    let mut response = text("ok");
                    if request.headers().contains_key("upgrade") {
                        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                        let echo = http::HeaderValue::from_static("echo");
                        response.headers_mut().insert("upgrade", echo);
                        let connection = http::HeaderValue::from_static("upgrade");
                        response.headers_mut().insert("connection", connection);
                        let upgraded = hyper::upgrade::on(&mut request);
                        tokio::task::spawn_local(async move {
                            // The tunnel lives as long as its client wants.
                            if let Ok(tunnel) = upgraded.await {
                                let (mut read, mut write) =
                                    tokio::io::split(hyper_util::rt::TokioIo::new(tunnel));
                                let _ = tokio::io::copy(&mut read, &mut write).await;
                            }
                        });
                    }
                    response
                }
            })
            .await;
            let limit = LIMIT.to_string();
            let changes = [("CONTAINER_CONCURRENCY", limit.as_str())];
            let sidecar = Sidecar::start(app.address, &changes).await;
            let h2 = crate::client::h2c(sidecar.data).await;
            let mut clients: Vec<tokio::task::JoinHandle<()>> = Vec::new();
            for _ in 0..STEPS {
                match step(&mut random) {
                    Step::Http1 => {
                        let data = sidecar.data;
                        clients.push(tokio::task::spawn_local(async move {
                            get(data, "/", "").await;
                        }));
                    }
                    Step::Http2 => {
                        let mut h2 = h2.clone();
                        clients.push(tokio::task::spawn_local(async move {
                            // A refusal is an answer too.
                            let _ = crate::client::h2c_get(&mut h2, "/").await;
                        }));
                    }
                    Step::Upgrade => {
                        let data = sidecar.data;
                        clients.push(tokio::task::spawn_local(async move {
                            let headers = "Upgrade: echo\r\n";
                            let request = format!(
                                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n{headers}\r\n"
                            );
                            crate::client::send(data, &request).await;
                        }));
                    }
                    Step::Leave(which) => {
                        if !clients.is_empty() {
                            let which = which % clients.len();
                            clients.swap_remove(which).abort();
                        }
                    }
                    Step::Answer => answers.add_permits(random.usize(1..4)),
                }
                for _ in 0..random.usize(0..20) {
                    tokio::task::yield_now().await;
                }
                let (executing, _) = sidecar.handle.load();
                assert!(executing <= LIMIT as u64, "seed {seed}: {executing}");
            }
            for client in clients {
                client.abort();
            }
            let handle = sidecar.handle.clone();
            eventually("every place is free", || {
                handle.in_flight() == 0 && handle.load() == (0, 0)
            })
            .await;
            // An app may learn of a departure only after the place has gone to the next request,
            // so its own count proves nothing here. All places can be used again.
            answers.add_permits(1000);
            for _ in 0..LIMIT * 2 {
                assert_eq!(get(sidecar.data, "/", "").await.status, 200, "seed {seed}");
            }
        });
    }
}

/// Runs with a limit that every delay exceeds, so that refusals begin with the second look.
async fn starved(changes: &[(&str, &str)]) -> (App, Sidecar) {
    let app = App::ok().await;
    let none = ("PILOTLIGHT_OVERLOAD_DELAY", "1ns");
    let sidecar = Sidecar::start(app.address, &[&[none], changes].concat()).await;
    (app, sidecar)
}

/// Asks until it is refused.
async fn refused(sidecar: &Sidecar, headers: &str) -> Raw {
    loop {
        let answer = get(sidecar.data, "/", headers).await;
        if answer.status != 200 {
            return answer;
        }
    }
}

#[test]
fn without_cpu_time_requests_are_refused_and_probes_answered() {
    run(async {
        for metrics in ["prometheus", "none"] {
            let config = format!(r#"{{"requestMetrics":{{"protocol":"{metrics}"}}}}"#);
            let (app, sidecar) = starved(&[("OBSERVABILITY_CONFIG", &config)]).await;
            let answer = refused(&sidecar, "").await;
            assert_eq!((answer.status, answer.body.as_str()), (503, "overloaded\n"));
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(answer.header(NOT_STARTED_HEADER), None);
            let type_ = answer.header("content-type");
            assert_eq!(type_, Some("text/plain; charset=utf-8"));
            let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
            for _ in 0..50 {
                assert_eq!(get(sidecar.data, "/", probe).await.status, 200);
                let kubelet = get(sidecar.data, "/", "K-Kubelet-Probe: x\r\n").await;
                assert_eq!(kubelet.status, 200);
            }
            let served = app.requests();
            let capable = format!("{CAPABILITY_HEADER}: 1\r\n");
            let answer = refused(&sidecar, &capable).await;
            assert_eq!(answer.header(NOT_STARTED_HEADER), Some("overloaded"));
            assert!(app.requests() >= served);
        }
    });
}

/// Without metrics and log a plain request is refused before it is parsed; the connection goes on.
#[test]
fn plain_requests_are_refused_between_others_on_one_connection() {
    run(async {
        let app = App::ok().await;
        let changes = [
            ("PILOTLIGHT_OVERLOAD_DELAY", "1ns"),
            ("OBSERVABILITY_CONFIG", ""),
        ];
        let sidecar = Sidecar::start(app.address, &changes).await;
        let mut stream = connect(sidecar.data).await;
        let (mut refused, mut served) = (0, 0);
        let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
        while refused < 100 {
            for (headers, body) in [("", "ok"), (probe, "queue")] {
                let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
                stream.write_all(request.as_bytes()).await.expect("open");
                let head = read_head(&mut stream).await;
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("Content-Length: "));
                let length = length
                    .and_then(|length| length.parse().ok())
                    .expect("a length");
                let mut text = vec![0; length];
                stream.read_exact(&mut text).await.expect("a body");
                if head.starts_with("HTTP/1.1 503 ") && headers.is_empty() {
                    assert!(head.contains("\r\nRetry-After: 1\r\n"), "{head}");
                    assert_eq!(text, b"overloaded\n");
                    refused += 1;
                } else {
                    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                    assert_eq!(String::from_utf8_lossy(&text), body);
                    served += u64::from(headers.is_empty());
                }
            }
        }
        let app_requests = u64::try_from(app.requests()).expect("few");
        assert_eq!(app_requests, served);
    });
}

#[test]
fn refusals_for_want_of_cpu_time_can_be_switched_off() {
    run(async {
        let off = ("PILOTLIGHT_OVERLOAD_DELAY", "0");
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[off]).await;
        for _ in 0..200 {
            assert_eq!(get(sidecar.data, "/", "").await.status, 200);
        }
    });
}
