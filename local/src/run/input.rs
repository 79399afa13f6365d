//! What `pilotlight run` is to run: from manifests or from a bare command line, with every problem
//! reported at once.

use std::collections::BTreeMap;

use serving::environment::Environment;

use crate::exit::Exit;
use crate::manifest::document::DEFAULT_NAMESPACE;
use crate::manifest::{
    Finding, Machine, Manifest, Report, ServiceDocument, Source, SourceText, Template, ThisMachine,
    TrafficTarget, name,
};
use crate::options::Run;
use crate::watch;

/// What was read before anything runs.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) manifest: Manifest,
    pub(super) warnings: Vec<Finding>,
    pub(super) sources: Vec<Source>,
    pub(super) texts: Vec<SourceText>,
    pub(super) machine: ThisMachine,
}

/// Reads what the options name.
pub(super) fn read(options: &Run, environment: &dyn Environment) -> Result<Input, Exit> {
    let machine = ThisMachine {
        search_path: environment.variable("PATH").unwrap_or_default(),
    };
    if options.filenames.is_empty() {
        return read_command(options, machine);
    }
    let sources: Vec<Source> = options
        .filenames
        .iter()
        .map(|name| Source::from(name.as_str()))
        .collect();
    let (texts, read) = watch::read_at_start(&sources);
    let (manifest, mut report) = Manifest::read(&texts, &machine);
    report.problems.splice(0..0, read.problems);
    if report.problems.is_empty() && manifest.services.is_empty() {
        report.in_file(&options.filenames.join(", "));
        report.problem("", "no Service of serving.knative.dev/v1 in the manifests");
    }
    report.refuse()?;
    Ok(Input {
        manifest,
        warnings: report.warnings,
        sources,
        texts,
        machine,
    })
}

fn read_command(options: &Run, machine: ThisMachine) -> Result<Input, Exit> {
    let mut report = Report::default();
    report.in_file("command line");
    if let Err(rule) = name::dns_1035_label(&options.name) {
        report.problem("--name", rule);
    }
    let annotations: BTreeMap<String, String> = options.annotations.iter().cloned().collect();
    let settings = crate::manifest::Settings::default();
    crate::manifest::check_annotations(
        &annotations,
        "--annotation",
        &settings.autoscaler,
        &mut report,
    );
    let program = &options.command[0];
    if program != crate::manifest::container::OWN_NAME && !machine.has_program(program, None) {
        report.missing_command(
            "",
            format!("{program}: no such program on this machine; install it, or correct the path"),
        );
    }
    report.refuse()?;
    let template = Template::from_command(options.command.clone(), annotations, &settings.defaults);
    let document = ServiceDocument {
        file: "command line".into(),
        namespace: DEFAULT_NAMESPACE.into(),
        name: options.name.clone(),
        template,
        traffic: vec![TrafficTarget::latest()],
    };
    Ok(Input {
        manifest: Manifest {
            services: vec![document],
            settings,
        },
        warnings: report.warnings,
        sources: Vec::new(),
        texts: Vec::new(),
        machine,
    })
}
