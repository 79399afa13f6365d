//! Which protocol a client speaks, found out without consuming a byte.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::shutdown::Phase;
use super::{Connection, Shutdown};

/// How an HTTP/2 connection begins. No HTTP/1 method that anybody registered is called `PRI`.
const PREFACE: &[u8] = b"PRI ";
/// Between two looks at a preface that arrives in pieces, doubled from the first to the second: a
/// client that never sends the rest must not cost more than one that sends nothing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));
/// What Go's TLS server takes for HTTP in the clear.
const CLEARTEXT: [&[u8; 5]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    Http1,
    Http2,
}

/// HTTP/1 or HTTP/2 with prior knowledge; `None` when the client left first.
pub(super) async fn preface(stream: &TcpStream) -> Option<Sniffed> {
    let mut first = [0; PREFACE.len()];
    let mut pause = PAUSES.0;
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return None,
            Ok(read) if first[..read] != PREFACE[..read] => return Some(Sniffed::Http1),
            Ok(read) if read == PREFACE.len() => return Some(Sniffed::Http2),
            // Bytes that stay in the socket keep it readable: there is nothing to wait for.
            Ok(_) => wait(&mut pause).await,
        }
    }
}

/// Whether a client that negotiated no protocol begins with an HTTP/2 preface, as Go's activator
/// does towards a queue-proxy. One that arrives in pieces of less than four bytes is not recognised.
pub(super) async fn is_preface(stream: &mut (impl AsyncBufRead + Unpin)) -> bool {
    let first = stream.fill_buf().await;
    first.is_ok_and(|first| first.starts_with(PREFACE))
}

/// Whether a client of a TLS port speaks HTTP without TLS.
pub(super) async fn is_cleartext(stream: &TcpStream) -> bool {
    let mut first = [0; 5];
    let mut pause = PAUSES.0;
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return false,
            Ok(5) => return CLEARTEXT.contains(&&first),
            // A TLS record begins with its type, and none is a letter.
            Ok(_) if first[0] < b'A' => return false,
            Ok(_) => wait(&mut pause).await,
        }
    }
}

async fn wait(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSES.1);
}

/// The words of Go's server.
pub(super) async fn refuse_cleartext(stream: &mut TcpStream) {
    let answer =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// Runs `work` until the connection's first head is due or the server ends. While it drains, a
/// connection without a request is as good as idle.
pub(super) async fn in_time<T>(
    work: impl Future<Output = Option<T>>,
    connection: &Connection,
    shutdown: &Shutdown,
) -> Option<T> {
    let watch = connection.watch();
    let mut member = shutdown.member();
    let mut work = pin!(work);
    poll_fn(|cx| {
        if member.phase(cx) >= Phase::Draining {
            return Poll::Ready(None);
        }
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending if watch.poll(cx).is_some() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
