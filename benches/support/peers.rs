//! The programs that ours is measured beside, and the backend behind all of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::process::{Process, free_port};

/// An address of this machine's loopback interface.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A loopback address that no other process is likely to bind ports on.
pub fn own_loopback() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64, high, low.max(1))
}

/// Finds `program` in the usual folders; Debian keeps servers outside a user's path.
pub fn installed(program: &str) -> Option<PathBuf> {
    [
        "/usr/sbin",
        "/usr/bin",
        "/usr/local/sbin",
        "/usr/local/bin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .map(|folder| Path::new(folder).join(program))
    .find(|path| path.is_file())
}

/// A server that listens on `address`.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
}

/// One nginx that answers three bytes over HTTP/1.1, or over h2c when `h2c` is set.
///
/// # Errors
/// When nginx is not installed or does not start.
pub async fn nginx_backend(folder: &Path, h2c: bool) -> anyhow::Result<Server> {
    let (name, protocol) = if h2c {
        ("nginx-h2c", " http2")
    } else {
        ("nginx", "")
    };
    let site = format!(
        "server {{ listen {{address}}{protocol} backlog=4096; location / {{ return 200 \"ok\\n\"; }} }}"
    );
    nginx(folder, name, &site).await
}

/// One nginx on a port of every loopback address: any number of pods, which pass probes.
///
/// # Errors
/// When nginx is not installed or does not start.
pub async fn nginx_pods(folder: &Path) -> anyhow::Result<Server> {
    let address = loopback(free_port()?);
    let site = format!(
        "server {{ listen 0.0.0.0:{} backlog=4096; location / {{ return 200 \"ok\\n\"; }}\n\
         location = /healthz {{ return 200 \"queue\"; }} }}",
        address.port()
    );
    nginx_at(folder, "nginx-pods", &site, address).await
}

/// nginx with one process; `{address}` in `site` is where it is to listen.
async fn nginx(folder: &Path, name: &str, site: &str) -> anyhow::Result<Server> {
    let address = loopback(free_port()?);
    let site = site.replace("{address}", &address.to_string());
    nginx_at(folder, name, &site, address).await
}

async fn nginx_at(
    folder: &Path,
    name: &str,
    site: &str,
    address: SocketAddr,
) -> anyhow::Result<Server> {
    let program =
        installed("nginx").context("nginx is not installed (Debian package nginx-light)")?;
    let prefix = folder.join(name);
    std::fs::create_dir_all(&prefix)?;
    let config = format!(
        // In a user namespace there is nobody but root.
        "user root;\ndaemon off;\nmaster_process off;\nworker_processes 1;\nworker_rlimit_nofile 16384;\n\
         pid {prefix}/pid;\nerror_log /dev/null crit;\n\
         events {{ worker_connections 16384; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
         client_body_temp_path {prefix}/b; proxy_temp_path {prefix}/p; fastcgi_temp_path {prefix}/f;\n\
         uwsgi_temp_path {prefix}/u; scgi_temp_path {prefix}/s;\n{site} }}\n",
        prefix = prefix.display(),
    );
    let path = prefix.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command
        .arg("-e")
        .arg("/dev/null")
        .arg("-p")
        .arg(&prefix)
        .arg("-c")
        .arg(&path);
    let mut process = Process::start(name, &mut command)?;
    process.listening(address).await?;
    Ok(Server { process, address })
}

/// nginx as a proxy with kept-alive connections to `backend`.
///
/// # Errors
/// When nginx is not installed or does not start.
pub async fn nginx_proxy(folder: &Path, backend: SocketAddr) -> anyhow::Result<Server> {
    let site = format!(
        "upstream app {{ server {backend}; keepalive 1000; }}\n\
         server {{ listen {{address}} backlog=4096; location / {{\n\
         proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_read_timeout 300s; proxy_send_timeout 300s; }} }}"
    );
    nginx(folder, "nginx-proxy", &site).await
}

/// Envoy with one worker in front of `backend`, in the clear and with either protocol.
///
/// # Errors
/// When it does not start.
pub async fn envoy(
    program: &Path,
    folder: &Path,
    backend: SocketAddr,
    h2c: bool,
) -> anyhow::Result<Server> {
    let address = loopback(free_port()?);
    let socket = |address: SocketAddr| {
        serde_json::json!({"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()
        }})
    };
    let protocol = if h2c {
        "http2_protocol_options"
    } else {
        "http_protocol_options"
    };
    let manager = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "hop",
        "use_remote_address": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "300s"}}]
        }]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        }}]
    });
    let options = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {protocol: {}}
    });
    // Its default of 1,024 requests at once would refuse some of a thousand connections' load.
    let most = serde_json::json!({"thresholds": [{
        "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000
    }]});
    let config = serde_json::json!({"static_resources": {
        "listeners": [{"address": socket(address), "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager
        }]}]}],
        "clusters": [{
            "name": "app", "type": "STATIC", "circuit_breakers": most,
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
            },
            "load_assignment": {"cluster_name": "app", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket(backend)}}]}
            ]}
        }]
    }});
    let path = folder.join("envoy.json");
    std::fs::write(&path, config.to_string())?;
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "-c"]);
    command.arg(&path);
    let mut process = Process::start("envoy", &mut command)?;
    process.listening(address).await?;
    Ok(Server { process, address })
}

