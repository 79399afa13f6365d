//! Bodies without end, and peers that stop reading: what is not read on one side is not taken on
//! the other.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tests::app::App;
use tests::h2::{
    self, Client, DATA, END_HEADERS, END_STREAM, GET, HEADERS, block, frame, post, window_update,
};
use tests::sidecar::{SidecarProcess, with_binary};
use tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// What the kernel's buffers of both connections and the sidecar's own may hold together.
const MOST_TAKEN: usize = 32 << 20;

/// What a binary may grow by.
const GROWTH: u64 = 32 << 20;

/// Between two pieces that are taken. Longer than that means that nothing is.
const STALL: Duration = Duration::from_millis(500);

/// An app that reads heads only, and whose answers have the given bytes and no end. It counts the
/// bytes that it got rid of.
async fn stubborn(answer: &'static [u8]) -> (SocketAddr, Rc<Cell<usize>>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    let written = Rc::new(Cell::new(0));
    let count = Rc::clone(&written);
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let written = Rc::clone(&count);
            tokio::task::spawn_local(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                if answer.is_empty() {
                    return std::future::pending().await;
                }
                let _ = stream.write_all(answer).await;
                let piece = [b'x'; 16 << 10];
                while let Ok(taken) = stream.write(&piece).await {
                    written.set(written.get() + taken);
                }
            });
        }
    });
    (address, written)
}

/// Writes until nothing is taken for [`STALL`]; how much was.
async fn pour(stream: &mut TcpStream, piece: &[u8]) -> usize {
    let mut taken = 0;
    while taken < 2 * MOST_TAKEN {
        match timeout(STALL, stream.write(piece)).await {
            Ok(Ok(written)) => taken += written,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    taken
}

#[test]
fn an_upload_goes_no_faster_than_the_app_reads() {
    with_binary(async {
        let (app, _) = stubborn(b"").await;
        let sidecar = SidecarProcess::start(app).await;
        let before = sidecar.usage();
        for head in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff0\r\n",
        ] {
            let mut stream = TcpStream::connect(sidecar.address).await.expect("listens");
            stream.write_all(head.as_bytes()).await.expect("open");
            let taken = pour(&mut stream, &[b'x'; 64 << 10]).await;
            assert!(taken < MOST_TAKEN, "{taken} bytes were taken");
        }
        let after = sidecar.usage();
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
    });
}

#[test]
fn a_download_goes_no_faster_than_the_client_reads() {
    with_binary(async {
        let (app, written) =
            stubborn(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n").await;
        let sidecar = SidecarProcess::start(app).await;
        let before = sidecar.usage();
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut stream = TcpStream::connect(sidecar.address).await.expect("listens");
            let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request).await.expect("open");
            clients.push(stream);
        }
        let stalled = within(Duration::from_secs(20), "a stall", || async {
            let before = written.get();
            tokio::time::sleep(STALL / 2).await;
            let still = before > 0 && written.get() == before;
            still.then_some(before).ok_or(written.get())
        })
        .await;
        assert!(stalled < 4 * MOST_TAKEN, "{stalled} bytes were taken");
        let after = sidecar.usage();
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
        // What was held up goes on as soon as somebody reads.
        let mut bytes = vec![0; 1 << 20];
        clients[0].read_exact(&mut bytes).await.expect("more of it");
    });
}

/// A pipeline is served one by one: what comes after the request at hand stays where it is.
#[test]
fn a_pipeline_is_no_queue() {
    with_binary(async {
        let (app, _) = stubborn(b"").await;
        let sidecar = SidecarProcess::start(app).await;
        let before = sidecar.usage();
        let mut stream = TcpStream::connect(sidecar.address).await.expect("listens");
        let piece = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
        let taken = pour(&mut stream, piece.as_bytes()).await;
        assert!(taken < MOST_TAKEN, "{taken} bytes were taken");
        let after = sidecar.usage();
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
    });
}

/// On HTTP/2 the windows say how much an app that does not read may be sent.
#[test]
fn an_upload_over_http2_ends_at_the_window() {
    with_binary(async {
        let app = App::start().await;
        let sidecar = SidecarProcess::start(app.address).await;
        let before = sidecar.usage();
        let mut client = Client::connect(sidecar.address, &[]).await;
        let fields = GET.map(|field| match field.0 {
            ":method" => (field.0, "POST"),
            ":path" => (field.0, "/hold"),
            _ => field,
        });
        client
            .send(&frame(HEADERS, END_HEADERS, 1, &block(&fields)))
            .await;
        let mut sent = 0;
        let refused = loop {
            client.send(&frame(DATA, 0, 1, &[0; 16384])).await;
            sent += 16384;
            if sent > MOST_TAKEN {
                break None;
            }
            let until = tokio::time::Instant::now() + Duration::from_millis(1);
            match client.frame_by(until).await {
                Ok(Some(it)) if it.kind == h2::RST_STREAM || it.kind == h2::GOAWAY => {
                    break it.code();
                }
                Ok(None) => break Some(h2::FLOW_CONTROL_ERROR),
                Ok(Some(_)) | Err(_) => {}
            }
        };
        // Window updates are not looked at, so the window is passed sooner or later.
        assert_eq!(refused, Some(h2::FLOW_CONTROL_ERROR), "after {sent} bytes");
        assert!(sent < 4 << 20, "{sent}");
        let after = sidecar.usage();
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
    });
}

/// Many answers without end on one connection whose client opens every window and reads nothing.
#[test]
fn answers_over_http2_that_nobody_reads() {
    with_binary(async {
        let app = App::start().await;
        let sidecar = SidecarProcess::start(app.address).await;
        let before = sidecar.usage();
        let mut client = Client::connect(sidecar.address, &[(4, 0x7fff_ffff)]).await;
        client.send(&window_update(0, 0x7fff_0000)).await;
        let fields = GET.map(|field| match field.0 {
            ":path" => (field.0, "/endless"),
            _ => field,
        });
        let head = block(&fields);
        for stream in (1..200).step_by(2) {
            let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &head);
            client.send(&head).await;
        }
        within(Duration::from_secs(20), "all of them", || async {
            (app.requests() == 100).then_some(()).ok_or(app.requests())
        })
        .await;
        // Another connection is served meanwhile, several times so that the first is busy too.
        let mut other = Client::connect(sidecar.address, &[]).await;
        for stream in (1..40).step_by(2) {
            other
                .send(&[post(stream), frame(DATA, END_STREAM, stream, b"x")].concat())
                .await;
            let frames = other.answer(stream).await;
            assert_eq!(h2::status(&frames, stream), Some(200), "{frames:?}");
        }
        let after = sidecar.usage();
        assert!(
            after.peak < before.peak + 2 * GROWTH,
            "{before:?} {after:?}"
        );
    });
}
