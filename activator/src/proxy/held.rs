//! What a request holds in memory while it waits, which counts against the limits of the queue.
//!
//! That is its head, and what its client may send of the body before anybody reads it: the window of
//! a stream over HTTP/2, what is read ahead over HTTP/1.

use http::{Request, Version};
use serving::body::Body;
use serving::server::Connection;

use crate::options::{MAX_REPLAYED_BODY, STREAM_WINDOW};
use crate::replay::{self, Arrived};

/// What hyper reads of an HTTP/1 body with the head, before anybody asks for it.
const READ_AHEAD: u64 = 8 << 10;
/// What a header costs besides its text.
const HEADER_OVERHEAD: usize = 64;

/// What is counted of a stream's body that nobody has read yet, until the wait is over.
pub(super) struct Unread<'a> {
    connection: &'a Connection,
    counted: u32,
}

/// What a request holds while it waits: its head, and what of its body may come meanwhile.
pub(super) fn held_bytes(request: Option<&mut Request<Body>>, unread: &mut Unread<'_>) -> usize {
    let Some(request) = request else {
        return 0;
    };
    let headers = request.headers().iter();
    let head: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
        .sum();
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    let length = http_body::Body::size_hint(request.body()).exact();
    let body = match (request.version(), length) {
        _ if http_body::Body::is_end_stream(request.body()) => 0,
        (Version::HTTP_2, Some(length)) => unread.count(length),
        // Calls of gRPC state no length, and most have come as a whole.
        (Version::HTTP_2, None) => match replay::arrived(request.body_mut(), MAX_REPLAYED_BODY) {
            Arrived::Whole(body) => body.len(),
            Arrived::Part(length) => length + unread.count(u64::MAX),
        },
        (_, length) => length.unwrap_or(READ_AHEAD).min(READ_AHEAD) as usize,
    };
    head + target + body
}

/// Whether only the connection can tell that the client has left.
pub(super) fn is_unread(request: &Request<Body>) -> bool {
    request.version() != Version::HTTP_2 && !http_body::Body::is_end_stream(request.body())
}

// === impl Unread ===

impl<'a> Unread<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            counted: 0,
        }
    }

    /// As much of a body of `length` as its client may send, less what other streams of the
    /// connection have counted of the window that they share.
    fn count(&mut self, length: u64) -> usize {
        let bytes = u32::try_from(length).map_or(STREAM_WINDOW, |it| it.min(STREAM_WINDOW));
        let counted = self.connection.count_unread(bytes);
        self.counted += counted;
        counted as usize
    }

    pub(super) fn forget(&mut self) {
        self.connection
            .forget_unread(std::mem::take(&mut self.counted));
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
