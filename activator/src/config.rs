//! The activator's environment: names, defaults and rules of upstream's (`cmd/activator/main.go`).
//!
//! Read once at start; every problem is reported, not only the first.

use std::time::Duration;

use serving::environment::{Environment, Problems, Reader};
use serving::go;
use serving::resource::Identity;
use serving::scrape_address::ScrapeAddress;
use serving::tls::{self, PolicySettings, ScrapeTls};
use serving::trace::Attribute;

use crate::options::{Options, PROBE_FREQUENCY, PROBE_TIMEOUT, Secret};

/// Upstream's default for `PROFILING_PORT`.
const PROFILING_PORT: u16 = 8008;
const DEFAULT_DOMAIN: &str = "cluster.local";
/// What `PILOTLIGHT_THREADS` may be at most.
const MAX_THREADS: usize = 64;

/// What the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Everything the library is started with; the mesh settings come from `config-network`.
    pub options: Options,
    /// See [`Ports`].
    pub ports: Ports,
    /// `SYSTEM_NAMESPACE`.
    pub system_namespace: String,
    /// `CONFIG_LOGGING_NAME`.
    pub config_logging: String,
    /// `CONFIG_OBSERVABILITY_NAME`.
    pub config_observability: String,
    /// `KUBERNETES_MIN_VERSION` as major and minor.
    pub kubernetes_min_version: (u32, u32),
    /// `METRICS_PROMETHEUS_HOST` and `METRICS_PROMETHEUS_PORT`; listened on only if asked for.
    pub metrics_address: ScrapeAddress,
    /// `METRICS_PROMETHEUS_TLS_*`.
    pub metrics_tls: Option<ScrapeTls>,
    /// `OTEL_SERVICE_NAME`: what the process calls itself in metrics and traces.
    pub service_name: String,
    /// `PROFILING_PORT`: Go's profiles have no counterpart, but the port is part of the Service.
    pub profiling_port: u16,
    /// Set by `PILOTLIGHT_INGRESS_CLASS`: the activator is also the cluster's gateway.
    pub ingress: Option<IngressSettings>,
    /// `ACTIVATOR_TLS_*`: what the TLS port negotiates.
    pub tls: PolicySettings,
    /// `PILOTLIGHT_THREADS`: threads that serve, 1 to 64. Default: 1, the cheapest per request.
    pub threads: usize,
}

/// How the activator is the cluster's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressSettings {
    /// The class whose Ingresses are served.
    pub class: String,
    /// `PILOTLIGHT_INGRESS_PUBLIC_SERVICE`: the Service of the entry for the world.
    pub public_service: String,
    /// `PILOTLIGHT_INGRESS_PRIVATE_SERVICE`: the Service of the entry for the cluster.
    pub private_service: String,
}

/// Where requests come in. Services and other controllers count on upstream's numbers, so nothing
/// changes them but a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Plain HTTP/1 and h2c.
    pub http: u16,
    /// The same handler once more.
    pub http2: u16,
    /// The same handler behind TLS.
    pub https: u16,
    /// A gateway's entry for the world, HTTP/1 and h2c.
    pub ingress_http: u16,
    /// The same with TLS.
    pub ingress_https: u16,
    /// Its entry for the cluster.
    pub ingress_local: u16,
}

// === impl Ports ===

