//! Copies of requests, to be sent to another pod when the first one has not started them.
//!
//! A body of a stated and small length is read before the request is sent; everything else stays
//! with the client until a queue-proxy reads it, except what has come over HTTP/2 already: calls of
//! gRPC state no length, and most are there as a whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Request, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use serving::body::Body;

use crate::error::Failure;

/// What is kept of a request.
pub(crate) enum Kept {
    /// All of it.
    Copy(Box<Request<Body>>),
    /// All of it, after [`read`].
    Later,
    /// It cannot be sent twice.
    Nothing,
}

/// Keeps a request if it has no body, or one of at most `limit` bytes that comes without the app's
/// doing, which nobody knows of one that is `full_duplex`. The request stays what it was.
pub(crate) fn keep(request: &mut Request<Body>, limit: usize, full_duplex: bool) -> Kept {
    if request.body().is_end_stream() {
        return Kept::Copy(Box::new(copy(request, Bytes::new())));
    }
    if full_duplex
        || request.headers().contains_key(header::EXPECT)
        || request.extensions().get::<OnUpgrade>().is_some()
    {
        return Kept::Nothing;
    }
    match request.body().size_hint().exact() {
        Some(length) if length <= limit as u64 => Kept::Later,
        None if request.version() == Version::HTTP_2 => match arrived(request.body_mut(), limit) {
            Arrived::Whole(body) => Kept::Copy(Box::new(copy(request, body))),
            Arrived::Part(_) => Kept::Nothing,
        },
        _ => Kept::Nothing,
    }
}

/// What has come of a body: all of it, or how much.
pub(crate) enum Arrived {
    Whole(Bytes),
    Part(usize),
}

/// What has come of a body, looked at until it is more than `limit`. Takes nothing from it.
pub(crate) fn arrived(body: &mut Body, limit: usize) -> Arrived {
    let mut taken = Bytes::new();
    let mut trailers = None;
    // Whoever sends the body asks again, and is woken then.
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while taken.len() <= limit && trailers.is_none() && !body.is_end_stream() {
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) else {
            break;
        };
        match frame.into_data() {
            Ok(data) => taken = joined(taken, data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let is_whole = trailers.is_none() && body.is_end_stream() && taken.len() <= limit;
    let length = taken.len();
    if let Some(trailers) = trailers {
        body.put_back_trailers(trailers);
    }
    if !taken.is_empty() {
        body.put_back(taken.clone());
    }
    match is_whole {
        true => Arrived::Whole(taken),
        false => Arrived::Part(length),
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// Reads the whole body, gives it back to the request, and makes a copy of both.
pub(crate) async fn read(request: &mut Request<Body>) -> Result<Box<Request<Body>>, Failure> {
    let body = std::mem::replace(request.body_mut(), Body::empty(()));
    let Ok(body) = body.collect().await else {
        return Err(Failure::ClientLeft);
    };
    let bytes = body.to_bytes();
    *request.body_mut() = Body::full(bytes.clone(), ());
    Ok(Box::new(copy(request, bytes)))
}

/// A copy of a request that can be sent once more.
fn copy(request: &Request<Body>, body: Bytes) -> Request<Body> {
    let mut copy = Request::new(Body::full(body, ()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    /// Nothing that was looked at is missing afterwards.
    #[tokio::test]
    async fn trailers_are_neither_kept_nor_lost() {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", header::HeaderValue::from_static("1"));
        let mut body = Body::empty(());
        body.put_back_trailers(trailers);
        body.put_back(Bytes::from_static(b"body"));
        let mut request = Request::new(body);
        *request.version_mut() = Version::HTTP_2;
        assert!(matches!(keep(&mut request, 16, false), Kept::Nothing));
        let whole = request.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["checksum"], "1");
        assert_eq!(whole.to_bytes(), "body");
    }

    #[test]
    fn what_is_kept() {
        let request = |length: usize| Request::new(Body::full(vec![0; length], ()));
        let kept = |mut request, full_duplex| match keep(&mut request, 2, full_duplex) {
            Kept::Copy(_) => "a copy",
            Kept::Later => "later",
            Kept::Nothing => "nothing",
        };
        assert_eq!(kept(request(0), true), "a copy");
        assert_eq!(kept(request(2), false), "later");
        assert_eq!(kept(request(2), true), "nothing");
        assert_eq!(kept(request(3), false), "nothing");
        let mut expecting = request(2);
        let value = header::HeaderValue::from_static("100-continue");
        expecting.headers_mut().insert(header::EXPECT, value);
        assert_eq!(kept(expecting, false), "nothing");
    }
}
