//! Where an exporter sends to, from Knative's configuration and the variables that the exporters
//! of OpenTelemetry know.

use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::environment::Environment;

/// How long one attempt may take, unless a variable says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two exports of metrics, unless configured.
pub const METRIC_INTERVAL: Duration = Duration::from_secs(60);

/// Headers that one variable may name.
const MAX_HEADERS: usize = 64;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
}

/// Where and how an exporter sends.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// What is sent.
    pub signal: Signal,
    /// How.
    pub protocol: Protocol,
    /// Scheme, authority and path.
    pub endpoint: Uri,
    /// Sent with every request.
    pub headers: HeaderMap,
    /// Of one attempt.
    pub timeout: Duration,
    /// A file of certificates to trust instead of the system's; empty if none.
    pub certificate: String,
}

/// Why an exporter cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to process {signal} endpoint {endpoint:?}: {reason}")]
pub struct SettingsError {
    signal: &'static str,
    endpoint: String,
    reason: String,
}

// === impl Signal ===

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }

    fn http_path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    fn grpc_path(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }
}

// === impl OtlpSettings ===

impl OtlpSettings {
    /// Reads the variables, of which those of the signal win; an endpoint among them makes the
    /// configured one void, as in `knative.dev/pkg/observability`.
    ///
    /// # Errors
    /// The endpoint is no URL. Variables that are malformed are ignored, as the SDK does.
    pub fn configured(
        environment: &dyn Environment,
        signal: Signal,
        protocol: Protocol,
        endpoint: &str,
    ) -> Result<Self, SettingsError> {
        let variables = Variables {
            environment,
            signal,
        };
        let own = variables.own("ENDPOINT");
        let common = variables.common("ENDPOINT");
        let is_insecure = variables.any("INSECURE").eq_ignore_ascii_case("true");
        let endpoint = match (own.as_str(), common.as_str()) {
            ("", "") => Endpoint::configured(endpoint),
            ("", base) => Endpoint::based_on(base, is_insecure),
            (own, _) => Endpoint::complete(own, is_insecure),
        };
        Ok(Self {
            signal,
            protocol,
            endpoint: endpoint.resolve(signal, protocol)?,
            headers: headers(&variables.any("HEADERS")),
            timeout: variables
                .any("TIMEOUT")
                .trim()
                .parse()
                .map_or(TIMEOUT, Duration::from_millis),
            certificate: variables.any("CERTIFICATE"),
        })
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.endpoint.scheme() == Some(&Scheme::HTTPS)
    }
}

/// `OTEL_METRIC_EXPORT_INTERVAL` in milliseconds, else what is configured, else the default.
pub fn metric_interval(environment: &dyn Environment, configured: Option<Duration>) -> Duration {
    let variable = environment.variable("OTEL_METRIC_EXPORT_INTERVAL");
    let interval = match variable.as_deref() {
        None | Some("") => configured,
        // One that is no number leaves the SDK's default.
        Some(text) => text.trim().parse().ok().map(Duration::from_millis),
    };
    interval
        .filter(|interval| !interval.is_zero())
        .unwrap_or(METRIC_INTERVAL)
}

/// `OTEL_EXPORTER_OTLP_*`.
struct Variables<'e> {
    environment: &'e dyn Environment,
    signal: Signal,
}

impl Variables<'_> {
    fn own(&self, name: &str) -> String {
        let signal = self.signal.name().to_ascii_uppercase();
        let variable = format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
        self.environment.variable(&variable).unwrap_or_default()
    }

    fn common(&self, name: &str) -> String {
        let variable = format!("OTEL_EXPORTER_OTLP_{name}");
        self.environment.variable(&variable).unwrap_or_default()
    }

    fn any(&self, name: &str) -> String {
        Some(self.own(name))
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| self.common(name))
    }
}

/// `name=value` pairs with commas between them, values percent-encoded.
fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').take(MAX_HEADERS) {
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        let name = HeaderName::try_from(name.trim());
        let value = HeaderValue::from_bytes(&percent_decode(value.trim().as_bytes()));
        if let (Ok(name), Ok(mut value)) = (name, value) {
            // It is a token as often as not.
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers
}

/// Undoes percent-encoding; what is malformed stays as it is.
pub fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escaped = text
            .get(at + 1..at + 3)
            .filter(|_| *byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    bytes
}

/// An endpoint as given.
struct Endpoint {
    text: String,
    /// Whether the signal's path is appended to the URL's.
    is_base: bool,
    /// Whether an empty path stands for the signal's.
    has_default_path: bool,
}

impl Endpoint {
    /// Knative's: without a scheme it is encrypted, without a path it gets the usual one.
    fn configured(text: &str) -> Self {
        let text = if text.is_empty() {
            "http://localhost".to_owned()
        } else {
            with_scheme(text, "https")
        };
        Self {
            text,
            is_base: false,
            has_default_path: true,
        }
    }

