//! Heads that are too large, too many lines, or too slow.

use std::time::Duration;

use tests::recorder::Recorder;
use tests::sidecar::{Sidecar, SidecarProcess, local, with_binary};
use tests::wire::{exchange, read};
use tests::within;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How long a head may take in these tests.
const HEAD_TIMEOUT: Duration = Duration::from_millis(400);

/// What a binary may grow by while it refuses what is below.
const GROWTH: u64 = 64 << 20;

async fn connect(sidecar: std::net::SocketAddr) -> TcpStream {
    TcpStream::connect(sidecar)
        .await
        .expect("the sidecar listens")
}

/// The documented limits, one below and one beyond each.
#[test]
fn limits_of_a_head() {
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::start(app.address).await;
        let lines = |count: usize| {
            let lines: String = (0..count).map(|at| format!("X-{at}: 1\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
        };
        let value = |length: usize| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "v".repeat(length)
            )
        };
        let target =
            |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "t".repeat(length));
        for (name, request, status) in [
            ("100 lines", lines(99), 200),
            ("101 lines", lines(100), 431),
            ("a head of 1 MiB", value((1 << 20) - 100), 200),
            (
                "a head beyond 1 MiB and its slack",
                value((1 << 20) + (5 << 10)),
                431,
            ),
            ("a target of 65,000 bytes", target(65_000), 200),
            ("a target beyond 65,534 bytes", target(65_534), 414),
        ] {
            let expects_end = usize::from(status != 200);
            let reply = exchange(sidecar.address, request.as_bytes(), 1 + expects_end).await;
            assert_eq!(reply.statuses, [status], "{name}");
            assert_eq!(reply.closed, status != 200, "{name}");
            assert_eq!(app.take().len(), usize::from(status == 200), "{name}");
        }
    });
}

/// A head without end is refused while it arrives, and what it took is not kept.
#[test]
fn heads_without_end_cost_a_bounded_amount_of_memory() {
    with_binary(async {
        let app = Recorder::start().await;
        let sidecar = SidecarProcess::start(app.address).await;
        let before = sidecar.usage();
        for kind in ["a line", "lines", "a target"] {
            let mut stream = connect(sidecar.address).await;
            let start = if kind == "a target" {
                "GET /"
            } else {
                "GET / HTTP/1.1\r\nX: "
            };
            let piece = match kind {
                "lines" => "v\r\nX: ".repeat(3000),
                _ => "v".repeat(16 << 10),
            };
            let mut sent = stream.write_all(start.as_bytes()).await.is_ok();
            let mut pieces = 0;
            while sent && pieces < 4096 {
                sent = stream.write_all(piece.as_bytes()).await.is_ok();
                pieces += 1;
            }
            assert!(!sent, "{kind}: 64 MiB of a head were taken");
            let reply = exchange(sidecar.address, GET.as_bytes(), 1).await;
            assert_eq!(reply.statuses, [200], "{kind}");
        }
        let after = sidecar.usage();
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
    });
}

/// Section 6 of the reference: from accept to the end of the first head.
#[test]
fn slow_heads_are_given_up_while_others_are_served() {
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::configured(app.address, |config| {
            config.options.header_read_timeout = HEAD_TIMEOUT;
        })
        .await;
        let starts: [&[u8]; 6] = [
            b"",
            b"G",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
            b"PRI ",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x10\x01\0\0\0\0\x01",
        ];
        let slow = starts.map(|start| async move {
            let mut stream = connect(sidecar.address).await;
            let begun = Instant::now();
            stream.write_all(start).await.expect("the sidecar reads");
            // A byte now and then does not buy more time.
            while Instant::now() < begun + HEAD_TIMEOUT / 2 {
                if stream
                    .write_all(if start.len() < 3 { b"" } else { b"x" })
                    .await
                    .is_err()
                {
                    break;
                }
                tokio::time::sleep(HEAD_TIMEOUT / 20).await;
            }
            let reply = read(&mut stream, usize::MAX).await;
            (reply, Instant::now() - begun)
        });
        let others = async {
            let until = Instant::now() + HEAD_TIMEOUT * 2;
            let mut served = 0;
            while Instant::now() < until {
                let reply = exchange(sidecar.address, GET.as_bytes(), 1).await;
                assert_eq!(reply.statuses, [200]);
                served += 1;
            }
            served
        };
        let (slow, served) = futures_util::join!(futures_util::future::join_all(slow), others);
        assert!(served > 2);
        for ((reply, took), start) in slow.into_iter().zip(starts) {
            assert!(
                reply.closed && !reply.text.contains(" 200 "),
                "{start:?}: {reply:?}"
            );
            assert!(took < HEAD_TIMEOUT * 20, "{start:?}: {took:?}");
        }
    });
}

