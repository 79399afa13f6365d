//! gRPC's framing of one unary call: a length before the message, a status in the trailers.

use bytes::{Buf, Bytes};
use http::HeaderMap;

use super::client::ExportError;

/// The bytes before each message: a compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// Codes that a later attempt may not give (the specification of OTLP/gRPC).
const RETRYABLE: [u32; 7] = [1, 4, 8, 10, 11, 14, 15];

/// Puts the prefix before a message.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// The message behind the prefix; empty if there is none that can be read.
pub(super) fn unframe(mut framed: Bytes) -> Bytes {
    if framed.len() < PREFIX_BYTES || framed[0] != 0 {
        return Bytes::new();
    }
    framed.advance(PREFIX_BYTES);
    framed
}

/// The status of the call, if these headers or trailers have it.
pub(super) fn status(headers: &HeaderMap) -> Option<Result<(), ExportError>> {
    let code = headers.get("grpc-status")?;
    let code: u32 = code
        .to_str()
        .ok()
        .and_then(|code| code.parse().ok())
        .unwrap_or(2);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers
        .get("grpc-message")
        .map_or_else(String::new, |text| {
            String::from_utf8_lossy(text.as_bytes()).into_owned()
        });
    Some(Err(ExportError::refused(
        format!("rpc error: code = {code} desc = {message}"),
        RETRYABLE.contains(&code),
        None,
    )))
}
