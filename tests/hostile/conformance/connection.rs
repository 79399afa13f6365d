//! Section 6: what concerns a whole connection, and flow control.

use super::*;

/// A window beyond the largest ends the connection, with either code.
const OVERFLOW: &[u32] = &[FLOW_CONTROL_ERROR, PROTOCOL_ERROR];

#[test]
fn settings_ping_and_goaway() {
    const SIZES: &[u32] = &[FRAME_SIZE_ERROR, PROTOCOL_ERROR];
    run(vec![
        case(
            "6.5 SETTINGS",
            settings(&[(1, 0), (3, 0), (4, 1 << 20)]),
            Ignored,
        ),
        case(
            "6.5 an acknowledgement with a payload",
            frame(SETTINGS, 1, 0, &[0; 6]),
            Closed(SIZES),
        ),
        case(
            "6.5 SETTINGS on a stream",
            frame(SETTINGS, 0, 1, &[]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5 SETTINGS of the wrong size",
            frame(SETTINGS, 0, 0, &[0; 7]),
            Closed(SIZES),
        ),
        case(
            "6.5.2 push neither on nor off",
            settings(&[(2, 2)]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 a window beyond the largest",
            settings(&[(4, 1 << 31)]),
            Closed(OVERFLOW),
        ),
        case(
            "6.5.2 a frame size below the least",
            settings(&[(5, 16383)]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 a frame size beyond the largest",
            settings(&[(5, 1 << 24)]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.5.2 an unknown setting",
            settings(&[(0xfafa, 7)]),
            Ignored,
        ),
        case(
            "6.5.3 the last of several values",
            settings(&[(4, 1), (4, 65535)]),
            Ignored,
        ),
        case(
            "6.7 PING on a stream",
            frame(PING, 0, 1, b"01234567"),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.7 PING of the wrong size",
            frame(PING, 0, 0, b"0123456"),
            Closed(SIZES),
        ),
        case(
            "6.7 an acknowledgement that nobody asked for",
            frame(PING, 1, 0, b"01234567"),
            Ignored,
        ),
        case(
            "6.8 GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.8 GOAWAY too short",
            frame(GOAWAY, 0, 0, &[0; 4]),
            Closed(SIZES),
        ),
        case(
            "7 GOAWAY with an unknown code",
            frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
            Closed(&[0]),
        ),
    ]);
}

#[test]
fn windows() {
    run(vec![
        case(
            "6.9 no increment",
            window_update(0, 0),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.9 no increment on a stream",
            concat(&[&post(1), &window_update(1, 0)]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.9 WINDOW_UPDATE of the wrong size",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            Closed(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        case(
            "6.9.1 a connection's window beyond the largest",
            concat(&[
                &window_update(0, 0x7fff_ffff),
                &window_update(0, 0x7fff_ffff),
            ]),
            Closed(OVERFLOW),
        ),
        case(
            "6.9.1 a stream's window beyond the largest",
            concat(&[
                &post(1),
                &window_update(1, 0x7fff_ffff),
                &window_update(1, 0x7fff_ffff),
            ]),
            Error(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "6.9.2 windows of open streams beyond the largest",
            concat(&[
                &post(1),
                &window_update(1, 0x7fff_0000),
                &settings(&[(4, 0x7fff_ffff)]),
            ]),
            Closed(OVERFLOW),
        ),
        case(
            "6.10 CONTINUATION",
            concat(&[
                &frame(HEADERS, END_STREAM, 1, &block(&GET[..2])),
                &frame(CONTINUATION, 0, 1, &block(&GET[2..3])),
                &frame(CONTINUATION, END_HEADERS, 1, &block(&GET[3..])),
            ]),
            Served,
        ),
        case(
            "6.10 a field cut in two",
            {
                let whole = block(&GET);
                let (one, other) = whole.split_at(9);
                concat(&[
                    &frame(HEADERS, END_STREAM, 1, one),
                    &frame(CONTINUATION, END_HEADERS, 1, other),
                ])
            },
            Served,
        ),
        case(
            "6.10 CONTINUATION on stream 0",
            concat(&[
                &frame(HEADERS, END_STREAM, 1, &block(&GET)),
                &frame(CONTINUATION, END_HEADERS, 0, &[]),
            ]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.10 CONTINUATION after the end of the block",
            concat(&[
                &post(1),
                &frame(CONTINUATION, END_HEADERS, 1, &block(&[("a", "b")])),
            ]),
            Closed(&[PROTOCOL_ERROR]),
        ),
    ]);
}

/// 6.9.1 and 6.9.2: an answer goes no further than the client's windows.
#[test]
fn windows_are_kept() {
    local(async {
        let app = App::start().await;
        let sidecar = Sidecar::start(app.address).await;
        let mut client = Client::connect(sidecar.address, &[(4, 1)]).await;
        client.send(&get(1)).await;
        let head = client
            .until(|it| it.kind == HEADERS && it.stream == 1)
            .await;
        assert_eq!(h2::status(&head, 1), Some(200));
        let first = client.until(|it| it.kind == DATA).await;
        assert_eq!(
            first.last().map(|it| it.payload.as_slice()),
            Some(&b"o"[..])
        );
        let before = client.ping().await;
        assert!(before.iter().all(|it| it.kind != DATA), "{before:?}");
        client.send(&window_update(1, 1)).await;
        let second = client.until(|it| it.kind == DATA).await;
        assert_eq!(
            second.last().map(|it| it.payload.as_slice()),
            Some(&b"k"[..])
        );
    });
}
