//! The settings to compare: from manifests, flags and `--vs`, with every problem reported at once.

use std::collections::BTreeMap;

use autoscaler::simulation::Setting;
use serving::annotation;
use serving::config::{Autoscaler, autoscaler::KEYS};
use serving::names;

use super::options::{MAX_SETTINGS, Simulate};
use crate::exit::Exit;
use crate::manifest::{self, Finding, Manifest, NoApps, Report, Source, SourceText, source};

/// The first setting's name when no Service gives it one.
const BASE: &str = "base";

/// A setting and how the output calls it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) setting: Setting,
}

/// What a key of `--vs` stands for.
enum Key {
    Annotation(String),
    Config(String),
    ContainerConcurrency,
}

/// Reads everything that the options name; the first setting is what the others are compared with.
pub(super) fn read(
    options: &Simulate,
    input: &mut dyn std::io::Read,
) -> Result<(Vec<Named>, Vec<Finding>), Exit> {
    let mut report = Report::default();
    let mut base = Named {
        name: BASE.to_owned(),
        setting: Setting::default(),
    };
    if !options.filenames.is_empty() {
        let sources: Vec<_> = options
            .filenames
            .iter()
            .map(|it| it.as_str().into())
            .collect();
        let service = options.service.as_deref();
        read_manifests(&sources, service, input, &mut base, &mut report);
    }
    let mut settings = Vec::new();
    let given = base.setting.clone();
    report.in_file("command line");
    apply_flags(options, &mut base.setting, &mut report);
    check(&base, &mut report);
    settings.push(base);
    for text in &options.versus {
        let named = if text.contains('=') {
            changed(text, &settings[0].setting, &mut report)
        } else {
            let mut named = Named {
                name: stem(text),
                setting: Setting {
                    config: given.config.clone(),
                    ..Setting::default()
                },
            };
            read_manifests(
                &[text.as_str().into()],
                None,
                input,
                &mut named,
                &mut report,
            );
            report.in_file("command line");
            apply_flags(options, &mut named.setting, &mut report);
            named
        };
        if settings.iter().any(|other| other.name == named.name) {
            let rule = format!(
                "a setting is called {:?} already; give it another name",
                named.name
            );
            report.problem("--vs", rule);
        }
        check(&named, &mut report);
        settings.push(named);
    }
    if settings.len() > MAX_SETTINGS {
        report.problem("--vs", format!("more than {MAX_SETTINGS} settings"));
    }
    report.refuse()?;
    Ok((settings, report.warnings))
}

/// Puts what manifests say of one Service into `named`.
fn read_manifests(
    sources: &[Source],
    service: Option<&str>,
    input: &mut dyn std::io::Read,
    named: &mut Named,
    report: &mut Report,
) {
    let (texts, read) = source::read(sources, input);
    let (manifest, parsed) = Manifest::read(&texts, &NoApps);
    let broken = !read.problems.is_empty() || !parsed.problems.is_empty();
    for found in [read, parsed] {
        report.problems.extend(found.problems);
        report.warnings.extend(found.warnings);
        report.left_out += found.left_out;
    }
    if !manifest.settings.autoscaler_data.is_empty() {
        named.setting.config = manifest.settings.autoscaler_data;
    }
    let mut names: Vec<_> = manifest
        .services
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    report.in_file(&file_names(&texts));
    // Of several versions of a Service the last one holds.
    let found = match (service, &names[..]) {
        (Some(service), _) => manifest.services.iter().rfind(|it| it.name == service),
        (None, [_]) => manifest.services.last(),
        (None, []) => return,
        (None, several) => {
            let rule = format!(
                "several Services ({}); choose one with --service",
                several.join(", ")
            );
            return report.problem("", rule);
        }
    };
    let Some(document) = found else {
        if !broken {
            let rule = format!("no such Service, there are: {}", names.join(", "));
            report.problem("--service", rule);
        }
        return;
    };
    named.name.clone_from(&document.name);
    named
        .setting
        .annotations
        .clone_from(&document.template.annotations);
    named.setting.container_concurrency = document.template.container_concurrency;
}

