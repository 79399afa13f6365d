//! The server on a connection whose client sends arbitrary bytes.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;

use super::gate::{Edge, Gate};
use super::{Connection, Handler, Server, ServerOptions, Shutdown};
use crate::body::Body;
use crate::deadline::Watch;
use crate::forward;

/// How often both sides of the connection get their turn before the client leaves.
const TURNS: usize = 24;
/// Bytes under way in each direction.
const IN_FLIGHT: usize = 64 << 10;
/// What an HTTP/2 client says before anything else.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Looks at what would be sent to an app, and reads the body.
#[derive(Debug, Default)]
struct Inspector {
    targets: RefCell<Vec<String>>,
}

impl Handler for Inspector {
    type Guard = ();

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Body<()>> {
        let request = forward::prepare_request(request, connection);
        check(&request);
        self.targets.borrow_mut().push(request.uri().to_string());
        let _ = request.into_body().collect().await;
        Response::new(Body::empty(()))
    }
}

/// A request that can be read in one way only.
fn check(request: &Request<Body>) {
    let headers = request.headers();
    assert!(request.uri().path().starts_with('/'), "{request:?}");
    for name in ["connection", "keep-alive", "proxy-connection"] {
        let upgrade = name == "connection" && headers.contains_key(header::UPGRADE);
        assert!(upgrade || !headers.contains_key(name), "{request:?}");
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if request.version() == Version::HTTP_2 {
        assert!(hosts == 0, "{request:?}");
        assert!(
            !headers.contains_key(header::TRANSFER_ENCODING),
            "{request:?}"
        );
    } else {
        assert!(
            hosts <= 1 && request.uri().authority().is_none(),
            "{request:?}"
        );
        check_framing(headers);
    }
}

fn check_framing(headers: &HeaderMap) {
    let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    let codings: Vec<_> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    assert!(lengths.len() + codings.len() <= 1, "{headers:?}");
    assert!(codings.iter().all(|it| *it == "chunked"), "{headers:?}");
    for length in lengths {
        assert!(
            length.as_bytes().iter().all(u8::is_ascii_digit),
            "{headers:?}"
        );
    }
}

/// What follows the accept of an HTTP/1 connection: a request reaches the handler in one reading
/// only, and there is no answer without one or a refusal.
pub fn http1(data: &[u8]) {
    let (answered, _) = run(data, false);
    assert!(answered.is_empty() || answered.starts_with(b"HTTP/1."));
}

/// What one read brings while every plain request is refused: what is taken from the connection is
/// no more than one request to who would have got it otherwise. It may be a bad one.
pub fn gate(data: &[u8]) {
    let gate = Arc::new(Gate::default());
    gate.set_share(1.0);
    let edge = Edge::default();
    edge.guard_with(&gate);
    if edge.read(data) {
        assert!(run(data, false).1 <= 1);
        // The next one on the same connection meets the same fate.
        assert!(edge.read(data));
    }
}

/// What follows the preface of an HTTP/2 connection.
pub fn http2(data: &[u8]) {
    run(&[PREFACE, data].concat(), true);
}

/// What the server sends, and how many requests reached the handler.
fn run(data: &[u8], is_http2: bool) -> (Vec<u8>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime can be built");
    runtime.block_on(async {
        let server = Rc::new(Server {
            handler: Rc::new(Inspector::default()),
            options: ServerOptions::default(),
            shutdown: Shutdown::new(),
            timers: Rc::default(),
            open: Cell::new(0),
            ended: Notify::new(),
        });
        let watch = Watch::supervised(Rc::clone(&server.timers));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let connection = Connection::new(peer, false, watch);
        let (ours, theirs) = duplex(IN_FLIGHT);
        let served = async {
            if is_http2 {
                super::http2::serve(&server, ours, connection).await;
            } else {
                super::http1::serve(&server, ours, connection).await;
            }
        };
        let ((), answered) = tokio::join!(served, converse(theirs, data));
        let requests = server.handler.targets.borrow().len();
        (answered, requests)
    })
}

async fn converse(mut stream: DuplexStream, data: &[u8]) -> Vec<u8> {
    let mut answered = Vec::new();
    // A server that has closed takes nothing.
    let _ = stream.write_all(data).await;
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut answered).await;
    answered
}
