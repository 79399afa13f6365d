//! RFC 9113 on the data port, section by section: what every server has to do with frames, streams
//! and headers that are wrong, or odd but right. The numbers are those of the sections.

#[path = "conformance/connection.rs"]
mod connection;
#[path = "conformance/fields.rs"]
mod fields;
#[path = "conformance/frames.rs"]
mod frames;

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
