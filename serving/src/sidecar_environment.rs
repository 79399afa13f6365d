//! The environment that Knative's controller gives to the queue-proxy of a revision.
//!
//! A cluster's controller writes it into the pod; whoever starts a queue-proxy without a cluster
//! needs the same. Upstream: `makeQueueContainer` in `pkg/reconciler/revision/resources/queue.go`.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::deployment::Deployment;
use crate::config::features::{Features, Flag};
use crate::config::logging::Logging;
use crate::config::observability::Observability;
use crate::networking::{BACKEND_HTTP_PORT, BACKEND_HTTP2_PORT, BACKEND_HTTPS_PORT, SERVICE_LABEL};
use crate::probe_spec::{self, Probe, TcpSocketAction};

/// `DefaultUserPort`: where the app listens unless its container says otherwise.
pub const DEFAULT_USER_PORT: i32 = 8080;

/// `AllowHTTPFullDuplexFeatureKey`: the annotation that lets HTTP/1 responses start before the
/// request is read.
pub const FULL_DUPLEX_ANNOTATION: &str = "features.knative.dev/http-full-duplex";

/// `ProtocolH2C`: the port name of an app that speaks HTTP/2 in the clear.
pub const H2C_PORT_NAME: &str = "h2c";

/// Where queue-proxy reaches the app.
const LOCAL_ADDRESS: &str = "127.0.0.1";

