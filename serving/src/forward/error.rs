//! Why no response came: in Go's words, whose fault it was, and whether the request is unharmed.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, Version};

use super::error_response;
use crate::body::{Body, Guard};
use crate::pool::Broken;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The destination's.
    Upstream,
    /// The client's, whose request broke off.
    Downstream,
}

/// No response came. Displays as the text that upstream's proxy answers with, without newline.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ForwardError {
    text: String,
    fault: Fault,
    is_lost: bool,
    unsent: Option<Box<Request<Body>>>,
}

// === impl ForwardError ===

impl ForwardError {
    fn upstream(text: String) -> Self {
        Self {
            text,
            fault: Fault::Upstream,
            is_lost: false,
            unsent: None,
        }
    }

    /// No connection could be made.
    fn unconnected(text: String) -> Self {
        Self {
            is_lost: true,
            ..Self::upstream(text)
        }
    }

    pub(crate) fn dial(address: SocketAddr, error: &io::Error) -> Self {
        Self::unconnected(format!("dial tcp {address}: connect: {}", words(error)))
    }

    pub(crate) fn dial_timed_out(address: SocketAddr, waited: Duration) -> Self {
        let waited = waited.as_secs_f64();
        Self::unconnected(format!("timed out dialing {address} after {waited:.2}s"))
    }

    pub(crate) fn tls(address: SocketAddr, error: &io::Error) -> Self {
        Self::unconnected(format!("tls handshake with {address}: {error}"))
    }

    pub(crate) fn tls_timed_out() -> Self {
        Self::unconnected("net/http: TLS handshake timeout".to_owned())
    }

    /// An exchange over HTTP/1. `is_lost`: see [`Self::is_lost`].
    pub(crate) fn broken(broken: &Broken, is_lost: bool) -> Self {
        let fault = match broken {
            Broken::Request(_) => Fault::Downstream,
            _ => Fault::Upstream,
        };
        Self {
            fault,
            is_lost,
            ..Self::upstream(broken.to_string())
        }
    }

    /// An exchange over HTTP/2. `is_lost`: see [`Self::is_lost`].
    pub(crate) fn transport(error: &hyper::Error, is_lost: bool) -> Self {
        let fault = if error.is_user() {
            Fault::Downstream
        } else {
            Fault::Upstream
        };
        Self {
            fault,
            is_lost,
            ..Self::upstream(transport_text(error))
        }
    }

    pub(crate) fn invalid_upgrade(protocol: &HeaderValue) -> Self {
        let text = "client tried to switch to invalid protocol";
        Self::upstream(format!("{text} {protocol:?}"))
    }

    pub(crate) fn other_protocol(got: &[u8], asked: &[u8]) -> Self {
        let (got, asked) = (String::from_utf8_lossy(got), String::from_utf8_lossy(asked));
        Self::upstream(format!(
            "backend tried to switch protocol {got:?} when {asked:?} was requested"
        ))
    }

    pub(crate) fn with_request(mut self, unsent: Box<Request<Body>>) -> Self {
        self.unsent = Some(unsent);
        self
    }

    /// The request that is handed back came in this version.
    pub(super) fn with_version(mut self, version: Version) -> Self {
        if let Some(request) = &mut self.unsent {
            *request.version_mut() = version;
        }
        self
    }

    /// Whose fault it was.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Whether the destination may be gone, so that it should be asked before it gets more: it took
    /// no connection, it went silent, or a connection ended before an answer, which an idle one may
    /// do once, just as it is used again.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether nothing of the request was written, so that another destination may be tried.
    pub fn nothing_written(&self) -> bool {
        self.unsent.is_some()
    }

    /// The prepared request, if nothing of it was written.
    pub fn into_request(self) -> Option<Request<Body>> {
        self.into_boxed().map(|request| *request)
    }

    /// As [`Self::into_request`], for [`super::exchange_boxed`].
    pub fn into_boxed(self) -> Option<Box<Request<Body>>> {
        self.unsent
    }

    /// Upstream's answer: 502 with the text and a newline.
    pub fn response<G: Guard>(&self, guard: G) -> Response<Body<G>> {
        error_response(StatusCode::BAD_GATEWAY, &self.text, guard)
    }
}

fn transport_text(error: &hyper::Error) -> String {
    let Some(source) = error.source() else {
        return if error.is_canceled() || error.is_closed() {
            "http: server closed idle connection".to_owned()
        } else {
            error.to_string()
        };
    };
    if let Some(io) = source.downcast_ref::<io::Error>() {
        return format!("read tcp: {}", words(io));
    }
    let text = source.to_string();
    if text.contains("frame with invalid size") {
        // An HTTP/1 answer to the preface, taken for a frame.
        return "http2: failed reading the frame payload: http2: frame too large, note that the \
                frame header looked like an HTTP/1.1 header"
            .to_owned();
    }
    format!("{error}: {text}")
}

/// An error of the operating system as Go prints it.
pub(crate) fn words(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset by peer",
        io::ErrorKind::ConnectionAborted => "software caused connection abort",
        io::ErrorKind::BrokenPipe => "broken pipe",
        io::ErrorKind::TimedOut => "connection timed out",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network is unreachable",
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address",
        io::ErrorKind::PermissionDenied => "permission denied",
        _ => return other_words(error),
    };
    words.to_owned()
}

/// Rust adds the number in parentheses and begins with a capital letter.
fn other_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: i32) -> String {
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        ForwardError::dial(address, &io::Error::from_raw_os_error(number)).to_string()
    }

    #[test]
    fn dial_errors_read_as_in_go() {
        let refused = "dial tcp 127.0.0.1:8080: connect: connection refused";
        assert_eq!(text(111), refused);
        let full = "dial tcp 127.0.0.1:8080: connect: too many open files";
        assert_eq!(text(24), full);
    }

    #[test]
    fn the_answer_is_gos_error_page() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = ForwardError::dial_timed_out(address, Duration::from_millis(20_500));
        assert_eq!(
            error.to_string(),
            "timed out dialing 127.0.0.1:1 after 20.50s"
        );
        let response = error.response(());
        assert_eq!(response.status(), 502);
        assert_eq!(
            response.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}
