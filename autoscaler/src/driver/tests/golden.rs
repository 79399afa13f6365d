//! A whole scrape of `/metrics` after a known life, but for its values.

use serving::telemetry::prometheus_text;

use super::*;

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

#[test]
fn a_scrape_is_as_it_always_was() {
    let mut registry = Registry::default();
    let mut platform = Platform::measured(&[], 1, &mut registry);
    platform.load = Some(300.0);
    platform.run_seconds(10);
    platform.core.count_queued();
    assert_eq!(normalised(&registry), include_str!("scrape.txt"));
    assert_eq!(value(&registry, "kn_revision_concurrency_target{"), 70.0);
    assert!(value(&registry, "kn_revision_pods_desired{") > 1.0);
    assert!(value(&registry, "kn_revision_pods_count{") > 1.0);
    assert!(value(&registry, "kn_autoscaler_scrape_duration_seconds_count{") >= 9.0);
    assert_eq!(value(&registry, "kn_workqueue_depth{"), 0.0);
    assert!(value(&registry, "kn_workqueue_adds_total{") > 1.0);
    assert_eq!(value(&registry, "kn_workqueue_retries_total{"), 0.0);

    platform.tell(Update::PodAutoscalerDeleted(id()));
    let text = normalised(&registry);
    assert!(!text.contains("hello"), "{text}");
    assert!(text.starts_with("# HELP kn_workqueue_depth "), "{text}");
}
