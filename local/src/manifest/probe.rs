//! Readiness probes: reading and validating them, and writing them the way the controller hands
//! them to a queue-proxy.
//!
//! Rules as `validateReadinessProbe` in upstream's `pkg/apis/serving/k8s_validation.go`.

use serde_json::Value;
use serving::probe_spec::{self, GrpcAction, HttpGetAction, HttpHeader, Port, TcpSocketAction};

use super::finding::Report;
use super::object::Object;

const MAX: i64 = i32::MAX as i64;

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// Connects.
    TcpSocket,
    /// `GET`s a path and expects 200 to 399.
    HttpGet {
        /// Path and query.
        path: String,
        /// `HTTP` or `HTTPS`.
        scheme: String,
        /// Further request headers in order.
        headers: Vec<(String, String)>,
    },
    /// Asks the gRPC health service.
    Grpc {
        /// The name to ask for; empty means the whole server.
        service: String,
    },
}

/// A readiness probe as queue-proxy runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it does.
    pub action: ProbeAction,
    /// A port of its own; `None` is the replica's `PORT`.
    pub port: Option<u16>,
    /// Zero asks for Knative's aggressive probing.
    pub period_seconds: i64,
    /// Zero only together with a zero period.
    pub timeout_seconds: i64,
    /// Successes in a row that make a replica ready.
    pub success_threshold: i64,
}

// === impl Probe ===

impl Default for Probe {
    /// The probe that Knative gives to a container without one.
    fn default() -> Self {
        Self {
            action: ProbeAction::TcpSocket,
            port: None,
            period_seconds: 0,
            timeout_seconds: 0,
            success_threshold: 1,
        }
    }
}

impl Probe {
    /// The probe as the controller finds it in a container. A port that is left open becomes the
    /// container's.
    pub fn to_spec(&self) -> probe_spec::Probe {
        let port = self.port.map_or(0, i32::from);
        // Kubernetes' own bound; the reader refuses more.
        let number = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
        let mut spec = probe_spec::Probe {
            timeout_seconds: number(self.timeout_seconds),
            period_seconds: number(self.period_seconds),
            success_threshold: number(self.success_threshold),
            ..probe_spec::Probe::default()
        };
        match &self.action {
            ProbeAction::TcpSocket => {
                spec.tcp_socket = Some(TcpSocketAction {
                    port: Port::Number(port),
                    host: String::new(),
                });
            }
            ProbeAction::HttpGet {
                path,
                scheme,
                headers,
            } => {
                let header = |(name, value): &(String, String)| HttpHeader {
                    name: name.clone(),
                    value: value.clone(),
                };
                spec.http_get = Some(HttpGetAction {
                    path: path.clone(),
                    port: Port::Number(port),
                    host: String::new(),
                    scheme: scheme.clone(),
                    http_headers: headers.iter().map(header).collect(),
                });
            }
            ProbeAction::Grpc { service } => {
                spec.grpc = Some(GrpcAction {
                    port,
                    service: Some(service.clone()),
                });
            }
        }
        spec
    }

    /// Reads `readinessProbe`; an absent one is the default. `serving_port` and its name are what a
    /// probe port may repeat.
    pub(super) fn read(
        mut object: Object<'_>,
        serving_port: u16,
        port_name: &str,
        report: &mut Report,
    ) -> Self {
        if object.is_absent() {
            return Self::default();
        }
        let actions: Vec<&'static str> = ["httpGet", "tcpSocket", "exec", "grpc"]
            .into_iter()
            .filter(|action| object.value(action).is_some())
            .collect();
        if actions.len() > 1 {
            report.problem(
                object.path(),
                format!("expected exactly one, got both: {}", actions.join(", ")),
            );
        }
        let ports = ServingPort {
            number: serving_port,
            name: port_name,
        };
        let (action, port) = match actions.first() {
            Some(&"httpGet") => http_get(object.object("httpGet", report), ports, report),
            Some(&"grpc") => grpc(object.object("grpc", report), ports, report),
            Some(&"exec") => {
                report.warning(
                    object.at("exec"),
                    "commands are not run as probes on one machine; a TCP connection to the app's port is used instead",
                );
                (ProbeAction::TcpSocket, None)
            }
            _ => {
                let mut tcp = object.object("tcpSocket", report);
                tcp.not_honoured("host", "probes go to 127.0.0.1", report);
                let port = probe_port(&mut tcp, ports, report);
                tcp.finish(report);
                (ProbeAction::TcpSocket, port)
            }
        };
        let probe = Self::thresholds(&mut object, action, port, report);
        object.finish(report);
        probe
    }

    fn thresholds(
        object: &mut Object<'_>,
        action: ProbeAction,
        port: Option<u16>,
        report: &mut Report,
    ) -> Self {
        let mut number = |field, lowest| object.bounded(field, lowest, MAX, report).unwrap_or(0);
        let period_seconds = number("periodSeconds", 0);
        let success_threshold = match number("successThreshold", 0) {
            0 => 1,
            threshold => threshold,
        };
        number("initialDelaySeconds", 0);
        number("terminationGracePeriodSeconds", 0);
        let failure_threshold = number("failureThreshold", 0);
        let mut timeout_seconds = number("timeoutSeconds", 0);
        if period_seconds == 0 {
            for (field, value) in [
                ("failureThreshold", failure_threshold),
                ("timeoutSeconds", timeout_seconds),
            ] {
                if value != 0 {
                    report.problem(
                        object.at(field),
                        format!("{field} is disallowed when periodSeconds is zero"),
                    );
                }
            }
            timeout_seconds = 0;
        } else {
            timeout_seconds = timeout_seconds.max(1);
        }
        Self {
            action,
            port,
            period_seconds,
            timeout_seconds,
            success_threshold,
        }
    }
}

