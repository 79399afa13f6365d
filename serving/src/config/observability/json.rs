//! The JSON form of [`Observability`], as Go's `encoding/json` writes and reads it.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Metrics, Observability, Runtime, Tracing};

/// `OBSERVABILITY_CONFIG` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJson {
    /// It is not JSON.
    #[error("the observability configuration is not JSON: {0}")]
    Syntax(serde_json::Error),
    /// Values have other types than they should.
    #[error("{}", joined(.problems))]
    Types {
        /// All of them, at least one.
        problems: Vec<Mismatch>,
        /// What the others say, for those who look for more problems.
        rest: Box<Observability>,
    },
}

/// A value of another type than it should have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{path} is {found}, not {expected}", if path.is_empty() { "the whole" } else { "" })]
pub struct Mismatch {
    /// Where, e.g. `tracing.samplingRate`; empty for the whole.
    pub path: String,
    /// What stands there.
    pub found: &'static str,
    /// What should.
    pub expected: &'static str,
}

fn joined(mismatches: &[Mismatch]) -> String {
    let all: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
    format!("observability configuration: {}", all.join(", "))
}

pub(super) fn to_json(config: &Observability) -> String {
    let text = serde_json::to_string(config).expect("strings, numbers and booleans always encode");
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // These can only stand inside strings.
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Go writes a whole number without a fraction.
pub(super) fn serialize_float<S: Serializer>(
    value: &f64,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "whole and within the exact range"
        )]
        let whole = *value as i64;
        whole.serialize(serializer)
    } else {
        value.serialize(serializer)
    }
}

pub(super) fn from_json(text: &str) -> Result<Observability, InvalidJson> {
    let value: Value = serde_json::from_str(text).map_err(InvalidJson::Syntax)?;
    let mut config = Observability::default();
    let mut problems = Vec::new();
    let mut root = Object::new(String::new(), &value, &mut problems);
    root.nested("tracing", |object| {
        read_tracing(object, &mut config.tracing)
    });
    root.nested("metrics", |object| {
        read_metrics(object, &mut config.metrics)
    });
    root.nested("runtime", |object| {
        read_runtime(object, &mut config.runtime)
    });
    root.nested("requestMetrics", |object| {
        read_metrics(object, &mut config.request_metrics);
    });
    root.boolean(
        "EnableVarLogCollection",
        &mut config.enable_var_log_collection,
    );
    root.string("LoggingURLTemplate", &mut config.logging_url_template);
    root.boolean("enableRequestLog", &mut config.enable_request_log);
    root.string("requestLogTemplate", &mut config.request_log_template);
    root.boolean(
        "enableProbeRequestLog",
        &mut config.enable_probe_request_log,
    );
    if problems.is_empty() {
        Ok(config)
    } else {
        let rest = Box::new(config);
        Err(InvalidJson::Types { problems, rest })
    }
}

fn read_tracing(object: &mut Object<'_>, into: &mut Tracing) {
    object.string("protocol", &mut into.protocol);
    object.string("endpoint", &mut into.endpoint);
    object.read("samplingRate", "a number", |value| {
        value.as_f64().map(|rate| into.sampling_rate = rate)
    });
}

fn read_metrics(object: &mut Object<'_>, into: &mut Metrics) {
    object.string("protocol", &mut into.protocol);
    object.string("endpoint", &mut into.endpoint);
    object.nanos("exportInterval", &mut into.export_interval_nanos);
}

fn read_runtime(object: &mut Object<'_>, into: &mut Runtime) {
    object.string("profiling", &mut into.profiling);
    object.nanos("exportInterval", &mut into.export_interval_nanos);
}

/// An object whose keys match in any case; none stands for `null`.
struct Object<'a> {
    path: String,
    entries: Option<&'a Map<String, Value>>,
    problems: &'a mut Vec<Mismatch>,
}

// === impl Object ===

impl<'a> Object<'a> {
    fn new(path: String, value: &'a Value, problems: &'a mut Vec<Mismatch>) -> Self {
        let entries = match value {
            Value::Null => None,
            Value::Object(entries) => Some(entries),
            other => {
                problems.push(mismatch(path.clone(), other, "an object"));
                None
            }
        };
        Self {
            path,
            entries,
            problems,
        }
    }

    /// The exact spelling is preferred.
    fn get(&self, key: &str) -> Option<&'a Value> {
        let entries = self.entries?;
        entries
            .get(key)
            .or_else(|| {
                entries
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(key))
                    .map(|(_, value)| value)
            })
            .filter(|value| !value.is_null())
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn read(
        &mut self,
        key: &str,
        expected: &'static str,
        take: impl FnOnce(&'a Value) -> Option<()>,
    ) {
        if let Some(value) = self.get(key)
            && take(value).is_none()
        {
            let problem = mismatch(self.path(key), value, expected);
            self.problems.push(problem);
        }
    }

    fn string(&mut self, key: &str, target: &mut String) {
        self.read(key, "a string", |value| {
            value.as_str().map(|text| text.clone_into(target))
        });
    }

    fn boolean(&mut self, key: &str, target: &mut bool) {
        self.read(key, "a boolean", |value| {
            value.as_bool().map(|truth| *target = truth)
        });
    }

    fn nanos(&mut self, key: &str, target: &mut i64) {
        self.read(key, "an integer", |value| {
            value.as_i64().map(|nanos| *target = nanos)
        });
    }

    fn nested(&mut self, key: &str, read: impl FnOnce(&mut Object<'_>)) {
        if let Some(value) = self.get(key) {
            let path = self.path(key);
            read(&mut Object::new(path, value, self.problems));
        }
    }
}

fn mismatch(path: String, found: &Value, expected: &'static str) -> Mismatch {
    Mismatch {
        path,
        found: match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(number) if number.is_f64() => "a fraction",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        },
        expected,
    }
}
