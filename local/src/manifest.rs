//! Knative manifests: from files, folders and standard input to Services and settings.
//!
//! Driven by the `run` command at start and by the watcher when a file changes. Reads files but
//! starts nothing; whether a program exists is asked through [`Machine`]. Every problem is
//! reported, not only the first.

use std::path::Path;

use serde_json::Value;

mod annotations;
pub mod command;
pub mod container;
pub mod document;
pub mod finding;
pub mod name;
mod object;
pub mod probe;
pub mod settings;
pub mod source;

#[cfg(test)]
mod tests;

pub use container::{Container, Protocol};
pub use document::{ServiceDocument, Template, TrafficTarget};
pub use finding::{Finding, Report};
pub use settings::Settings;
pub use source::Source;

use object::Object;

/// Documents read from all files together.
pub const MAX_DOCUMENTS: usize = 1000;

/// How deep a document may nest; a Service needs about ten levels.
const MAX_DEPTH: usize = 64;

/// Mappings, lists and scalars of one file.
const MAX_NODES: usize = 200_000;

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceText {
    /// How messages name it.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// The questions about this machine that a manifest raises.
pub trait Machine {
    /// Whether `program` can be started from `working_dir`, by path or through the search path.
    fn has_program(&self, program: &str, working_dir: Option<&str>) -> bool;
    /// Whether `path` is a directory.
    fn is_directory(&self, path: &str) -> bool;
    /// Whether apps are to be started at all; where not, an image alone is enough.
    fn starts_apps(&self) -> bool {
        true
    }
}

/// The machine this program runs on.
#[derive(Clone, Debug)]
pub struct ThisMachine {
    /// The value of `PATH`.
    pub search_path: String,
}

/// A machine that only looks at manifests: nothing is started, so nothing has to exist.
#[derive(Clone, Copy, Debug)]
pub struct NoApps;

/// All that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Service documents in order; several of one name are its successive versions.
    pub services: Vec<ServiceDocument>,
    /// What ConfigMaps set.
    pub settings: Settings,
}

/// Validates annotations that were not given by a manifest, as those of one would be.
pub fn check_annotations(
    given: &std::collections::BTreeMap<String, String>,
    at: &str,
    config: &serving::config::Autoscaler,
    report: &mut Report,
) {
    annotations::check(given, at, config, report);
}

// === impl ThisMachine ===

impl Machine for ThisMachine {
    fn has_program(&self, program: &str, working_dir: Option<&str>) -> bool {
        let base = working_dir.map_or_else(|| Path::new("."), Path::new);
        if program.contains('/') {
            return is_executable(&base.join(program));
        }
        self.search_path
            .split(':')
            .any(|directory| is_executable(&base.join(directory).join(program)))
    }

    fn is_directory(&self, path: &str) -> bool {
        Path::new(path).is_dir()
    }
}

// === impl NoApps ===

impl Machine for NoApps {
    fn has_program(&self, _program: &str, _working_dir: Option<&str>) -> bool {
        true
    }

    fn is_directory(&self, _path: &str) -> bool {
        true
    }

    fn starts_apps(&self) -> bool {
        false
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

// === impl Manifest ===

impl Manifest {
    /// Reads texts in order. The manifest is complete only when the report has no problems.
    pub fn read(texts: &[SourceText], machine: &dyn Machine) -> (Self, Report) {
        let mut report = Report::default();
        let documents = documents(texts, &mut report);
        let mut manifest = Self::default();
        // Settings first: they hold defaults and limits for every Service, wherever they stand.
        for (file, document) in &documents {
            if settings::is_config_map(document) {
                report.in_file(file);
                let object = Object::new(document, String::new(), &mut report);
                manifest.settings.read(object, &mut report);
            }
        }
        for (file, document) in &documents {
            report.in_file(file);
            manifest.read_document(file, document, machine, &mut report);
        }
        (manifest, report)
    }

    fn read_document(
        &mut self,
        file: &str,
        document: &Value,
        machine: &dyn Machine,
        report: &mut Report,
    ) {
        if settings::is_config_map(document) {
            return;
        }
        if document::is_service(document) {
            let object = Object::new(document, String::new(), report);
            self.services.extend(document::read_service(
                object,
                file,
                &self.settings,
                machine,
                report,
            ));
            return;
        }
        let text = |field: &str| {
            document
                .get(field)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        match (text("apiVersion"), text("kind")) {
            (Some(version), Some(kind)) => report.warning(
                "",
                format!("{kind} of {version} is not read on one machine; ignored"),
            ),
            (None, _) => report.problem("apiVersion", "missing field"),
            (_, None) => report.problem("kind", "missing field"),
        }
    }
}

/// Splits texts into documents, unfolds `kind: List`, and names each by file and position.
fn documents(texts: &[SourceText], report: &mut Report) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for source in texts {
        report.in_file(&source.name);
        let parsed = match parse(source) {
            Ok(parsed) => parsed,
            Err(message) => {
                report.problem("", message);
                continue;
            }
        };
        let unfolded: Vec<Value> = parsed.into_iter().flat_map(unfold).collect();
        let several = unfolded.len() > 1;
        for (index, document) in unfolded.into_iter().enumerate() {
            if all.len() == MAX_DOCUMENTS {
                report.problem("", format!("more than {MAX_DOCUMENTS} documents in all"));
                return all;
            }
            let name = if several {
                format!("{}, document {}", source.name, index + 1)
            } else {
                source.name.clone()
            };
            all.push((name, document));
        }
    }
    all
}

fn unfold(document: Value) -> Vec<Value> {
    let is_list = document.get("apiVersion").and_then(Value::as_str) == Some("v1")
        && document.get("kind").and_then(Value::as_str) == Some("List");
    match document {
        Value::Object(mut map) if is_list => match map.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        other => vec![other],
    }
}

fn parse(source: &SourceText) -> Result<Vec<Value>, String> {
    // JSON is read by its own parser: YAML's is stricter about tabs and long keys.
    if source.name.ends_with(".json") || source.text.trim_start().starts_with('{') {
        let parsed: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&source.text)
            .into_iter()
            .collect();
        match parsed {
            Ok(documents) => return Ok(documents),
            Err(error) if source.name.ends_with(".json") => {
                return Err(format!("not valid JSON: {error}"));
            }
            Err(_) => {}
        }
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(&source.text, options)
        .map_err(|error| format!("not valid YAML: {}", error.to_string().replace('\n', " ")))
}
