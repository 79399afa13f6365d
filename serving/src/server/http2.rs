//! An HTTP/2 connection of the server: its own task, and one more per stream.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};

use super::shutdown::Phase;
use super::{
    Connection, HEAD_SLACK, Handler, MAX_ERROR_RESETS, MAX_FRAME, MAX_PENDING_RESETS,
    MAX_SEND_BUFFER, MAX_STREAMS, Server, ServerOptions, WINDOW,
};
use crate::deadline::{Due, Timers, Watch};

/// Spawns a connection's streams.
#[derive(Clone, Debug)]
struct Streams {
    connection: Rc<Connection>,
    timers: Rc<Timers>,
}

/// A stream with the watch of its request.
#[pin_project]
struct Stream<F> {
    #[pin]
    served: F,
    connection: Rc<Connection>,
    watch: Rc<Watch>,
}

pub(super) async fn serve<H, I>(server: &Rc<Server<H>>, io: I, connection: Rc<Connection>)
where
    H: Handler,
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let streams = Streams {
        connection: Rc::clone(&connection),
        timers: Rc::clone(&server.timers),
    };
    let service = service_fn(|request| server.answer(request, &connection));
    let served = builder(&server.options, streams).serve_connection(TokioIo::new(io), service);
    let mut served = pin!(served);
    let watch = connection.watch();
    let mut member = server.shutdown.member();
    let mut draining = false;
    poll_fn(|cx| {
        match member.phase(cx) {
            Phase::Stopped => return Poll::Ready(()),
            Phase::Draining if !draining => {
                draining = true;
                served.as_mut().graceful_shutdown();
            }
            Phase::Draining | Phase::Running => {}
        }
        if let Poll::Ready(ended) = served.as_mut().poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, peer = %connection.peer(), "connection ended");
            }
            return Poll::Ready(());
        }
        match watch.poll(cx) {
            Some(Due::Head) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

fn builder(options: &ServerOptions, streams: Streams) -> Builder<Streams> {
    let mut builder = Builder::new(streams);
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(WINDOW)
        .adaptive_window(false)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(
            u32::try_from(options.max_header_bytes + HEAD_SLACK).unwrap_or(u32::MAX),
        )
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS);
    builder
}

// === impl Streams ===

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, served: F) {
        tokio::task::spawn_local(Stream {
            served,
            connection: Rc::clone(&self.connection),
            watch: Watch::supervised(Rc::clone(&self.timers)),
        });
    }
}

// === impl Stream ===

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            // The handler asks the connection for its deadlines and has to get this stream's.
            this.connection.swap_watch(this.watch);
            let polled = this.served.as_mut().poll(cx);
            this.connection.swap_watch(this.watch);
            if polled.is_ready() {
                return polled;
            }
            match this.watch.poll(cx) {
                None => return Poll::Pending,
                Some(Due::Answer) => {}
                // Dropping the stream resets it.
                Some(Due::Abort | Due::Head) => return Poll::Ready(()),
            }
        }
    }
}
