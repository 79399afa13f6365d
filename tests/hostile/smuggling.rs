//! Requests that two readers could read in two ways (RFC 9112 sections 2, 3, 5, 6 and 11.2): each
//! is refused and its connection closed, or reaches the app as one request and in one way only.

use std::time::Duration;

use tests::recorder::{Recorder, Seen};
use tests::sidecar::{Sidecar, local};
use tests::wire::exchange;
use tests::within;

/// What would be a request of its own to somebody who ends the one before it elsewhere.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the app must have seen of a request: how its line begins, and its whole body.
type Expected = (&'static str, &'static str);

enum Outcome {
    /// This answer, then the end of the connection; the app sees nothing of it.
    Refused(u16),
    /// The app sees this, then the request after it.
    Forwarded(Expected),
    /// The app sees this, and the connection ends with its answer.
    Last(Expected),
}
use Outcome::{Forwarded, Last, Refused};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    outcome: Outcome,
}

fn case(name: &'static str, bytes: impl AsRef<[u8]>, outcome: Outcome) -> Case {
    Case {
        name,
        bytes: bytes.as_ref().to_vec(),
        outcome,
    }
}

/// A POST with these header lines and this body.
fn post(name: &'static str, lines: &str, body: &str, outcome: Outcome) -> Case {
    let bytes = format!("POST /first HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}");
    case(name, bytes, outcome)
}

/// A GET with these header lines.
fn get(name: &'static str, lines: &str, outcome: Outcome) -> Case {
    let bytes = format!("GET /first HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    case(name, bytes, outcome)
}

fn run(cases: Vec<Case>) {
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::start(app.address).await;
        for case in cases {
            check(&app, &sidecar, case).await;
        }
    });
}

async fn check(app: &Recorder, sidecar: &Sidecar, case: Case) {
    let Case {
        name,
        mut bytes,
        outcome,
    } = case;
    bytes.extend_from_slice(NEXT.as_bytes());
    let (statuses, mut expected, ends): (&[u16], _, _) = match &outcome {
        Refused(status) => (std::slice::from_ref(status), vec![], true),
        Forwarded(first) => (&[200, 200], vec![*first], false),
        Last(first) => (&[200], vec![*first], true),
    };
    if !ends {
        expected.push(("GET /next HTTP/1.1", ""));
    }
    // One answer too many is asked for where the connection has to end, so that its end is seen.
    let reply = exchange(sidecar.address, &bytes, statuses.len() + usize::from(ends)).await;
    assert_eq!(reply.statuses, statuses, "{name}: {reply:?}");
    assert_eq!(reply.closed, ends, "{name}: {reply:?}");
    let seen = app.take();
    let garbage = app.take_garbage();
    assert!(garbage.is_empty(), "{name}: the app got {garbage:?}");
    let shown: Vec<(&str, &[u8])> = seen.iter().map(|it| (it.line(), &it.body[..])).collect();
    assert_eq!(shown.len(), expected.len(), "{name}: {shown:?}");
    for ((line, body), (expected_line, expected_body)) in shown.iter().zip(&expected) {
        assert!(line.starts_with(expected_line), "{name}: {shown:?}");
        assert_eq!(*body, expected_body.as_bytes(), "{name}: {shown:?}");
    }
}

const FIRST: Expected = ("POST /first HTTP/1.1", "hello");
const EMPTY: Expected = ("GET /first HTTP/1.1", "");
const CHUNKED: &str = "5\r\nhello\r\n0\r\n\r\n";

/// RFC 9112 section 6.1: the coding counts, and the connection ends in any case.
#[test]
fn a_length_beside_a_coding() {
    run(vec![
        post(
            "length, then coding",
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            CHUNKED,
            Last(FIRST),
        ),
        post(
            "coding, then length",
            "Transfer-Encoding: chunked\r\nContent-Length: 100",
            CHUNKED,
            Last(FIRST),
        ),
        post(
            "a length that is no number, hidden behind a coding",
            "Transfer-Encoding: chunked\r\nContent-Length: +5",
            CHUNKED,
            Last(FIRST),
        ),
        post(
            "a coding that is not final",
            "Content-Length: 5\r\nTransfer-Encoding: chunked, identity",
            "hello",
            Refused(400),
        ),
        post(
            "a coding named in Connection still frames the message",
            "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
            CHUNKED,
            Forwarded(FIRST),
        ),
        post(
            "a length named in Connection still frames the message",
            "Connection: content-length, host\r\nContent-Length: 5",
            "hello",
            Forwarded(FIRST),
        ),
    ]);
}

