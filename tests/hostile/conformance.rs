//! RFC 9113 on the data port, section by section: what every server has to do with frames, streams
//! and headers that are wrong, or odd but right. The numbers are those of the sections.

use std::time::Duration;

use tests::app::App;
use tests::h2::{
    self, CANCEL, COMPRESSION_ERROR, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM,
    FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, Frame, GET, GOAWAY, HEADERS, PADDED, PING, POST, PREFACE,
    PRIORITIZED, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM, SETTINGS, STREAM_CLOSED,
    WINDOW_UPDATE, block, frame, get, post, reset, settings, window_update,
};
use tests::sidecar::{Sidecar, local};
use tokio::time::timeout;

/// How long one case may take, which is more than a client waits for a frame.
const PATIENCE: Duration = Duration::from_secs(20);

/// What must come of a case.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Stream 1 is answered with 200.
    Served,
    /// Nothing: what follows is served.
    Ignored,
    /// The app does not see the request on stream 1: it is reset or answered with 400. A server may
    /// always end the connection instead.
    Malformed,
    /// The end of stream 1 or of the connection, with one of these codes.
    Error(&'static [u32]),
    /// The end of the connection, with one of these codes if with any.
    Closed(&'static [u32]),
}
use Expect::{Closed, Error, Ignored, Malformed, Served};

struct Case {
    name: &'static str,
    /// Sent after the prefaces were exchanged; in pieces, each after the answer on stream 1 to the
    /// piece before.
    pieces: Vec<Vec<u8>>,
    expect: Expect,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case {
        name,
        pieces: vec![bytes.into()],
        expect,
    }
}

/// With a stream 1 that was opened and answered before.
fn after_answer(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case {
        name,
        pieces: vec![get(1), bytes.into()],
        expect,
    }
}

fn run(cases: Vec<Case>) {
    local(async {
        let app = App::start().await;
        let sidecar = Sidecar::start(app.address).await;
        for case in cases {
            let checked = timeout(PATIENCE, check(&app, &sidecar, &case));
            let checked = checked.await;
            assert!(checked.is_ok(), "{}: nothing comes of it", case.name);
        }
    });
}

async fn check(app: &App, sidecar: &Sidecar, case: &Case) {
    let name = case.name;
    let mut client = Client::connect(sidecar.address, &[]).await;
    let (last, before) = case.pieces.split_last().expect("something to send");
    for piece in before {
        client.send(piece).await;
        let frames = client.answer(1).await;
        assert_eq!(h2::status(&frames, 1), Some(200), "{name}: {frames:?}");
    }
    let requests = app.requests();
    client.send(last).await;
    match case.expect {
        Served => {
            let frames = client.answer(1).await;
            assert_eq!(h2::status(&frames, 1), Some(200), "{name}: {frames:?}");
            assert_eq!(app.requests(), requests + 1, "{name}");
            assert_alive(&mut client, name).await;
        }
        Ignored => assert_alive(&mut client, name).await,
        Malformed => {
            let frames = client.answer(1).await;
            let code = frames.last().and_then(Frame::code);
            let refused = h2::status(&frames, 1) == Some(400) || code == Some(PROTOCOL_ERROR);
            assert!(refused, "{name}: {frames:?}");
            assert_eq!(app.requests(), requests, "{name}: {frames:?}");
            if frames.last().is_some_and(|it| it.kind != GOAWAY) {
                assert_alive(&mut client, name).await;
            }
        }
        Error(codes) => {
            let ends = |it: &Frame| it.kind == GOAWAY || it.kind == RST_STREAM;
            let frames = client.until(ends).await;
            let end = frames.last().filter(|it| ends(it)).and_then(Frame::code);
            assert!(
                end.is_none_or(|it| codes.contains(&it)),
                "{name}: {frames:?}"
            );
        }
        Closed(codes) => {
            let frames = client.rest().await;
            let goaway = frames.iter().rfind(|it| it.kind == GOAWAY);
            let code = goaway.and_then(Frame::code);
            assert!(
                code.is_none_or(|it| codes.contains(&it)),
                "{name}: {frames:?}"
            );
        }
    }
}

/// The connection serves its next stream.
async fn assert_alive(client: &mut Client, name: &str) {
    let frames = client.ping().await;
    let acknowledged = frames.last().is_some_and(|it| it.kind == PING);
    assert!(acknowledged, "{name}: {frames:?}");
    client.send(&get(101)).await;
    let frames = client.answer(101).await;
    assert_eq!(h2::status(&frames, 101), Some(200), "{name}: {frames:?}");
}

/// A request on stream 1 with these fields and no body.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))
}

