//! What the HTTP metrics of queue-proxy and activator have in common: OpenTelemetry's words for
//! methods, versions, errors and addresses, and its library as a scope.
//!
//! Upstream: the vendored `otelhttp`.

use std::borrow::Cow;

use http::{Method, Version};
use prometheus_client::registry::Registry;

use crate::forward::ForwardError;
use crate::trace::Scope;

/// The HTTP instrumentation of upstream.
pub const HTTP_SCOPE: Scope = Scope {
    name: "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
    version: "0.69.0",
};

/// Series kept per metric, as many as OpenTelemetry's SDK keeps; the rest share one.
pub const MAX_SERIES: usize = 2000;

/// The label value that stands for the series beyond [`MAX_SERIES`].
pub const OVERFLOW: &str = "otel_metric_overflow";

/// A part of a registry whose metrics carry a scope's labels.
pub fn scope(registry: &mut Registry, scope: Scope) -> &mut Registry {
    registry.sub_registry_with_labels(
        [
            ("otel_scope_name", scope.name),
            ("otel_scope_schema_url", ""),
            ("otel_scope_version", scope.version),
        ]
        .into_iter()
        .map(|(label, value)| (Cow::Borrowed(label), Cow::Borrowed(value))),
    )
}

/// What Go's instrumentation calls the type of an error: dialling and reading fail with the
/// network's, everything else with a plain text.
pub fn error_type(error: &ForwardError) -> &'static str {
    let text = error.to_string();
    if text.starts_with("dial tcp ") || text.starts_with("read tcp") {
        "net.OpError"
    } else {
        "errors.errorString"
    }
}

/// Host and port of a Host header; no port if it is the scheme's own, or no number above 0.
pub fn server_address(host: &str, tls: bool) -> (&str, Option<u16>) {
    let (address, port) = split_host(host);
    let default_port = if tls { 443 } else { 80 };
    let port = port.parse().ok();
    (
        address,
        port.filter(|port| *port != 0 && *port != default_port),
    )
}

/// Host and port of a Host header, brackets removed.
fn split_host(host: &str) -> (&str, &str) {
    let (address, port) = match host.rsplit_once(':') {
        Some((address, port)) if !address.contains(':') || address.ends_with(']') => {
            (address, port)
        }
        _ => (host, ""),
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'));
    (bare.unwrap_or(address), port)
}

/// What OpenTelemetry calls a method outside its list.
pub const OTHER_METHOD: &str = "_OTHER";

/// The methods of OpenTelemetry's convention; any other is [`OTHER_METHOD`].
pub fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER_METHOD,
    }
}

/// A version as OpenTelemetry spells it.
pub fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_versions_are_gos() {
        for (version, name) in [
            (Version::HTTP_10, "1.0"),
            (Version::HTTP_11, "1.1"),
            (Version::HTTP_2, "2.0"),
        ] {
            assert_eq!(version_name(version), name);
        }
    }

    #[test]
    fn hosts_are_split_as_in_go() {
        for (host, expected) in [
            ("a", ("a", "")),
            ("a:1", ("a", "1")),
            ("[::1]:80", ("::1", "80")),
            ("[::1]", ("::1", "")),
            ("::1", ("::1", "")),
            ("", ("", "")),
        ] {
            assert_eq!(split_host(host), expected, "{host}");
        }
    }
}
