//! A reader of one mapping of a document that knows where it is, reports wrong types, and at the
//! end names the fields nobody asked for.
//!
//! Driven by the readers beside this module. Knows no Knative.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::finding::Report;

/// One mapping and its place in the document.
#[derive(Debug)]
pub(super) struct Object<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
    known: Vec<&'static str>,
}

/// Joins a path and a field name.
pub(super) fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// The path of an entry whose key may hold dots.
pub(super) fn entry(path: &str, key: &str) -> String {
    format!("{path}[{key}]")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn string(value: &Value, path: &str, report: &mut Report) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => {
            report.problem(path, format!("must be a string; write it as \"{value}\""));
            None
        }
        other => {
            report.problem(path, format!("must be a string, not {}", kind(other)));
            None
        }
    }
}

impl<'a> Object<'a> {
    /// The document itself, or any value that must be a mapping.
    pub(super) fn new(value: &'a Value, path: String, report: &mut Report) -> Self {
        let map = match value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            other => {
                report.problem(&path, format!("must be a mapping, not {}", kind(other)));
                None
            }
        };
        Self {
            map,
            path,
            known: Vec::new(),
        }
    }

    /// Where this mapping is.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where a field of it is.
    pub(super) fn at(&self, field: &str) -> String {
        join(&self.path, field)
    }

    /// The value of a field; `null` counts as absent, as in Kubernetes.
    pub(super) fn value(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.push(field);
        self.map?.get(field).filter(|value| !value.is_null())
    }

    /// A text field.
    pub(super) fn string(&mut self, field: &'static str, report: &mut Report) -> Option<String> {
        let value = self.value(field)?;
        string(value, &self.at(field), report)
    }

    /// A whole number.
    pub(super) fn integer(&mut self, field: &'static str, report: &mut Report) -> Option<i64> {
        let value = self.value(field)?;
        let number = value.as_i64();
        if number.is_none() {
            let found = match value {
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            report.problem(
                self.at(field),
                format!("must be a whole number, not {found}"),
            );
        }
        number
    }

    /// A whole number within bounds, reported in upstream's words when it is not.
    pub(super) fn bounded(
        &mut self,
        field: &'static str,
        lowest: i64,
        highest: i64,
        report: &mut Report,
    ) -> Option<i64> {
        let number = self.integer(field, report)?;
        if (lowest..=highest).contains(&number) {
            return Some(number);
        }
        report.problem(
            self.at(field),
            format!("expected {lowest} <= {number} <= {highest}"),
        );
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, field: &'static str, report: &mut Report) -> Option<bool> {
        let value = self.value(field)?;
        let boolean = value.as_bool();
        if boolean.is_none() {
            report.problem(
                self.at(field),
                format!("must be true or false, not {}", kind(value)),
            );
        }
        boolean
    }

    /// A mapping; an absent one reads as empty.
    pub(super) fn object(&mut self, field: &'static str, report: &mut Report) -> Object<'a> {
        let path = self.at(field);
        match self.value(field) {
            Some(value) => Object::new(value, path, report),
            None => Object {
                map: None,
                path,
                known: Vec::new(),
            },
        }
    }

    /// A list of values with their paths; an absent one reads as empty.
    pub(super) fn list(
        &mut self,
        field: &'static str,
        report: &mut Report,
    ) -> Vec<(&'a Value, String)> {
        let path = self.at(field);
        match self.value(field) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (item, format!("{path}[{index}]")))
                .collect(),
            Some(other) => {
                report.problem(path, format!("must be a list, not {}", kind(other)));
                Vec::new()
            }
        }
    }

    /// A list of texts; `None` when absent.
    pub(super) fn strings(
        &mut self,
        field: &'static str,
        report: &mut Report,
    ) -> Option<Vec<String>> {
        self.map?.get(field).filter(|value| !value.is_null())?;
        let items = self.list(field, report);
        Some(
            items
                .into_iter()
                .filter_map(|(item, path)| string(item, &path, report))
                .collect(),
        )
    }

    /// A mapping of texts, such as labels and annotations.
    pub(super) fn string_map(
        &mut self,
        field: &'static str,
        report: &mut Report,
    ) -> BTreeMap<String, String> {
        let path = self.at(field);
        let Some(value) = self.value(field) else {
            return BTreeMap::new();
        };
        let Some(map) = value.as_object() else {
            report.problem(path, format!("must be a mapping, not {}", kind(value)));
            return BTreeMap::new();
        };
        map.iter()
            .filter_map(|(key, value)| {
                let value = string(value, &entry(&path, key), report)?;
                Some((key.clone(), value))
            })
            .collect()
    }

    /// Names a field that is valid in a cluster and has no effect here.
    pub(super) fn not_honoured(&mut self, field: &'static str, why: &str, report: &mut Report) {
        if let Some(value) = self.value(field) {
            let empty = match value {
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            if !empty {
                report.warning(self.at(field), format!("{why}; ignored"));
            }
        }
    }

    /// Whether nothing is here.
    pub(super) fn is_absent(&self) -> bool {
        self.map.is_none()
    }

    /// Names every field that no reader asked for.
    pub(super) fn finish(self, report: &mut Report) {
        let Some(map) = self.map else { return };
        for field in map.keys() {
            if !self.known.contains(&field.as_str()) {
                report.warning(join(&self.path, field), "unknown field; ignored");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_types_are_reported_with_their_place() {
        let value = json!({"name": 1, "count": "x", "on": "yes", "list": {}, "map": {"a.b/c": 1}});
        let mut report = Report::default();
        report.in_file("f");
        let mut object = Object::new(&value, "spec".into(), &mut report);
        assert_eq!(object.string("name", &mut report), None);
        assert_eq!(object.integer("count", &mut report), None);
        assert_eq!(object.boolean("on", &mut report), None);
        assert!(object.list("list", &mut report).is_empty());
        assert!(object.string_map("map", &mut report).is_empty());
        object.finish(&mut report);
        let found: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "f: spec.name: must be a string; write it as \"1\"",
                "f: spec.count: must be a whole number, not a string",
                "f: spec.on: must be true or false, not a string",
                "f: spec.list: must be a list, not a mapping",
                "f: spec.map[a.b/c]: must be a string; write it as \"1\"",
            ]
        );
        assert!(report.warnings.is_empty());
    }

    #[test]
    fn fields_nobody_asked_for_are_named() {
        let value = json!({"name": "a", "nmae": "b"});
        let mut report = Report::default();
        let mut object = Object::new(&value, String::new(), &mut report);
        assert_eq!(object.string("name", &mut report).as_deref(), Some("a"));
        object.finish(&mut report);
        assert_eq!(report.warnings[0].path, "nmae");
    }
}
