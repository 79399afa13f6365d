//! The `zap-logger-config` object, as far as it shapes what is written.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};

/// What one component's log looks like and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: LevelFilter,
    /// The first of `outputPaths` that we know.
    pub output: LogOutput,
    /// `encoding`.
    pub encoding: Encoding,
    /// `sampling`; `None` writes everything.
    pub sampling: Option<Sampling>,
    /// `encoderConfig.levelKey`; empty leaves the member out, as for all keys.
    pub level_key: String,
    /// `encoderConfig.timeKey`.
    pub time_key: String,
    /// `encoderConfig.nameKey`.
    pub name_key: String,
    /// `encoderConfig.callerKey`.
    pub caller_key: String,
    /// `encoderConfig.messageKey`.
    pub message_key: String,
    /// `encoderConfig.levelEncoder`.
    pub level_case: LevelCase,
    /// `encoderConfig.timeEncoder`.
    pub time_format: TimeFormat,
    /// `encoderConfig.callerEncoder`.
    pub caller: Caller,
    /// The configuration was unusable and these are the defaults.
    pub is_fallback: bool,
}

/// A standard stream, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// `stdout`.
    Stdout,
    /// `stderr`, the default.
    Stderr,
}

/// How a line is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// One object per line.
    Json,
    /// Columns for people.
    Console,
}

/// Of one message, how many lines per second are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// That many at first.
    pub initial: u64,
    /// Then every one of so many; zero for none.
    pub thereafter: u64,
}

/// How levels are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelCase {
    /// `WARNING`, `CRITICAL`: the default of Knative's components.
    Severity,
    /// `WARN`.
    Capital,
    /// `warn`.
    Lower,
}

/// How times are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 with nanoseconds, the default.
    Rfc3339Nano,
    /// RFC 3339 in seconds.
    Rfc3339,
    /// Milliseconds and a zone.
    Iso8601,
    /// Seconds since the epoch as a number.
    Epoch,
    /// Milliseconds since the epoch.
    EpochMillis,
    /// Nanoseconds since the epoch.
    EpochNanos,
}

/// How the place of a log statement is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The last folder, the file and the line.
    Short,
    /// The path and the line.
    Full,
}

/// Why a configuration object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse logging config: {0}")]
pub struct SettingsError(String);

// === impl LogSettings ===

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LevelFilter::INFO,
            output: LogOutput::Stderr,
            encoding: Encoding::Json,
            sampling: Some(Sampling {
                initial: 100,
                thereafter: 100,
            }),
            level_key: "severity".to_owned(),
            time_key: "timestamp".to_owned(),
            name_key: "logger".to_owned(),
            caller_key: "caller".to_owned(),
            message_key: "message".to_owned(),
            level_case: LevelCase::Severity,
            time_format: TimeFormat::Rfc3339Nano,
            caller: Caller::Short,
            is_fallback: false,
        }
    }
}

impl LogSettings {
    /// The settings of a configuration object and a level that overrides its own. An unusable
    /// object yields the defaults and the reason, an unusable level is ignored, both as upstream.
    pub fn read(config: &str, level: &str) -> (Self, Option<SettingsError>) {
        let (mut settings, error) = match Self::parse(config) {
            Ok(settings) => (settings, None),
            Err(error) => {
                let fallback = Self {
                    is_fallback: true,
                    ..Self::default()
                };
                (fallback, Some(error))
            }
        };
        if !level.is_empty()
            && let Some(level) = parse_level(level)
        {
            settings.level = level;
        }
        (settings, error)
    }

    fn parse(config: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        if config.is_empty() {
            return Ok(settings);
        }
        let object: Map<String, Value> =
            serde_json::from_str(config).map_err(|error| SettingsError(error.to_string()))?;
        if let Some(level) = text(&object, "level")? {
            settings.level = parse_level(level)
                .ok_or_else(|| SettingsError(format!("unrecognized level: {level:?}")))?;
        }
        match text(&object, "encoding")? {
            None | Some("json") => {}
            Some("console") => settings.encoding = Encoding::Console,
            Some(other) => return Err(SettingsError(format!("no encoder named {other:?}"))),
        }
        settings.read_outputs(&object)?;
        settings.read_sampling(&object)?;
        match object.get("encoderConfig") {
            None | Some(Value::Null) => {}
            Some(Value::Object(encoder)) => settings.read_encoder(encoder)?,
            Some(_) => return Err(SettingsError("encoderConfig must be an object".to_owned())),
        }
        Ok(settings)
    }

