//! The autoscaler's environment: names, defaults and rules of upstream's
//! (`cmd/autoscaler/main.go`, `pkg/autoscaler/bucket/bucket.go`). Read once at start; every problem
//! is reported, not only the first.

use serving::environment::{Environment, Problems, Reader};
use serving::resource::Identity;
use serving::scrape_address::ScrapeAddress;
use serving::tls::ScrapeTls;
use serving::trace::Attribute;

/// Upstream's default for `PROFILING_PORT`.
const PROFILING_PORT: i64 = 8008;
const DEFAULT_DOMAIN: &str = "cluster.local";

/// What the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `SYSTEM_NAMESPACE`.
    pub system_namespace: String,
    /// `POD_NAME`.
    pub pod_name: String,
    /// `POD_IP`.
    pub pod_ip: String,
    /// `CONFIG_LOGGING_NAME`.
    pub config_logging: String,
    /// `CONFIG_OBSERVABILITY_NAME`.
    pub config_observability: String,
    /// `CONFIG_LEADERELECTION_NAME`.
    pub config_leader_election: String,
    /// `CLUSTER_DOMAIN`, or what `/etc/resolv.conf` says.
    pub cluster_domain: String,
    /// `KUBERNETES_MIN_VERSION` as major and minor.
    pub kubernetes_min_version: (u32, u32),
    /// Where `/metrics` is served if asked for.
    pub metrics_address: ScrapeAddress,
    /// `METRICS_PROMETHEUS_TLS_*`.
    pub metrics_tls: Option<ScrapeTls>,
    /// `OTEL_SERVICE_NAME`: what the process calls itself in metrics.
    pub service_name: String,
    /// `PROFILING_PORT`.
    pub profiling_port: u16,
    /// Buckets by ordinal instead of Leases.
    pub stateful_set: Option<StatefulSet>,
}

/// `STATEFUL_*`: each replica of a StatefulSet owns the bucket of its ordinal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatefulSet {
    /// The ordinal of this replica.
    pub ordinal: usize,
    /// The name of the set, from `POD_NAME`.
    pub name: String,
    /// The headless Service.
    pub service: String,
    /// `STATEFUL_SERVICE_PORT`.
    pub port: String,
    /// `STATEFUL_SERVICE_PROTOCOL`, used literally.
    pub protocol: String,
}

// === impl Config ===

impl Config {
    /// Reads the variables. `resolv_conf` is the content of `/etc/resolv.conf`, if it can be read.
    pub fn from_environment(
        environment: &dyn Environment,
        resolv_conf: Option<&str>,
    ) -> Result<Self, Problems> {
        let mut reader = Reader::new(environment);
        let pod_name = required(&mut reader, "POD_NAME");
        let config = Self {
            system_namespace: required(&mut reader, "SYSTEM_NAMESPACE"),
            pod_ip: required(&mut reader, "POD_IP"),
            config_logging: or(&mut reader, "CONFIG_LOGGING_NAME", "config-logging"),
            config_observability: or(
                &mut reader,
                "CONFIG_OBSERVABILITY_NAME",
                "config-observability",
            ),
            config_leader_election: or(
                &mut reader,
                "CONFIG_LEADERELECTION_NAME",
                "config-leader-election",
            ),
            cluster_domain: cluster_domain(resolv_conf, &reader.string("CLUSTER_DOMAIN")),
            kubernetes_min_version: min_version(&mut reader),
            metrics_address: ScrapeAddress::read(&mut reader),
            metrics_tls: ScrapeTls::read(&mut reader),
            profiling_port: port(&mut reader, "PROFILING_PORT", "Port", PROFILING_PORT),
            service_name: or(&mut reader, "OTEL_SERVICE_NAME", "autoscaler"),
            stateful_set: stateful_set(&mut reader, &pod_name),
            pod_name,
        };
        reader.finish(config)
    }

    /// What identifies the process in its metrics.
    pub fn resource(&self) -> Vec<Attribute> {
        let identity = Identity {
            service: &self.service_name,
            version: env!("CARGO_PKG_VERSION"),
            namespace: &self.system_namespace,
            pod: &self.pod_name,
        };
        identity.resource()
    }

    /// Who this replica is to the others: the holder of its Leases.
    pub fn identity(&self) -> String {
        format!("{}_{}", self.pod_name, self.pod_ip)
    }
}

fn required(reader: &mut Reader<'_>, variable: &'static str) -> String {
    let value = reader.string(variable);
    if value.is_empty() {
        reader.invalid(variable, "must be set, and not be empty");
    }
    value
}

fn or(reader: &mut Reader<'_>, variable: &'static str, default: &str) -> String {
    match reader.string(variable) {
        value if value.is_empty() => default.to_owned(),
        value => value,
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

fn min_version(reader: &mut Reader<'_>) -> (u32, u32) {
    const VARIABLE: &str = "KUBERNETES_MIN_VERSION";
    let text = or(reader, VARIABLE, "v1.34.0");
    parse_version(&text).unwrap_or_else(|| {
        reader.invalid(VARIABLE, "is not a version");
        (0, 0)
    })
}

/// Major and minor of `v1.34.0-rc.1` and the like: pre-releases of a version count as that version.
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit());
    let minor = minor[..digits.unwrap_or(minor.len())].parse().ok()?;
    Some((major, minor))
}

