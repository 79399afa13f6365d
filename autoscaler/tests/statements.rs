//! The statements of the fuzzers, on bytes of which a seeded generator makes many that are nearly
//! right.

#[path = "support/statements.rs"]
mod statements;

use prost::Message as _;
use serving::annotation;
use serving::names::{
    COUNT_STARTING_PODS_ANNOTATION, LEARN_START_TIME_ANNOTATION, SCALE_BUFFER_ANNOTATION,
    SECOND_TARGET_ANNOTATION,
};
use serving::stat::{Stat, WireStatMessage, WireStatMessages};

/// Cases of each statement.
const CASES: usize = 4000;

/// Values that some key may take, and some that none does.
const VALUES: [&str; 24] = [
    "",
    "0",
    "1",
    "-1",
    "2",
    "0.01",
    "0.001",
    "70",
    "100",
    "1000.5",
    "1e308",
    "-0",
    "nan",
    "inf",
    "0x1p-2",
    "10s",
    "6s",
    "1h",
    "1.5s",
    "9999h",
    "true",
    "false",
    "rps",
    "concurrency",
];

const CONFIG_KEYS: [&str; 22] = [
    "container-concurrency-target-percentage",
    "container-concurrency-target-default",
    "requests-per-second-target-default",
    "target-burst-capacity",
    "stable-window",
    "panic-window-percentage",
    "panic-threshold-percentage",
    "max-scale-up-rate",
    "max-scale-down-rate",
    "enable-scale-to-zero",
    "scale-to-zero-grace-period",
    "scale-to-zero-pod-retention-period",
    "scale-down-delay",
    "initial-scale",
    "allow-zero-initial-scale",
    "min-scale",
    "max-scale",
    "max-scale-limit",
    "activator-capacity",
    "buckets",
    "lease-duration",
    "progress-deadline",
];

/// Lines of a few keys with values that are mostly of the right kind, and now and then a flipped
/// bit.
fn text(rng: &mut fastrand::Rng, keys: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..rng.usize(..6) {
        let key = keys[rng.usize(..keys.len())];
        let value = VALUES[rng.usize(..VALUES.len())];
        text.extend([key, "=", value, "\n"]);
    }
    let mut text = text.into_bytes();
    if rng.u8(..4) == 0 && !text.is_empty() {
        let at = rng.usize(..text.len());
        text[at] ^= 1 << rng.u8(..8);
    }
    text
}

#[test]
fn whatever_annotations_say_decisions_are_made() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut keys = vec![
        SCALE_BUFFER_ANNOTATION,
        SECOND_TARGET_ANNOTATION,
        COUNT_STARTING_PODS_ANNOTATION,
        LEARN_START_TIME_ANNOTATION,
    ];
    keys.extend(annotation::ALL.iter().map(|key| key.name));
    for _ in 0..CASES {
        statements::annotations(&text(&mut rng, &keys));
    }
}

#[test]
fn whatever_config_maps_say_they_are_refused_or_used() {
    let mut rng = fastrand::Rng::with_seed(6);
    for _ in 0..CASES {
        statements::config_maps(&text(&mut rng, &CONFIG_KEYS));
    }
}

#[test]
fn stat_frames_are_those_of_the_general_decoder() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..CASES {
        let message = |number: usize| WireStatMessage {
            namespace: "default".repeat(number % 3),
            name: format!("revision-{number}"),
            stat: (!number.is_multiple_of(4)).then(|| Stat {
                average_concurrent_requests: 1.5,
                timestamp: 17,
                ..Stat::default()
            }),
        };
        let messages = (0..rng.usize(..5)).map(message).collect();
        let mut frame = WireStatMessages { messages }.encode_to_vec();
        for _ in 0..rng.usize(..4) {
            if frame.is_empty() {
                break;
            }
            let at = rng.usize(..frame.len());
            match rng.u8(..3) {
                0 => frame[at] ^= 1 << rng.u8(..8),
                1 => frame.insert(at, rng.u8(..)),
                _ => frame.truncate(at),
            }
        }
        statements::stat_frames(&frame);
    }
}