    fn read_outputs(&mut self, object: &Map<String, Value>) -> Result<(), SettingsError> {
        let paths = match object.get("outputPaths") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(paths)) => paths,
            Some(_) => return Err(SettingsError("outputPaths must be a list".to_owned())),
        };
        let known = paths.iter().find_map(|path| match path.as_str() {
            Some("stdout") => Some(LogOutput::Stdout),
            Some("stderr") => Some(LogOutput::Stderr),
            _ => None,
        });
        // A file has no place in a container with a read-only root.
        self.output = known.unwrap_or(LogOutput::Stderr);
        Ok(())
    }

    fn read_sampling(&mut self, object: &Map<String, Value>) -> Result<(), SettingsError> {
        match object.get("sampling") {
            None => {}
            Some(Value::Null) => self.sampling = None,
            Some(Value::Object(rule)) => {
                let number =
                    |key: &str, default| rule.get(key).and_then(Value::as_u64).unwrap_or(default);
                let default = Self::default()
                    .sampling
                    .map_or((0, 0), |s| (s.initial, s.thereafter));
                self.sampling = Some(Sampling {
                    initial: number("initial", default.0),
                    thereafter: number("thereafter", default.1),
                });
            }
            Some(_) => return Err(SettingsError("sampling must be an object".to_owned())),
        }
        Ok(())
    }

    fn read_encoder(&mut self, encoder: &Map<String, Value>) -> Result<(), SettingsError> {
        for (name, key) in [
            ("levelKey", &mut self.level_key),
            ("timeKey", &mut self.time_key),
            ("nameKey", &mut self.name_key),
            ("callerKey", &mut self.caller_key),
            ("messageKey", &mut self.message_key),
        ] {
            if let Some(text) = text(encoder, name)? {
                text.clone_into(key);
            }
        }
        // A name that zap does not know, the empty one included, means its own default, which is
        // not the component's.
        if let Some(name) = text(encoder, "levelEncoder")? {
            self.level_case = match name {
                "capital" | "capitalColor" => LevelCase::Capital,
                _ => LevelCase::Lower,
            };
        }
        if let Some(name) = text(encoder, "timeEncoder")? {
            self.time_format = match name {
                "rfc3339nano" | "RFC3339Nano" => TimeFormat::Rfc3339Nano,
                "rfc3339" | "RFC3339" => TimeFormat::Rfc3339,
                "iso8601" | "ISO8601" => TimeFormat::Iso8601,
                "millis" => TimeFormat::EpochMillis,
                "nanos" => TimeFormat::EpochNanos,
                _ => TimeFormat::Epoch,
            };
        }
        if let Some(name) = text(encoder, "callerEncoder")? {
            self.caller = if name == "full" {
                Caller::Full
            } else {
                Caller::Short
            };
        }
        Ok(())
    }
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> Result<Option<&'v str>, SettingsError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(SettingsError(format!("{key} must be a string"))),
    }
}

/// zap's level names; the three above error are all errors here.
fn parse_level(name: &str) -> Option<LevelFilter> {
    match name.to_ascii_lowercase().as_str() {
        "debug" => Some(LevelFilter::DEBUG),
        "" | "info" => Some(LevelFilter::INFO),
        "warn" | "warning" => Some(LevelFilter::WARN),
        "error" | "dpanic" | "panic" | "fatal" => Some(LevelFilter::ERROR),
        _ => None,
    }
}

// === impl LevelCase ===

impl LevelCase {
    pub(super) fn name(self, level: &Level) -> &'static str {
        let names = match self {
            Self::Severity => ["ERROR", "WARNING", "INFO", "DEBUG"],
            Self::Capital => ["ERROR", "WARN", "INFO", "DEBUG"],
            Self::Lower => ["error", "warn", "info", "debug"],
        };
        match *level {
            Level::ERROR => names[0],
            Level::WARN => names[1],
            Level::INFO => names[2],
            Level::DEBUG | Level::TRACE => names[3],
        }
    }
}

// === impl TimeFormat ===

impl TimeFormat {
    /// The time as a JSON value.
    pub(super) fn json(self, now: Timestamp) -> String {
        match self {
            Self::Epoch | Self::EpochMillis | Self::EpochNanos => self.text(now),
            _ => format!("\"{}\"", self.text(now)),
        }
    }

    pub(super) fn text(self, now: Timestamp) -> String {
        match self {
            Self::Rfc3339Nano => now.to_string(),
            Self::Rfc3339 => now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            Self::Iso8601 => now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            Self::Epoch => format!("{}.{:09}", now.as_second(), now.subsec_nanosecond()),
            Self::EpochMillis => now.as_millisecond().to_string(),
            Self::EpochNanos => now.as_nanosecond().to_string(),
        }
    }
}

// === impl Caller ===

impl Caller {
    pub(super) fn of(self, metadata: &Metadata<'_>) -> Option<String> {
        let file = metadata.file()?;
        let file: Cow<'_, str> = match self {
            Self::Full => file.into(),
            Self::Short => {
                let mut parts = file.rsplitn(3, '/');
                match (parts.next(), parts.next()) {
                    (Some(name), Some(folder)) => format!("{folder}/{name}").into(),
                    _ => file.into(),
                }
            }
        };
        Some(format!("{file}:{}", metadata.line().unwrap_or(0)))
    }
}