fn concat(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.concat()
}

/// The fields of a GET and one more.
fn get_with(name: &str, value: &str) -> Vec<u8> {
    let mut fields = GET.to_vec();
    fields.push((name, value));
    request(&fields)
}

/// A POST that says it has `length` bytes and has `body`.
fn sized(length: &str, body: &[&[u8]]) -> Vec<u8> {
    let mut fields = POST.to_vec();
    fields.push(("content-length", length));
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    for (at, piece) in body.iter().enumerate() {
        let last = if at + 1 == body.len() { END_STREAM } else { 0 };
        bytes.extend(frame(DATA, last, 1, piece));
    }
    bytes
}

/// 3.4: what does not begin as HTTP/2 is taken for HTTP/1, and what begins so has to go on so.
#[test]
fn prefaces() {
    local(async {
        let app = App::start().await;
        let sidecar = Sidecar::start(app.address).await;
        for (name, bytes) in [
            (
                "another text",
                b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec(),
            ),
            ("broken off", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
            (
                "HTTP/1 with the method PRI",
                b"PRI /x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            ),
        ] {
            let reply = tests::wire::exchange(sidecar.address, &bytes, usize::MAX).await;
            assert!(reply.closed, "{name}: {reply:?}");
            assert_eq!(app.requests(), 0, "{name}: {reply:?}");
        }
        // In pieces, and with SETTINGS and a request at once.
        let mut client = Client::raw(sidecar.address).await;
        let whole = [PREFACE, &settings(&[]), &get(1)].concat();
        for piece in whole.chunks(5) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        let frames = client.answer(1).await;
        assert_eq!(h2::status(&frames, 1), Some(200), "{frames:?}");
    });
}

/// What does not decode ends the connection; which code says so is told apart by nobody.
const COMPRESSION: &[u32] = &[COMPRESSION_ERROR, PROTOCOL_ERROR];

#[test]
fn frames() {
    let open_block = frame(HEADERS, END_STREAM, 1, &block(&GET));
    run(vec![
        case(
            "4.1 an unknown type",
            frame(0xfa, 0xff, 0, b"text"),
            Ignored,
        ),
        case(
            "4.1 an unknown type on a stream",
            frame(0xfa, 0, 7, b"text"),
            Ignored,
        ),
        case(
            "4.1 unknown flags",
            frame(PING, 0xfe, 0, b"01234567"),
            Ignored,
        ),
        case(
            "4.1 the reserved bit",
            frame(PING, 0, 1 << 31, b"01234567"),
            Ignored,
        ),
        case(
            "4.2 DATA of the size that everybody takes",
            concat(&[&post(1), &frame(DATA, END_STREAM, 1, &[0; 16384])]),
            Served,
        ),
        case(
            "4.2 a length beyond the largest",
            // Nothing more than the frame's head has to be read to refuse it.
            concat(&[&post(1), &[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]]),
            Closed(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "4.3 a block that does not decode",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x40]),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 an index that is not there",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f]),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 an integer without end",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 64]),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 a table beyond the limit",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x3f, 0xe2, 0x1f]),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 a table resized after a field",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x82, 0x20]),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 text in Huffman code with too much padding",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
            ),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 text that holds the end-of-string code",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'a'],
            ),
            Closed(COMPRESSION),
        ),
        case(
            "4.3 another frame within a block",
            concat(&[&open_block, &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9])]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "4.3 another stream within a block",
            concat(&[&open_block, &get(3)]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "4.3 an unknown frame within a block",
            concat(&[&open_block, &frame(0xfa, 0, 0, b"")]),
            Closed(&[PROTOCOL_ERROR]),
        ),
    ]);
}

