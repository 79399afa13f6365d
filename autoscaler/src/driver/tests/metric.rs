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

/// Nothing else would bring it up again: the watch has nothing to tell of what was not written.
#[test]
fn a_status_that_could_not_be_written_is_tried_again_with_back_off() {
    let mut platform = Platform::new(&[], 2);
    let object = metric_object(&platform, true);
    platform.log.clear();
    platform.tell(object);
    let written = |platform: &Platform| {
        let is_status = |action: &&Action| matches!(action, Action::MetricStatus { .. });
        platform.log.iter().filter(is_status).count()
    };
    assert_eq!(written(&platform), 1);
    for attempt in 1..=6_u32 {
        platform.fail(FailedAction::MetricStatus, Some("no quota"));
        assert_eq!(written(&platform), attempt as usize, "not at once");
        platform.run(Duration::from_millis(5) * 2_u32.pow(attempt - 1));
        assert_eq!(written(&platform), attempt as usize + 1);
    }
    platform.run_seconds(60);
    assert_eq!(written(&platform), 7, "it has been written");
}
