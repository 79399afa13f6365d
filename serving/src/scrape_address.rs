//! Where a part listens for scrapes.
//!
//! Upstream: `vendor/knative.dev/pkg/observability/metrics/prometheus/server.go` and
//! `prometheus_enabled.go` beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::observability::Metrics;
use crate::environment::Reader;

const HOST: &str = "METRICS_PROMETHEUS_HOST";
const PORT: &str = "METRICS_PROMETHEUS_PORT";
/// Upstream's, but for the sidecar.
const DEFAULT_PORT: u16 = 9090;
/// Upstream takes no port below.
const FIRST_PORT: u16 = 1024;

/// What the environment says of it, `METRICS_PROMETHEUS_HOST` and `METRICS_PROMETHEUS_PORT`, which
/// comes before what the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeAddress {
    /// An address of this machine. `localhost` is 127.0.0.1; upstream takes any name.
    pub host: Option<IpAddr>,
    /// From 1024 on.
    pub port: Option<u16>,
}

// === impl ScrapeAddress ===

impl ScrapeAddress {
    /// Of the environment. What cannot be used is one of the reader's problems.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let (host, port) = (reader.string(HOST), reader.string(PORT));
        let host = Some(host).filter(|text| !text.is_empty()).and_then(|text| {
            let host = ip(&text);
            if host.is_none() {
                reader.invalid(HOST, format!("{text:?} is not an IP address"));
            }
            host
        });
        let port = Some(port).filter(|text| !text.is_empty()).and_then(|text| {
            let port = usable_port(&text);
            if port.is_none() {
                reader.invalid(PORT, "must be between 1024 and 65535");
            }
            port
        });
        Self { host, port }
    }

    /// With what `metrics-endpoint` says, if that is a `host:port` to listen on; then all addresses
    /// and port 9090. An endpoint that cannot be used counts as none, with a line in the log.
    pub fn or_endpoint_of(self, metrics: &Metrics) -> SocketAddr {
        let endpoint = &metrics.endpoint;
        let given = Self::of_endpoint(endpoint);
        if !endpoint.is_empty() && given.port.is_none() {
            tracing::warn!(endpoint, "metrics-endpoint is no host:port to listen on");
        }
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        SocketAddr::new(
            self.host.or(given.host).unwrap_or(everywhere),
            self.port.or(given.port).unwrap_or(DEFAULT_PORT),
        )
    }

    /// Of `host:port`.
    pub fn of_endpoint(endpoint: &str) -> Self {
        let Some((host, port)) = endpoint.rsplit_once(':') else {
            return Self::default();
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        Self {
            host: ip(bare.unwrap_or(host)),
            port: usable_port(port),
        }
    }
}

/// An address in its usual form, or `localhost`.
pub fn ip(text: &str) -> Option<IpAddr> {
    if text == "localhost" {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().ok()
}

fn usable_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port >= FIRST_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ScrapeAddress, String> {
        let mut reader = Reader::new(&variables);
        let read = ScrapeAddress::read(&mut reader);
        reader.finish(read).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_environment_comes_first_and_then_the_endpoint() {
        let metrics = |endpoint: &str| Metrics {
            endpoint: endpoint.to_owned(),
            ..Metrics::default()
        };
        let host = ("METRICS_PROMETHEUS_HOST", "localhost");
        let port = ("METRICS_PROMETHEUS_PORT", "9099");
        for (variables, endpoint, expected) in [
            (&[][..], "", "[::]:9090"),
            (&[], "127.0.0.1:9091", "127.0.0.1:9091"),
            (&[], "[::1]:9091", "[::1]:9091"),
            (&[], ":9091", "[::]:9091"),
            (&[], "127.0.0.1:80", "127.0.0.1:9090"),
            (&[], "nonsense", "[::]:9090"),
            (&[host], "[::1]:9091", "127.0.0.1:9091"),
            (&[port], "[::1]:9091", "[::1]:9099"),
            (&[host, port], "", "127.0.0.1:9099"),
        ] {
            let address = read(variables).unwrap().or_endpoint_of(&metrics(endpoint));
            assert_eq!(address.to_string(), expected, "{variables:?} {endpoint:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (name, value) in [(HOST, "metrics.example"), (PORT, "80"), (PORT, "high")] {
            let problems = read(&[(name, value)]).unwrap_err();
            assert!(problems.contains(name), "{problems}");
        }
    }
}
