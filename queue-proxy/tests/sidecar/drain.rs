//! From the signal to the end.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::app::{App, read_head, stream, text, write};
use crate::client::{connect, get, h2c, h2c_get, read_to_end};
use crate::instance::{Sidecar, eventually, run, run_within, skip};

const PROBE: &str = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";

async fn with_quiet_period(app: &App, quiet: Duration) -> Sidecar {
    Sidecar::configured(app.address, &[], |config| {
        config.options.quiet_period = quiet;
    })
    .await
}

async fn finished(sidecar: Sidecar) {
    sidecar
        .finished
        .await
        .expect("no panic")
        .expect("a clean end");
}

#[test]
fn row_8_and_9_while_draining_probes_fail_and_requests_are_served_and_postpone_the_end() {
    run(async {
        let app = App::ok().await;
        let mut sidecar = with_quiet_period(&app, Duration::from_millis(600)).await;
        sidecar.terminate().await;
        let mut last = Instant::now();
        for _ in 0..5 {
            for headers in [
                PROBE,
                "User-Agent: kube-probe/1.34\r\n",
                "K-Network-Probe: probe\r\nK-Network-Hash: x\r\n",
            ] {
                let probe = get(sidecar.data, "/", headers).await;
                assert_eq!(
                    (probe.status, probe.body.as_str()),
                    (503, "shutting down\n")
                );
            }
            last = Instant::now();
            assert_eq!(get(sidecar.data, "/", "").await.body, "ok");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(app.requests(), 5);
        let data = sidecar.data;
        finished(sidecar).await;
        assert!(Instant::now() - last >= Duration::from_millis(600));
        assert!(TcpStream::connect(data).await.is_err());
    });
}

#[test]
fn row_10_wait_for_drain_without_a_signal_returns_after_a_second() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let started = Instant::now();
        let admin = sidecar.admin;
        let waiting = tokio::task::spawn_local(get(admin, "/wait-for-drain", ""));
        let handle = sidecar.handle.clone();
        eventually("draining", || handle.is_draining()).await;
        assert_eq!(get(sidecar.data, "/", PROBE).await.status, 503);
        let answer = waiting.await.expect("no panic");
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        let elapsed = Instant::now() - started;
        assert!(elapsed >= Duration::from_millis(990), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
        assert_eq!(get(sidecar.data, "/", PROBE).await.status, 200);
    });
}

#[test]
fn wait_for_drain_returns_when_the_quiet_period_ends() {
    run(async {
        let app = App::ok().await;
        let mut sidecar = with_quiet_period(&app, Duration::from_millis(1500)).await;
        let started = Instant::now();
        let admin = sidecar.admin;
        let waiting = tokio::task::spawn_local(get(admin, "/wait-for-drain", ""));
        sidecar.terminate().await;
        assert_eq!(waiting.await.expect("no panic").status, 200);
        assert!(Instant::now() - started >= Duration::from_millis(1500));
        finished(sidecar).await;
    });
}

#[test]
fn a_request_under_way_is_finished_however_short_the_quiet_period() {
    run(async {
        let (bodies, mut opened) = tokio::sync::mpsc::channel(1);
        let app = App::start(move |_| {
            let bodies = bodies.clone();
            async move {
                let (sender, response) = stream();
                bodies.send(sender).await.expect("room");
                response
            }
        })
        .await;
        let mut sidecar = with_quiet_period(&app, Duration::from_millis(1)).await;
        let data = sidecar.data;
        let request = tokio::task::spawn_local(get(data, "/", ""));
        let body = opened.recv().await.expect("a body");
        sidecar.terminate().await;
        eventually("the port is closed", || {
            std::net::TcpStream::connect(data).is_err()
        })
        .await;
        // The admin port stays as long as requests run.
        assert_eq!(get(sidecar.admin, "/wait-for-drain", "").await.status, 200);
        body.send(Ok("late")).await.expect("room");
        drop(body);
        let answer = request.await.expect("no panic");
        assert_eq!((answer.status, answer.body.as_str()), (200, "late"));
        finished(sidecar).await;
    });
}

#[test]
fn row_25_an_h2c_connection_is_told_to_go_away_and_its_stream_ends_well() {
    run(async {
        let (bodies, mut opened) = tokio::sync::mpsc::channel(1);
        let app = App::start(move |request| {
            let bodies = bodies.clone();
            async move {
                if request.uri().path() != "/stream" {
                    return text("ok");
                }
                let (sender, response) = stream();
                bodies.send(sender).await.expect("room");
                response
            }
        })
        .await;
        let mut sidecar = with_quiet_period(&app, Duration::from_millis(1)).await;
        let mut client = h2c(sidecar.data).await;
        let mut streaming = client.clone();
        let answer =
            tokio::task::spawn_local(async move { h2c_get(&mut streaming, "/stream").await });
        let body = opened.recv().await.expect("a body");
        let answer = answer.await.expect("no panic").expect("an answer");
        sidecar.terminate().await;
        // Streams are taken until the client knows.
        while h2c_get(&mut client, "/").await.is_ok() {}
        body.send(Ok("late")).await.expect("room");
        drop(body);
        let collected = answer.into_body().collect().await.expect("a clean end");
        assert_eq!(collected.to_bytes(), "late");
        finished(sidecar).await;
    });
}