impl Default for Ports {
    fn default() -> Self {
        Self {
            http: 8012,
            http2: 8013,
            https: 8112,
            ingress_http: 8080,
            ingress_https: 8443,
            ingress_local: 8081,
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads the variables. `resolv_conf` is the content of `/etc/resolv.conf`, if it can be read.
    pub fn from_environment(
        environment: &dyn Environment,
        resolv_conf: Option<&str>,
    ) -> Result<Self, Problems> {
        let mut reader = Reader::new(environment);
        let pod_name = reader.required_string("POD_NAME");
        let pod_ip = reader.required_string("POD_IP");
        let system_namespace = reader.required_string("SYSTEM_NAMESPACE");
        let domain = cluster_domain(resolv_conf, &reader.string("CLUSTER_DOMAIN"));
        let mut options = Options::new(pod_name, pod_ip);
        let autoscaler = reader.string("PILOTLIGHT_AUTOSCALER_URL");
        options.autoscaler_url = Some(if autoscaler.is_empty() {
            format!("ws://autoscaler.{system_namespace}.svc.{domain}:8080")
        } else {
            autoscaler
        });
        options.cluster_domain = domain;
        options.probe.timeout = duration(&mut reader, "PROBE_TIMEOUT", PROBE_TIMEOUT);
        options.probe.frequency = duration(&mut reader, "PROBE_FREQUENCY", PROBE_FREQUENCY);
        options.max_idle_connections = count(
            &mut reader,
            "MAX_IDLE_PROXY_CONNS",
            "MaxIdleProxyConns",
            options.max_idle_connections,
        );
        options.max_idle_connections_per_destination = count(
            &mut reader,
            "MAX_IDLE_PROXY_CONNS_PER_HOST",
            "MaxIdleProxyConnsPerHost",
            options.max_idle_connections_per_destination,
        );
        options.limits.max_queued_per_revision = count(
            &mut reader,
            "PILOTLIGHT_MAX_QUEUED_PER_REVISION",
            "MaxQueuedPerRevision",
            options.limits.max_queued_per_revision,
        );
        options.limits.max_queued = count(
            &mut reader,
            "PILOTLIGHT_MAX_QUEUED",
            "MaxQueued",
            options.limits.max_queued,
        );
        options.limits.max_queued_bytes_per_revision = count(
            &mut reader,
            "PILOTLIGHT_MAX_QUEUED_BYTES_PER_REVISION",
            "MaxQueuedBytesPerRevision",
            options.limits.max_queued_bytes_per_revision,
        );
        options.limits.max_queued_bytes = count(
            &mut reader,
            "PILOTLIGHT_MAX_QUEUED_BYTES",
            "MaxQueuedBytes",
            options.limits.max_queued_bytes,
        );
        let max_wait = duration(&mut reader, "PILOTLIGHT_MAX_WAIT", Duration::ZERO);
        options.limits.max_wait = (!max_wait.is_zero()).then_some(max_wait);
        let secret = reader.string("PILOTLIGHT_AFFINITY_SECRET");
        if !secret.is_empty() {
            options.affinity_secret = Secret::new(secret);
        }
        options.held_header = reader.boolean("PILOTLIGHT_HELD_HEADER", "HeldHeader");
        let config = Self {
            options,
            ports: Ports::default(),
            system_namespace,
            config_logging: name(&mut reader, "CONFIG_LOGGING_NAME", "config-logging"),
            config_observability: name(
                &mut reader,
                "CONFIG_OBSERVABILITY_NAME",
                "config-observability",
            ),
            kubernetes_min_version: min_version(&mut reader),
            metrics_address: ScrapeAddress::read(&mut reader),
            metrics_tls: ScrapeTls::read(&mut reader),
            service_name: name(&mut reader, "OTEL_SERVICE_NAME", "activator"),
            profiling_port: port(
                &mut reader,
                "PROFILING_PORT",
                "ProfilingPort",
                PROFILING_PORT,
            ),
            ingress: ingress(&mut reader),
            tls: PolicySettings::read(&mut reader, &tls::ACTIVATOR),
            threads: threads(&mut reader),
        };
        reader.finish(config)
    }

    /// What identifies the process.
    pub fn resource(&self) -> Vec<Attribute> {
        let identity = Identity {
            service: &self.service_name,
            version: env!("CARGO_PKG_VERSION"),
            namespace: &self.system_namespace,
            pod: &self.options.pod_name,
        };
        identity.resource()
    }
}

/// Upstream asks the variable only when `/etc/resolv.conf` could be opened.
fn cluster_domain(resolv_conf: Option<&str>, variable: &str) -> String {
    let Some(resolv_conf) = resolv_conf else {
        return DEFAULT_DOMAIN.to_owned();
    };
    if !variable.is_empty() {
        return variable.to_owned();
    }
    resolv_conf
        .lines()
        .filter_map(|line| line.strip_prefix("search "))
        .flat_map(|domains| domains.split(' '))
        .find_map(|domain| domain.strip_prefix("svc."))
        .map_or(DEFAULT_DOMAIN, |domain| domain.trim_end_matches('.'))
        .to_owned()
}

fn ingress(reader: &mut Reader<'_>) -> Option<IngressSettings> {
    let class = reader.string("PILOTLIGHT_INGRESS_CLASS");
    let mut service = |variable, default| name(reader, variable, default);
    let public_service = service("PILOTLIGHT_INGRESS_PUBLIC_SERVICE", "activator-ingress");
    let private_service = service(
        "PILOTLIGHT_INGRESS_PRIVATE_SERVICE",
        "activator-ingress-internal",
    );
    (!class.is_empty()).then_some(IngressSettings {
        class,
        public_service,
        private_service,
    })
}

fn name(reader: &mut Reader<'_>, variable: &'static str, default: &str) -> String {
    match reader.string(variable) {
        name if name.is_empty() => default.to_owned(),
        name => name,
    }
}

fn duration(reader: &mut Reader<'_>, variable: &'static str, default: Duration) -> Duration {
    let text = reader.string(variable);
    if text.is_empty() {
        return default;
    }
    match go::parse_duration(&text) {
        Ok(nanos) if nanos > 0 => go::duration_to_std(nanos),
        Ok(_) => {
            reader.invalid(variable, "must be longer than zero");
            default
        }
        Err(error) => {
            reader.invalid(variable, error.to_string());
            default
        }
    }
}

fn count(
    reader: &mut Reader<'_>,
    variable: &'static str,
    field: &'static str,
    default: usize,
) -> usize {
    if reader.string(variable).is_empty() {
        return default;
    }
    let value = reader.integer(variable, field);
    usize::try_from(value).unwrap_or_else(|_| {
        reader.invalid(variable, "must not be negative");
        default
    })
}

fn threads(reader: &mut Reader<'_>) -> usize {
    const VARIABLE: &str = "PILOTLIGHT_THREADS";
    let threads = count(reader, VARIABLE, "Threads", 1);
    if !(1..=MAX_THREADS).contains(&threads) {
        reader.invalid(VARIABLE, format!("must be between 1 and {MAX_THREADS}"));
    }
    threads
}

/// `v1.34.0` and the like; the patch level does not matter.
fn min_version(reader: &mut Reader<'_>) -> (u32, u32) {
    const VARIABLE: &str = "KUBERNETES_MIN_VERSION";
    const DEFAULT: (u32, u32) = (1, 34);
    let text = reader.string(VARIABLE);
    if text.is_empty() {
        return DEFAULT;
    }
    parse_version(&text).unwrap_or_else(|| {
        reader.invalid(VARIABLE, "is not a version");
        DEFAULT
    })
}

/// Major and minor of a version such as `v1.34.2-gke.5`.
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((major, minor.parse().ok()?))
}

fn port(reader: &mut Reader<'_>, variable: &'static str, field: &'static str, default: u16) -> u16 {
    let port = count(reader, variable, field, usize::from(default));
    let port = u16::try_from(port).ok().filter(|port| *port >= 1024);
    port.unwrap_or_else(|| {
        reader.invalid(variable, "must be between 1024 and 65535");
        default
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Limits;

    const REQUIRED: &[(&str, &str)] = &[
        ("POD_NAME", "activator-0"),
        ("POD_IP", "10.1.0.1"),
        ("SYSTEM_NAMESPACE", "knative-serving"),
    ];

    fn read(more: &[(&str, &str)], resolv_conf: Option<&str>) -> Result<Config, Problems> {
        let all = [REQUIRED, more].concat();
        Config::from_environment(&all.as_slice(), resolv_conf)
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = read(&[], None).unwrap();
        let options = &config.options;
        assert_eq!(options.probe.timeout, Duration::from_millis(300));
        assert_eq!(options.probe.frequency, Duration::from_millis(200));
        assert_eq!(
            options.autoscaler_url.as_deref(),
            Some("ws://autoscaler.knative-serving.svc.cluster.local:8080")
        );
        let elsewhere = ("PILOTLIGHT_AUTOSCALER_URL", "ws://127.0.0.1:8080");
        let elsewhere = read(&[elsewhere], None).unwrap().options.autoscaler_url;
        assert_eq!(elsewhere.as_deref(), Some("ws://127.0.0.1:8080"));
        assert_eq!(options.max_idle_connections, 1000);
        assert_eq!(options.max_idle_connections_per_destination, 100);
        assert_eq!(config.config_logging, "config-logging");
        assert_eq!(config.kubernetes_min_version, (1, 34));
        assert_eq!(config.metrics_address, ScrapeAddress::default());
        assert_eq!(config.profiling_port, 8008);
        assert_eq!(config.ingress, None);
    }

    /// Each limit has a variable of its own, and what `docs/activator.md` says it is without.
    #[test]
    fn settings_of_our_own() {
        let of = |more: &[(&str, &str)]| read(more, None).unwrap().options;
        let counts = |limits: Limits| {
            [
                limits.max_queued_per_revision,
                limits.max_queued,
                limits.max_queued_bytes_per_revision,
                limits.max_queued_bytes,
            ]
        };
        let defaults = of(&[]);
        let expected = [20_000, 40_000, 128 << 20, 256 << 20];
        assert_eq!(counts(defaults.limits), expected);
        assert_eq!(defaults.limits.max_wait, None);
        assert!(!defaults.held_header);
        assert_ne!(defaults.affinity_secret, of(&[]).affinity_secret);
        let variables = [
            "PILOTLIGHT_MAX_QUEUED_PER_REVISION",
            "PILOTLIGHT_MAX_QUEUED",
            "PILOTLIGHT_MAX_QUEUED_BYTES_PER_REVISION",
            "PILOTLIGHT_MAX_QUEUED_BYTES",
        ];
        for (at, variable) in variables.into_iter().enumerate() {
            let mut expected = expected;
            expected[at] = 7;
            assert_eq!(
                counts(of(&[(variable, "7")]).limits),
                expected,
                "{variable}"
            );
            assert!(read(&[(variable, "-1")], None).is_err(), "{variable}");
        }
        assert_eq!(read(&[], None).unwrap().threads, 1);
        for (text, threads) in [("1", 1), ("64", 64)] {
            let config = read(&[("PILOTLIGHT_THREADS", text)], None);
            assert_eq!(config.unwrap().threads, threads);
        }
        for text in ["0", "65", "-1", "two"] {
            assert!(
                read(&[("PILOTLIGHT_THREADS", text)], None).is_err(),
                "{text}"
            );
        }
        let max_wait = of(&[("PILOTLIGHT_MAX_WAIT", "1m30s")]).limits.max_wait;
        assert_eq!(max_wait, Some(Duration::from_secs(90)));
        assert!(read(&[("PILOTLIGHT_MAX_WAIT", "long")], None).is_err());
        assert!(of(&[("PILOTLIGHT_HELD_HEADER", "true")]).held_header);
        let secret = of(&[("PILOTLIGHT_AFFINITY_SECRET", "s")]).affinity_secret;
        assert!(secret == Secret::new("s"));
    }

    #[test]
    fn the_cluster_domain_comes_from_resolv_conf() {
        let file = "nameserver 10.0.0.1\nsearch default.svc.corp svc.corp. corp\n";
        let domain = |variable: &str, file: Option<&str>| {
            let config = read(&[("CLUSTER_DOMAIN", variable)], file).unwrap();
            config.options.cluster_domain
        };
        assert_eq!(domain("", Some(file)), "corp");
        assert_eq!(domain("other", Some(file)), "other");
        assert_eq!(domain("other", None), "cluster.local");
        assert_eq!(domain("", Some("search corp\n")), "cluster.local");
    }

    #[test]
    fn every_problem_is_reported() {
        let environment: &[(&str, &str)] = &[
            ("POD_NAME", "activator-0"),
            ("SYSTEM_NAMESPACE", "knative-serving"),
            ("PROBE_TIMEOUT", "soon"),
            ("PROBE_FREQUENCY", "0s"),
            ("MAX_IDLE_PROXY_CONNS", "-1"),
            ("METRICS_PROMETHEUS_PORT", "80"),
            ("KUBERNETES_MIN_VERSION", "new"),
        ];
        let problems = Config::from_environment(&environment, None).unwrap_err();
        assert_eq!(problems.iter().count(), 6, "{problems}");
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("v1.34.2-gke.5"), Some((1, 34)));
        assert_eq!(parse_version("1.35+"), Some((1, 35)));
        assert_eq!(parse_version("one"), None);
    }
}
