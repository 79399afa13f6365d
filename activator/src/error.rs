//! Errors of the activator's own: status, body and reason. What comes from an app passes through.

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serving::body::{Body, Guard};
use serving::deadline::Expired;
use serving::forward::{self, Fault, ForwardError};
use serving::names;

/// Upstream's body of a 504, and of a response whose body has not begun in time, without a newline.
pub(crate) const TIMEOUT_TEXT: &str = "activator request timeout";

/// Seconds after which a client may try a full queue again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

static REASON: HeaderName = HeaderName::from_static(names::REASON_HEADER);

/// Why a request got no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// This revision's queue is at its limit. The text is upstream's.
    #[error("pending request queue full")]
    RevisionQueueFull,
    /// All queues together are at their limit.
    #[error("pending request queue full")]
    QueuesFull,
    /// What waits for this revision is at its limit in bytes.
    #[error("pending request queue full")]
    RevisionBytesFull,
    /// What waits is at its limit in bytes, all queues together.
    #[error("pending request queue full")]
    BytesFull,
    /// It waited as long as a request may.
    #[error("pending request queue full")]
    WaitedTooLong,
    /// The revision was deleted while the request waited.
    #[error("revision deleted")]
    RevisionDeleted,
}

/// Why a request got no response of its revision.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was not let into the queue, or put out of it.
    #[error("request refused")]
    Refused(#[source] Refused),
    /// No destination answered.
    #[error("request not forwarded")]
    Forward(#[source] ForwardError),
    /// A timeout of the revision passed before the first byte of an answer.
    #[error("request timed out")]
    Expired(Expired),
    /// The client hung up while its request waited; nobody will see the answer.
    #[error("client left")]
    ClientLeft,
}

// === impl Failure ===

impl Failure {
    /// The reason in a few words: header, log and metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(Refused::RevisionQueueFull) => "revision queue full",
            Self::Refused(Refused::QueuesFull) => "queues full",
            Self::Refused(Refused::RevisionBytesFull) => "revision queue full of bytes",
            Self::Refused(Refused::BytesFull) => "queues full of bytes",
            Self::Refused(Refused::WaitedTooLong) => "waited too long",
            Self::Refused(Refused::RevisionDeleted) => "revision deleted",
            Self::Forward(error) if error.nothing_written() => "no connection",
            Self::Forward(error) => match error.fault() {
                Fault::Upstream => "connection broken",
                Fault::Downstream => "client left",
            },
            Self::ClientLeft => "client left",
            Self::Expired(Expired::Total) => "timeout",
            Self::Expired(Expired::ResponseStart) => "response start timeout",
            Self::Expired(Expired::Idle) => "idle timeout",
        }
    }
}

/// The response to a request that failed.
pub fn response<G: Guard>(failure: &Failure, guard: G) -> Response<Body<G>> {
    let mut response = match failure {
        Failure::Refused(Refused::RevisionDeleted) | Failure::ClientLeft => {
            let mut response = Response::new(Body::empty(guard));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        Failure::Refused(refused) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let mut response = forward::error_response(status, &refused.to_string(), guard);
            response
                .headers_mut()
                .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            response
        }
        Failure::Forward(error) => error.response(guard),
        Failure::Expired(_) => {
            forward::text_response(StatusCode::GATEWAY_TIMEOUT, TIMEOUT_TEXT, guard)
        }
    };
    let reason = HeaderValue::from_static(failure.reason());
    response.headers_mut().insert(&REASON, reason);
    response
}