/// How HAProxy stands in front of a backend.
#[derive(Clone, Copy, Debug)]
pub enum HaproxyMode {
    /// `mode http`, connections reused, `X-Forwarded-For` appended; at most `limit` requests at
    /// once to the backend when set.
    Http { limit: Option<u32> },
    /// `mode tcp`: bytes only.
    Tcp,
}

/// HAProxy with one thread in front of `backend`.
///
/// # Errors
/// When HAProxy is not installed or does not start.
pub async fn haproxy(
    folder: &Path,
    backend: SocketAddr,
    mode: HaproxyMode,
) -> anyhow::Result<Server> {
    let program =
        installed("haproxy").context("HAProxy is not installed (Debian package haproxy)")?;
    let address = loopback(free_port()?);
    let (name, mode, extra, server) = match mode {
        HaproxyMode::Http { limit: None } => (
            "haproxy",
            "http",
            "  http-reuse always\n  option forwardfor\n",
            String::new(),
        ),
        HaproxyMode::Http { limit: Some(limit) } => (
            "haproxy-limited",
            "http",
            "  http-reuse always\n  option forwardfor\n",
            format!(" maxconn {limit}"),
        ),
        HaproxyMode::Tcp => ("haproxy-tcp", "tcp", "", String::new()),
    };
    // Timeouts on all sides, as the sidecar has its three set.
    let config = format!(
        "global\n  nbthread 1\n  maxconn 8000\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  timeout queue 300s\n\
         listen hop\n  bind {address} backlog 4096\n{extra}  server app {backend}{server}\n",
    );
    let path = folder.join(format!("{name}.cfg"));
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(&path);
    let mut process = Process::start(name, &mut command)?;
    process.listening(address).await?;
    Ok(Server { process, address })
}

/// The environment that the Knative controller gives a sidecar, reduced to what must be set.
#[derive(Clone, Debug)]
pub struct Sidecar<'a> {
    /// For messages and rows.
    pub name: &'a str,
    /// The queue-proxy to start: ours or the Go one.
    pub program: &'a Path,
    pub container_concurrency: u32,
    pub backend: SocketAddr,
    /// The address of its ports, for a program of ours; the others bind all addresses.
    pub bind: Option<Ipv4Addr>,
    /// Further variables.
    pub extra: &'a [(&'a str, &'a str)],
}

impl Sidecar<'_> {
    /// Starts the sidecar with all three timeouts set, metrics and log off.
    ///
    /// # Errors
    /// When the program does not start.
    pub async fn start(&self) -> anyhow::Result<Server> {
        let (mut command, address) = self.command()?;
        let mut process = Process::start(self.name, &mut command)?;
        process.listening(address).await?;
        Ok(Server { process, address })
    }

    /// The command and the address that it will listen on.
    ///
    /// # Errors
    /// When no port is free.
    pub fn command(&self) -> anyhow::Result<(Command, SocketAddr)> {
        let port = free_port()?;
        let probe = format!(
            r#"{{"tcpSocket":{{"port":{},"host":"127.0.0.1"}},"successThreshold":1}}"#,
            self.backend.port()
        );
        let mut command = Command::new(self.program);
        command.env_clear().envs([
            (
                "CONTAINER_CONCURRENCY",
                self.container_concurrency.to_string(),
            ),
            ("QUEUE_SERVING_PORT", port.to_string()),
            ("QUEUE_SERVING_TLS_PORT", "8112".to_owned()),
            ("USER_PORT", self.backend.port().to_string()),
            ("REVISION_TIMEOUT_SECONDS", "300".to_owned()),
            ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "250".to_owned()),
            ("REVISION_IDLE_TIMEOUT_SECONDS", "200".to_owned()),
            ("SERVING_READINESS_PROBE", probe),
            ("SERVING_LOGGING_CONFIG", String::new()),
            ("SERVING_LOGGING_LEVEL", "error".to_owned()),
            ("SERVING_NAMESPACE", "bench".to_owned()),
            ("SERVING_SERVICE", "bench".to_owned()),
            ("SERVING_CONFIGURATION", "bench".to_owned()),
            ("SERVING_REVISION", "bench-00001".to_owned()),
            ("SERVING_POD", "bench-00001-pod".to_owned()),
            ("SERVING_POD_IP", "127.0.0.1".to_owned()),
        ]);
        command.envs(self.extra.iter().copied());
        if let Some(bind) = self.bind {
            command.env("PILOTLIGHT_BIND_ADDRESS", bind.to_string());
        }
        let host = self.bind.unwrap_or(Ipv4Addr::LOCALHOST);
        Ok((command, SocketAddr::from((host, port))))
    }
}
