use std::collections::BTreeSet;

use super::*;
use crate::config::Autoscaler;

fn annotations(entries: &[(&str, &str)]) -> Annotations {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn complaint(entries: &[(&str, &str)]) -> String {
    validate(&Autoscaler::default(), &annotations(entries))
        .err()
        .unwrap_or_default()
        .to_string()
}

#[test]
fn keys_are_distinct_and_documented() {
    let spellings: Vec<_> = ALL
        .iter()
        .flat_map(|key| std::iter::once(key.name).chain(key.legacy))
        .collect();
    let distinct: BTreeSet<_> = spellings.iter().collect();
    assert_eq!(distinct.len(), spellings.len());
    for key in ALL {
        assert!(key.effect.ends_with('.'), "{key:?}");
        assert!(key.name.contains("knative.dev/"), "{key:?}");
    }
}

#[test]
fn the_newer_spelling_wins_even_with_garbage() {
    let both = annotations(&[
        ("autoscaling.knative.dev/min-scale", "x"),
        ("autoscaling.knative.dev/minScale", "3"),
    ]);
    assert_eq!(MIN_SCALE.get(&both), Some("x"));
    assert_eq!(MIN_SCALE.int(&both), None);
    let legacy = annotations(&[("autoscaling.knative.dev/minScale", "3")]);
    assert_eq!(MIN_SCALE.int(&legacy), Some(3));
    assert_eq!(
        MIN_SCALE.find(&legacy),
        Some(("autoscaling.knative.dev/minScale", "3"))
    );
}

/// The autoscaler takes what it can read, in range or not.
#[test]
fn reading_is_tolerant() {
    let given = annotations(&[
        (MIN_SCALE.name, "-4"),
        (MAX_SCALE.name, "2147483648"),
        (TARGET.name, "Inf"),
        (PANIC_WINDOW_PERCENTAGE.name, "1%"),
        (WINDOW.name, "-1h"),
        (SCALE_DOWN_DELAY.name, "15"),
    ]);
    assert_eq!(MIN_SCALE.int(&given), Some(-4));
    assert_eq!(MAX_SCALE.int(&given), None);
    assert_eq!(TARGET.float(&given), Some(f64::INFINITY));
    assert_eq!(PANIC_WINDOW_PERCENTAGE.float(&given), None);
    assert_eq!(WINDOW.duration(&given), Some(-3_600_000_000_000));
    assert_eq!(SCALE_DOWN_DELAY.duration(&given), None);
    assert_eq!(INITIAL_SCALE.int(&given), None);
}

/// Scenarios of `TestValidateAnnotations` (pkg/apis/autoscaling/annotation_validation_test.go).
#[test]
fn validation_speaks_the_webhooks_words() {
    assert_eq!(complaint(&[]), "");
    assert_eq!(
        complaint(&[(MIN_SCALE.name, "-1"), (MAX_SCALE.name, "0.5")]),
        "expected 0 <= -1 <= 2147483647: autoscaling.knative.dev/min-scale\n\
         invalid value: 0.5: autoscaling.knative.dev/max-scale"
    );
    assert_eq!(
        complaint(&[(MIN_SCALE.name, "5"), (MAX_SCALE.name, "2")]),
        "max-scale=2 is less than min-scale=5: \
         autoscaling.knative.dev/max-scale, autoscaling.knative.dev/min-scale"
    );
    assert_eq!(
        complaint(&[(WINDOW.name, "5s"), (SCALE_DOWN_DELAY.name, "1.5s")]),
        "expected 6s <= 5s <= 1h0m0s: autoscaling.knative.dev/window\n\
         must be specified with at most second precision: \
         autoscaling.knative.dev/scale-down-delay"
    );
    assert_eq!(
        complaint(&[(TARGET.name, "0")]),
        "target 0 should be at least 0.01: autoscaling.knative.dev/target"
    );
    assert_eq!(
        complaint(&[(INITIAL_SCALE.name, "0")]),
        "invalid value: 0: autoscaling.knative.dev/initial-scale=0 not allowed by cluster"
    );
}

#[test]
fn the_same_complaint_about_several_fields_is_one() {
    assert_eq!(
        complaint(&[
            (WINDOW.name, "x"),
            (TARGET_BURST_CAPACITY.name, "x"),
            ("autoscaling.knative.dev/minScale", "x"),
        ]),
        "invalid value: x: autoscaling.knative.dev/minScale, \
         autoscaling.knative.dev/target-burst-capacity, autoscaling.knative.dev/window"
    );
}

#[test]
fn a_limit_applies_where_max_scale_is_given() {
    let config = Autoscaler {
        max_scale_limit: 5,
        ..Autoscaler::default()
    };
    let complaint = |value| {
        validate(&config, &annotations(&[(MAX_SCALE.name, value)]))
            .err()
            .unwrap_or_default()
            .to_string()
    };
    assert_eq!(complaint("5"), "");
    assert_eq!(
        complaint("6"),
        "expected 1 <= 6 <= 5: autoscaling.knative.dev/max-scale"
    );
    assert_eq!(
        complaint("0"),
        "max-scale=0 (unlimited), must be less than 5: autoscaling.knative.dev/max-scale"
    );
    assert_eq!(validate(&config, &Annotations::new()), Ok(()));
}

/// `TestValidateProgressDeadlineAnnotation` in spirit (revision_validation_test.go).
#[test]
fn progress_deadlines_are_whole_and_not_negative() {
    for (value, complaint) in [
        ("1m3s", ""),
        ("", ""),
        ("0", ""),
        (
            "x",
            "invalid value: x: serving.knative.dev/progress-deadline",
        ),
        (
            "1m3s34ms",
            "progress-deadline=1m3s34ms is not at second precision: \
             serving.knative.dev/progress-deadline",
        ),
        (
            "-1m",
            "progress-deadline=-1m must be positive: serving.knative.dev/progress-deadline",
        ),
    ] {
        let errors = validate_progress_deadline(&annotations(&[(PROGRESS_DEADLINE.name, value)]))
            .err()
            .unwrap_or_default();
        assert_eq!(errors.to_string(), complaint);
    }
}

/// `TestValidateHasNoAutoscalingAnnotation` (metadata_validation_test.go).
#[test]
fn scaling_annotations_belong_on_the_template() {
    let errors = validate_absent(&annotations(&[
        (MIN_SCALE.name, "1"),
        (PROGRESS_DEADLINE.name, "1s"),
        ("example.com/x", ""),
    ]))
    .expect_err("one misplaced");
    assert_eq!(
        errors.to_string(),
        "invalid key name \"autoscaling.knative.dev/min-scale\": \n\
         autoscaling annotations must be put under \"spec.template.metadata.annotations\" to work"
    );
}

/// Lines of `key=value`; a number stands for one of the spellings we know.
fn mutated_annotations_hold(input: &[u8]) {
    let spellings: Vec<_> = ALL
        .iter()
        .flat_map(|key| std::iter::once(key.name).chain(key.legacy))
        .collect();
    let given: Annotations = String::from_utf8_lossy(input)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let index: usize = key.parse().unwrap_or_default();
            let key = spellings[index % spellings.len()];
            (key.to_owned(), value.to_owned())
        })
        .collect();
    for key in ALL {
        let readable = key.int(&given).is_some()
            || key.float(&given).is_some()
            || key.duration(&given).is_some();
        assert!(key.get(&given).is_some() || !readable);
    }
    match validate(&Autoscaler::default(), &given) {
        Ok(()) => {
            let min = MIN_SCALE.int(&given).unwrap_or(0);
            let max = MAX_SCALE.int(&given).unwrap_or(0);
            assert!(min >= 0 && (max == 0 || min <= max));
            if let Some((_, value)) = WINDOW.find(&given) {
                let nanos = WINDOW.duration(&given).expect(value);
                assert!((6_000_000_000..=3_600_000_000_000).contains(&nanos));
            }
        }
        Err(errors) => {
            assert!(!errors.to_list().is_empty());
            assert!(!errors.to_string().is_empty());
        }
    }
}

#[test]
fn whatever_annotations_say_validation_and_reading_agree() {
    let seeds: [&[u8]; 4] = [
        b"0=kpa.autoscaling.knative.dev\n1=rps\n2=0.5\n3=70\n5=-1",
        b"7=1\n8=2\n9=5\n10=6\n11=0\n13=2\n14=1m0s",
        b"15=10\n16=11\n17=200\n19=15m\n20=90s",
        b"21=1h\n23=weightedExponential\n25=600s",
    ];
    crate::fuzz::mutate(&seeds, 3000, mutated_annotations_hold);
}
