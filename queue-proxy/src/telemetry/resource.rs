//! The attributes of the process, which go with every export and onto `target_info`.

use serving::otlp::percent_decode;
use serving::trace::Attribute;

use crate::config::{Config, Identity};

/// Attributes that `OTEL_RESOURCE_ATTRIBUTES` may add.
const MAX_ADDED: usize = 64;

/// What identifies this sidecar; what the environment adds does not replace any of it.
pub(crate) fn resource(config: &Config) -> Vec<Attribute> {
    let identity = &config.identity;
    let pod = identity.telemetry_pod.as_str();
    let mut attributes: Vec<Attribute> = [
        ("container.name", "queue-proxy"),
        ("k8s.namespace.name", &identity.namespace),
        ("k8s.pod.name", pod),
        ("kn.configuration.name", &identity.configuration),
        ("kn.revision.name", &identity.revision),
        ("kn.service.name", &identity.service),
        ("service.instance.id", pod),
        ("service.name", service_name(identity)),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", "pilotlight"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| Attribute::new(key, value.to_owned()))
    .collect();
    let added = config.telemetry.resource_attributes.split(',');
    for (key, value) in added
        .take(MAX_ADDED)
        .filter_map(|pair| pair.split_once('='))
    {
        let key = key.trim();
        if !key.is_empty() && attributes.iter().all(|attribute| attribute.key != key) {
            let value = percent_decode(value.trim().as_bytes());
            let value = String::from_utf8_lossy(&value).into_owned();
            attributes.push(Attribute::new(key.to_owned(), value));
        }
    }
    attributes
}

fn service_name(identity: &Identity) -> &str {
    [
        &identity.otel_service_name,
        &identity.service,
        &identity.configuration,
        &identity.revision,
        &identity.telemetry_pod,
    ]
    .into_iter()
    .find(|name| !name.is_empty())
    .map_or("", String::as_str)
}