/// An app that accepts an upgrade and then echoes.
async fn echo() -> std::net::SocketAddr {
    App::raw(|mut stream| async move {
        read_head(&mut stream).await;
        write(
            &mut stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await;
        let (mut read, mut write) = stream.split();
        // The tunnel ends it.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

async fn websocket(address: std::net::SocketAddr) -> TcpStream {
    let mut client = connect(address).await;
    client
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await
        .expect("writable");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client
}

/// Sends an empty binary message, masked, which has to come back.
async fn exchange(client: &mut TcpStream) {
    let frame = [0x82, 0x80, 0, 0, 0, 0];
    client.write_all(&frame).await.expect("writable");
    let mut echoed = [0; 6];
    client.read_exact(&mut echoed).await.expect("still open");
    assert_eq!(echoed, frame);
}

/// Waits until the drain waits for upgraded connections only.
async fn port_closed(sidecar: &Sidecar) {
    let data = sidecar.data;
    eventually("the port is closed", || {
        std::net::TcpStream::connect(data).is_err()
    })
    .await;
}

#[test]
fn row_50_upgraded_connections_hold_the_end_back_until_they_close() {
    run(async {
        let app = echo().await;
        let mut sidecar = Sidecar::configured(app, &[], |config| {
            config.options.quiet_period = Duration::from_millis(1);
        })
        .await;
        let mut client = websocket(sidecar.data).await;
        sidecar.terminate().await;
        port_closed(&sidecar).await;
        exchange(&mut client).await;
        assert!(!sidecar.finished.is_finished());
        drop(client);
        finished(sidecar).await;
    });
}

/// The 60 s that all have are over long before; upstream gives up then.
#[test]
fn row_50_an_upgraded_connection_has_what_is_left_of_its_revisions_timeout() {
    const HOUR: Duration = Duration::from_secs(3600);

    run_within(3 * HOUR, async {
        let app = echo().await;
        let timeout = ("REVISION_TIMEOUT_SECONDS", "3600");
        let mut sidecar = Sidecar::configured(app, &[timeout], |config| {
            config.options.quiet_period = Duration::from_millis(1);
        })
        .await;
        let mut client = websocket(sidecar.data).await;
        sidecar.terminate().await;
        port_closed(&sidecar).await;
        skip(HOUR / 2).await;
        exchange(&mut client).await;
        assert!(!sidecar.finished.is_finished());
        skip(HOUR / 2).await;
        finished(sidecar).await;
    });
}

#[test]
fn a_websocket_that_stays_is_closed_with_1001_at_the_very_end() {
    run(async {
        let app = echo().await;
        let mut sidecar = Sidecar::configured(app, &[], |config| {
            config.options.quiet_period = Duration::from_millis(1);
        })
        .await;
        let mut client = websocket(sidecar.data).await;
        sidecar.terminate().await;
        port_closed(&sidecar).await;
        assert_eq!(sidecar.handle.in_flight(), 1);
        sidecar.handle.cut_short();
        let mut rest = Vec::new();
        // However the connection ends, what came before counts.
        let _ = client.read_to_end(&mut rest).await;
        assert_eq!(rest, [0x88, 2, 0x03, 0xe9]);
        finished(sidecar).await;
    });
}

#[test]
fn a_drain_that_is_cut_short_leaves_nothing_behind() {
    run(async {
        let app = App::start(|_| async {
            std::future::pending::<()>().await;
            text("never")
        })
        .await;
        let mut sidecar = with_quiet_period(&app, Duration::from_millis(1)).await;
        let mut client = crate::client::open(sidecar.data, "/").await;
        let running = app.running.clone();
        eventually("the app runs", || running.get() == 1).await;
        sidecar.terminate().await;
        sidecar.handle.cut_short();
        let handle = sidecar.handle.clone();
        finished(sidecar).await;
        assert_eq!(read_to_end(&mut client).await.status, 0);
        eventually("the app's request is aborted", || running.get() == 0).await;
        assert_eq!(handle.in_flight(), 0);
    });
}

#[test]
fn dropping_the_instance_ends_everything_at_once() {
    run(async {
        let app = echo().await;
        let sidecar = Sidecar::start(app, &[]).await;
        let mut client = websocket(sidecar.data).await;
        let (data, handle) = (sidecar.data, sidecar.handle.clone());
        sidecar.finished.abort();
        let mut rest = Vec::new();
        // However the connection ends.
        let _ = client.read_to_end(&mut rest).await;
        eventually("nothing is in flight", || handle.in_flight() == 0).await;
        assert!(TcpStream::connect(data).await.is_err());
    });
}

#[test]
fn a_handle_drains_with_a_quiet_period_of_its_own() {
    run(async {
        let app = App::start(|_| async { text("ok") }).await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 200);
        sidecar.handle.drain(Duration::ZERO);
        finished(sidecar).await;
    });
}

#[test]
fn during_the_drain_a_kept_alive_connection_is_closed_after_its_answer() {
    run(async {
        let (bodies, mut opened) = tokio::sync::mpsc::channel(1);
        let app = App::start(move |_| {
            let bodies = bodies.clone();
            async move {
                let (sender, response) = stream();
                bodies.send(sender).await.expect("room");
                response
            }
        })
        .await;
        let mut sidecar = with_quiet_period(&app, Duration::from_millis(1)).await;
        let mut client = connect(sidecar.data).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("writable");
        let body = opened.recv().await.expect("a body");
        sidecar.terminate().await;
        drop(body);
        let answer = read_to_end(&mut client).await;
        assert_eq!(answer.status, 200);
        finished(sidecar).await;
    });
}