fn port(reader: &mut Reader<'_>, variable: &'static str, field: &'static str, default: i64) -> u16 {
    let value = if reader.string(variable).is_empty() {
        default
    } else {
        reader.integer(variable, field)
    };
    match u16::try_from(value) {
        Ok(port) if port >= 1024 => port,
        _ => {
            reader.invalid(variable, "must be between 1024 and 65535");
            0
        }
    }
}

fn stateful_set(reader: &mut Reader<'_>, pod_name: &str) -> Option<StatefulSet> {
    const ORDINAL: &str = "STATEFUL_CONTROLLER_ORDINAL";
    let ordinal = reader.string(ORDINAL);
    let service = reader.string("STATEFUL_SERVICE_NAME");
    if ordinal.is_empty() || service.is_empty() {
        return None;
    }
    // Upstream takes the number behind the last dash of the pod's name.
    let Some((name, number)) = ordinal.rsplit_once('-') else {
        reader.invalid(ORDINAL, "is not the name of a pod of a StatefulSet");
        return None;
    };
    let Ok(ordinal) = number.parse() else {
        reader.invalid(ORDINAL, format!("does not end in a number: {pod_name}"));
        return None;
    };
    Some(StatefulSet {
        ordinal,
        name: name.to_owned(),
        service,
        port: or(reader, "STATEFUL_SERVICE_PORT", "80"),
        protocol: or(reader, "STATEFUL_SERVICE_PROTOCOL", "http"),
    })
}

// === impl StatefulSet ===

impl StatefulSet {
    /// The names of the buckets, by ordinal; each is also the URL of its owner.
    pub fn buckets(&self, count: u32, namespace: &str, cluster_domain: &str) -> Vec<String> {
        let Self {
            name,
            service,
            port,
            protocol,
            ..
        } = self;
        (0..count)
            .map(|i| {
                format!("{protocol}://{name}-{i}.{service}.{namespace}.svc.{cluster_domain}:{port}")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)], resolv_conf: Option<&str>) -> Result<Config, Problems> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let environment: HashMap<_, _> = pairs.iter().map(owned).collect();
        Config::from_environment(&environment, resolv_conf)
    }

    const NEEDED: [(&str, &str); 3] = [
        ("SYSTEM_NAMESPACE", "knative-serving"),
        ("POD_NAME", "autoscaler-0"),
        ("POD_IP", "10.0.0.1"),
    ];

    fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        NEEDED.iter().chain(more).copied().collect()
    }

    #[test]
    fn defaults() {
        let config = read(&NEEDED, None).unwrap();
        assert_eq!(config.identity(), "autoscaler-0_10.0.0.1");
        assert_eq!(config.cluster_domain, "cluster.local");
        assert_eq!(config.kubernetes_min_version, (1, 34));
        assert_eq!(config.metrics_address, ScrapeAddress::default());
        assert_eq!(config.profiling_port, 8008);
        assert_eq!(config.stateful_set, None);
    }

    #[test]
    fn every_problem_is_reported() {
        let problems =
            read(&[("POD_NAME", ""), ("METRICS_PROMETHEUS_PORT", "80")], None).unwrap_err();
        let text = problems.to_string();
        for name in [
            "SYSTEM_NAMESPACE",
            "POD_NAME",
            "POD_IP",
            "METRICS_PROMETHEUS_PORT",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }

    #[test]
    fn the_domain_comes_from_the_resolver() {
        let domain = |resolv: Option<&str>, more: &[(&'static str, &'static str)]| {
            read(&with(more), resolv).unwrap().cluster_domain
        };
        let resolv = Some("nameserver 10.0.0.10\nsearch ns.svc.x.y svc.x.y x.y\n");
        assert_eq!(domain(resolv, &[]), "x.y");
        assert_eq!(domain(resolv, &[("CLUSTER_DOMAIN", "z")]), "z");
        assert_eq!(domain(None, &[("CLUSTER_DOMAIN", "z")]), "cluster.local");
    }

    #[test]
    fn a_stateful_set_names_its_buckets_by_url() {
        let set = read(
            &with(&[
                ("STATEFUL_CONTROLLER_ORDINAL", "autoscaler-1"),
                ("STATEFUL_SERVICE_NAME", "autoscaler"),
                ("STATEFUL_SERVICE_PORT", "8080"),
                ("STATEFUL_SERVICE_PROTOCOL", "ws"),
            ]),
            None,
        )
        .unwrap()
        .stateful_set
        .unwrap();
        assert_eq!(set.ordinal, 1);
        assert_eq!(
            set.buckets(2, "knative-serving", "cluster.local")[1],
            "ws://autoscaler-1.autoscaler.knative-serving.svc.cluster.local:8080"
        );
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("v1.34.0"), Some((1, 34)));
        assert_eq!(parse_version("v1.35.0-rc.1+k3s1"), Some((1, 35)));
        assert_eq!(parse_version("1.33+"), Some((1, 33)));
        assert_eq!(parse_version("none"), None);
    }
}