#[test]
fn streams() {
    const ENDED: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];
    run(vec![
        // Idle.
        case(
            "5.1 DATA on an idle stream",
            frame(DATA, END_STREAM, 1, b"x"),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 RST_STREAM on an idle stream",
            reset(1, CANCEL),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 WINDOW_UPDATE on an idle stream",
            window_update(1, 100),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.1 CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
            Closed(&[PROTOCOL_ERROR]),
        ),
        // Half closed.
        case(
            "5.1 DATA after the request",
            concat(&[&get(1), &frame(DATA, END_STREAM, 1, b"x")]),
            Error(ENDED),
        ),
        case(
            "5.1 HEADERS after the request",
            concat(&[&get(1), &get(1)]),
            Error(ENDED),
        ),
        case(
            "5.1 CONTINUATION after the request",
            concat(&[&get(1), &frame(CONTINUATION, END_HEADERS, 1, &block(&GET))]),
            Error(ENDED),
        ),
        case(
            "5.1 WINDOW_UPDATE after the request",
            concat(&[&get(1), &window_update(1, 100)]),
            Served,
        ),
        // Closed.
        case(
            "5.1 DATA after RST_STREAM",
            concat(&[
                &post(1),
                &reset(1, CANCEL),
                &frame(DATA, END_STREAM, 1, b"x"),
            ]),
            Error(ENDED),
        ),
        case(
            "5.1 HEADERS after RST_STREAM",
            concat(&[&post(1), &reset(1, CANCEL), &get(1)]),
            Error(ENDED),
        ),
        case(
            "5.1 CONTINUATION after RST_STREAM",
            concat(&[
                &post(1),
                &reset(1, CANCEL),
                &frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
            ]),
            Closed(ENDED),
        ),
        after_answer(
            "5.1 DATA after the answer",
            frame(DATA, END_STREAM, 1, b"x"),
            Error(ENDED),
        ),
        after_answer("5.1 HEADERS after the answer", get(1), Closed(ENDED)),
        after_answer(
            "5.1 WINDOW_UPDATE after the answer",
            window_update(1, 1),
            Ignored,
        ),
        after_answer("5.1 RST_STREAM after the answer", reset(1, CANCEL), Ignored),
        after_answer(
            "5.1 PRIORITY after the answer",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]),
            Ignored,
        ),
        // Numbers.
        case("5.1.1 an even number", get(2), Closed(&[PROTOCOL_ERROR])),
        case("5.1.1 zero", get(0), Closed(&[PROTOCOL_ERROR])),
        case(
            "5.1.1 a number below one before",
            concat(&[&get(5), &get(3)]),
            Closed(ENDED),
        ),
        // Dependencies: obsolete, and nothing may come of them.
        case(
            "5.3.1 PRIORITY on itself",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9]),
            Error(&[PROTOCOL_ERROR]),
        ),
        // Server push is not for clients.
        case(
            "6.6 PUSH_PROMISE",
            concat(&[
                &post(1),
                &frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2][..], &block(&GET)].concat(),
                ),
            ]),
            Closed(&[PROTOCOL_ERROR]),
        ),
    ]);
}