/// The container's one port, which a probe may name by number or by name.
#[derive(Clone, Copy)]
struct ServingPort<'a> {
    number: u16,
    name: &'a str,
}

fn http_get(
    mut get: Object<'_>,
    serving: ServingPort<'_>,
    report: &mut Report,
) -> (ProbeAction, Option<u16>) {
    let path = get.string("path", report).unwrap_or_default();
    let scheme = get.string("scheme", report).unwrap_or_default();
    if !matches!(scheme.as_str(), "" | "HTTP" | "HTTPS") {
        report.problem(get.at("scheme"), format!("invalid value: {scheme}"));
    }
    get.not_honoured("host", "probes go to 127.0.0.1", report);
    let headers = get
        .list("httpHeaders", report)
        .into_iter()
        .filter_map(|(item, at)| {
            let mut header = Object::new(item, at, report);
            let name = header.string("name", report);
            let value = header.string("value", report).unwrap_or_default();
            if name.is_none() {
                report.problem(header.at("name"), "missing field");
            }
            header.finish(report);
            Some((name?, value))
        })
        .collect();
    let port = probe_port(&mut get, serving, report);
    get.finish(report);
    let action = ProbeAction::HttpGet {
        path: if path.is_empty() { "/".into() } else { path },
        scheme: if scheme.is_empty() {
            "HTTP".into()
        } else {
            scheme
        },
        headers,
    };
    (action, port)
}

fn grpc(
    mut grpc: Object<'_>,
    serving: ServingPort<'_>,
    report: &mut Report,
) -> (ProbeAction, Option<u16>) {
    let service = grpc.string("service", report).unwrap_or_default();
    let port = probe_port(&mut grpc, serving, report);
    grpc.finish(report);
    (ProbeAction::Grpc { service }, port)
}

/// A probe's port: absent, zero, or the container's own means the replica's `PORT`.
fn probe_port(
    object: &mut Object<'_>,
    serving: ServingPort<'_>,
    report: &mut Report,
) -> Option<u16> {
    let value = object.value("port")?;
    let at = object.at("port");
    let number = match value {
        Value::Number(_) => value.as_i64(),
        Value::String(text) if text.is_empty() || text == serving.name => return None,
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        report.problem(
            at,
            format!("invalid value: {value}: Probe port must match container port"),
        );
        return None;
    };
    let Ok(port) = u16::try_from(number) else {
        report.problem(at, format!("expected 0 <= {number} <= 65535"));
        return None;
    };
    if port == 0 || port == serving.number {
        return None;
    }
    report.warning(
        at,
        format!(
            "{port} is not the containerPort {}; every replica will be probed on {port} as written",
            serving.number
        ),
    );
    Some(port)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serving::sidecar_environment::complete_probe;

    use super::*;

    fn read(value: &Value) -> (Probe, Report) {
        let mut report = Report::default();
        let object = Object::new(value, "readinessProbe".into(), &mut report);
        let probe = Probe::read(object, 8080, "http1", &mut report);
        (probe, report)
    }

    fn written(probe: &Probe) -> Value {
        let port = probe.port.map_or(31_000, i32::from);
        let completed = complete_probe(&probe.to_spec(), port);
        serde_json::from_str(&probe_spec::encode(&completed)).expect("JSON")
    }

    #[test]
    fn the_default_probe_connects_to_the_replicas_port() {
        let (probe, report) = read(&Value::Null);
        assert!(report.problems.is_empty());
        assert_eq!(
            written(&probe),
            json!({"tcpSocket": {"port": 31_000, "host": "127.0.0.1"}, "successThreshold": 1})
        );
    }

    #[test]
    fn the_container_port_is_mapped_and_another_one_kept() {
        for port in [json!(8080), json!(0), json!("http1"), Value::Null] {
            let (probe, _) = read(&json!({"httpGet": {"path": "/up", "port": port}}));
            assert_eq!(written(&probe)["httpGet"]["port"], 31_000);
        }
        let (probe, report) = read(&json!({"tcpSocket": {"port": 9000}}));
        assert_eq!(written(&probe)["tcpSocket"]["port"], 9000);
        assert!(report.warnings[0].rule.contains("9000"));
    }

    #[test]
    fn kubernetes_defaults_apply_when_a_period_is_given() {
        let (probe, report) = read(&json!({
            "httpGet": {"path": "/", "httpHeaders": [{"name": "A", "value": "b"}]},
            "periodSeconds": 5
        }));
        assert!(report.problems.is_empty(), "{report:?}");
        let written = written(&probe);
        assert_eq!(written["timeoutSeconds"], 1);
        assert_eq!(written["periodSeconds"], 5);
        assert_eq!(written["httpGet"]["httpHeaders"][0]["name"], "A");
    }

    #[test]
    fn rules_of_the_webhook() {
        let (_, report) = read(&json!({
            "httpGet": {"port": "other"}, "tcpSocket": {}, "failureThreshold": 3,
            "timeoutSeconds": 2, "successThreshold": -1
        }));
        let found: Vec<_> = report
            .problems
            .iter()
            .map(|f| format!("{}: {}", f.path, f.rule))
            .collect();
        assert_eq!(
            found,
            [
                "readinessProbe: expected exactly one, got both: httpGet, tcpSocket",
                "readinessProbe.httpGet.port: invalid value: \"other\": Probe port must match container port",
                "readinessProbe.successThreshold: expected 0 <= -1 <= 2147483647",
                "readinessProbe.failureThreshold: failureThreshold is disallowed when periodSeconds is zero",
                "readinessProbe.timeoutSeconds: timeoutSeconds is disallowed when periodSeconds is zero",
            ]
        );
    }
}