/// RFC 9112 section 6.3: what is not one decimal number is refused.
#[test]
fn lengths() {
    run(vec![
        post("one", "Content-Length: 5", "hello", Forwarded(FIRST)),
        post(
            "leading zeros",
            "Content-Length: 005",
            "hello",
            Forwarded(FIRST),
        ),
        post(
            "two that differ",
            "Content-Length: 5\r\nContent-Length: 6",
            "hello",
            Refused(400),
        ),
        post(
            "two that agree",
            "Content-Length: 5\r\nContent-Length: 5",
            "hello",
            Forwarded(FIRST),
        ),
        post("a list", "Content-Length: 5, 5", "hello", Refused(400)),
        post(
            "a list that differs",
            "Content-Length: 5, 6",
            "hello",
            Refused(400),
        ),
        post("a sign", "Content-Length: +5", "hello", Refused(400)),
        post("negative", "Content-Length: -5", "hello", Refused(400)),
        post("hexadecimal", "Content-Length: 0x5", "hello", Refused(400)),
        post("a fraction", "Content-Length: 5.0", "hello", Refused(400)),
        post("empty", "Content-Length:", "hello", Refused(400)),
        post(
            "a blank within",
            "Content-Length: 5 5",
            "hello",
            Refused(400),
        ),
        post(
            "a vertical tab",
            "Content-Length: \x0b5",
            "hello",
            Refused(400),
        ),
        post(
            "2^64",
            "Content-Length: 18446744073709551616",
            "hello",
            Refused(400),
        ),
        post(
            "2^64 + 5",
            "Content-Length: 18446744073709551621",
            "hello",
            Refused(400),
        ),
        case(
            "of a GET",
            "GET /first HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            Forwarded(("GET /first HTTP/1.1", "hello")),
        ),
    ]);
}

