//! A whole scrape of `/metrics` after a known life, but for its values.

use serving::resource::{Identity, register_target};
use serving::telemetry::prometheus_text;

use super::*;
use crate::metrics::requests::{ApiRequests, RequestLabels};

/// Every sample with `V` for its value.
fn normalised(registry: &Registry) -> String {
    let mut text = String::new();
    for line in prometheus_text(registry).lines() {
        match line.rsplit_once(' ') {
            Some((series, value)) if !line.starts_with('#') => {
                assert!(value.parse::<f64>().is_ok(), "{line}");
                text.extend([series, " V\n"]);
            }
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

fn value(registry: &Registry, series: &str) -> f64 {
    let text = prometheus_text(registry);
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.and_then(|rest| rest.rsplit_once(' '));
    value.expect("the series is there").1.parse().unwrap()
}

/// Requests to the API server, one answered and one not.
fn api_requests(registry: &mut Registry) {
    let requests = ApiRequests::new();
    requests.register(registry);
    let labels = RequestLabels {
        http_request_method: "GET".to_owned(),
        server_address: "10.0.0.1".to_owned(),
        server_port: 443,
        url_scheme: "https".to_owned(),
        url_template: "/api/v1/pods".to_owned(),
    };
    for status in [Some(200), None] {
        requests.observe(labels.clone(), status, Duration::from_millis(7));
    }
}

/// Another revision of the platform, that is scaled by requests per second.
fn scaled_by_requests(platform: &mut Platform) -> RevisionId {
    let mut object = revision(&[("autoscaling.knative.dev/metric", "rps")]);
    object.id.name = "hello-00002".to_owned();
    object.labels.insert(
        "serving.knative.dev/revision".to_owned(),
        object.id.name.clone(),
    );
    let id = object.id.clone();
    // The platform is for one revision only.
    platform.obedient = false;
    let sks = ServerlessService {
        id: id.clone(),
        generation: 1,
        controller_uid: Some("uid".to_owned()),
        spec: Default::default(),
        status: ServerlessServiceStatus {
            private_service_name: "private".to_owned(),
            ..ServerlessServiceStatus::default()
        },
    };
    let target = ScaleTarget { replicas: Some(1) };
    platform.tell(Update::ScaleTarget(id.clone(), Some(target)));
    platform.tell(Update::ServerlessService(id.clone(), Some(Box::new(sks))));
    platform.tell(Update::PodAutoscaler(Box::new(object)));
    id
}

#[test]
fn a_scrape_is_as_it_always_was() {
    let mut registry = Registry::default();
    let identity = Identity {
        service: "autoscaler",
        version: "1",
        namespace: "knative-serving",
        pod: "autoscaler-0",
    };
    register_target(&mut registry, &identity.resource());
    let mut platform = Platform::measured(&[], 1, &mut registry);
    api_requests(&mut registry);
    platform.load = Some(300.0);
    platform.run_seconds(10);
    let by_requests = scaled_by_requests(&mut platform);
    let stat = frame(&[(&by_requests, 1.0)]);
    assert_eq!(platform.core.record_frame(&stat, platform.now), Ok(1));
    platform.run_seconds(3);
    platform.core.count_queued();
    assert_eq!(normalised(&registry), include_str!("scrape.txt"));
    assert_eq!(value(&registry, "kn_revision_concurrency_target{"), 70.0);
    assert_eq!(
        value(&registry, "kn_revision_rps_target_per_second{"),
        140.0
    );
    assert!(value(&registry, "kn_revision_pods_desired{") > 1.0);
    assert!(value(&registry, "kn_revision_pods_count{") > 1.0);
    assert!(value(&registry, "kn_autoscaler_scrape_duration_seconds_count{") >= 9.0);
    assert_eq!(value(&registry, "kn_workqueue_depth{"), 0.0);
    assert!(value(&registry, "kn_workqueue_adds_total{") > 1.0);
    assert_eq!(value(&registry, "kn_workqueue_retries_total{"), 0.0);

    platform.tell(Update::PodAutoscalerDeleted(id()));
    platform.tell(Update::PodAutoscalerDeleted(by_requests));
    let text = normalised(&registry);
    assert!(!text.contains("hello"), "{text}");
    assert!(!text.contains("kn_revision_"), "{text}");
    assert!(text.contains("# HELP kn_workqueue_depth "), "{text}");
}
