//! The containers of a revision template, read as the processes they will be.
//!
//! Rules as `ValidatePodSpec` in upstream's `pkg/apis/serving/k8s_validation.go`; what only a
//! cluster can do is warned about by name.

use std::collections::BTreeMap;

use serde_json::Value;
use serving::names::LOCAL_COMMAND_ANNOTATION;

use super::Machine;
use super::command::{expand, split_words};
use super::finding::Report;
use super::name::dns_1123_label;
use super::object::Object;
use super::probe::Probe;

/// Ports that a queue-proxy uses inside a pod.
const RESERVED_PORTS: [i64; 6] = [8012, 8013, 8022, 9090, 9091, 8008];

/// Variables that the platform sets.
pub const RESERVED_VARIABLES: [&str; 4] = ["PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"];

/// The app's port inside a pod when none is given.
const DEFAULT_PORT: u16 = 8080;

/// The first word of a command line that stands for this program itself, so that the samples need
/// no search path.
pub const OWN_NAME: &str = "pilotlight";

/// What the app speaks, from the name of its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
}

impl Protocol {
    /// The value of `spec.protocolType`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2c => "h2c",
        }
    }
}

/// The serving container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name; upstream's default is `user-container`.
    pub name: String,
    /// Program and arguments before `$(VAR)` is replaced.
    pub command: Vec<String>,
    /// Variables in order, before `$(VAR)` is replaced.
    pub env: Vec<(String, String)>,
    /// Where the process starts; `None` is the directory of this program.
    pub working_dir: Option<String>,
    /// The port of the manifest, which probes may repeat.
    pub container_port: u16,
    /// What the app speaks.
    pub protocol: Protocol,
    /// How readiness is found out.
    pub readiness: Probe,
}

// === impl Container ===

impl Container {
    /// A container made from a bare command line.
    pub fn from_command(command: Vec<String>) -> Self {
        Self {
            name: "user-container".into(),
            command,
            env: Vec::new(),
            working_dir: None,
            container_port: DEFAULT_PORT,
            protocol: Protocol::Http1,
            readiness: Probe::default(),
        }
    }

    /// The variables of one replica, `$(VAR)` replaced: the manifest's in order, then `platform`'s.
    pub fn environment(&self, platform: &[(String, String)]) -> Vec<(String, String)> {
        let mut known: Vec<(String, String)> = platform.to_vec();
        let mut own = Vec::with_capacity(self.env.len() + platform.len());
        for (name, value) in &self.env {
            let value = expand(value, |wanted| lookup(&known, wanted));
            known.push((name.clone(), value.clone()));
            own.push((name.clone(), value));
        }
        own.extend_from_slice(platform);
        own
    }

    /// The command line of one replica, `$(VAR)` replaced from its environment.
    pub fn command_line(&self, environment: &[(String, String)]) -> Vec<String> {
        self.command
            .iter()
            .map(|word| expand(word, |wanted| lookup(environment, wanted)))
            .collect()
    }
}

/// The last definition of a variable wins.
fn lookup<'v>(variables: &'v [(String, String)], wanted: &str) -> Option<&'v str> {
    variables
        .iter()
        .rev()
        .find(|(name, _)| name == wanted)
        .map(|(_, value)| value.as_str())
}

/// Reads `spec.template.spec.containers`. `local_command` is the annotation's text and where it
/// stands. `None` means that problems were reported.
pub(super) fn read_containers(
    items: Vec<(&Value, String)>,
    list_path: &str,
    local_command: Option<(&str, String)>,
    machine: &dyn Machine,
    report: &mut Report,
) -> Option<Container> {
    if items.is_empty() {
        report.problem(list_path, "missing field");
        return None;
    }
    let serving = serving_index(&items, list_path, report)?;
    check_names(&items, report);
    let mut container = None;
    for (index, (item, at)) in items.into_iter().enumerate() {
        let object = Object::new(item, at, report);
        if index == serving {
            container = read_serving(object, local_command.clone(), machine, report);
        } else {
            warn_sidecar(object, report);
        }
    }
    container
}