#[test]
fn data_headers_and_priority() {
    let padded = |flags, pad: u8, content: &[u8]| {
        let mut payload = vec![pad];
        payload.extend_from_slice(content);
        payload.resize(payload.len() + usize::from(pad), 0);
        (flags | PADDED, payload)
    };
    let (flags, data) = padded(END_STREAM, 200, b"hello");
    let padded_data = frame(DATA, flags, 1, &data);
    let (flags, head) = padded(END_STREAM | END_HEADERS, 20, &block(&GET));
    let padded_head = frame(HEADERS, flags, 1, &head);
    let prioritized = [&[0, 0, 0, 3, 200][..], &block(&GET)].concat();
    let on_itself = [&[0, 0, 0, 1, 200][..], &block(&GET)].concat();
    run(vec![
        case(
            "6.1 DATA on stream 0",
            frame(DATA, END_STREAM, 0, b"x"),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case("6.1 padded DATA", concat(&[&post(1), &padded_data]), Served),
        case(
            "6.1 DATA with more padding than there is",
            concat(&[
                &post(1),
                &frame(DATA, END_STREAM | PADDED, 1, &[6, 0, 0, 0, 0, 0]),
            ]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.1 padded DATA without the padding's length",
            concat(&[&post(1), &frame(DATA, END_STREAM | PADDED, 1, b"")]),
            Closed(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        case("6.2 padded HEADERS", padded_head, Served),
        case(
            "6.2 HEADERS with more padding than there is",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PADDED,
                1,
                &[&[255][..], &block(&GET)].concat(),
            ),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.2 HEADERS with a priority",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PRIORITIZED,
                1,
                &prioritized,
            ),
            Served,
        ),
        case(
            "6.2 HEADERS that depend on themselves",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PRIORITIZED,
                1,
                &on_itself,
            ),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.2 HEADERS too short for their priority",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PRIORITIZED,
                1,
                &[0, 0, 0],
            ),
            Closed(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        case(
            "6.3 PRIORITY on an idle stream",
            frame(PRIORITY, 0, 7, &[0, 0, 0, 0, 9]),
            Ignored,
        ),
        case(
            "6.3 PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 9]),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.3 PRIORITY of the wrong size",
            concat(&[&post(1), &frame(PRIORITY, 0, 1, &[0, 0, 0, 0])]),
            Error(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        case(
            "6.4 RST_STREAM on stream 0",
            reset(0, CANCEL),
            Closed(&[PROTOCOL_ERROR]),
        ),
        case(
            "6.4 RST_STREAM of the wrong size",
            concat(&[&post(1), &frame(RST_STREAM, 0, 1, &[0, 0, 8])]),
            Closed(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        case(
            "6.4 RST_STREAM with an unknown code",
            concat(&[&post(1), &reset(1, 0xff)]),
            Ignored,
        ),
    ]);
}

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

#[test]
fn header_fields() {
    run(vec![
        case(
            "8.2 a name in capitals",
            get_with("X-Upper", "1"),
            Malformed,
        ),
        case("8.2.1 a name with a blank", get_with("x y", "1"), Malformed),
        case("8.2.1 a name with a colon", get_with("x:y", "1"), Malformed),
        case("8.2.1 no name", get_with("", "1"), Malformed),
        case(
            "8.2.1 a line feed in a value",
            get_with("x", "a\nb: c"),
            Malformed,
        ),
        case(
            "8.2.1 a carriage return in a value",
            get_with("x", "a\rb"),
            Malformed,
        ),
        case("8.2.1 a NUL in a value", get_with("x", "a\0b"), Malformed),
        case(
            "8.2.2 Connection",
            get_with("connection", "keep-alive"),
            Malformed,
        ),
        case("8.2.2 Keep-Alive", get_with("keep-alive", "5"), Malformed),
        case(
            "8.2.2 Proxy-Connection",
            get_with("proxy-connection", "close"),
            Malformed,
        ),
        case(
            "8.2.2 Transfer-Encoding",
            get_with("transfer-encoding", "chunked"),
            Malformed,
        ),
        case("8.2.2 Upgrade", get_with("upgrade", "websocket"), Malformed),
        case(
            "8.2.2 TE with anything but trailers",
            get_with("te", "gzip"),
            Malformed,
        ),
        case(
            "8.2.2 TE with more than trailers",
            get_with("te", "trailers, deflate;q=0.5"),
            Malformed,
        ),
        case("8.2.2 TE with trailers", get_with("te", "trailers"), Served),
        case(
            "8.2.3 Cookie in crumbs",
            {
                let mut fields = GET.to_vec();
                fields.extend([("cookie", "a=b"), ("cookie", "c=d")]);
                request(&fields)
            },
            Served,
        ),
    ]);
}

#[test]
fn pseudo_header_fields() {
    let without = |name: &str| {
        let kept: Vec<_> = GET.into_iter().filter(|field| field.0 != name).collect();
        request(&kept)
    };
    let with = |name: &str, value| {
        let changed = GET.map(|field| {
            if field.0 == name {
                (field.0, value)
            } else {
                field
            }
        });
        request(&changed)
    };
    let late = {
        let mut fields = GET.to_vec();
        fields.insert(3, ("x", "1"));
        request(&fields)
    };
    run(vec![
        case(
            "8.3 one that is unknown",
            get_with(":unknown", "1"),
            Malformed,
        ),
        case(
            "8.3 one of responses",
            get_with(":status", "200"),
            Malformed,
        ),
        case("8.3 one after a field", late, Malformed),
        case("8.3 one twice", get_with(":path", "/other"), Malformed),
        case("8.3.1 :method twice", get_with(":method", "GET"), Malformed),
        case(
            "8.3.1 :scheme twice",
            get_with(":scheme", "http"),
            Malformed,
        ),
        case(
            "8.3.1 :authority twice",
            get_with(":authority", "b"),
            Malformed,
        ),
        case("8.3.1 no :method", without(":method"), Malformed),
        case("8.3.1 no :scheme", without(":scheme"), Malformed),
        case("8.3.1 no :path", without(":path"), Malformed),
        case("8.3.1 an empty :path", with(":path", ""), Malformed),
        case(
            "8.3.1 a :path without a slash",
            with(":path", "path"),
            Malformed,
        ),
        case("8.3.1 a blank in :path", with(":path", "/a b"), Malformed),
        case(
            "8.3.1 a line feed in :path",
            with(":path", "/a\nb"),
            Malformed,
        ),
        case(
            "8.3.1 a :method that is no token",
            with(":method", "GE T"),
            Malformed,
        ),
        case(
            "8.3.1 an :authority with a user",
            with(":authority", "user@a"),
            Malformed,
        ),
        case(
            "8.3.1 an :authority with a path",
            with(":authority", "a/b"),
            Malformed,
        ),
        case(
            "8.3.1 an :authority with a blank",
            with(":authority", "a b"),
            Malformed,
        ),
        case(
            "8.3.1 a Host that is no :authority",
            get_with("host", "b.example"),
            Malformed,
        ),
        case(
            "8.3.1 a Host that is the :authority",
            get_with("host", "a.example"),
            Served,
        ),
        case(
            "8.5 CONNECT with a path",
            with(":method", "CONNECT"),
            Malformed,
        ),
        case(
            "RFC 8441 extended CONNECT, which was not offered",
            {
                let mut fields = GET.to_vec();
                fields[0] = (":method", "CONNECT");
                fields.insert(1, (":protocol", "websocket"));
                request(&fields)
            },
            Malformed,
        ),
        case(
            "8.1 a pseudo-header in trailers, which goes no further",
            concat(&[
                &post(1),
                &frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &block(&[(":method", "GET")]),
                ),
            ]),
            Served,
        ),
        case(
            "8.1 trailers that do not end the stream",
            concat(&[
                &post(1),
                &frame(HEADERS, END_HEADERS, 1, &block(&[("x", "1")])),
            ]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "8.1 trailers",
            concat(&[
                &post(1),
                &frame(DATA, 0, 1, b"hello"),
                &frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x", "1")])),
            ]),
            Served,
        ),
    ]);
}

/// 8.1.1: the length has to be that of all DATA.
#[test]
fn lengths() {
    run(vec![
        case("the right one", sized("5", &[b"he", b"llo"]), Served),
        case(
            "padding does not count",
            {
                let mut fields = POST.to_vec();
                fields.push(("content-length", "5"));
                let data = frame(DATA, END_STREAM | PADDED, 1, b"\x02hello\0\0");
                concat(&[&frame(HEADERS, END_HEADERS, 1, &block(&fields)), &data])
            },
            Served,
        ),
        case(
            "too small",
            sized("4", &[b"hello"]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "too small for several",
            sized("4", &[b"he", b"llo"]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "too large",
            sized("6", &[b"hello"]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "without a body",
            get_with("content-length", "5"),
            Error(&[PROTOCOL_ERROR]),
        ),
        case("no number", sized("+5", &[b"hello"]), Malformed),
        case(
            "two that differ",
            {
                let mut fields = POST.to_vec();
                fields.extend([("content-length", "5"), ("content-length", "6")]);
                concat(&[
                    &frame(HEADERS, END_HEADERS, 1, &block(&fields)),
                    &frame(DATA, END_STREAM, 1, b"hello"),
                ])
            },
            Malformed,
        ),
    ]);
}
