use std::collections::BTreeMap;

use super::*;

fn derive(
    annotations: &[(Key, &str)],
    container_concurrency: i64,
    config: &[(&str, &str)],
) -> Settings {
    let annotations = annotations
        .iter()
        .map(|(key, value)| (key.name.to_owned(), (*value).to_owned()))
        .collect();
    let config: BTreeMap<_, _> = config
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Settings::derive(&Source {
        annotations: &annotations,
        container_concurrency,
        reachability: Reachability::Reachable,
        autoscaler: &config::Autoscaler::parse(&config).unwrap(),
        progress_deadline_ns: 600 * SECOND_NS,
    })
}

fn target(annotations: &[(Key, &str)], container_concurrency: i64) -> (f64, f64) {
    let decider = derive(annotations, container_concurrency, &[]).decider;
    (decider.target_value, decider.total_value)
}

#[test]
fn container_concurrency_limits_a_target_of_concurrency_only() {
    assert_eq!(target(&[], 0), (70.0, 100.0));
    assert_eq!(target(&[], 10), (7.0, 10.0));
    assert_eq!(target(&[(annotation::TARGET, "50")], 10), (7.0, 10.0));
    assert_eq!(target(&[(annotation::TARGET, "5")], 10), (3.5, 5.0));
    let rps = (annotation::METRIC, "rps");
    assert_eq!(target(&[rps], 10), (140.0, 200.0));
    assert_eq!(target(&[rps, (annotation::TARGET, "50")], 10), (35.0, 50.0));
}

#[test]
fn a_target_is_a_number_and_never_vanishes() {
    assert_eq!(target(&[(annotation::TARGET, "NaN")], 0), (70.0, 100.0));
    assert_eq!(target(&[(annotation::TARGET, "-3")], 0).0, 0.01);
}

#[test]
fn the_panic_window_is_whole_seconds_and_at_least_one() {
    for (window, percentage, seconds) in [
        ("60s", "10", 6),
        ("25s", "10", 3),
        ("6s", "10", 1),
        ("6s", "1", 1),
        ("60s", "inf", 1),
    ] {
        let settings = derive(
            &[
                (annotation::WINDOW, window),
                (annotation::PANIC_WINDOW_PERCENTAGE, percentage),
            ],
            0,
            &[],
        );
        assert_eq!(
            settings.collection.panic_window_ns,
            seconds * SECOND_NS,
            "{window} {percentage}"
        );
    }
}

#[test]
fn initial_scale_zero_must_be_allowed() {
    let zero = [(annotation::INITIAL_SCALE, "0")];
    let scale = |config: &[(&str, &str)]| derive(&zero, 0, config).decider.initial_scale;
    assert_eq!(scale(&[("initial-scale", "3")]), 3);
    assert_eq!(scale(&[("allow-zero-initial-scale", "true")]), 0);
}

#[test]
fn the_threshold_of_activity_follows_initialisation() {
    let settings = derive(&[(annotation::INITIAL_SCALE, "4")], 0, &[]);
    assert_eq!(settings.active_threshold(false), 4);
    assert_eq!(settings.active_threshold(true), 1);
}

#[test]
fn unreachable_drops_lower_bound_and_retention() {
    let annotations = [
        (annotation::MIN_SCALE, "2"),
        (annotation::MAX_SCALE, "9"),
        (annotation::SCALE_TO_ZERO_POD_RETENTION_PERIOD, "1m"),
    ]
    .map(|(key, value)| (key.name.to_owned(), value.to_owned()));
    let settings = Settings::derive(&Source {
        annotations: &annotations.into(),
        container_concurrency: 0,
        reachability: Reachability::Unreachable,
        autoscaler: &config::Autoscaler::default(),
        progress_deadline_ns: 0,
    });
    assert_eq!(
        (
            settings.min_scale,
            settings.max_scale,
            settings.pod_retention_period_ns
        ),
        (0, 9, 0)
    );
    assert!(!settings.decider.reachable);
}
