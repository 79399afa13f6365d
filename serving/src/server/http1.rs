//! An HTTP/1 connection of the server.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::shutdown::Phase;
use super::socket::HangUp;
use super::{Connection, HEAD_SLACK, Handler, Observed, Server, ServerOptions, Socket};
use crate::deadline::{Due, Watch};

/// A connection in the clear.
pub(super) fn serve_socket<H: Handler>(
    server: &Rc<Server<H>>,
    stream: TcpStream,
    connection: Rc<Connection>,
) -> impl Future<Output = ()> {
    let socket = Socket::new(stream);
    serve_watched(server, socket.clone(), connection, Some(socket))
}

/// A connection over anything else.
pub(super) fn serve<H, I>(
    server: &Rc<Server<H>>,
    io: I,
    connection: Rc<Connection>,
) -> impl Future<Output = ()>
where
    H: Handler,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_watched(server, io, connection, None)
}

/// Go's server takes a client that closed its writing side for gone and cancels the request. That is
/// looked out for on `watched`, or else left to hyper.
async fn serve_watched<H, I>(
    server: &Rc<Server<H>>,
    io: I,
    connection: Rc<Connection>,
    watched: Option<Socket>,
) where
    H: Handler,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Observed::new(io, connection.activity().clone()));
    let service = service_fn(|request| server.answer(request, &connection));
    let served = builder(&server.options)
        .half_close(watched.is_some())
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = pin!(served);
    let watch = connection.watch();
    let mut member = server.shutdown.member();
    let mut draining = false;
    let mut hang_up = HangUp::default();
    poll_fn(|cx| {
        loop {
            match member.phase(cx) {
                Phase::Stopped => return Poll::Ready(()),
                Phase::Draining if !draining => {
                    draining = true;
                    served.as_mut().graceful_shutdown();
                }
                Phase::Draining | Phase::Running => {}
            }
            if let Poll::Ready(ended) = poll(&mut served, cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, peer = %connection.peer(), "connection ended");
                }
                return Poll::Ready(());
            }
            if let Some(socket) = &watched {
                let waits = connection.is_waiting();
                if connection.is_busy() && hang_up.poll(socket, cx, waits).is_ready() {
                    tracing::debug!(peer = %connection.peer(), "the client has left");
                    return Poll::Ready(());
                }
            }
            expect_head(&connection, &watch, &server.options);
            match watch.poll(cx) {
                None => return Poll::Pending,
                Some(Due::Answer) => {}
                Some(Due::Head | Due::Abort) => return Poll::Ready(()),
            }
        }
    })
    .await;
}

fn poll<F: Future>(future: &mut Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.as_mut().poll(cx)
}

/// hyper would arm a timer for every head. Here one is armed only for a head that did not arrive
/// in one piece: bytes were read, and no request came of them.
fn expect_head(connection: &Connection, watch: &Watch, options: &ServerOptions) {
    if connection.activity().edge().take_refused() {
        watch.expect_head(None);
    }
    if !connection.is_busy() && connection.activity().is_set() && !watch.expects_head() {
        watch.expect_head(Some(Instant::now() + options.header_read_timeout));
    }
}

fn builder(options: &ServerOptions) -> Builder {
    let mut builder = Builder::new();
    builder
        // Names leave in Go's canonical case, whatever came in.
        .title_case_headers(true)
        .header_read_timeout(None)
        .max_header_size(options.max_header_bytes + HEAD_SLACK)
        .max_buf_size(options.max_header_bytes + HEAD_SLACK);
    if let Some(max_headers) = options.max_headers {
        builder.max_headers(max_headers);
    }
    builder
}
