//! HTTP/1 connections: used by one exchange at a time, idle on a stack in between.

use std::rc::{Rc, Weak};

use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};

use super::{Upstream, UpstreamBody, dial};
use crate::body::Body;
use crate::forward::ForwardError;
use crate::server::{Activity, Observed};

/// Sweeps per idle timeout.
const SWEEPS: u32 = 3;

/// A connection and whether anything was read from it since the last request was sent.
#[derive(Debug)]
struct Sender {
    requests: SendRequest<Body>,
    activity: Activity,
}

/// A connection that waits for a request.
#[derive(Debug)]
pub(super) struct Idle {
    sender: Sender,
    since: Instant,
}

/// A connection whose response has not ended.
#[derive(Debug)]
pub(super) struct Lease {
    sender: Sender,
    upstream: Rc<Upstream>,
}

pub(super) async fn send(
    upstream: &Rc<Upstream>,
    mut request: Box<Request<Body>>,
) -> Result<Response<UpstreamBody>, ForwardError> {
    while let Some(sender) = upstream.take_idle() {
        let replay = Replay::of(&request);
        match exchange(upstream, sender, request).await {
            Ok(response) => return Ok(response),
            Err(Failure::Unsent(unsent, _)) => request = unsent,
            Err(Failure::Unanswered(error)) => match replay {
                Some(replay) => request = Box::new(replay.request()),
                None => return Err(Failure::Unanswered(error).into()),
            },
            Err(broken) => return Err(broken.into()),
        }
    }
    match Box::pin(connect(upstream)).await {
        Ok(sender) => Ok(exchange(upstream, sender, request).await?),
        Err(error) => Err(error.with_request(request)),
    }
}

/// How an exchange failed.
enum Failure {
    /// Nothing was written: here is the request.
    Unsent(Box<Request<Body>>, hyper::Error),
    /// The connection ended before the first byte of a response.
    Unanswered(hyper::Error),
    /// Anything later, or the request's own body.
    Broken(hyper::Error),
}

impl From<Failure> for ForwardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsent(unsent, error) => {
                ForwardError::transport(&error, false).with_request(unsent)
            }
            Failure::Unanswered(error) => ForwardError::transport(&error, false),
            Failure::Broken(error) => ForwardError::transport(&error, true),
        }
    }
}

async fn exchange(
    upstream: &Rc<Upstream>,
    mut sender: Sender,
    request: Box<Request<Body>>,
) -> Result<Response<UpstreamBody>, Failure> {
    sender.activity.clear();
    match sender.requests.try_send_request(*request).await {
        Ok(response) => Ok(response.map(|incoming| upstream.lend(sender, incoming))),
        Err(mut failed) => {
            let unsent = failed.take_message();
            let error = failed.into_error();
            Err(match unsent {
                Some(request) => Failure::Unsent(Box::new(request), error),
                None if sender.activity.is_set() || error.is_user() => Failure::Broken(error),
                None => Failure::Unanswered(error),
            })
        }
    }
}

/// What to send again if a reused connection turns out to be dead.
struct Replay {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Replay {
    /// Nothing unless the request may be repeated and is complete without its body.
    fn of(request: &Request<Body>) -> Option<Self> {
        let (method, headers) = (request.method(), request.headers());
        let is_repeatable = matches!(
            *method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
        ) || headers.contains_key("idempotency-key")
            || headers.contains_key("x-idempotency-key");
        // The client's side of an upgrade can be given away once.
        let is_upgrade = request.extensions().get::<OnUpgrade>().is_some();
        let is_whole = http_body::Body::is_end_stream(request.body());
        (is_repeatable && is_whole && !is_upgrade).then(|| Self {
            method: method.clone(),
            uri: request.uri().clone(),
            headers: headers.clone(),
        })
    }

    fn request(self) -> Request<Body> {
        let mut request = Request::new(Body::empty(()));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

async fn connect(upstream: &Upstream) -> Result<Sender, ForwardError> {
    let stream = dial::dial(upstream).await?;
    match &upstream.options.tls {
        None => handshake(upstream, stream).await,
        Some(tls) => {
            let stream = Box::pin(tls.connect(stream, upstream.address, b"http/1.1")).await?;
            handshake(upstream, stream).await
        }
    }
}

async fn handshake<I>(upstream: &Upstream, stream: I) -> Result<Sender, ForwardError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::default();
    let io = TokioIo::new(Observed::new(stream, activity.clone()));
    let mut builder = Builder::new();
    builder
        .title_case_headers(true)
        .max_header_size(upstream.options.max_header_bytes)
        .max_buf_size(upstream.options.max_header_bytes);
    if let Some(max_headers) = upstream.options.max_headers {
        builder.max_headers(max_headers);
    }
    let (requests, connection) = builder
        .handshake(io)
        .await
        .map_err(|error| ForwardError::transport(&error, false))?;
    tokio::task::spawn_local(async move {
        // Whoever waits for a response learns of the error as well.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the destination ended");
        }
    });
    Ok(Sender { requests, activity })
}

// === impl Idle ===

impl Idle {
    /// As far as hyper has noticed.
    #[cfg(test)]
    pub(super) fn is_alive(&self) -> bool {
        !self.sender.requests.is_closed()
    }
}

// === impl Upstream ===

impl Upstream {
    /// The connection used last, of those that are alive and not too old.
    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { sender, since }) = idle.pop() {
            if !sender.requests.is_closed() {
                // Everything below is older still, but a sweep will see to it.
                return (since + self.options.idle_timeout > Instant::now()).then_some(sender);
            }
        }
        None
    }

    /// Hands out a response; its connection returns at once if it can take the next request.
    fn lend(self: &Rc<Self>, sender: Sender, incoming: Incoming) -> UpstreamBody {
        if sender.requests.is_ready() {
            self.put_idle(sender);
            return UpstreamBody::new(incoming, None);
        }
        let lease = Lease {
            sender,
            upstream: Rc::clone(self),
        };
        UpstreamBody::new(incoming, Some(super::Lease::Http1(lease)))
    }

    fn put_idle(self: &Rc<Self>, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if self.closed.get() || idle.len() >= self.options.max_idle {
            return;
        }
        idle.push(Idle {
            sender,
            since: Instant::now(),
        });
        if idle.len() == 1 {
            self.ensure_sweep();
        }
    }

    fn ensure_sweep(self: &Rc<Self>) {
        let mut sweep = self.sweep.borrow_mut();
        if sweep.as_ref().is_none_or(|running| running.is_finished()) {
            let task = tokio::task::spawn_local(sweep_idle(Rc::downgrade(self)));
            *sweep = Some(task.abort_handle());
        }
    }

    /// Closes what has idled too long; whether anything is left.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|it| {
            !it.sender.requests.is_closed() && it.since + self.options.idle_timeout > now
        });
        let kept = idle.len();
        idle.shrink_to(kept * 2);
        !idle.is_empty()
    }
}

/// Runs while anything idles.
async fn sweep_idle(upstream: Weak<Upstream>) {
    loop {
        let Some(period) = upstream
            .upgrade()
            .map(|upstream| upstream.options.idle_timeout / SWEEPS)
        else {
            return;
        };
        sleep(period).await;
        if !upstream.upgrade().is_some_and(|upstream| upstream.sweep()) {
            return;
        }
    }
}

// === impl Lease ===

impl Lease {
    /// The response has ended. If the request has not, the connection is of no further use, but
    /// hyper finishes what is being sent.
    pub(super) fn give_back(self) {
        if self.sender.requests.is_ready() {
            self.upstream.put_idle(self.sender);
        }
    }
}
