//! One `serving.knative.dev/v1` Service document: reading, defaulting and validating it.
//!
//! Rules as upstream's webhook: `pkg/apis/serving/v1/{service,revision,route}_validation.go`,
//! `pkg/apis/serving/metadata_validation.go`, defaults as `revision_defaults.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serving::names::LOCAL_COMMAND_ANNOTATION;

use super::container::{Container, read_containers};
use super::finding::Report;
use super::name::dns_1035_label;
use super::object::{Object, entry, join};
use super::settings::{Defaults, Settings};
use super::{Machine, annotations};

/// The namespace of a Service that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One version of a Service, as its document describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDocument {
    /// Where it was read, for messages about it.
    pub file: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// What the next revision is made of.
    pub template: Template,
    /// `spec.traffic`; never empty.
    pub traffic: Vec<TrafficTarget>,
}

/// A revision template with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `spec.template.metadata.name`, when the revision brings its own.
    pub name: Option<String>,
    /// Annotations of the template, without [`LOCAL_COMMAND_ANNOTATION`].
    pub annotations: BTreeMap<String, String>,
    /// Labels of the template.
    pub labels: BTreeMap<String, String>,
    /// Requests at once per replica; zero is without limit.
    pub container_concurrency: u32,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `responseStartTimeoutSeconds`; zero is off.
    pub response_start_timeout: Duration,
    /// `idleTimeoutSeconds`; zero is off.
    pub idle_timeout: Duration,
    /// The process.
    pub container: Container,
}

/// One entry of `spec.traffic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficTarget {
    /// A revision by name; `None` follows the latest ready one.
    pub revision_name: Option<String>,
    /// Share of the requests.
    pub percent: u32,
    /// A host of its own.
    pub tag: Option<String>,
    /// Where the entry stands, for messages about it.
    pub path: String,
}

impl TrafficTarget {
    /// Everything to the latest ready revision: what a Service without `traffic` means.
    pub fn latest() -> Self {
        Self {
            revision_name: None,
            percent: 100,
            tag: None,
            path: "spec.traffic".into(),
        }
    }
}

// === impl Template ===

