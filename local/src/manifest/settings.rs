//! The cluster's own settings, given as the YAML of their ConfigMaps.
//!
//! Honoured: all of `config-autoscaler`, the time and concurrency keys of `config-defaults`, and
//! tag header routing of `config-features`. Other maps and keys are named in warnings.

use std::collections::BTreeMap;

use serde_json::Value;
use serving::config::{Autoscaler, Features, features};

use super::finding::Report;
use super::object::{Object, entry};

/// What `config-defaults` sets for revisions, with upstream's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `revision-timeout-seconds`.
    pub timeout_seconds: i64,
    /// `max-revision-timeout-seconds`.
    pub max_timeout_seconds: i64,
    /// `revision-response-start-timeout-seconds`.
    pub response_start_timeout_seconds: i64,
    /// `revision-idle-timeout-seconds`.
    pub idle_timeout_seconds: i64,
    /// `container-concurrency`.
    pub container_concurrency: i64,
    /// `container-concurrency-max-limit`.
    pub max_container_concurrency: i64,
    /// `allow-container-concurrency-zero`.
    pub allow_container_concurrency_zero: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout_seconds: 300,
            max_timeout_seconds: 600,
            response_start_timeout_seconds: 300,
            idle_timeout_seconds: 0,
            container_concurrency: 0,
            max_container_concurrency: 1000,
            allow_container_concurrency_zero: true,
        }
    }
}

/// Everything that ConfigMaps said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `config-autoscaler`.
    pub autoscaler: Autoscaler,
    /// The data that `autoscaler` was parsed from.
    pub autoscaler_data: BTreeMap<String, String>,
    /// `config-defaults`.
    pub defaults: Defaults,
    /// `tag-header-based-routing: enabled` in `config-features`.
    pub tag_header_based_routing: bool,
}

// === impl Settings ===

impl Settings {
    /// Reads one ConfigMap document into these settings; of several maps of one name the last one
    /// holds.
    pub(super) fn read(&mut self, mut object: Object<'_>, report: &mut Report) {
        let mut metadata = object.object("metadata", report);
        let name = metadata.string("name", report).unwrap_or_default();
        if !matches!(
            name.as_str(),
            "config-autoscaler" | "config-defaults" | "config-features"
        ) {
            report.warning(
                "",
                format!("ConfigMap {name:?} is not read on one machine; ignored"),
            );
            return;
        }
        let at = object.at("data");
        let mut data = object.string_map("data", report);
        data.remove("_example");
        match name.as_str() {
            "config-autoscaler" => match Autoscaler::parse(&data) {
                Ok(parsed) => {
                    self.autoscaler = parsed;
                    self.autoscaler_data = data;
                }
                Err(invalid) => {
                    for problem in invalid.problems() {
                        report.problem(at.as_str(), problem);
                    }
                }
            },
            "config-defaults" => self.read_defaults(&data, &at, report),
            _ => self.read_features(&data, &at, report),
        }
    }

    fn read_defaults(&mut self, data: &BTreeMap<String, String>, at: &str, report: &mut Report) {
        for (key, value) in data {
            let defaults = &mut self.defaults;
            let target = match key.as_str() {
                "revision-timeout-seconds" => &mut defaults.timeout_seconds,
                "max-revision-timeout-seconds" => &mut defaults.max_timeout_seconds,
                "revision-response-start-timeout-seconds" => {
                    &mut defaults.response_start_timeout_seconds
                }
                "revision-idle-timeout-seconds" => &mut defaults.idle_timeout_seconds,
                "container-concurrency" => &mut defaults.container_concurrency,
                "container-concurrency-max-limit" => &mut defaults.max_container_concurrency,
                "allow-container-concurrency-zero" => {
                    defaults.allow_container_concurrency_zero = value.eq_ignore_ascii_case("true");
                    continue;
                }
                _ => {
                    report.warning(entry(at, key), "not honoured on one machine; ignored");
                    continue;
                }
            };
            match value.trim().parse() {
                Ok(number) if number >= 0 => *target = number,
                _ => report.problem(
                    entry(at, key),
                    format!("invalid value: {value}: must be a whole number, zero or more"),
                ),
            }
        }
        let defaults = self.defaults;
        if defaults.timeout_seconds > defaults.max_timeout_seconds {
            report.problem(
                entry(at, "revision-timeout-seconds"),
                format!(
                    "revision-timeout-seconds ({}) cannot be greater than max-revision-timeout-seconds ({})",
                    defaults.timeout_seconds, defaults.max_timeout_seconds
                ),
            );
        }
    }

    fn read_features(&mut self, data: &BTreeMap<String, String>, at: &str, report: &mut Report) {
        let parsed = Features::parse(data);
        self.tag_header_based_routing = parsed.tag_header_based_routing == features::Flag::Enabled;
        for key in data.keys().filter(|key| *key != "tag-header-based-routing") {
            report.warning(entry(at, key), "not honoured on one machine; ignored");
        }
    }
}

/// Whether a document is a ConfigMap.
pub(super) fn is_config_map(document: &Value) -> bool {
    document.get("apiVersion").and_then(Value::as_str) == Some("v1")
        && document.get("kind").and_then(Value::as_str) == Some("ConfigMap")
}