/// What holds for every setting.
fn apply_flags(options: &Simulate, setting: &mut Setting, report: &mut Report) {
    setting.initial_pods = options.initial_pods;
    if let Some(limit) = options.container_concurrency {
        setting.container_concurrency = limit;
    }
    for (key, value) in &options.annotations {
        match resolve(key) {
            Some(Key::Annotation(key)) => put(&mut setting.annotations, key, value),
            _ => report.problem("--annotation", unknown(key)),
        }
    }
    for (key, value) in &options.config {
        if KEYS.contains(&key.as_str()) {
            put(&mut setting.config, key.clone(), value);
        } else {
            let rule = format!(
                "config-autoscaler has no key {key:?}; it has {}",
                KEYS.join(", ")
            );
            report.problem("--config", rule);
        }
    }
}

/// `[NAME:]KEY=VALUE,...`, on top of another setting.
fn changed(text: &str, base: &Setting, report: &mut Report) -> Named {
    let (name, changes) = match text.split_once(':') {
        Some((name, changes)) if !name.contains('=') => (name, changes),
        _ => (text, text),
    };
    let mut setting = base.clone();
    for change in changes.split(',') {
        let Some((key, value)) = change.split_once('=') else {
            report.problem("--vs", format!("{change:?} is not KEY=VALUE"));
            continue;
        };
        match resolve(key) {
            Some(Key::Annotation(key)) => put(&mut setting.annotations, key, value),
            Some(Key::Config(key)) => put(&mut setting.config, key, value),
            Some(Key::ContainerConcurrency) => match value.parse() {
                Ok(limit) if limit <= 1000 => setting.container_concurrency = limit,
                _ => report.problem("--vs", format!("{change:?} is not a number from 0 to 1000")),
            },
            None => report.problem("--vs", unknown(key)),
        }
    }
    Named {
        name: name.to_owned(),
        setting,
    }
}

fn put(map: &mut BTreeMap<String, String>, key: String, value: &str) {
    if value.is_empty() {
        map.remove(&key);
    } else {
        map.insert(key, value.to_owned());
    }
}

/// Completes a key without a slash. An annotation goes before a key of config-autoscaler with the
/// same name, which has the same effect.
fn resolve(key: &str) -> Option<Key> {
    if key.contains('/') {
        return Some(Key::Annotation(key.to_owned()));
    }
    let completed = annotation::ALL
        .iter()
        .flat_map(|known| std::iter::once(known.name).chain(known.legacy))
        .chain(names::SCALING_ANNOTATIONS)
        .find(|known| known.split_once('/').is_some_and(|(_, short)| short == key));
    match completed {
        Some(name) => Some(Key::Annotation(name.to_owned())),
        None if KEYS.contains(&key) => Some(Key::Config(key.to_owned())),
        None if key == "container-concurrency" => Some(Key::ContainerConcurrency),
        None => None,
    }
}

fn unknown(key: &str) -> String {
    let short = |name: &&'static str| name.split_once('/').map_or(*name, |(_, short)| short);
    let known: Vec<_> = annotation::ALL
        .iter()
        .map(|known| known.name)
        .chain(names::SCALING_ANNOTATIONS)
        .map(|name| short(&name))
        .collect();
    format!(
        "no annotation is called {key:?}; there are {}; others need their prefix",
        known.join(", ")
    )
}

/// The rules of Knative's webhook and of config-autoscaler.
fn check(named: &Named, report: &mut Report) {
    report.in_file(&format!("setting {}", named.name));
    match Autoscaler::parse(&named.setting.config) {
        Ok(config) => {
            let annotations = &named.setting.annotations;
            manifest::check_annotations(annotations, "annotations", &config, report);
        }
        Err(invalid) => {
            for problem in invalid.problems() {
                report.problem("config-autoscaler", problem);
            }
        }
    }
    report.in_file("command line");
}

fn stem(path: &str) -> String {
    let stem = std::path::Path::new(path).file_stem();
    stem.map_or_else(
        || path.to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

fn file_names(texts: &[SourceText]) -> String {
    let names: Vec<_> = texts.iter().map(|text| text.name.as_str()).collect();
    names.join(", ")
}
