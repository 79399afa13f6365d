//! `config-logging`: log levels per component and the zap configuration.
//! Upstream: `knative.dev/pkg/logging/config.go`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::{Data, InvalidConfig, Reader};

/// The name of the ConfigMap.
pub const NAME: &str = "config-logging";

const ZAP_CONFIG_KEY: &str = "zap-logger-config";
const LEVEL_PREFIX: &str = "loglevel.";

/// A level of zap, the logger of the Go originals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `debug`
    Debug,
    /// `info`, the default.
    #[default]
    Info,
    /// `warn`
    Warn,
    /// `error`
    Error,
    /// `dpanic`
    Dpanic,
    /// `panic`
    Panic,
    /// `fatal`
    Fatal,
}

/// How components log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// `zap-logger-config` as it stands, JSON or empty. Nothing has looked at it yet.
    pub zap_config: String,
    /// `loglevel.<component>`.
    pub levels: BTreeMap<String, Level>,
}

// === impl Level ===

impl Level {
    /// Reads a level in any case; the empty text is info. Upstream: `zapcore.Level.UnmarshalText`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Self::Debug,
            "info" | "" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" => Self::Error,
            "dpanic" => Self::Dpanic,
            "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            _ => return None,
        })
    }

    /// The level of a zap configuration in JSON: info when the text or its `level` is missing,
    /// none when either cannot be read. Upstream: `zapConfigFromJSON`.
    pub fn of_zap_config(json: &str) -> Option<Self> {
        if json.is_empty() {
            return Some(Self::Info);
        }
        let config: Value = serde_json::from_str(json).ok()?;
        let level = config
            .as_object()?
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case("level"));
        match level {
            None | Some((_, Value::Null)) => Some(Self::Info),
            Some((_, Value::String(text))) => Self::parse(text),
            Some(_) => None,
        }
    }

    /// The name that zap prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Dpanic => "dpanic",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Logging ===

impl Logging {
    /// Parses the ConfigMap's data. Upstream: `NewConfigFromMap`.
    pub fn parse(data: &Data) -> Result<Self, InvalidConfig> {
        let mut reader = Reader::new(data);
        let mut levels = BTreeMap::new();
        for (key, value) in data {
            let Some(component) = key.strip_prefix(LEVEL_PREFIX) else {
                continue;
            };
            if component.is_empty() || value.is_empty() {
                continue;
            }
            match Level::parse(value) {
                Some(level) => {
                    levels.insert(component.to_owned(), level);
                }
                None => reader.problem(format!("invalid logging level: {value}")),
            }
        }
        reader.check()?;
        Ok(Self {
            zap_config: reader.raw(ZAP_CONFIG_KEY).unwrap_or_default().to_owned(),
            levels,
        })
    }

    /// The level of a component: its own, or else that of the zap configuration; none when that
    /// cannot be read, and then the component keeps the level it has.
    pub fn level(&self, component: &str) -> Option<Level> {
        match self.levels.get(component) {
            Some(level) => Some(*level),
            None => Level::of_zap_config(&self.zap_config),
        }
    }
}
