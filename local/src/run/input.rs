//! What `pilotlight run` is to run: from manifests or from a bare command line, with every problem
//! reported at once.

use std::collections::BTreeMap;

use serving::environment::Environment;

use crate::exit::{self, Exit};
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
    refuse(&report)?;
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
    refuse(&report)?;
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

/// Every problem at once, or nothing.
fn refuse(report: &Report) -> Result<(), Exit> {
    if report.problems.is_empty() {
        return Ok(());
    }
    let only_commands = report
        .problems
        .iter()
        .all(|problem| problem.missing_command);
    let mut lines: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    lines.extend(
        report
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    if report.left_out > 0 {
        lines.push(format!("and {} more", report.left_out));
    }
    Err(Exit::new(
        if only_commands {
            exit::MISSING_COMMAND
        } else {
            exit::INVALID_MANIFEST
        },
        lines.join("\n"),
    ))
}
