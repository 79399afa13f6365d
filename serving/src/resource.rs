//! What identifies a process in its metrics and traces: OpenTelemetry's resource, which goes with
//! every export and onto `target_info` of a scrape.
//!
//! Upstream: `knative.dev/pkg/observability/resource/resource.go`.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::trace::{Attribute, Value};

/// Tells a process from others.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// `OTEL_SERVICE_NAME`, by default the component's.
    pub service: &'a str,
    /// `service.version`.
    pub version: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
}

/// Adds `target_info`, which carries the attributes of the process: they are on no other series.
pub fn register_target(registry: &mut Registry, resource: &[Attribute]) {
    let label = |attribute: &Attribute| {
        let value = match &attribute.value {
            Value::String(text) => text.to_string(),
            Value::Integer(number) => number.to_string(),
        };
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let name = attribute.key.replace(|letter| !is_plain(letter), "_");
        (name, value)
    };
    let labels: Vec<(String, String)> = resource.iter().map(label).collect();
    registry.register("target", "Target metadata", Info::new(labels));
}

// === impl Identity ===

impl Identity<'_> {
    /// Its attributes.
    pub fn resource(&self) -> Vec<Attribute> {
        [
            ("k8s.namespace.name", self.namespace),
            ("k8s.pod.name", self.pod),
            ("service.instance.id", self.pod),
            ("service.name", self.service),
            ("service.version", self.version),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.name", "pilotlight"),
        ]
        .map(|(key, value)| Attribute::new(key, value.to_owned()))
        .into()
    }
}
