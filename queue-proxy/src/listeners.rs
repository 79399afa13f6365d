//! The sockets that a queue-proxy serves, already bound by whoever starts it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::config::{ADMIN_PORT, Config, MetricsProtocol, STATISTICS_PORT};

/// Pending connections per listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Bound listeners. Only the data port is indispensable: what is `None` is not served.
#[derive(Debug)]
pub struct Listeners {
    /// HTTP/1 and h2c requests and probes.
    pub data: TcpListener,
    /// The same over TLS; needs a certificate in [`crate::config::TlsSettings::directory`].
    pub tls: Option<TcpListener>,
    /// `/wait-for-drain`.
    pub admin: Option<TcpListener>,
    /// Statistics for the autoscaler.
    pub stats: Option<TcpListener>,
    /// Prometheus metrics of the requests.
    pub user_metrics: Option<TcpListener>,
    /// The profiling port.
    pub profiling: Option<TcpListener>,
}

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{name} server failed to serve: listen tcp :{port}")]
pub struct BindError {
    /// Upstream's name of the server: `main`, `admin`, `metrics`, `profile`, `main tls`.
    pub name: &'static str,
    /// The port wanted.
    pub port: u16,
    /// Why it is not to be had.
    #[source]
    pub source: io::Error,
}

// === impl Listeners ===

impl Listeners {
    /// Binds the ports that a pod's sidecar has to listen on. The user metrics port is left out
    /// with a warning when it is taken: everything else is worth more than a scrape.
    pub fn bind(config: &Config, tls: bool) -> Result<Self, BindError> {
        let options = &config.options;
        let at = |name, port| bind(options.bind, name, port);
        let wants_metrics = config.options.legacy_metrics
            || config.observability.metrics_protocol == MetricsProtocol::Prometheus;
        let user_metrics = wants_metrics
            .then(|| {
                let host = options.user_metrics_host.or(options.bind);
                bind(host, "user metrics", options.user_metrics_port)
            })
            .and_then(|bound| {
                bound
                    .inspect_err(|error| {
                        tracing::error!("metrics server error: {error}: {}", error.source);
                    })
                    .ok()
            });
        Ok(Self {
            data: at("main", config.serving_port)?,
            tls: tls
                .then(|| at("main tls", config.serving_tls_port))
                .transpose()?,
            admin: Some(at("admin", ADMIN_PORT)?),
            stats: Some(at("metrics", STATISTICS_PORT)?),
            user_metrics,
            profiling: config
                .observability
                .profiling
                .then(|| at("profile", options.profiling_port))
                .transpose()?,
        })
    }

    /// Listeners for one data port alone, as `local` and tests use it.
    pub const fn data_only(data: TcpListener) -> Self {
        Self {
            data,
            tls: None,
            admin: None,
            stats: None,
            user_metrics: None,
            profiling: None,
        }
    }
}

/// Binds one address, or without one the wildcard address of both families, as Go does.
fn bind(address: Option<IpAddr>, name: &'static str, port: u16) -> Result<TcpListener, BindError> {
    let bound = match address {
        Some(address) => listen(SocketAddr::new(address, port)),
        // A dual-stack IPv6 socket serves both families; a host without IPv6 has only the other.
        None => listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).or_else(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                Err(error)
            } else {
                listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            }
        }),
    };
    bound.map_err(|source| BindError { name, port, source })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
