//! Sections 3 to 6: prefaces, frames, and the states of streams.

use super::*;

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
