//! gRPC readiness probes: one unary `grpc.health.v1.Health/Check` over cleartext HTTP/2.
//!
//! The call is a POST with one length-prefixed protobuf message each way, so it is written out
//! here; a gRPC stack would be most of the sidecar's size. Unlike upstream the socket does not
//! linger on close: closing it could block the thread that serves requests.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::time::timeout;

use super::attempt::{ProbeError, USER_AGENT, connect};
use super::http_get::Chain;

/// A health answer has two bytes; anything longer is not one.
const MAX_ANSWER_BYTES: usize = 4096;

/// The bytes before each message: a compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// Status codes of gRPC with a text of their own.
const UNIMPLEMENTED: &str = "12";

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Runs hyper's HTTP/2 tasks on the current thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Asks once whether `service` is serving.
pub(super) async fn probe(port: u16, service: &str, limit: Duration) -> Result<(), ProbeError> {
    let status = timeout(limit, check(port, service)).await.map_err(|_| {
        ProbeError::Grpc(format!(
            "health rpc did not complete within {limit:?}: context deadline exceeded"
        ))
    })??;
    if status == ServingStatus::Serving {
        Ok(())
    } else {
        Err(ProbeError::Grpc(format!(
            "service unhealthy (responded with \"{}\")",
            status.go_name()
        )))
    }
}

async fn check(port: u16, service: &str) -> Result<ServingStatus, ProbeError> {
    let stream = connect("127.0.0.1", port).await?;
    let failed = |error: hyper::Error| {
        ProbeError::Grpc(format!("health rpc probe failed: {}", Chain(&error)))
    };
    let (mut sender, connection) = http2::handshake(LocalExecutor, TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // It ends once the sender and the answer are dropped.
    tokio::task::spawn_local(connection);
    let response = sender
        .send_request(request(port, service)?)
        .await
        .map_err(failed)?;
    answer(response).await
}

fn request(port: u16, service: &str) -> Result<Request<Full<Bytes>>, ProbeError> {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    // The buffer grows as needed, so encoding cannot fail.
    framed.put_slice(&message.encode_to_vec());
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!(
            "http://127.0.0.1:{port}/grpc.health.v1.Health/Check"
        ))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::new(framed.freeze()))
        .map_err(|error| ProbeError::Request(error.to_string()))
}

async fn answer(response: Response<Incoming>) -> Result<ServingStatus, ProbeError> {
    let (head, mut body) = response.into_parts();
    if !head.status.is_success() {
        return Err(ProbeError::Grpc(format!(
            "health rpc probe failed: unexpected HTTP status code received from server: {}",
            head.status
        )));
    }
    // A call that fails at once has its status in the headers and no trailers.
    grpc_status(&head.headers)?;
    let mut message = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ProbeError::Grpc(format!("health rpc probe failed: {}", Chain(&error)))
        })?;
        match frame.into_data() {
            Ok(data) if message.len() + data.len() > MAX_ANSWER_BYTES => {
                return Err(malformed());
            }
            Ok(data) => message.put(data),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    grpc_status(&trailers)?;
                }
            }
        }
    }
    decode(message.freeze())
}

fn grpc_status(headers: &HeaderMap) -> Result<(), ProbeError> {
    let Some(status) = headers.get("grpc-status") else {
        return Ok(());
    };
    let message = headers
        .get("grpc-message")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match status.to_str() {
        Ok("0") => Ok(()),
        Ok(UNIMPLEMENTED) => Err(ProbeError::Grpc(format!(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health) {message}"
        ))),
        code => Err(ProbeError::Grpc(format!(
            "health rpc probe failed: code = {} desc = {message}",
            code.unwrap_or("?")
        ))),
    }
}

fn decode(mut framed: Bytes) -> Result<ServingStatus, ProbeError> {
    if framed.len() < PREFIX_BYTES || framed.get_u8() != 0 {
        return Err(malformed());
    }
    let length = framed.get_u32();
    if usize::try_from(length) != Ok(framed.len()) {
        return Err(malformed());
    }
    let response = HealthCheckResponse::decode(framed).map_err(|_| malformed())?;
    Ok(response.status())
}

fn malformed() -> ProbeError {
    ProbeError::Grpc("health rpc probe failed: malformed answer".to_owned())
}

// === impl ServingStatus ===

impl ServingStatus {
    fn go_name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_decode_by_length_and_status() {
        for (bytes, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(ServingStatus::Serving)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(ServingStatus::NotServing)),
            (&[0, 0, 0, 0, 0], Some(ServingStatus::Unknown)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 9, 8, 1], None),
            (&[0, 0, 0], None),
            (&[], None),
        ] {
            let decoded = decode(Bytes::copy_from_slice(bytes)).ok();
            assert_eq!(decoded, expected, "{bytes:?}");
        }
    }
}
