use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::Outcome;
use crate::deadline::{Expired, Timeouts};
use crate::server::testing::*;

/// A client and an app at both ends of a tunnel, and the proxy between them.
async fn upgraded(
    protocol: &str,
    adjust: impl FnOnce(Hop) -> Hop,
) -> (TcpStream, TcpStream, Rc<Hop>, Running) {
    let (app, hop, proxy) = app_and_hop(adjust).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nearly"
    );
    let mut client = send(proxy.address, &request).await;
    let mut app = accept(&app).await;
    let head = read_head(&mut app).await;
    assert!(head.contains("Connection: Upgrade\r\n"), "{head}");
    assert!(head.contains(&format!("Upgrade: {protocol}\r\n")), "{head}");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nfirst"
    );
    write(&mut app, &answer).await;
    let head = read_head(&mut client).await;
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{head}"
    );
    assert_eq!(read_until(&mut client, "first").await, "first");
    assert_eq!(read_until(&mut app, "early").await, "early");
    (client, app, hop, proxy)
}

/// Section 12 row 22: what the app still has to say arrives.
#[test]
fn a_half_closed_tunnel_goes_on() {
    local(async {
        let (mut client, mut app, hop, _proxy) = upgraded("custom", |hop| hop.with_limit(1)).await;
        client.shutdown().await.expect("closed");
        assert_eq!(read_rest(&mut app).await, "");
        write(&mut app, "late").await;
        assert_eq!(read_until(&mut client, "late").await, "late");
        assert_eq!(hop.tunnels.active(), 1);
        drop(app);
        assert_eq!(read_rest(&mut client).await, "");
        let end = hop.ends.wait(1).await[0];
        assert_eq!((end.outcome, end.bytes), (Outcome::Complete, 9));
        hop.tunnels.closed().await;
    });
}

/// Large amounts pass unharmed, also against a slow reader.
#[test]
fn a_tunnel_keeps_order_and_amount() {
    local(async {
        let (client, app, _hop, _proxy) = upgraded("custom", |hop| hop).await;
        let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut from_client, mut to_app) = client.into_split();
        let (mut from_app, mut to_client) = app.into_split();
        let write = async {
            let (up, down) = tokio::join!(to_app.write_all(&sent), to_client.write_all(&sent));
            up.and(down).expect("written");
            to_app
                .shutdown()
                .await
                .and(to_client.shutdown().await)
                .expect("closed");
        };
        let read = async {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            let (one, two) = tokio::join!(
                from_app.read_to_end(&mut up),
                from_client.read_to_end(&mut down)
            );
            one.and(two).expect("read");
            assert!(up == sent && down == sent);
        };
        tokio::join!(write, read);
    });
}

/// Row 20: what the app says meets the response-start deadline, and silence is no harm without an
/// idle one.
#[test]
fn a_tunnel_lives_until_the_total_deadline() {
    local(async {
        let timeouts = Timeouts {
            total: Duration::from_millis(400),
            response_start: Some(Duration::from_millis(100)),
            idle: None,
        };
        let start = tokio::time::Instant::now();
        let (mut client, _app, hop, _proxy) =
            upgraded("custom", |hop| hop.with_timeouts(timeouts)).await;
        assert_eq!(read_rest(&mut client).await, "");
        assert!(tokio::time::Instant::now() - start >= Duration::from_millis(400));
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::Total));
    });
}

/// Row 20: the 101 alone is no response, whatever the client says.
#[test]
fn a_tunnel_ends_when_the_app_does_not_start() {
    local(async {
        let timeouts = Timeouts {
            total: Duration::from_secs(60),
            response_start: Some(Duration::from_millis(300)),
            idle: None,
        };
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(timeouts)).await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n";
        write(&mut app, head).await;
        read_head(&mut client).await;
        write(&mut client, "hello?").await;
        assert_eq!(read_until(&mut app, "hello?").await, "hello?");
        assert_eq!(read_rest(&mut client).await, "");
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::ResponseStart));
    });
}