/// The one container with ports serves; with a single container it is that one.
fn serving_index(
    items: &[(&Value, String)],
    list_path: &str,
    report: &mut Report,
) -> Option<usize> {
    let ports = |value: &Value| {
        value
            .get("ports")
            .and_then(Value::as_array)
            .map_or(0, Vec::len)
    };
    let total: usize = items.iter().map(|(value, _)| ports(value)).sum();
    if total > 1 {
        report.problem(
            format!("{list_path}[*].ports"),
            "more than one container port is set; only a single port is allowed across all containers",
        );
    }
    if total == 0 && items.len() > 1 {
        report.problem(
            format!("{list_path}[*].ports"),
            "missing field; with several containers the one that serves must name its port",
        );
        return None;
    }
    if items.len() == 1 {
        return Some(0);
    }
    items.iter().position(|(value, _)| ports(value) > 0)
}

fn check_names(items: &[(&Value, String)], report: &mut Report) {
    let mut seen = BTreeMap::new();
    for (item, at) in items {
        let Some(name) = item.get("name").and_then(Value::as_str) else {
            continue;
        };
        if seen.insert(name, ()).is_some() {
            report.problem(
                format!("{at}.name"),
                format!("duplicate container name {name:?}"),
            );
        }
        if name == "queue-proxy" {
            report.problem(
                format!("{at}.name"),
                format!("{name:?} is a reserved container name"),
            );
        }
        if !name.is_empty()
            && let Err(rule) = dns_1123_label(name)
        {
            report.problem(format!("{at}.name"), rule);
        }
    }
}

fn warn_sidecar(mut object: Object<'_>, report: &mut Report) {
    let name = object.string("name", report).unwrap_or_default();
    report.warning(
        object.path(),
        format!("container {name:?} serves no port; sidecar containers are not run on one machine; ignored"),
    );
}

fn read_serving(
    mut object: Object<'_>,
    local_command: Option<(&str, String)>,
    machine: &dyn Machine,
    report: &mut Report,
) -> Option<Container> {
    let name = object
        .string("name", report)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "user-container".into());
    let (container_port, protocol, port_name) = read_port(&mut object, report);
    let env = read_env(&mut object, report);
    let working_dir = read_working_dir(&mut object, machine, report);
    let command = read_command(
        &mut object,
        local_command,
        working_dir.as_deref(),
        machine,
        report,
    );
    let probe = object.object("readinessProbe", report);
    let readiness = Probe::read(probe, container_port, &port_name, report);
    warn_cluster_fields(&mut object, report);
    object.finish(report);
    Some(Container {
        name,
        command: command?,
        env,
        working_dir,
        container_port,
        protocol,
        readiness,
    })
}

fn warn_cluster_fields(object: &mut Object<'_>, report: &mut Report) {
    for (field, why) in [
        ("livenessProbe", "only readiness is probed on one machine"),
        ("startupProbe", "only readiness is probed on one machine"),
        (
            "resources",
            "processes run without limits of their own on one machine",
        ),
        ("securityContext", "processes run as the current user"),
        ("volumeMounts", "volumes are not mounted on one machine"),
        (
            "envFrom",
            "config maps and secrets are not read on one machine",
        ),
        ("imagePullPolicy", "no image is pulled on one machine"),
        (
            "terminationMessagePath",
            "there are no termination messages on one machine",
        ),
        (
            "terminationMessagePolicy",
            "there are no termination messages on one machine",
        ),
    ] {
        object.not_honoured(field, why, report);
    }
    for field in ["lifecycle", "stdin", "stdinOnce", "tty", "volumeDevices"] {
        if object.value(field).is_some() {
            report.problem(object.at(field), "must not set the field");
        }
    }
}

fn read_port(object: &mut Object<'_>, report: &mut Report) -> (u16, Protocol, String) {
    let mut read = (DEFAULT_PORT, Protocol::Http1, String::new());
    for (item, at) in object.list("ports", report) {
        let mut port = Object::new(item, at, report);
        if let Some(number) = port.bounded("containerPort", 0, 65535, report) {
            if RESERVED_PORTS.contains(&number) {
                report.problem(
                    port.at("containerPort"),
                    format!("{number} is a reserved port, please use a different value"),
                );
            } else if number != 0 {
                read.0 = u16::try_from(number).unwrap_or(DEFAULT_PORT);
            }
        }
        let name = port.string("name", report).unwrap_or_default();
        match name.as_str() {
            "" | "http1" => {}
            "h2c" => read.1 = Protocol::H2c,
            other => report.problem(
                port.at("name"),
                format!(
                    "Port name {other} is not allowed; must be empty, or one of: 'h2c', 'http1'"
                ),
            ),
        }
        read.2 = name;
        if let Some(protocol) = port.string("protocol", report)
            && !matches!(protocol.as_str(), "" | "TCP")
        {
            report.problem(port.at("protocol"), format!("invalid value: {protocol}"));
        }
        for field in ["hostIP", "hostPort"] {
            if port.value(field).is_some() {
                report.problem(port.at(field), "must not set the field");
            }
        }
        port.finish(report);
    }
    read
}