#[test]
fn codings() {
    let refused = |name, lines: &str, status| post(name, lines, CHUNKED, Refused(status));
    run(vec![
        post(
            "chunked",
            "Transfer-Encoding: chunked",
            CHUNKED,
            Forwarded(FIRST),
        ),
        post(
            "in capitals",
            "Transfer-Encoding: CHUNKED",
            CHUNKED,
            Forwarded(FIRST),
        ),
        refused("identity", "Transfer-Encoding: identity", 400),
        refused("empty", "Transfer-Encoding:", 400),
        refused("of another name", "Transfer-Encoding: xchunked", 400),
        refused("with a parameter", "Transfer-Encoding: chunked;q=1", 400),
        refused("quoted", "Transfer-Encoding: \"chunked\"", 400),
        refused(
            "a vertical tab before it",
            "Transfer-Encoding: \x0bchunked",
            400,
        ),
        refused("a list", "Transfer-Encoding: gzip, chunked", 501),
        refused(
            "a list with an empty member",
            "Transfer-Encoding: , chunked",
            501,
        ),
        refused("chunked twice", "Transfer-Encoding: chunked, chunked", 501),
        refused(
            "two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            501,
        ),
        refused(
            "two lines that differ",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        case(
            "with HTTP/1.0",
            format!(
                "POST /first HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}"
            ),
            Refused(400),
        ),
    ]);
}

#[test]
fn chunks() {
    const LINES: &str = "Transfer-Encoding: chunked";
    let forwarded = |name, body: &str| post(name, LINES, body, Forwarded(FIRST));
    run(vec![
        forwarded("several", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        forwarded("zeros before a size", "00000005\r\nhello\r\n000\r\n\r\n"),
        forwarded("an extension", "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n"),
        forwarded("a trailer", "5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"),
        forwarded(
            "a trailer that would frame a message",
            "5\r\nhello\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n",
        ),
    ]);
}

/// The app has the head of such a request already: it must not take what follows for more of it,
/// nor for another.
#[test]
fn broken_chunks_are_the_end() {
    let bodies = [
        ("an overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        (
            "a far overflow",
            "f0000000000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("no number", "\r\nhello\r\n0\r\n\r\n"),
        ("blanks before it", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a line feed after the size", "5\nhello\r\n0\r\n\r\n"),
        ("a line feed in an extension", "5;x\nhello\r\n0\r\n\r\n"),
        ("a carriage return after the size", "5\rXhello\r\n0\r\n\r\n"),
        ("more data than said", "5\r\nhello!\r\n0\r\n\r\n"),
        ("a line feed after the data", "5\r\nhello\n0\r\n\r\n"),
        ("nothing after the data", "5\r\nhello0\r\n\r\n"),
    ];
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::start(app.address).await;
        for (name, body) in bodies {
            let request = format!(
                "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{NEXT}"
            );
            let reply = exchange(sidecar.address, request.as_bytes(), 2).await;
            assert!(reply.closed, "{name}: {reply:?}");
            assert!(
                reply.statuses.iter().all(|status| *status >= 400),
                "{name}: {reply:?}"
            );
            // A connection to the app that was cut must not carry the next client's request.
            assert_served(&app, &sidecar, name).await;
        }
    });
}

/// A well-behaved request arrives, alone.
async fn assert_served(app: &Recorder, sidecar: &Sidecar, name: &str) {
    let reply = exchange(sidecar.address, NEXT.as_bytes(), 1).await;
    assert_eq!(reply.statuses, [200], "{name}: {reply:?}");
    let seen = app.take();
    assert!(
        matches!(seen.as_slice(), [Seen { head, .. }] if head.starts_with("GET /next ")),
        "{name}: {seen:?}"
    );
    let garbage = app.take_garbage();
    assert!(garbage.is_empty(), "{name}: the app got {garbage:?}");
}

/// RFC 9112 sections 2.2 and 5: line ends, names and values.
#[test]
fn header_lines() {
    run(vec![
        get(
            "a blank before the colon",
            "Content-Length : 5",
            Refused(400),
        ),
        get(
            "a tab before the colon",
            "Transfer-Encoding\t: chunked",
            Refused(400),
        ),
        get("a folded line", "X: a\r\n Content-Length: 5", Refused(400)),
        get("a line folded with a tab", "X: a\r\n\tb", Refused(400)),
        case(
            "a blank before the first name",
            "GET /first HTTP/1.1\r\n Host: a\r\n\r\n",
            Refused(400),
        ),
        get("no colon", "Content-Length", Refused(400)),
        get("no name", ": 5", Refused(400)),
        get("a name in brackets", "Content[Length]: 5", Refused(400)),
        get("a name with a NUL", "Content-Length\0: 5", Refused(400)),
        get("a name in Latin-1", "Content-Length\u{e9}: 5", Refused(400)),
        get("a value with a NUL", "X: a\0b", Refused(400)),
        get(
            "a value with a carriage return",
            "X: a\rContent-Length: 5",
            Refused(400),
        ),
        get(
            "a value that ends in two carriage returns",
            "X: a\r",
            Refused(400),
        ),
        get("a value with an escape", "X: a\x1bb", Refused(400)),
        get("a value with DEL", "X: a\x7fb", Refused(400)),
        // A line feed alone ends a line for every reader that takes it at all, and leaves as CRLF.
        get(
            "a line that ends in a line feed",
            "X: a\nY: b",
            Forwarded(EMPTY),
        ),
        get(
            "a value with blanks around it",
            "X: \t a \t ",
            Forwarded(EMPTY),
        ),
    ]);
}

/// RFC 9112 section 3.
#[test]
fn request_lines() {
    let line =
        |name, line: &str, outcome| case(name, format!("{line}\r\nHost: a\r\n\r\n"), outcome);
    run(vec![
        line("two blanks", "GET  /first HTTP/1.1", Refused(400)),
        line("a tab", "GET\t/first\tHTTP/1.1", Refused(400)),
        line(
            "a blank in the target",
            "GET /first second HTTP/1.1",
            Refused(400),
        ),
        line("a blank at the end", "GET /first HTTP/1.1 ", Refused(400)),
        line("no version", "GET /first", Refused(400)),
        line("another protocol", "GET /first HTTX/1.1", Refused(400)),
        line(
            "a version in small letters",
            "GET /first http/1.1",
            Refused(400),
        ),
        line("HTTP/1.2", "GET /first HTTP/1.2", Refused(400)),
        line("HTTP/2.0", "GET /first HTTP/2.0", Refused(400)),
        line("HTTP/0.9", "GET /first HTTP/0.9", Refused(400)),
        line("HTTP/01.1", "GET /first HTTP/01.1", Refused(400)),
        line("a NUL in the target", "GET /first\0 HTTP/1.1", Refused(400)),
        line("a NUL in the method", "GE\0T /first HTTP/1.1", Refused(400)),
        line(
            "a method that is no token",
            "GE(T /first HTTP/1.1",
            Refused(400),
        ),
        line(
            "a carriage return in the line",
            "GET /first\rX HTTP/1.1",
            Refused(400),
        ),
        line("a broken escape", "GET /fi%zz HTTP/1.1", Refused(400)),
        line(
            "a target without a slash",
            "GET first HTTP/1.1",
            Refused(400),
        ),
        line(
            "an unknown method",
            "BREW /first HTTP/1.1",
            Forwarded(("BREW /first HTTP/1.1", "")),
        ),
    ]);
}

/// Empty lines before a request line are skipped, as RFC 9112 section 2.2 asks for.
#[test]
fn empty_lines_before_a_request() {
    run(vec![
        case(
            "one",
            "\r\nGET /first HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(EMPTY),
        ),
        case(
            "between two requests",
            "GET /first HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n",
            Forwarded(EMPTY),
        ),
        case(
            "a blank and an empty line",
            " \r\nGET /first HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        ),
    ]);
}

/// RFC 9112 section 3.2: one host, made of what a host is made of.
#[test]
fn hosts() {
    let request = |name, lines: &str, outcome| {
        case(name, format!("GET /first HTTP/1.1\r\n{lines}\r\n"), outcome)
    };
    run(vec![
        request("none", "", Refused(400)),
        request("two", "Host: a\r\nHost: b\r\n", Refused(400)),
        request("two that agree", "Host: a\r\nHost: a\r\n", Refused(400)),
        request("a path", "Host: a/b\r\n", Refused(400)),
        request("a blank", "Host: a b\r\n", Refused(400)),
        request("a user in a list", "Host: a,b@c\r\n", Refused(400)),
        request("a user", "Host: user@a\r\n", Refused(400)),
        request("a query", "Host: a?b\r\n", Refused(400)),
        request("Latin-1", "Host: \u{e9}\r\n", Refused(400)),
        request("a port", "Host: a.example:8080\r\n", Forwarded(EMPTY)),
        request("an IPv6 address", "Host: [::1]:80\r\n", Forwarded(EMPTY)),
    ]);
}

/// The authority of the target wins over a `Host` that says otherwise, and is all the app sees.
#[test]
fn absolute_targets() {
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::start(app.address).await;
        for (target, host, expected) in [
            ("http://b.example/first", "a.example", "b.example"),
            ("http://b.example:81/first", "b.example", "b.example:81"),
            ("https://b.example/first", "a.example", "b.example"),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let reply = exchange(sidecar.address, request.as_bytes(), 1).await;
            assert_eq!(reply.statuses, [200], "{target}: {reply:?}");
            let seen = app.take();
            assert_eq!(seen.len(), 1, "{target}: {seen:?}");
            assert_eq!(seen[0].line(), "GET /first HTTP/1.1", "{target}");
            assert_eq!(seen[0].values("host"), [expected], "{target}");
        }
        let request = format!("GET http://user@b/first HTTP/1.1\r\nHost: b\r\n\r\n{NEXT}");
        let reply = exchange(sidecar.address, request.as_bytes(), 2).await;
        assert_eq!(
            (reply.statuses.as_slice(), reply.closed),
            (&[400][..], true)
        );
        assert_eq!(app.take(), []);
    });
}

/// A tunnel would leave open whether what follows is HTTP.
#[test]
fn tunnels() {
    run(vec![
        case(
            "to an authority",
            "CONNECT b.example:80 HTTP/1.1\r\nHost: b.example:80\r\n\r\n",
            Refused(405),
        ),
        case(
            "to a path",
            "CONNECT /first HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(405),
        ),
    ]);
}

/// Neither a tunnel nor a second request may come of these without the app's consent.
#[test]
fn upgrades_without_an_answer() {
    run(vec![
        get(
            "the upgrade to h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            Forwarded(EMPTY),
        ),
        get(
            "one that the app ignores",
            "Connection: Upgrade\r\nUpgrade: websocket",
            Forwarded(EMPTY),
        ),
        post(
            "one with a body",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5",
            "hello",
            Forwarded(FIRST),
        ),
    ]);
}

/// A body that is cut short is never a whole one to the app.
#[test]
fn a_body_cut_short() {
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::start(app.address).await;
        for framing in [
            "Content-Length: 100\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            let request = format!("POST /first HTTP/1.1\r\nHost: a\r\n{framing}");
            let reply = {
                use tokio::io::AsyncWriteExt;
                let mut stream = tokio::net::TcpStream::connect(sidecar.address)
                    .await
                    .expect("the sidecar listens");
                stream
                    .write_all(request.as_bytes())
                    .await
                    .expect("the sidecar reads");
                stream.shutdown().await.expect("open");
                tests::wire::read(&mut stream, 1).await
            };
            assert!(reply.statuses.iter().all(|it| *it >= 400), "{reply:?}");
            let served = within(Duration::from_secs(10), "served", || async {
                let reply = exchange(sidecar.address, NEXT.as_bytes(), 1).await;
                (reply.statuses == [200]).then_some(()).ok_or(reply)
            });
            served.await;
            let seen = app.take();
            assert!(
                seen.iter().all(|it| it.line() == "GET /next HTTP/1.1"),
                "{framing}: {seen:?}"
            );
            assert_eq!(app.take_garbage(), Vec::<String>::new(), "{framing}");
        }
    });
}
