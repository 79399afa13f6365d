//! Readiness probes of every kind against apps of every kind.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;

use crate::app::{App, AppBody, read_head, text, write};
use crate::client::{Raw, get};
use crate::instance::{Sidecar, bind, eventually, run};

const PROBE: &str = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";

async fn sidecar(app: SocketAddr, probe: &str, changes: &[(&str, &str)]) -> Sidecar {
    let mut changes = changes.to_vec();
    changes.push(("SERVING_READINESS_PROBE", probe));
    Sidecar::start(app, &changes).await
}

async fn probe(sidecar: &Sidecar) -> Raw {
    get(sidecar.data, "/", PROBE).await
}

const ONE_HTTP: &str = r#"{"httpGet":{"path":"ready?x=1","port":$PORT,"host":"127.0.0.1","scheme":"HTTP",
    "httpHeaders":[{"name":"X-One","value":"1"},{"name":"Host","value":"ignored"},{"name":"User-Agent","value":"mine"}]},
    "periodSeconds":1,"timeoutSeconds":1}"#;

#[test]
fn an_http_probe_asks_as_upstream_does() {
    run(async {
        let app = App::ok().await;
        let sidecar = sidecar(app.address, ONE_HTTP, &[]).await;
        assert_eq!(probe(&sidecar).await.body, "queue");
        let seen = app.last();
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str()),
            ("GET", "/ready?x=1")
        );
        assert_eq!(seen.headers["user-agent"], "kube-probe//");
        assert_eq!(seen.headers["x-one"], "1");
        assert_eq!(seen.host, app.address.to_string());
        assert_eq!(seen.version, Version::HTTP_11);
    });
}

#[test]
fn statuses_from_200_to_399_are_ready() {
    run(async {
        for (status, ready) in [
            (200, true),
            (204, true),
            (304, true),
            (399, true),
            (400, false),
            (404, false),
            (503, false),
        ] {
            let app = App::start(move |_| async move {
                let mut response = text("");
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                response
            })
            .await;
            let sidecar = sidecar(app.address, ONE_HTTP, &[]).await;
            let expected = if ready { 200 } else { 503 };
            assert_eq!(probe(&sidecar).await.status, expected, "{status}");
        }
    });
}

#[test]
fn row_41_redirects_are_followed_and_the_last_status_decides() {
    run(async {
        let app = App::start(|request| async move {
            let mut response = text("");
            let location = match request.uri().path() {
                "/ready" => "/good",
                "/loop" => "loop",
                "/bad" => "missing",
                "/good" => return response,
                _ => {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    return response;
                }
            };
            *response.status_mut() = StatusCode::FOUND;
            let location = HeaderValue::from_static(location);
            response.headers_mut().insert("location", location);
            response
        })
        .await;
        for (path, expected) in [("ready", 200), ("bad", 503), ("loop", 503)] {
            let json = format!(
                r#"{{"httpGet":{{"path":"/{path}","port":$PORT,"host":"127.0.0.1"}},"periodSeconds":1,"timeoutSeconds":5}}"#
            );
            let sidecar = sidecar(app.address, &json, &[]).await;
            assert_eq!(probe(&sidecar).await.status, expected, "{path}");
        }
        let loops = app
            .seen
            .borrow()
            .iter()
            .filter(|seen| seen.target == "/loop")
            .count();
        assert_eq!(loops, 11);
    });
}

