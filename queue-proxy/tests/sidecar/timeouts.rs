//! The three timeouts of a revision.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::app::{App, read_head, stream, text, write};
use crate::client::{connect, get, h2c, h2c_get};
use crate::instance::{Sidecar, eventually, run};

/// An app that never answers.
async fn silent() -> App {
    App::start(|_| async {
        std::future::pending::<()>().await;
        text("never")
    })
    .await
}

#[test]
fn row_17_the_text_has_no_newline() {
    run(async {
        let app = silent().await;
        let sidecar = Sidecar::start(app.address, &[("REVISION_TIMEOUT_SECONDS", "1")]).await;
        let started = Instant::now();
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (504, "request timeout")
        );
        assert_eq!(answer.header("content-length"), Some("15"));
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        let elapsed = Instant::now() - started;
        assert!(elapsed >= Duration::from_secs(1), "{elapsed:?}");
        let running = app.running.clone();
        eventually("the app's request is aborted", || running.get() == 0).await;
    });
}

#[test]
fn row_19_no_time_at_all_times_every_request_out() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[("REVISION_TIMEOUT_SECONDS", "0")]).await;
        for _ in 0..3 {
            assert_eq!(get(sidecar.data, "/", "").await.status, 504);
        }
        let mut client = h2c(sidecar.data).await;
        let answer = h2c_get(&mut client, "/").await.expect("an answer");
        assert_eq!(answer.status(), 504);
        let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
        assert_eq!(get(sidecar.data, "/", probe).await.status, 200);
    });
}

/// Unlike upstream, where they count as the start: here they never reach the client.
#[test]
fn row_21_informational_responses_are_no_start() {
    run(async {
        let app = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 103 Early Hints\r\n\r\n").await;
            std::future::pending::<()>().await;
        })
        .await;
        let timeout = ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1");
        let sidecar = Sidecar::start(app, &[timeout]).await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (504, "request timeout")
        );
    });
}

#[test]
fn a_response_that_does_not_start_in_time_is_a_504() {
    run(async {
        let app = silent().await;
        let sidecar = Sidecar::start(
            app.address,
            &[("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1")],
        )
        .await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (504, "request timeout")
        );
    });
}

/// An app that sends a first part and then nothing.
async fn stalling() -> App {
    App::start(|_| async {
        let (sender, response) = stream();
        sender.send(Ok("part")).await.expect("room");
        tokio::task::spawn_local(async move {
            sender.closed().await;
        });
        response
    })
    .await
}

#[test]
fn row_18_a_timeout_in_the_middle_of_a_response_aborts_it() {
    run(async {
        for timeout in ["REVISION_TIMEOUT_SECONDS", "REVISION_IDLE_TIMEOUT_SECONDS"] {
            let app = stalling().await;
            let sidecar = Sidecar::start(app.address, &[(timeout, "1")]).await;
            let answer = get(sidecar.data, "/", "").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (200, "part"),
                "{timeout}"
            );
            assert!(!answer.complete, "{timeout}");
            let handle = sidecar.handle.clone();
            eventually("it is over", || handle.in_flight() == 0).await;
        }
    });
}

/// Upstream's `TestRevisionTimeout` expects it in its case `writes_first_byte_before_timeout`.
#[test]
fn row_18_a_timeout_before_the_body_gives_a_text() {
    run(async {
        let app = App::start(|_| async {
            let (sender, response) = stream();
            tokio::task::spawn_local(async move {
                sender.closed().await;
            });
            response
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[("REVISION_TIMEOUT_SECONDS", "1")]).await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "request timeout")
        );
        assert!(answer.complete);
        let running = app.running.clone();
        eventually("the app's request is aborted", || running.get() == 0).await;
    });
}

#[test]
fn a_response_that_has_started_is_not_cut_by_the_start_timeout() {
    run(async {
        let app = App::start(|_| async {
            let (sender, response) = stream();
            tokio::task::spawn_local(async move {
                for _ in 0..4 {
                    sender.send(Ok("x")).await.expect("room");
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
            });
            response
        })
        .await;
        let sidecar = Sidecar::start(
            app.address,
            &[
                ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1"),
                ("REVISION_IDLE_TIMEOUT_SECONDS", "1"),
            ],
        )
        .await;
        let answer = get(sidecar.data, "/", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "xxxx"));
        assert!(answer.complete);
    });
}

/// Upstream's `TestWebSocketWithTimeout` expects it.
#[test]
fn row_20_a_websocket_without_an_answer_ends_at_the_start_timeout() {
    run(async {
        let app = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            write(&mut stream, head).await;
            std::future::pending::<()>().await;
        })
        .await;
        let timeout = ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1");
        let sidecar = Sidecar::start(app, &[timeout]).await;
        let started = Instant::now();
        let mut client = connect(sidecar.data).await;
        let request =
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(request).await.expect("writable");
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
        assert_eq!(rest, b"");
        let elapsed = Instant::now() - started;
        assert!(elapsed >= Duration::from_secs(1), "{elapsed:?}");
    });
}

#[test]
fn row_20_a_websocket_in_use_outlives_the_start_timeout() {
    run(async {
        let app = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await;
            let (mut read, mut write) = stream.split();
            // The client ends it.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let sidecar = Sidecar::start(
            app,
            &[
                ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1"),
                ("REVISION_TIMEOUT_SECONDS", "3"),
            ],
        )
        .await;
        let started = Instant::now();
        let mut client = connect(sidecar.data).await;
        client
            .write_all(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await
            .expect("writable");
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut echoes = 0;
        let mut byte = [0; 4];
        loop {
            if client.write_all(b"ping").await.is_err() {
                break;
            }
            match client.read_exact(&mut byte).await {
                Ok(_) => echoes += 1,
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let elapsed = Instant::now() - started;
        // The start timeout passed it by, the revision timeout did not.
        assert!(elapsed >= Duration::from_millis(2900), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
        assert!(echoes > 10, "{echoes}");
    });
}
