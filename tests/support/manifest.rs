//! Service manifests for tests, with the sample app as their program.

use std::fmt::Write as _;

use crate::pilotlight::binary;

/// A Service that runs the sample app.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    revision: Option<String>,
    annotations: Vec<(String, String)>,
    spec: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    container: Vec<String>,
    traffic: Vec<String>,
}

impl Service {
    /// A Service with the shortest stable window there is, so that tests see it act.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            revision: None,
            annotations: vec![("autoscaling.knative.dev/window".into(), "6s".into())],
            spec: Vec::new(),
            arguments: vec!["sample-app".to_owned()],
            environment: Vec::new(),
            container: Vec::new(),
            traffic: Vec::new(),
        }
    }

    /// Names the revision instead of leaving it to the platform.
    #[must_use]
    pub fn revision(mut self, name: &str) -> Self {
        self.revision = Some(name.to_owned());
        self
    }

    /// An annotation of the template under `autoscaling.knative.dev/`.
    #[must_use]
    pub fn autoscaling(mut self, key: &str, value: &str) -> Self {
        let key = format!("autoscaling.knative.dev/{key}");
        self.annotations.retain(|(known, _)| *known != key);
        self.annotations.push((key, value.to_owned()));
        self
    }

    /// A line of the template's `spec`, e.g. `containerConcurrency: 1`.
    #[must_use]
    pub fn spec(mut self, line: &str) -> Self {
        self.spec.push(line.to_owned());
        self
    }

    /// An argument of the sample app.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A variable of the container.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lines of the container, e.g. a probe or ports, in flow style.
    #[must_use]
    pub fn container(mut self, line: &str) -> Self {
        self.container.push(line.to_owned());
        self
    }

    /// A traffic target in flow style, e.g. `{latestRevision: true, percent: 100}`.
    #[must_use]
    pub fn traffic(mut self, target: &str) -> Self {
        self.traffic.push(target.to_owned());
        self
    }

    /// The document, ending in a separator so that several can be joined.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: {}}}\nspec:\n  template:\n    metadata:\n",
            self.name
        );
        if let Some(revision) = &self.revision {
            let _ = writeln!(text, "      name: {revision}");
        }
        text.push_str("      annotations:\n");
        for (key, value) in &self.annotations {
            let _ = writeln!(text, "        {key}: {value:?}");
        }
        text.push_str("    spec:\n");
        for line in &self.spec {
            let _ = writeln!(text, "      {line}");
        }
        let _ = writeln!(text, "      containers:\n      - command: [{:?}]", binary());
        let _ = writeln!(text, "        args: {:?}", self.arguments);
        if !self.environment.is_empty() {
            text.push_str("        env:\n");
        }
        for (name, value) in &self.environment {
            let _ = writeln!(text, "        - {{name: {name}, value: {value:?}}}");
        }
        for line in &self.container {
            let _ = writeln!(text, "        {line}");
        }
        if !self.traffic.is_empty() {
            text.push_str("  traffic:\n");
        }
        for target in &self.traffic {
            let _ = writeln!(text, "  - {target}");
        }
        text.push_str("---\n");
        text
    }
}