#[test]
fn row_42_one_success_suffices_after_the_threshold_was_reached_until_a_failure() {
    run(async {
        let ready = Rc::new(Cell::new(true));
        let answers = Rc::clone(&ready);
        let app = App::start(move |_| {
            let ready = answers.get();
            async move {
                let mut response = text("");
                if !ready {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            }
        })
        .await;
        let json =
            r#"{"httpGet":{"path":"/","port":$PORT,"host":"127.0.0.1"},"successThreshold":3}"#;
        let sidecar = sidecar(app.address, json, &[]).await;
        assert_eq!(probe(&sidecar).await.status, 200);
        assert_eq!(app.requests(), 3);
        assert_eq!(probe(&sidecar).await.status, 200);
        assert_eq!(app.requests(), 4);
        ready.set(false);
        let failing = tokio::task::spawn_local({
            let handle = sidecar.handle.clone();
            async move { handle.probe().await }
        });
        eventually("it has failed", || app.requests() >= 5).await;
        ready.set(true);
        let before = app.requests();
        assert!(failing.await.expect("no panic"));
        assert!(app.requests() >= before + 2, "three in a row again");
    });
}

#[test]
fn row_43_many_probes_at_once_are_one_round() {
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
        let json = r#"{"httpGet":{"path":"/","port":$PORT,"host":"127.0.0.1"},"periodSeconds":1,"timeoutSeconds":30}"#;
        let sidecar = sidecar(app.address, json, &[]).await;
        let data = sidecar.data;
        let first = tokio::task::spawn_local(get(data, "/", PROBE));
        eventually("the round runs", || app.requests() == 1).await;
        let others: Vec<_> = (0..20)
            .map(|_| tokio::task::spawn_local(get(data, "/", PROBE)))
            .collect();
        // The first requester leaves; the round goes on for the others.
        first.abort();
        let joined = sidecar.handle.clone();
        let own = tokio::task::spawn_local(async move { joined.probe().await });
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        release.send_replace(true);
        for other in others {
            assert_eq!(other.await.expect("no panic").body, "queue");
        }
        assert!(own.await.expect("no panic"));
        assert_eq!(app.requests(), 1);
    });
}

#[test]
fn row_44_a_null_probe_fails_and_the_process_lives_on() {
    run(async {
        let app = App::ok().await;
        for (json, multi) in [("null", "false"), ("[null]", "true"), ("{}", "false")] {
            let sidecar = sidecar(
                app.address,
                json,
                &[("ENABLE_MULTI_CONTAINER_PROBES", multi)],
            )
            .await;
            for _ in 0..2 {
                let answer = probe(&sidecar).await;
                assert_eq!((answer.status, answer.body.as_str()), (503, ""), "{json}");
            }
            assert_eq!(get(sidecar.data, "/", "").await.status, 200);
        }
        for json in ["[]", "null"] {
            let sidecar = sidecar(
                app.address,
                json,
                &[("ENABLE_MULTI_CONTAINER_PROBES", "true")],
            )
            .await;
            assert_eq!(probe(&sidecar).await.status, 200, "{json}");
        }
    });
}

#[test]
fn an_exec_probe_never_succeeds() {
    run(async {
        let app = App::ok().await;
        let json = r#"{"exec":{"command":["true"]}}"#;
        let sidecar = sidecar(app.address, json, &[]).await;
        assert_eq!(probe(&sidecar).await.status, 503);
    });
}

#[test]
fn every_container_must_be_ready() {
    run(async {
        let [one, two] = [App::ok().await, App::ok().await];
        let closed = bind().await;
        let nobody = closed.local_addr().expect("bound");
        drop(closed);
        let json = |other: SocketAddr| {
            format!(
                r#"[{{"httpGet":{{"path":"/","port":$PORT,"host":"127.0.0.1"}},"periodSeconds":1,"timeoutSeconds":1}},
                   {{"tcpSocket":{{"port":{},"host":"127.0.0.1"}},"periodSeconds":1,"timeoutSeconds":1}}]"#,
                other.port()
            )
        };
        for (other, expected) in [(two.address, 200), (nobody, 503)] {
            let changes = [("ENABLE_MULTI_CONTAINER_PROBES", "true")];
            let sidecar = sidecar(one.address, &json(other), &changes).await;
            assert_eq!(probe(&sidecar).await.status, expected);
        }
    });
}

#[test]
fn an_aggressive_round_waits_for_an_app_that_starts_late() {
    run(async {
        let reserved = bind().await;
        let address = reserved.local_addr().expect("bound");
        drop(reserved);
        let json = r#"{"tcpSocket":{"port":$PORT,"host":"127.0.0.1"},"successThreshold":1}"#;
        let sidecar = sidecar(address, json, &[]).await;
        let data = sidecar.data;
        let waiting = tokio::task::spawn_local(get(data, "/", PROBE));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let _listening = tokio::net::TcpListener::bind(address).await.expect("free");
        let listening = Instant::now();
        assert_eq!(waiting.await.expect("no panic").body, "queue");
        assert!(Instant::now() - listening < Duration::from_millis(500));
    });
}