/// Row 20: a tunnel is idle when nothing passes in either direction.
#[test]
fn a_tunnel_ends_when_it_is_idle_and_not_before() {
    local(async {
        let timeouts = Timeouts {
            total: Duration::from_secs(60),
            response_start: None,
            idle: Some(Duration::from_millis(300)),
        };
        let start = tokio::time::Instant::now();
        let (mut client, mut app, hop, _proxy) =
            upgraded("custom", |hop| hop.with_timeouts(timeouts)).await;
        for _ in 0..5 {
            // Each by itself is too little to keep a tunnel that counts one direction only.
            tokio::time::sleep(Duration::from_millis(50)).await;
            write(&mut client, "up").await;
            assert_eq!(read_until(&mut app, "up").await, "up");
            tokio::time::sleep(Duration::from_millis(50)).await;
            write(&mut app, "down").await;
            assert_eq!(read_until(&mut client, "down").await, "down");
        }
        assert_eq!(hop.tunnels.active(), 1);
        assert_eq!(read_rest(&mut client).await, "");
        assert!(tokio::time::Instant::now() - start >= Duration::from_millis(800));
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::Idle));
    });
}

/// Section 7.4: another protocol than the one asked for is refused.
#[test]
fn another_protocol_is_refused() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        for (asked, text) in [
            (
                "Connection: Upgrade\r\nUpgrade: a\r\n",
                "when \"a\" was requested",
            ),
            ("", "when \"\" was requested"),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n");
            let mut client = send(proxy.address, &request).await;
            let mut app = accept(&app).await;
            read_head(&mut app).await;
            write(
                &mut app,
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: b\r\n\r\n",
            )
            .await;
            let answer = read_until(&mut client, "requested\n").await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            assert!(
                answer.contains("backend tried to switch protocol \"b\""),
                "{answer}"
            );
            assert!(answer.contains(text), "{answer}");
        }
    });
}

/// Upgrading to h2c is not offered: the request goes on as an ordinary one (row 24).
#[test]
fn h2c_upgrades_are_ignored() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
            Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
        let _client = send(proxy.address, request).await;
        let head = read_head(&mut accept(&app).await).await;
        assert!(head.starts_with("GET / HTTP/1.1\r\n"));
        assert!(
            !head.contains("Upgrade") && !head.contains("Settings"),
            "{head}"
        );
    });
}

/// At the end of a drain both sides of a WebSocket get status 1001, after the frame underway.
#[test]
fn websockets_are_closed_between_frames() {
    local(async {
        let (mut client, mut app, hop, _proxy) = websocket().await;
        // A text frame of five bytes to the client, of which two are still to come.
        app.write_all(b"\x81\x05abc").await.expect("written");
        assert_eq!(read_until(&mut client, "abc").await, "\u{fffd}\u{5}abc");
        hop.tunnels.close();
        let mut close = [0; 8];
        app.read_exact(&mut close).await.expect("a close frame");
        assert_eq!(close, [0x88, 0x82, 0, 0, 0, 0, 3, 233]);
        app.write_all(b"de\x81\x01x").await.expect("written");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("closed");
        assert_eq!(rest, b"de\x88\x02\x03\xe9");
        drop((client, app));
        hop.tunnels.closed().await;
    });
}

async fn websocket() -> (TcpStream, TcpStream, Rc<Hop>, Running) {
    let (app, hop, proxy) = app_and_hop(|hop| hop).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let mut client = send(proxy.address, request).await;
    let mut app = accept(&app).await;
    read_head(&mut app).await;
    write(
        &mut app,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    read_head(&mut client).await;
    (client, app, hop, proxy)
}

/// Any other tunnel is closed plainly, and one in the middle of a frame within the grace period.
#[test]
fn tunnels_close_within_the_grace_period() {
    local(async {
        let (mut client, mut app, hop, _proxy) = upgraded("custom", |hop| hop).await;
        hop.tunnels.close();
        assert_eq!(read_rest(&mut client).await, "");
        assert_eq!(read_rest(&mut app).await, "");
        hop.tunnels.closed().await;

        let (mut client, mut app, hop, _proxy) = websocket().await;
        app.write_all(b"\x81\x05abc").await.expect("written");
        read_until(&mut client, "abc").await;
        hop.tunnels.close();
        hop.tunnels.closed().await;
        assert_eq!(read_rest(&mut client).await, "");
    });
}