/// The part of a Revision that its queue-proxy hears of.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The Configuration that controls the revision, if one does.
    pub configuration: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.containerConcurrency`.
    pub container_concurrency: Option<i64>,
    /// `spec.timeoutSeconds`.
    pub timeout_seconds: Option<i64>,
    /// `spec.responseStartTimeoutSeconds`.
    pub response_start_timeout_seconds: Option<i64>,
    /// `spec.idleTimeoutSeconds`.
    pub idle_timeout_seconds: Option<i64>,
    /// `spec.containers`. Of several, the serving one is the one with ports.
    pub containers: Vec<Container>,
}

/// The part of a container that its queue-proxy hears of.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its ports, of which the first counts.
    pub ports: Vec<ContainerPort>,
    /// Its readiness probe as written by the user.
    pub readiness_probe: Option<Probe>,
}

/// A port of a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerPort {
    /// The name, which may stand for a protocol.
    pub name: String,
    /// The number, 0 when unset.
    pub container_port: i32,
}

/// What an installation decides for all revisions.
#[derive(Clone, Copy, Debug)]
pub struct Installation<'a> {
    /// `config-deployment`.
    pub deployment: &'a Deployment,
    /// `config-features`.
    pub features: &'a Features,
    /// `config-logging`.
    pub logging: &'a Logging,
    /// `config-observability`.
    pub observability: &'a Observability,
    /// The namespace that Knative is installed in.
    pub system_namespace: &'a str,
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text known in advance.
    Text(String),
    /// A field of the pod, by its path in the downward API.
    FieldRef(&'static str),
}

/// A sidecar's readiness probe names no port, and there is no default for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sidecar readiness probe does not define probe port on container: {container}")]
pub struct MissingProbePort {
    container: String,
}

/// The variables in the order in which the controller writes them.
pub fn environment(
    revision: &Revision,
    installation: &Installation<'_>,
) -> Result<Vec<(&'static str, Value)>, MissingProbePort> {
    let Installation {
        deployment,
        features,
        logging,
        observability,
        system_namespace,
    } = *installation;
    let text = |text: &str| Value::Text(text.to_owned());
    let number = |number: i64| Value::Text(number.to_string());
    let flag = |on: bool| Value::Text(on.to_string());
    let serving = revision.serving_container();
    let multi = features.multi_container_probing == Flag::Enabled;
    let level = logging.levels.get("queueproxy");
    let label = revision.labels.get(SERVICE_LABEL);
    Ok(vec![
        ("SERVING_NAMESPACE", text(&revision.namespace)),
        ("SERVING_SERVICE", text(label.map_or("", String::as_str))),
        (
            "SERVING_CONFIGURATION",
            text(revision.configuration.as_deref().unwrap_or_default()),
        ),
        ("SERVING_REVISION", text(&revision.name)),
        (
            "QUEUE_SERVING_PORT",
            number(i64::from(serving.queue_port())),
        ),
        (
            "QUEUE_SERVING_TLS_PORT",
            number(i64::from(BACKEND_HTTPS_PORT)),
        ),
        (
            "CONTAINER_CONCURRENCY",
            number(revision.container_concurrency.unwrap_or(0)),
        ),
        (
            "REVISION_TIMEOUT_SECONDS",
            number(revision.timeout_seconds.unwrap_or(0)),
        ),
        (
            "REVISION_RESPONSE_START_TIMEOUT_SECONDS",
            number(revision.response_start_timeout_seconds.unwrap_or(0)),
        ),
        (
            "REVISION_IDLE_TIMEOUT_SECONDS",
            number(revision.idle_timeout_seconds.unwrap_or(0)),
        ),
        ("SERVING_POD", Value::FieldRef("metadata.name")),
        ("SERVING_POD_IP", Value::FieldRef("status.podIP")),
        ("SERVING_LOGGING_CONFIG", text(&logging.zap_config)),
        (
            "SERVING_LOGGING_LEVEL",
            Value::Text(level.map(ToString::to_string).unwrap_or_default()),
        ),
        ("USER_PORT", number(i64::from(serving.user_port()))),
        ("SYSTEM_NAMESPACE", text(system_namespace)),
        (
            "SERVING_READINESS_PROBE",
            Value::Text(revision.readiness_probes(&serving, multi)?),
        ),
        ("HOST_IP", Value::FieldRef("status.hostIP")),
        (
            "ENABLE_HTTP2_AUTO_DETECTION",
            flag(features.auto_detect_http2 == Flag::Enabled),
        ),
        ("ENABLE_HTTP_FULL_DUPLEX", flag(revision.is_full_duplex())),
        ("ROOT_CA", text(&deployment.queue_sidecar_root_ca)),
        (
            "QUEUE_PROXY_TLS_MIN_VERSION",
            text(&deployment.queue_sidecar_tls_min_version),
        ),
        (
            "QUEUE_PROXY_TLS_MAX_VERSION",
            text(&deployment.queue_sidecar_tls_max_version),
        ),
        (
            "QUEUE_PROXY_TLS_CIPHER_SUITES",
            text(&deployment.queue_sidecar_tls_cipher_suites),
        ),
        (
            "QUEUE_PROXY_TLS_CURVE_PREFERENCES",
            text(&deployment.queue_sidecar_tls_curve_preferences),
        ),
        ("ENABLE_MULTI_CONTAINER_PROBES", flag(multi)),
        ("OBSERVABILITY_CONFIG", Value::Text(observability.to_json())),
    ])
}

/// `applyReadinessProbeDefaults`: what queue-proxy is to probe for a user's probe, at `port`.
pub fn complete_probe(probe: &Probe, port: i32) -> Probe {
    let mut probe = probe.clone();
    if let Some(http) = &mut probe.http_get {
        LOCAL_ADDRESS.clone_into(&mut http.host);
        http.port = probe_spec::Port::Number(port);
        if http.scheme.is_empty() {
            "HTTP".clone_into(&mut http.scheme);
        }
    } else if probe.tcp_socket.is_some() || probe.exec.is_some() {
        // A command stays with the container that has it; queue-proxy connects in its stead.
        if probe.tcp_socket.is_none() {
            probe.exec = None;
        }
        probe.tcp_socket = Some(TcpSocketAction {
            port: probe_spec::Port::Number(port),
            host: LOCAL_ADDRESS.to_owned(),
        });
    } else if let Some(grpc) = &mut probe.grpc {
        grpc.port = port;
    }
    if probe.period_seconds > 0 {
        probe.timeout_seconds = probe.timeout_seconds.max(1);
    }
    probe
}

/// The port a probe names by number; `None` when it leaves that to the container. A name counts
/// as no port, digits in quotes as port 0, as upstream has it.
fn explicit_port(probe: &Probe) -> Option<i32> {
    let of = |port: &probe_spec::Port| (port.value() != 0).then(|| port.number());
    let http = probe.http_get.as_ref().and_then(|http| of(&http.port));
    let tcp = probe.tcp_socket.as_ref().and_then(|tcp| of(&tcp.port));
    let grpc = probe.grpc.as_ref().map(|grpc| grpc.port);
    http.or(tcp).or(grpc.filter(|port| *port > 0))
}

// === impl Revision ===

impl Revision {
    /// `RevisionSpec.GetContainer`.
    fn serving_container(&self) -> Container {
        match self.containers.as_slice() {
            [only] => only.clone(),
            several => several
                .iter()
                .find(|container| !container.ports.is_empty())
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// `RevisionSpec.GetSidecarContainers`.
    fn sidecars(&self) -> impl Iterator<Item = &Container> {
        let several = self.containers.len() > 1;
        self.containers
            .iter()
            .filter(move |container| several && container.ports.is_empty())
    }

    fn is_full_duplex(&self) -> bool {
        self.annotations
            .get(FULL_DUPLEX_ANNOTATION)
            .is_some_and(|value| value.eq_ignore_ascii_case("enabled"))
    }

    /// One probe, or with `multi` a list of the serving container's and the sidecars'.
    fn readiness_probes(
        &self,
        serving: &Container,
        multi: bool,
    ) -> Result<String, MissingProbePort> {
        let own = serving.readiness_probe.as_ref();
        let own = own.map(|probe| {
            let port = explicit_port(probe).unwrap_or_else(|| serving.user_port());
            complete_probe(probe, port)
        });
        if !multi {
            return Ok(own.as_ref().map(probe_spec::encode).unwrap_or_default());
        }
        let mut probes = vec![own];
        for sidecar in self.sidecars() {
            let Some(probe) = &sidecar.readiness_probe else {
                continue;
            };
            match explicit_port(probe) {
                Some(port) => probes.push(Some(complete_probe(probe, port))),
                // A sidecar's command is left to its container.
                None if probe.exec.is_some() => {}
                None => {
                    return Err(MissingProbePort {
                        container: sidecar.name.clone(),
                    });
                }
            }
        }
        Ok(probe_spec::encode_list(&probes))
    }
}

// === impl Container ===

impl Container {
    /// `getUserPort`: where the app listens.
    fn user_port(&self) -> i32 {
        self.ports
            .first()
            .map(|port| port.container_port)
            .filter(|port| *port != 0)
            .unwrap_or(DEFAULT_USER_PORT)
    }

    /// Where queue-proxy listens, by the protocol that the app's port is named after.
    fn queue_port(&self) -> u16 {
        match self.ports.first() {
            Some(port) if port.name == H2C_PORT_NAME => BACKEND_HTTP2_PORT,
            _ => BACKEND_HTTP_PORT,
        }
    }
}

// === impl Value ===

/// A field reference is shown as `fieldRef:` and its path.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::FieldRef(path) => write!(f, "fieldRef:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe_spec::{ExecAction, GrpcAction, HttpGetAction, Port};

    fn read(revision: &Revision, features: &Features) -> BTreeMap<&'static str, String> {
        let installation = Installation {
            deployment: &Deployment::default(),
            features,
            logging: &Logging::default(),
            observability: &Observability::default(),
            system_namespace: "knative-serving",
        };
        let variables = environment(revision, &installation).unwrap();
        let count = variables.len();
        let map: BTreeMap<_, _> = variables
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect();
        assert_eq!(map.len(), count, "no variable is set twice");
        map
    }

    fn with_probe(probe: Probe) -> Revision {
        Revision {
            containers: vec![Container {
                readiness_probe: Some(probe),
                ..Container::default()
            }],
            ..Revision::default()
        }
    }

    #[test]
    fn a_bare_revision_gets_defaults() {
        let variables = read(&Revision::default(), &Features::default());
        for (name, value) in [
            ("USER_PORT", "8080"),
            ("QUEUE_SERVING_PORT", "8012"),
            ("CONTAINER_CONCURRENCY", "0"),
            ("SERVING_READINESS_PROBE", ""),
            ("SERVING_POD", "fieldRef:metadata.name"),
        ] {
            assert_eq!(variables[name], value, "{name}");
        }
    }

    #[test]
    fn a_port_named_h2c_moves_queue_proxy() {
        let revision = Revision {
            containers: vec![Container {
                ports: vec![ContainerPort {
                    name: H2C_PORT_NAME.to_owned(),
                    container_port: 9000,
                }],
                ..Container::default()
            }],
            ..Revision::default()
        };
        let variables = read(&revision, &Features::default());
        assert_eq!(variables["QUEUE_SERVING_PORT"], "8013");
        assert_eq!(variables["USER_PORT"], "9000");
    }

    #[test]
    fn an_exec_probe_becomes_a_connection() {
        let probe = Probe {
            exec: Some(ExecAction::default()),
            period_seconds: 2,
            ..Probe::default()
        };
        assert_eq!(
            read(&with_probe(probe), &Features::default())["SERVING_READINESS_PROBE"],
            r#"{"tcpSocket":{"port":8080,"host":"127.0.0.1"},"timeoutSeconds":1,"periodSeconds":2}"#
        );
    }

    #[test]
    fn a_list_holds_the_probes_of_sidecars_too() {
        let tcp = |port| Probe {
            tcp_socket: Some(TcpSocketAction {
                port: Port::Number(port),
                ..TcpSocketAction::default()
            }),
            ..Probe::default()
        };
        let sidecar = |probe| Container {
            name: "helper".to_owned(),
            readiness_probe: probe,
            ..Container::default()
        };
        let mut revision = with_probe(tcp(0));
        revision.containers[0].ports = vec![ContainerPort::default()];
        let grpc = Probe {
            grpc: Some(GrpcAction {
                port: 7,
                service: None,
            }),
            ..Probe::default()
        };
        let exec = Probe {
            exec: Some(ExecAction::default()),
            ..Probe::default()
        };
        let others = [None, Some(exec), Some(grpc)].map(sidecar);
        revision.containers.extend(others);
        let features = Features {
            multi_container_probing: Flag::Enabled,
            ..Features::default()
        };
        assert_eq!(
            read(&revision, &features)["SERVING_READINESS_PROBE"],
            r#"[{"tcpSocket":{"port":8080,"host":"127.0.0.1"}},{"grpc":{"port":7,"service":null}}]"#
        );
        revision.containers.push(sidecar(Some(tcp(0))));
        let installation = Installation {
            deployment: &Deployment::default(),
            features: &features,
            logging: &Logging::default(),
            observability: &Observability::default(),
            system_namespace: "",
        };
        let error = environment(&revision, &installation).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sidecar readiness probe does not define probe port on container: helper"
        );
    }

    #[test]
    fn the_users_host_and_named_port_are_not_handed_over() {
        let probe = Probe {
            http_get: Some(HttpGetAction {
                host: "elsewhere".to_owned(),
                port: Port::Name("web".to_owned()),
                scheme: "HTTPS".to_owned(),
                ..HttpGetAction::default()
            }),
            ..Probe::default()
        };
        assert_eq!(
            read(&with_probe(probe), &Features::default())["SERVING_READINESS_PROBE"],
            r#"{"httpGet":{"port":8080,"host":"127.0.0.1","scheme":"HTTPS"}}"#
        );
    }
}
