//! What a Metric says of the collection that it asks for.

use super::*;
use crate::pod_autoscaler::{Metric, MetricStatus};
use crate::spec::Aggregation;
use crate::world::MetricObject;

/// The Metric of the platform's revision, as the platform shows it.
fn metric_object(platform: &Platform, names_revision: bool) -> Update {
    let spec = |action: &Action| match action {
        Action::Metric { spec, .. } => Some(spec.clone()),
        _ => None,
    };
    let object = MetricObject {
        metric: Metric {
            id: id(),
            controller_uid: Some("uid".to_owned()),
            spec: platform
                .log
                .iter()
                .find_map(spec)
                .expect("it was asked for"),
        },
        generation: 3,
        aggregation: Aggregation::Linear,
        names_revision,
        status: MetricStatus::default(),
    };
    Update::Metric(id(), Some(Box::new(object)))
}

/// Covers upstream's `TestReconcile` of `pkg/reconciler/metric/metric_test.go`.
#[test]
fn a_metric_says_how_collection_goes() {
    let mut platform = Platform::new(&[], 2);
    let object = metric_object(&platform, true);
    platform.log.clear();
    platform.tell(object);
    let written = |platform: &mut Platform| {
        let status = |action: Action| match action {
            Action::MetricStatus { status, .. } => Some(*status),
            _ => None,
        };
        let mut statuses = platform.log.drain(..).filter_map(status);
        let status = statuses.next().expect("a status");
        assert_eq!(statuses.next(), None, "it is written once");
        assert_eq!(status.observed_generation, 3);
        let ready = status.conditions.get(READY).unwrap();
        let message = ready.message.to_string();
        (ready.status.as_str(), ready.reason.to_string(), message)
    };
    let failed = |reason: &str, message: &str| ("False", reason.to_owned(), message.to_owned());
    assert_eq!(written(&mut platform).0, "True");

    platform.load = None;
    platform.run_seconds(5);
    assert_eq!(
        written(&mut platform),
        failed(
            "CollectionFailed",
            "Failed to reconcile metric collection: pods exhausted"
        )
    );
    platform.error = || ScrapeError::DidNotReceiveStat { sample: 2 };
    platform.run_seconds(5);
    assert_eq!(
        written(&mut platform),
        failed(
            "DidNotReceiveStat",
            "unsuccessful scrape, sampleSize=2: did not receive stat from an unscraped pod"
        )
    );
    platform.load = Some(0.0);
    platform.run_seconds(5);
    assert_eq!(written(&mut platform).0, "True");
}

#[test]
fn a_metric_that_does_not_name_its_revision_is_not_ready() {
    let mut platform = Platform::new(&[], 1);
    let object = metric_object(&platform, false);
    platform.tell(object);
    let status = |action: &Action| match action {
        Action::MetricStatus { status, .. } => Some(status.conditions.get(READY).cloned()),
        _ => None,
    };
    let ready = platform.log.iter().find_map(status).flatten().unwrap();
    assert_eq!(
        (ready.status.as_str(), &*ready.reason),
        ("False", "CollectionFailed")
    );
    assert_eq!(
        &*ready.message,
        "Failed to reconcile metric collection: label \"serving.knative.dev/revision\" not found or empty in Metric hello-00001"
    );
}