#[test]
fn an_aggressive_round_gives_up_after_ten_seconds() {
    run(async {
        let reserved = bind().await;
        let address = reserved.local_addr().expect("bound");
        drop(reserved);
        let json = r#"{"tcpSocket":{"port":$PORT,"host":"127.0.0.1"}}"#;
        let sidecar = sidecar(address, json, &[]).await;
        let started = Instant::now();
        assert_eq!(probe(&sidecar).await.status, 503);
        let elapsed = Instant::now() - started;
        assert!(elapsed >= Duration::from_millis(9900), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(13), "{elapsed:?}");
    });
}

#[test]
fn a_standard_probe_waits_no_longer_than_its_timeout() {
    run(async {
        let app = App::start(|_| async {
            std::future::pending::<()>().await;
            text("never")
        })
        .await;
        let sidecar = sidecar(app.address, ONE_HTTP, &[]).await;
        let started = Instant::now();
        assert_eq!(probe(&sidecar).await.status, 503);
        let elapsed = Instant::now() - started;
        assert!(elapsed >= Duration::from_secs(1), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    });
}

#[test]
fn row_38_detection_of_http2_changes_the_probe_and_nothing_else() {
    run(async {
        let app = App::ok().await;
        let detect = [("ENABLE_HTTP2_AUTO_DETECTION", "true")];
        let detecting = sidecar(app.address, ONE_HTTP, &detect).await;
        assert_eq!(probe(&detecting).await.status, 200);
        {
            let seen = app.seen.borrow();
            let versions: Vec<_> = seen.iter().map(|seen| seen.version).collect();
            assert_eq!(versions, [Version::HTTP_2, Version::HTTP_2]);
            assert!(!seen[0].headers.contains_key("x-one"));
            assert_eq!(seen[1].headers["x-one"], "1");
        }
        assert_eq!(get(detecting.data, "/data", "").await.status, 200);
        assert_eq!(app.last().version, Version::HTTP_11);

        // An app without HTTP/2 is asked again, without the probe's headers.
        let heads: Rc<RefCell<Vec<String>>> = Rc::default();
        let recorded = Rc::clone(&heads);
        let http1 = App::raw(move |mut stream| {
            let recorded = Rc::clone(&recorded);
            async move {
                let head = read_head(&mut stream).await;
                let answer = if head.starts_with("PRI") {
                    "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                };
                recorded.borrow_mut().push(head);
                write(&mut stream, answer).await;
            }
        })
        .await;
        let detecting = sidecar(http1, ONE_HTTP, &detect).await;
        assert_eq!(probe(&detecting).await.status, 200);
        let heads = heads.borrow();
        assert_eq!(heads.len(), 2, "{heads:?}");
        assert!(
            heads[1].starts_with("GET /ready?x=1 HTTP/1.1\r\n"),
            "{heads:?}"
        );
        assert!(!heads[1].contains("X-One"));
    });
}

/// A gRPC answer: the framed message and a status in the trailers.
fn grpc(message: &'static [u8], status: &'static str) -> Response<AppBody> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let frames = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from_static(message))),
        Ok(Frame::trailers(trailers)),
    ]);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

#[test]
fn a_grpc_probe_is_ready_only_while_serving() {
    run(async {
        for (message, status, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], "0", 200),
            (&[0, 0, 0, 0, 2, 8, 2], "0", 503),
            (&[0, 0, 0, 0, 0], "0", 503),
            (&[0, 0, 0, 0, 2, 8, 1], "12", 503),
            (&[], "0", 503),
        ] {
            let received: Rc<RefCell<Vec<u8>>> = Rc::default();
            let record = Rc::clone(&received);
            let app = App::start(move |request| {
                let record = Rc::clone(&record);
                async move {
                    let body = request.into_body().collect().await.expect("a body");
                    record.replace(body.to_bytes().to_vec());
                    grpc(message, status)
                }
            })
            .await;
            let json =
                r#"{"grpc":{"port":$PORT,"service":"live"},"periodSeconds":1,"timeoutSeconds":1}"#;
            let sidecar = sidecar(app.address, json, &[]).await;
            assert_eq!(
                probe(&sidecar).await.status,
                expected,
                "{message:?} {status}"
            );
            let seen = app.last();
            assert_eq!(seen.target, "/grpc.health.v1.Health/Check");
            assert_eq!(seen.headers["content-type"], "application/grpc");
            assert!(
                seen.headers["user-agent"]
                    .as_bytes()
                    .starts_with(b"kube-probe//")
            );
            assert_eq!(received.borrow().as_slice(), b"\0\0\0\0\x06\x0a\x04live");
        }
    });
}
