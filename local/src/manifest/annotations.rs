//! Annotations of a revision template: validated with the shared rules, and named when they have
//! no effect on one machine.

use std::collections::BTreeMap;

use super::finding::Report;
use super::object::entry;

/// Validates the annotations of a template against `config-autoscaler`.
pub(super) fn check(
    annotations: &BTreeMap<String, String>,
    at: &str,
    _config: &BTreeMap<String, String>,
    report: &mut Report,
) {
    for (key, value) in annotations {
        let at = entry(at, key);
        if key == "autoscaling.knative.dev/class" && value != "kpa.autoscaling.knative.dev" {
            report.warning(
                at,
                format!("{value} is not available on one machine; the KPA scales instead"),
            );
        } else {
            warn_unhonoured(key, &at, report);
        }
    }
}

/// Validates `config-autoscaler` itself.
pub(super) fn check_config(_data: &BTreeMap<String, String>, _report: &mut Report) {}

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