    fn based_on(text: &str, is_insecure: bool) -> Self {
        Self {
            is_base: true,
            ..Self::complete(text, is_insecure)
        }
    }

    fn complete(text: &str, is_insecure: bool) -> Self {
        let scheme = if is_insecure { "http" } else { "https" };
        Self {
            text: with_scheme(text, scheme),
            is_base: false,
            has_default_path: false,
        }
    }

    fn resolve(self, signal: Signal, protocol: Protocol) -> Result<Uri, SettingsError> {
        let failed = |reason: String| SettingsError {
            signal: signal.name(),
            endpoint: self.text.clone(),
            reason,
        };
        let uri: Uri = self
            .text
            .parse()
            .map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::HTTPS,
            _ => Scheme::HTTP,
        };
        let Some(authority) = uri.authority() else {
            return Err(failed("it has no host".to_owned()));
        };
        let authority = with_port(
            authority,
            protocol,
            &scheme,
            self.text == "http://localhost",
        );
        let path = match protocol {
            Protocol::Grpc => signal.grpc_path().to_owned(),
            Protocol::HttpProtobuf => self.path(signal),
        };
        Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path)
            .build()
            .map_err(|error| failed(error.to_string()))
    }

    fn path(&self, signal: Signal) -> String {
        // A parsed URI has "/" for an empty path, which is not the same here.
        let after_scheme = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_scheme.find('/').map_or("", |at| &after_scheme[at..]);
        match path {
            base if self.is_base => {
                format!("{}{}", base.trim_end_matches('/'), signal.http_path())
            }
            "" if self.has_default_path => signal.http_path().to_owned(),
            "" => "/".to_owned(),
            path => path.to_owned(),
        }
    }
}

fn with_scheme(text: &str, scheme: &str) -> String {
    let text = text.trim();
    if text.contains("://") {
        text.to_owned()
    } else {
        format!("{scheme}://{text}")
    }
}

/// The default collector has ports of its own; any other endpoint has its scheme's.
fn with_port(
    authority: &Authority,
    protocol: Protocol,
    scheme: &Scheme,
    is_default: bool,
) -> String {
    if authority.port().is_some() {
        return authority.to_string();
    }
    let port = match protocol {
        Protocol::Grpc if is_default => 4317,
        Protocol::HttpProtobuf if is_default => 4318,
        _ if *scheme == Scheme::HTTPS => 443,
        _ => 80,
    };
    format!("{authority}:{port}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn resolved(
        variables: &[(&str, &str)],
        protocol: Protocol,
        endpoint: &str,
    ) -> Result<String, SettingsError> {
        OtlpSettings::configured(&variables, Signal::Traces, protocol, endpoint)
            .map(|settings| settings.endpoint.to_string())
    }

    #[test]
    fn endpoints_resolve_as_upstream_and_the_sdk_do() {
        const COMMON: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        for (variables, endpoint, expected) in [
            (
                &[][..],
                "http://c:4318/v1/traces",
                "http://c:4318/v1/traces",
            ),
            (&[], "http://c:4318", "http://c:4318/v1/traces"),
            (&[], "http://c:4318/", "http://c:4318/"),
            (&[], "http://c/x", "http://c:80/x"),
            (&[], "c:4318", "https://c:4318/v1/traces"),
            (&[], "", "http://localhost:4318/v1/traces"),
            (
                &[(COMMON, "http://e:1")],
                "http://c:4318",
                "http://e:1/v1/traces",
            ),
            (
                &[(COMMON, "http://e:1/base/")],
                "",
                "http://e:1/base/v1/traces",
            ),
            (&[(OWN, "http://e:1")], "http://c:4318", "http://e:1/"),
            (
                &[(OWN, "https://e/t"), (COMMON, "http://f")],
                "",
                "https://e:443/t",
            ),
        ] {
            let got = resolved(variables, Protocol::HttpProtobuf, endpoint);
            assert_eq!(got.as_deref(), Ok(expected), "{variables:?} {endpoint}");
        }
        let grpc = "http://c:4317/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let got = resolved(&[], Protocol::Grpc, "http://c:4317/ignored");
        assert_eq!(got.as_deref(), Ok(grpc));
        assert!(resolved(&[], Protocol::Grpc, "http://a b").is_err());
    }

    #[test]
    fn headers_timeout_and_certificate_come_from_variables() {
        let variables: BTreeMap<String, String> = [
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20x, b = c,broken",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.crt"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let protocol = Protocol::HttpProtobuf;
        let settings = OtlpSettings::configured(&variables, Signal::Traces, protocol, "http://c")
            .expect("valid");
        assert_eq!(settings.headers["authorization"], "Bearer x");
        assert_eq!(settings.headers["b"], "c");
        assert_eq!(settings.headers.len(), 2);
        assert_eq!(settings.timeout, Duration::from_millis(2500));
        assert_eq!(settings.certificate, "/ca.crt");
        assert!(!settings.is_tls());
    }
}
