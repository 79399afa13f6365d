//! Annotations of a revision template: validated with the shared rules, and named when they have
//! no effect on one machine.

use std::collections::BTreeMap;

use serving::annotation::{
    self, CLASS, CLASS_HPA, CLASS_KPA, FieldErrors, METRIC, METRIC_CONCURRENCY, METRIC_RPS,
};
use serving::config::Autoscaler;
use serving::names;

use super::finding::Report;
use super::object::entry;

/// Validates the annotations of a template against `config-autoscaler`.
pub(super) fn check(
    annotations: &BTreeMap<String, String>,
    at: &str,
    config: &Autoscaler,
    report: &mut Report,
) {
    for errors in [
        annotation::validate(config, annotations),
        annotation::validate_progress_deadline(annotations),
    ] {
        if let Err(errors) = errors {
            add(&errors, at, report);
        }
    }
    let ours = autoscaler::spec::validate_extensions(annotations).into_iter();
    for (key, rule) in ours.chain(activator::annotations::validate(annotations)) {
        report.problem(entry(at, key), rule);
    }
    for (key, value) in annotations {
        let at = entry(at, key);
        if key.starts_with(names::ANNOTATION_PREFIX)
            && key != names::LOCAL_COMMAND_ANNOTATION
            && !template_annotations().any(|known| known == key)
        {
            let known = Vec::from_iter(template_annotations()).join(", ");
            report.warning(
                at,
                format!("no such annotation; there are {known}; ignored"),
            );
        } else if key == CLASS.name && value != CLASS_KPA {
            report.warning(
                at,
                format!("{value} is not available on one machine; the KPA scales instead"),
            );
        } else if key == METRIC.name
            && annotations
                .get(CLASS.name)
                .is_some_and(|class| class == CLASS_HPA)
            && ![METRIC_CONCURRENCY, METRIC_RPS].contains(&value.as_str())
        {
            report.warning(
                at,
                format!("{value} is not measured on one machine; concurrency is used instead"),
            );
        } else {
            warn_unhonoured(key, &at, report);
        }
    }
}

/// Those of ours that a template may have.
fn template_annotations() -> impl Iterator<Item = &'static str> {
    let scaling = names::SCALING_ANNOTATIONS.into_iter();
    scaling.chain(names::ACTIVATOR_ANNOTATIONS)
}

/// The webhook's complaints, one finding per annotation that they name.
fn add(errors: &FieldErrors, at: &str, report: &mut Report) {
    for error in errors.to_list() {
        let mut rule = error.message;
        if !error.details.is_empty() {
            rule.push_str(": ");
            rule.push_str(&error.details);
        }
        for path in error.paths {
            let at = if path.is_empty() {
                at.to_owned()
            } else {
                entry(at, &path)
            };
            report.problem(at, rule.clone());
        }
    }
}

/// Names an annotation of Knative's that has no effect here. The user's own ones are their business.
pub(super) fn warn_unhonoured(key: &str, at: &str, report: &mut Report) {
    let why = if key.starts_with("queue.sidecar.serving.knative.dev/") {
        "queue-proxies share this process and have no resources of their own"
    } else if key.starts_with("networking.knative.dev/") {
        "there is no ingress on one machine"
    } else if key.starts_with("features.knative.dev/")
        && key != "features.knative.dev/http-full-duplex"
    {
        "not honoured on one machine"
    } else {
        return;
    };
    report.warning(at, format!("{why}; ignored"));
}
