//! The readiness probes that a controller hands to queue-proxy in `SERVING_READINESS_PROBE`: the
//! JSON of one Kubernetes Probe, or of a list of them with `ENABLE_MULTI_CONTAINER_PROBES`.
//!
//! Only the form is here; running a probe is queue-proxy's business.
//! Upstream: `pkg/queue/readiness/probe_encoding.go`, Kubernetes `core/v1` types.

mod decode;
mod json;

use serde::{Serialize, Serializer};

pub use decode::{InvalidProbe, decode};

/// A Kubernetes `core/v1` Probe. Of several actions queue-proxy takes the first in the order
/// HTTP, TCP, gRPC, exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// A command, which queue-proxy cannot run: the controller makes it a TCP probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// A GET request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// A connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// A call of the gRPC health service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAction>,
    /// Not used by queue-proxy.
    #[serde(skip_serializing_if = "is_zero")]
    pub initial_delay_seconds: i32,
    /// The time one attempt has, unless the period is 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout_seconds: i32,
    /// 0 asks for aggressive probing.
    #[serde(skip_serializing_if = "is_zero")]
    pub period_seconds: i32,
    /// Successes in a row that make the app ready, when probing aggressively.
    #[serde(skip_serializing_if = "is_zero")]
    pub success_threshold: i32,
    /// Not used by queue-proxy.
    #[serde(skip_serializing_if = "is_zero")]
    pub failure_threshold: i32,
    /// Not used by queue-proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
}

/// `ExecAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExecAction {
    /// Program and arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// `HTTPGetAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetAction {
    /// Path and query.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The port; a controller always hands over a number.
    pub port: Port,
    /// The address to connect to; a controller always hands over `127.0.0.1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// `HTTP` or `HTTPS`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// Additional headers of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

/// `HTTPHeader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpHeader {
    /// Name of the header.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// `TCPSocketAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpSocketAction {
    /// The port; a controller always hands over a number.
    pub port: Port,
    /// The address to connect to; a controller always hands over `127.0.0.1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
}

/// `GRPCAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrpcAction {
    /// The port.
    pub port: i32,
    /// The service to ask for; written as `null` when there is none.
    pub service: Option<String>,
}

/// `IntOrString` as Kubernetes uses it for ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// A port number, 0 when unset.
    Number(i32),
    /// The name of a container port, or digits in quotes.
    Name(String),
}

/// `EncodeSingleProbe`: compact JSON with the escapes of Go's encoder.
pub fn encode(probe: &Probe) -> String {
    json::to_string(probe)
}

/// `EncodeMultipleProbes`: a list, in which a serving container without a probe is `null`.
pub fn encode_list(probes: &[Option<Probe>]) -> String {
    json::to_string(probes)
}

// === impl Port ===

impl Port {
    /// `IntOrString.IntValue`: the number, or what the text says if it is one, else 0.
    pub fn value(&self) -> i64 {
        match self {
            Self::Number(number) => i64::from(*number),
            Self::Name(text) => crate::go::parse_int(text, 64).unwrap_or(0),
        }
    }

    /// `IntOrString.IntVal`: the number, 0 for any text.
    pub fn number(&self) -> i32 {
        match self {
            Self::Number(number) => *number,
            Self::Name(_) => 0,
        }
    }
}

impl Default for Port {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i32(*number),
            Self::Name(text) => serializer.serialize_str(text),
        }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