/// A later head counts from its first byte; a connection may idle for as long as it likes before.
#[test]
fn a_later_slow_head_is_given_up_too() {
    local(async {
        let app = Recorder::start().await;
        let sidecar = Sidecar::configured(app.address, |config| {
            config.options.header_read_timeout = HEAD_TIMEOUT;
        })
        .await;
        let mut stream = connect(sidecar.address).await;
        stream.write_all(GET.as_bytes()).await.expect("open");
        assert_eq!(read(&mut stream, 1).await.statuses, [200]);
        let idle = timeout(HEAD_TIMEOUT * 2, read(&mut stream, 1)).await;
        assert!(idle.is_err(), "an idle connection was closed: {idle:?}");
        stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("open");
        let begun = Instant::now();
        let reply = read(&mut stream, usize::MAX).await;
        assert!(reply.closed && reply.statuses.is_empty(), "{reply:?}");
        assert!(Instant::now() < begun + HEAD_TIMEOUT * 20);
    });
}

/// Thousands of clients that begin a head and stop cost what they sent, and nobody waits for them.
#[test]
fn a_thousand_slow_clients_are_cheap() {
    const CLIENTS: usize = 1000;
    with_binary(async {
        let app = Recorder::start().await;
        let sidecar = SidecarProcess::start(app.address).await;
        let before = sidecar.usage();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = connect(sidecar.address).await;
            let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ";
            stream.write_all(head).await.expect("the sidecar reads");
            clients.push(stream);
        }
        let reply = timeout(
            Duration::from_secs(5),
            exchange(sidecar.address, GET.as_bytes(), 1),
        );
        assert_eq!(reply.await.expect("in time").statuses, [200]);
        let after = sidecar.usage();
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
        drop(clients);
        within(Duration::from_secs(10), "still served", || async {
            let reply = exchange(sidecar.address, GET.as_bytes(), 1).await;
            (reply.statuses == [200]).then_some(()).ok_or(reply)
        })
        .await;
    });
}

/// Between two protocols nothing is known yet, and the bytes stay in the socket: waiting for more
/// must not be a busy wait.
#[test]
fn half_a_preface_costs_no_cpu_time() {
    const CLIENTS: usize = 300;
    with_binary(async {
        let app = Recorder::start().await;
        let sidecar = SidecarProcess::start(app.address).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = connect(sidecar.address).await;
            stream.write_all(b"PR").await.expect("the sidecar reads");
            clients.push(stream);
        }
        // All have been accepted when this one is answered.
        let reply = exchange(sidecar.address, GET.as_bytes(), 1).await;
        assert_eq!(reply.statuses, [200]);
        let before = sidecar.usage();
        let quiet = timeout(Duration::from_secs(2), clients[0].readable()).await;
        assert!(quiet.is_err(), "half a preface was answered");
        let spent = sidecar.usage().cpu - before.cpu;
        assert!(spent < Duration::from_millis(300), "{spent:?}");
        // The other half makes it an ordinary connection.
        let mut late = clients.pop().expect("there are many");
        late.write_all(b"OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("open");
        assert_eq!(read(&mut late, 1).await.statuses, [200]);
    });
}
