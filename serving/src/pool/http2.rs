//! h2c connections: shared by as many exchanges as the peer allows.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Local, Patience, Upstream, UpstreamBody, dial};
use crate::body::Body;
use crate::forward::ForwardError;

/// The receive window of a connection, which many clients share: one that does not read its answers
/// must not use it up for all others. Go's transport has the same.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The receive window of a stream, and what a client that does not read can make us hold per stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Request bytes buffered per stream.
const MAX_SEND_BUFFER: usize = 256 << 10;
/// Attempts to find or make a connection that takes the request.
const ATTEMPTS: usize = 3;

/// A connection and how many streams of ours it carries.
pub(super) struct Shared {
    requests: SendRequest<Body>,
    streams: Cell<usize>,
    has_answered: Cell<bool>,
    /// How many the peer allows at this moment: it can say so at any time.
    limit: Box<dyn Fn() -> usize>,
}

/// One stream in the count.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Rc<Shared>,
    /// When it was opened, if the connection had idled until then.
    idle_until: Option<Instant>,
}

pub(super) async fn send(
    upstream: &Rc<Upstream>,
    mut request: Box<Request<Body>>,
) -> Result<Response<UpstreamBody>, ForwardError> {
    let mut attempt = 1;
    loop {
        let stream = match open(upstream).await {
            Ok(stream) => stream,
            Err(error) => return Err(error.with_request(request)),
        };
        let mut requests = stream.shared.requests.clone();
        match requests.try_send_request(*request).await {
            Ok(response) => {
                stream.shared.has_answered.set(true);
                upstream.has_answered();
                return Ok(response.map(|incoming| UpstreamBody::http2(incoming, stream)));
            }
            Err(mut failed) => {
                let unsent = failed.take_message();
                let error = failed.into_error();
                match unsent {
                    Some(unsent) if attempt < ATTEMPTS => request = Box::new(unsent),
                    Some(unsent) => {
                        let failed = ForwardError::transport(&error, true);
                        return Err(failed.with_request(Box::new(unsent)));
                    }
                    None => {
                        let is_lost = match end(&error) {
                            Some(End::Silence) => true,
                            Some(End::Closed) => upstream.end_means_loss(stream.idle_until),
                            None => false,
                        };
                        return Err(ForwardError::transport(&error, is_lost));
                    }
                }
            }
        }
        attempt += 1;
    }
}

/// How a connection ended.
enum End {
    Closed,
    Silence,
}

/// Whether a request failed because its connection ended, rather than by what either side said.
fn end(error: &hyper::Error) -> Option<End> {
    let io = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable,
        ) => Some(End::Silence),
        Some(_) => Some(End::Closed),
        None => (error.is_canceled() || error.is_closed()).then_some(End::Closed),
    }
}

/// A stream on a connection that has room, or on a new one.
async fn open(upstream: &Rc<Upstream>) -> Result<Stream, ForwardError> {
    if let Some(stream) = upstream.shared_stream() {
        return Ok(stream);
    }
    let _others_wait = upstream.sharing.lock().await;
    if let Some(stream) = upstream.shared_stream() {
        return Ok(stream);
    }
    let shared = Rc::new(connect(upstream).await?);
    if !upstream.closed.get() {
        upstream.shared.borrow_mut().push(Rc::clone(&shared));
    }
    Ok(Stream::open(&shared))
}

async fn connect(upstream: &Upstream) -> Result<Shared, ForwardError> {
    let stream = dial::dial(upstream, Patience::Upstreams).await?;
    match &upstream.options.tls {
        None => handshake(upstream, stream).await,
        Some(tls) => {
            let stream = tls.connect(stream, upstream.address, b"h2").await?;
            handshake(upstream, stream).await
        }
    }
}

async fn handshake<I>(upstream: &Upstream, stream: I) -> Result<Shared, ForwardError>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let list = u32::try_from(upstream.options.max_header_bytes).unwrap_or(u32::MAX);
    let (requests, connection) = Builder::new(Local)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .adaptive_window(false)
        .max_header_list_size(list)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ForwardError::transport(&error, true))?;
    let connection = Rc::new(RefCell::new(Some(connection)));
    let driven = Rc::clone(&connection);
    tokio::task::spawn_local(async move {
        let ended = poll_fn(|cx| match &mut *driven.borrow_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "connection to the destination ended");
        }
        // Requests that it has not sent learn of the end by its drop.
        let done = driven.borrow_mut().take();
        drop(done);
    });
    Ok(Shared {
        requests,
        streams: Cell::new(0),
        has_answered: Cell::new(false),
        limit: Box::new(move || {
            let connection = connection.borrow();
            let connection = connection.as_ref();
            connection.map_or(0, |connection| connection.current_max_send_streams())
        }),
    })
}

// === impl Upstream ===

impl Upstream {
    fn shared_stream(&self) -> Option<Stream> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|it| !it.requests.is_closed());
        let free = shared.iter().find(|it| it.streams.get() < (it.limit)());
        free.map(Stream::open)
    }
}

// === impl Shared ===

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

// === impl Stream ===

impl Stream {
    fn open(shared: &Rc<Shared>) -> Self {
        let others = shared.streams.replace(shared.streams.get() + 1);
        let had_idled = others == 0 && shared.has_answered.get();
        Self {
            shared: Rc::clone(shared),
            idle_until: had_idled.then(Instant::now),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
    }
}