impl Template {
    /// A template made from a bare command line, defaults as for a manifest.
    pub fn from_command(
        command: Vec<String>,
        annotations: BTreeMap<String, String>,
        defaults: &Defaults,
    ) -> Self {
        Self {
            name: None,
            annotations,
            labels: BTreeMap::new(),
            container_concurrency: u32::try_from(defaults.container_concurrency).unwrap_or(0),
            timeout: seconds(defaults.timeout_seconds),
            response_start_timeout: seconds(default_below(
                defaults.response_start_timeout_seconds,
                defaults.timeout_seconds,
            )),
            idle_timeout: seconds(default_below(
                defaults.idle_timeout_seconds,
                defaults.timeout_seconds,
            )),
            container: Container::from_command(command),
        }
    }
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

/// A timeout default applies only when it is shorter than the revision's total.
const fn default_below(default: i64, total: i64) -> i64 {
    if default < total { default } else { 0 }
}

/// Reads a Service document. `None` means that problems were reported.
pub(super) fn read_service(
    mut object: Object<'_>,
    file: &str,
    settings: &Settings,
    machine: &dyn Machine,
    report: &mut Report,
) -> Option<ServiceDocument> {
    let before = report.problems.len();
    object.value("apiVersion");
    object.value("kind");
    object.value("status");
    let metadata = read_metadata(object.object("metadata", report), report);
    let mut spec = object.object("spec", report);
    let template = read_template(
        spec.object("template", report),
        &metadata,
        settings,
        machine,
        report,
    );
    let traffic = read_traffic(&mut spec, report);
    spec.finish(report);
    object.finish(report);
    if report.problems.len() > before {
        return None;
    }
    Some(ServiceDocument {
        file: file.to_owned(),
        namespace: metadata.namespace,
        name: metadata.name,
        template: template?,
        traffic,
    })
}

struct Metadata {
    namespace: String,
    name: String,
    local_command: Option<(String, String)>,
}

fn read_metadata(mut metadata: Object<'_>, report: &mut Report) -> Metadata {
    let name = metadata.string("name", report).unwrap_or_default();
    if metadata.value("generateName").is_some() {
        report.problem(
            metadata.at("generateName"),
            "a Service needs a name of its own here",
        );
    } else if name.is_empty() {
        report.problem(metadata.at("name"), "missing field");
    } else if let Err(rule) = dns_1035_label(&name) {
        report.problem(metadata.at("name"), rule);
    }
    let namespace = metadata
        .string("namespace", report)
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    if let Err(rule) = super::name::dns_1123_label(&namespace) {
        report.problem(metadata.at("namespace"), rule);
    }
    let at = metadata.at("annotations");
    let mut annotations = metadata.string_map("annotations", report);
    let local_command = annotations
        .remove(LOCAL_COMMAND_ANNOTATION)
        .map(|line| (line, entry(&at, LOCAL_COMMAND_ANNOTATION)));
    for key in annotations.keys() {
        if key.starts_with("autoscaling.knative.dev") {
            report.problem(
                entry(&at, key),
                "invalid key name: autoscaling annotations must be put under \"spec.template.metadata.annotations\" to work",
            );
        } else if key == "serving.knative.dev/rollout-duration" {
            report.warning(entry(&at, key), "traffic moves at once here; ignored");
        } else {
            annotations::warn_unhonoured(key, &entry(&at, key), report);
        }
    }
    let labels_at = metadata.at("labels");
    let labels = metadata.string_map("labels", report);
    if labels.contains_key("networking.knative.dev/visibility") {
        report.warning(
            entry(&labels_at, "networking.knative.dev/visibility"),
            "everything listens on this machine only; ignored",
        );
    }
    // Fields that an API server fills in and `kubectl get -o yaml` prints carry no wish.
    for field in [
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "uid",
        "managedFields",
        "finalizers",
        "ownerReferences",
        "selfLink",
    ] {
        metadata.value(field);
    }
    metadata.finish(report);
    Metadata {
        namespace,
        name,
        local_command,
    }
}

fn read_template(
    mut template: Object<'_>,
    service: &Metadata,
    settings: &Settings,
    machine: &dyn Machine,
    report: &mut Report,
) -> Option<Template> {
    let mut metadata = template.object("metadata", report);
    let name = read_revision_name(&mut metadata, &service.name, report);
    let at = metadata.at("annotations");
    let mut annotations = metadata.string_map("annotations", report);
    let local_command = annotations
        .remove(LOCAL_COMMAND_ANNOTATION)
        .map(|line| (line, entry(&at, LOCAL_COMMAND_ANNOTATION)))
        .or_else(|| service.local_command.clone());
    annotations::check(&annotations, &at, &settings.autoscaler, report);
    let labels = metadata.string_map("labels", report);
    metadata.value("creationTimestamp");
    metadata.finish(report);

    let mut spec = template.object("spec", report);
    let limits = read_limits(&mut spec, &settings.defaults, report);
    let containers = spec.list("containers", report);
    let containers_at = spec.at("containers");
    let container = read_containers(
        containers,
        &containers_at,
        local_command
            .as_ref()
            .map(|(line, at)| (line.as_str(), at.clone())),
        machine,
        report,
    );
    warn_pod_fields(&mut spec, report);
    spec.finish(report);
    template.finish(report);
    Some(Template {
        name,
        annotations,
        labels,
        container_concurrency: limits.container_concurrency,
        timeout: limits.timeout,
        response_start_timeout: limits.response_start_timeout,
        idle_timeout: limits.idle_timeout,
        container: container?,
    })
}

fn read_revision_name(
    metadata: &mut Object<'_>,
    service: &str,
    report: &mut Report,
) -> Option<String> {
    metadata.value("generateName");
    let name = metadata
        .string("name", report)
        .filter(|name| !name.is_empty())?;
    if let Err(rule) = dns_1035_label(&name) {
        report.problem(metadata.at("name"), rule);
    } else if !service.is_empty() && !name.starts_with(&format!("{service}-")) {
        report.problem(
            metadata.at("name"),
            format!("invalid value: {name:?} must have prefix \"{service}-\""),
        );
    }
    Some(name)
}

struct Limits {
    container_concurrency: u32,
    timeout: Duration,
    response_start_timeout: Duration,
    idle_timeout: Duration,
}

fn read_limits(spec: &mut Object<'_>, defaults: &Defaults, report: &mut Report) -> Limits {
    let lowest = i64::from(!defaults.allow_container_concurrency_zero);
    let concurrency = spec
        .bounded(
            "containerConcurrency",
            lowest,
            defaults.max_container_concurrency,
            report,
        )
        .unwrap_or(defaults.container_concurrency);
    let max = defaults.max_timeout_seconds;
    let timeout = match spec.bounded("timeoutSeconds", 0, max, report) {
        None | Some(0) => defaults.timeout_seconds,
        Some(given) => given,
    };
    let response_start = spec
        .bounded("responseStartTimeoutSeconds", 0, max, report)
        .unwrap_or_else(|| default_below(defaults.response_start_timeout_seconds, timeout));
    let idle = spec
        .bounded("idleTimeoutSeconds", 0, max, report)
        .unwrap_or_else(|| default_below(defaults.idle_timeout_seconds, timeout));
    Limits {
        container_concurrency: u32::try_from(concurrency).unwrap_or(0),
        timeout: seconds(timeout),
        response_start_timeout: seconds(response_start),
        idle_timeout: seconds(idle),
    }
}

fn warn_pod_fields(spec: &mut Object<'_>, report: &mut Report) {
    for (field, why) in [
        ("volumes", "volumes are not mounted on one machine"),
        (
            "initContainers",
            "init containers are not run on one machine",
        ),
        (
            "serviceAccountName",
            "there are no service accounts on one machine",
        ),
        (
            "automountServiceAccountToken",
            "there are no service accounts on one machine",
        ),
        ("imagePullSecrets", "no image is pulled on one machine"),
        ("securityContext", "processes run as the current user"),
        ("affinity", "there is only one machine"),
        ("nodeSelector", "there is only one machine"),
        ("tolerations", "there is only one machine"),
        ("topologySpreadConstraints", "there is only one machine"),
        ("runtimeClassName", "processes are started directly"),
        ("priorityClassName", "there is no scheduler on one machine"),
        ("schedulerName", "there is no scheduler on one machine"),
        ("hostAliases", "names are resolved by this machine"),
        ("dnsPolicy", "names are resolved by this machine"),
        ("dnsConfig", "names are resolved by this machine"),
        ("enableServiceLinks", "there are no service variables"),
        ("shareProcessNamespace", "processes are started directly"),
        ("hostIPC", "processes are started directly"),
        ("hostPID", "processes are started directly"),
        ("hostNetwork", "processes are started directly"),
    ] {
        spec.not_honoured(field, why, report);
    }
}

fn read_traffic(spec: &mut Object<'_>, report: &mut Report) -> Vec<TrafficTarget> {
    let at = spec.at("traffic");
    let items = spec.list("traffic", report);
    if items.is_empty() {
        return vec![TrafficTarget::latest()];
    }
    let mut tags: BTreeMap<String, String> = BTreeMap::new();
    let mut sum: i64 = 0;
    let mut targets = Vec::with_capacity(items.len());
    for (item, item_at) in items {
        let target = read_target(Object::new(item, item_at, report), &mut sum, report);
        if let Some(tag) = &target.tag
            && let Some(earlier) = tags.insert(tag.clone(), target.path.clone())
        {
            report.problem(
                join(&target.path, "tag"),
                format!("Multiple definitions for {tag:?}, the other is {earlier}"),
            );
        }
        targets.push(target);
    }
    if sum != 100 {
        report.problem(at, format!("Traffic targets sum to {sum}, want 100"));
    }
    targets
}

fn read_target(mut target: Object<'_>, sum: &mut i64, report: &mut Report) -> TrafficTarget {
    let revision_name = target
        .string("revisionName", report)
        .filter(|name| !name.is_empty());
    let latest = target.boolean("latestRevision", report);
    if let Some(latest) = latest
        && latest == revision_name.is_some()
    {
        report.problem(
            target.at("latestRevision"),
            format!(
                "may not set revisionName {:?} when latestRevision is {latest}",
                revision_name.as_deref().unwrap_or_default()
            ),
        );
    }
    let percent = target.integer("percent", report).unwrap_or(0);
    *sum = sum.saturating_add(percent);
    if !(0..=100).contains(&percent) {
        report.problem(
            target.at("percent"),
            format!("expected 0 <= {percent} <= 100"),
        );
    }
    let tag = target.string("tag", report).filter(|tag| !tag.is_empty());
    if let Some(tag) = &tag
        && let Err(rule) = dns_1035_label(tag)
    {
        report.problem(target.at("tag"), rule);
    }
    for field in ["configurationName", "url"] {
        if target.value(field).is_some() {
            report.problem(target.at(field), "must not set the field");
        }
    }
    let path = target.path().to_owned();
    target.finish(report);
    TrafficTarget {
        revision_name,
        percent: u32::try_from(percent.clamp(0, 100)).unwrap_or(0),
        tag,
        path,
    }
}

/// Whether a document is a Knative Service.
pub(super) fn is_service(document: &Value) -> bool {
    document.get("apiVersion").and_then(Value::as_str) == Some("serving.knative.dev/v1")
        && document.get("kind").and_then(Value::as_str) == Some("Service")
}