fn read_env(object: &mut Object<'_>, report: &mut Report) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for (item, at) in object.list("env", report) {
        let mut variable = Object::new(item, at, report);
        let name = variable.string("name", report).unwrap_or_default();
        let from = variable.value("valueFrom").is_some();
        let value = variable.string("value", report);
        if name.is_empty() {
            report.problem(variable.at("name"), "missing field");
        } else if RESERVED_VARIABLES.contains(&name.as_str()) {
            report.problem(
                variable.at("name"),
                format!("{name:?} is a reserved environment variable"),
            );
        } else if name.contains(['=', '\0']) || value.as_ref().is_some_and(|v| v.contains('\0')) {
            report.problem(
                variable.path(),
                "a name must not hold '=', nor a name or value NUL",
            );
        } else if from {
            report.warning(
                variable.at("valueFrom"),
                format!("not read on one machine; {name} is passed on only when it is set where pilotlight was started"),
            );
        } else {
            env.push((name, value.unwrap_or_default()));
        }
        variable.finish(report);
    }
    env
}

fn read_working_dir(
    object: &mut Object<'_>,
    machine: &dyn Machine,
    report: &mut Report,
) -> Option<String> {
    let directory = object
        .string("workingDir", report)
        .filter(|directory| !directory.is_empty())?;
    if !machine.is_directory(&directory) {
        report.problem(
            object.at("workingDir"),
            format!("{directory} is no directory on this machine"),
        );
    }
    Some(directory)
}

fn read_command(
    object: &mut Object<'_>,
    local_command: Option<(&str, String)>,
    working_dir: Option<&str>,
    machine: &dyn Machine,
    report: &mut Report,
) -> Option<Vec<String>> {
    let image = object.string("image", report).unwrap_or_default();
    let command = object.strings("command", report).unwrap_or_default();
    let args = object.strings("args", report).unwrap_or_default();
    let (words, at) = if let Some((line, at)) = local_command {
        match split_words(line) {
            Ok(words) if !words.is_empty() => (words, at),
            Ok(_) => {
                report.problem(at, "names no command");
                return None;
            }
            Err(rule) => {
                report.problem(at, rule);
                return None;
            }
        }
    } else if command.is_empty() && !machine.starts_apps() {
        return Some(vec![OWN_NAME.to_owned()]);
    } else if command.is_empty() {
        report.problem(
            object.at("image"),
            format!("no command to run locally; add command: [...] or the annotation {LOCAL_COMMAND_ANNOTATION}"),
        );
        return None;
    } else {
        let at = object.at("command[0]");
        (command.into_iter().chain(args).collect(), at)
    };
    if image.is_empty() {
        report.warning(
            object.at("image"),
            "missing field; it runs here, but a cluster will reject it",
        );
    }
    if words.iter().any(|word| word.contains('\0')) {
        report.problem(at, "a command line must not hold NUL");
        return None;
    }
    let program = &words[0];
    if program != OWN_NAME && !program.contains("$(") && !machine.has_program(program, working_dir)
    {
        report.missing_command(
            at,
            format!("{program}: no such program on this machine; install it, or correct the path"),
        );
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_see_earlier_ones_and_the_platforms() {
        let mut container =
            Container::from_command(vec!["app".into(), "--port=$(PORT)".into(), "$(B)".into()]);
        container.env = vec![
            ("A".into(), "1".into()),
            ("B".into(), "$(A)-$(K_REVISION)-$(C)".into()),
            ("C".into(), "3".into()),
        ];
        let platform = [
            ("PORT".to_owned(), "31000".to_owned()),
            ("K_REVISION".to_owned(), "r".to_owned()),
        ];
        let environment = container.environment(&platform);
        assert_eq!(environment[1].1, "1-r-$(C)");
        assert_eq!(
            container.command_line(&environment),
            ["app", "--port=31000", "1-r-$(C)"]
        );
    }
}
