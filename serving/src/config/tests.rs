use std::time::Duration;

use super::observability::{InvalidJson, PROTOCOL_NONE, PROTOCOL_PROMETHEUS};
use super::*;

fn data(entries: &[(&str, &str)]) -> Data {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn complaints(error: &InvalidConfig) -> Vec<&str> {
    error.problems().collect()
}

/// An empty map, and one with the keys that older releases had, mean the defaults.
#[test]
fn without_known_keys_the_defaults_apply() {
    let data = data(&[("_example", "x"), ("tick-interval", "2s")]);
    assert_eq!(Autoscaler::parse(&data), Ok(Autoscaler::default()));
    assert_eq!(LeaderElection::parse(&data), Ok(LeaderElection::default()));
    assert_eq!(Features::parse(&data), Features::default());
    assert_eq!(Network::parse(&data), Ok(Network::default()));
    assert_eq!(Observability::parse(&data), Ok(Observability::default()));
    assert_eq!(Logging::parse(&data), Ok(Logging::default()));
}

#[test]
fn every_problem_is_reported_and_the_first_is_printed() {
    let error = Autoscaler::parse(&data(&[
        ("min-scale", "two"),
        ("max-scale-up-rate", "1e999"),
        ("stable-window", "60"),
    ]))
    .expect_err("three bad values");
    assert_eq!(
        complaints(&error),
        [
            "failed to parse data: failed to parse \"max-scale-up-rate\": \
             strconv.ParseFloat: parsing \"1e999\": value out of range",
            "failed to parse data: failed to parse \"min-scale\": \
             strconv.ParseInt: parsing \"two\": invalid syntax",
            "failed to parse data: failed to parse \"stable-window\": \
             time: missing unit in duration \"60\"",
        ]
    );
    assert_eq!(error.to_string(), complaints(&error)[0]);

    let error = Autoscaler::parse(&data(&[("stable-window", "5500ms"), ("min-scale", "-1")]))
        .expect_err("three broken rules");
    assert_eq!(
        complaints(&error),
        [
            "stable-window = 5.5s, must be in [6s; 1h0m0s] range",
            "stable-window = 5.5s, must be specified with at most second precision",
            "min-scale = -1, must be at least 0",
        ]
    );
}

/// Cases of `TestNewConfig` (pkg/autoscaler/config/config_test.go).
#[test]
fn target_percentages_above_one_are_percent() {
    for (text, fraction) in [("70", 0.7), ("0.7", 0.7), ("1", 1.0), ("1.5", 0.015)] {
        let data = data(&[("container-concurrency-target-percentage", text)]);
        let config = Autoscaler::parse(&data).expect(text);
        assert!(
            (config.container_concurrency_target_fraction - fraction).abs() < 1e-12,
            "{text}"
        );
    }
}

/// What upstream lets through since every comparison with a NaN is false.
#[test]
fn a_nan_passes_the_range_checks() {
    let data = data(&[
        ("max-scale-up-rate", "nan"),
        ("container-concurrency-target-percentage", "nan"),
        ("panic-window-percentage", "nan"),
    ]);
    assert!(Autoscaler::parse(&data).is_ok_and(|config| config.max_scale_up_rate.is_nan()));
}

/// Rounding to seconds saturates, so the longest delay counts as whole seconds.
#[test]
fn the_longest_scale_down_delay_is_accepted() {
    let parse = |text| Autoscaler::parse(&data(&[("scale-down-delay", text)]));
    let longest = Duration::from_nanos(i64::MAX.unsigned_abs());
    let config = parse("9223372036854775807ns").expect("accepted upstream");
    assert_eq!(config.scale_down_delay, longest);
    assert!(parse("9223372036854775806ns").is_err());
}

#[test]
fn newer_spellings_win_but_both_must_parse() {
    let config = LeaderElection::parse(&data(&[
        ("leaseDuration", "20s"),
        ("lease-duration", "25s"),
        ("retryPeriod", "3s"),
        ("map-lease-prefix.autoscaler.a", "b"),
        ("map-lease-prefix.", "ignored"),
    ]))
    .expect("valid");
    assert_eq!(config.lease_duration, 25_000_000_000);
    assert_eq!(config.retry_period, 3_000_000_000);
    assert_eq!(
        config.lease_names_prefix_mapping,
        data(&[("autoscaler.a", "b")])
    );
    let both = data(&[("renewDeadline", "x"), ("renew-deadline", "1s")]);
    assert!(LeaderElection::parse(&both).is_err());
}

#[test]
fn lease_timing_must_fit_together() {
    let timing = LeaderElection::default()
        .timing()
        .expect("the defaults fit");
    assert_eq!(timing.renew_deadline, Duration::from_secs(40));
    let contradictory = LeaderElection {
        lease_duration: 10_000_000_000,
        renew_deadline: 10_000_000_000,
        retry_period: 9_000_000_000,
        ..LeaderElection::default()
    };
    let error = contradictory.timing().expect_err("two rules broken");
    assert_eq!(
        complaints(&error),
        [
            "leaseDuration must be greater than renewDeadline",
            "renewDeadline must be greater than retryPeriod*JitterFactor",
        ]
    );
    let at_the_limit = LeaderElection {
        renew_deadline: 12_000_000_000,
        ..LeaderElection::default()
    };
    assert!(at_the_limit.timing().is_err(), "1.2 times is not enough");
}

#[test]
fn a_deployment_must_name_its_image() {
    let error = Deployment::parse(&Data::new()).expect_err("no image");
    assert_eq!(
        error.to_string(),
        "queue-sidecar-image cannot be empty or unset"
    );
    let config = Deployment::parse(&data(&[
        ("queue-sidecar-image", " image "),
        ("queue-sidecar-token-audiences", "a, b ,a"),
        ("queue-sidecar-cpu-limit", "1500m"),
    ]))
    .expect("valid");
    assert_eq!(config.queue_sidecar_image, "image");
    let audiences: Vec<_> = config.queue_sidecar_token_audiences.into_iter().collect();
    assert_eq!(audiences, ["a", "b"]);
    let error = Deployment::parse(&data(&[
        ("queue-sidecar-image", "image"),
        ("default-affinity-type", "spread"),
    ]))
    .expect_err("an unknown affinity");
    assert_eq!(
        error.to_string(),
        "unsupported default-affinity-type value: \"spread\""
    );
}

#[test]
fn the_legacy_encryption_flag_counts_unless_the_newer_key_says_more() {
    for (entries, enabled) in [
        (&[("internal-encryption", "true")][..], true),
        (
            &[
                ("internal-encryption", "true"),
                ("system-internal-tls", "Disabled"),
            ],
            true,
        ),
        (&[("system-internal-tls", "ENABLED")], true),
        (&[("internal-encryption", "false")], false),
    ] {
        let config = Network::parse(&data(entries)).expect("valid");
        assert_eq!(config.system_internal_tls, enabled, "{entries:?}");
    }
}

#[test]
fn network_keys_of_the_controller_must_parse() {
    for (key, value, complaint) in [
        (
            "rollout-duration",
            "-1",
            "rollout-duration must be a positive integer, but was -1",
        ),
        (
            "http-protocol",
            "maybe",
            "httpProtocol maybe in config-network ConfigMap is not supported",
        ),
        (
            "cluster-local-domain-tls",
            "yes",
            "cluster-local-domain-tls with value: \"yes\" in config-network ConfigMap is not \
             supported",
        ),
    ] {
        let error = Network::parse(&data(&[(key, value)])).expect_err(key);
        assert_eq!(error.to_string(), complaint);
    }
    let error = Network::parse(&data(&[("domain-template", "a\n{{.Name")])).expect_err("template");
    assert!(
        error
            .to_string()
            .starts_with("template: domain-template:2: "),
        "{error}"
    );
}

#[test]
fn domain_templates_are_tried_out() {
    let complaint = |text| {
        Network::parse(&data(&[("domain-template", text)]))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    for text in [
        "{{.Name}}.{{.Domain}}",
        "{{if index .Annotations \"sub\"}}{{.Name}}{{else}}x{{end}}.{{.Domain}}",
        "{{with .Labels.team}}{{.}}.{{end}}{{.Domain}}",
        "{{.Domain}}/",
    ] {
        assert_eq!(complaint(text), "", "{text}");
    }
    for (text, expected) in [
        ("", "empty hostname"),
        (":80", "empty hostname"),
        (
            "{{.Domain}}/{{.Name}}",
            "domain template has url path: /foo",
        ),
        ("{{.Domain}}?a", "domain template has url path: /?a"),
        (
            "{{.Name}} {{.Domain}}",
            "parse \"https://foo baz.com\": invalid character \" \" in host name",
        ),
        (
            "{{.Nam}}",
            "template: domain-template:1: executing \"domain-template\": can't evaluate field Nam",
        ),
    ] {
        assert_eq!(complaint(text), expected);
    }
    let tag = data(&[("tag-template", "{{.Domain}}")]);
    assert!(Network::parse(&tag).is_err(), "tags know no domain");
}

#[test]
fn components_log_at_their_own_level_or_at_that_of_zap() {
    let config = Logging::parse(&data(&[
        ("loglevel.activator", "DEBUG"),
        ("loglevel.autoscaler", ""),
        ("zap-logger-config", r#"{"Level": "warn"}"#),
    ]))
    .expect("valid");
    assert_eq!(config.level("activator"), Some(logging::Level::Debug));
    assert_eq!(config.level("autoscaler"), Some(logging::Level::Warn));
    let level = logging::Level::of_zap_config;
    assert_eq!(level(""), Some(logging::Level::Info));
    assert_eq!(level("{}"), Some(logging::Level::Info));
    assert_eq!(level(r#"{"level":"loud"}"#), None);
    assert_eq!(level("{"), None);
}

/// The empty forms that queue-proxy accepts, and keys in another case.
#[test]
fn observability_json_is_read_on_top_of_the_defaults() {
    let read = |text| Observability::from_json(text).expect(text);
    for text in [
        "{}",
        "null",
        r#"{"tracing":{},"metrics":{},"runtime":{},"requestMetrics":{}}"#,
        r#"{"tracing":null,"enableRequestLog":null,"unknown":[1]}"#,
    ] {
        assert_eq!(read(text), Observability::default(), "{text}");
    }
    let config = read(
        r#"{"REQUESTMETRICS":{"Protocol":"prometheus","exportinterval":5},
            "tracing":{"samplingRate":1},"loggingurltemplate":"u","ENABLEREQUESTLOG":true}"#,
    );
    assert_eq!(config.request_metrics.protocol, PROTOCOL_PROMETHEUS);
    assert_eq!(
        config.request_metrics.export_interval(),
        Some(Duration::from_nanos(5))
    );
    assert_eq!(config.metrics.protocol, PROTOCOL_NONE);
    assert_eq!(config.metrics.export_interval(), None);
    assert!((config.tracing.sampling_rate - 1.0).abs() < f64::EPSILON);
    assert_eq!(config.logging_url_template, "u");
    assert!(config.enable_request_log);
}

#[test]
fn observability_json_of_the_wrong_types_is_refused() {
    for (text, complaint) in [
        (
            r#"{"runtime":{"exportInterval":"60s"}}"#,
            "observability configuration: runtime.exportInterval is a string, not an integer",
        ),
        (
            r#"{"metrics":{"exportInterval":1.5}}"#,
            "observability configuration: metrics.exportInterval is a fraction, not an integer",
        ),
        (
            r#"{"tracing":[]}"#,
            "observability configuration: tracing is a list, not an object",
        ),
        (
            "[]",
            "observability configuration: the whole is a list, not an object",
        ),
    ] {
        let error = Observability::from_json(text).expect_err(text);
        assert_eq!(error.to_string(), complaint);
    }
    let error = Observability::from_json("{").expect_err("half an object");
    assert!(matches!(error, InvalidJson::Syntax(_)));
}

/// What Go's encoder writes: no zero values, integers for intervals, no angle brackets.
#[test]
fn observability_json_looks_like_gos() {
    let config = Observability {
        request_log_template: "<{{.Request.Method}}&>".to_owned(),
        enable_var_log_collection: true,
        tracing: observability::Tracing {
            protocol: "grpc".to_owned(),
            endpoint: "e:1".to_owned(),
            sampling_rate: 1.0,
        },
        ..Observability::default()
    };
    assert_eq!(
        config.to_json(),
        concat!(
            r#"{"tracing":{"protocol":"grpc","endpoint":"e:1","samplingRate":1},"#,
            r#""metrics":{"protocol":"none"},"#,
            r#""runtime":{"profiling":"disabled","exportInterval":15000000000},"#,
            r#""requestMetrics":{"protocol":"none"},"EnableVarLogCollection":true,"#,
            r#""requestLogTemplate":"\u003c{{.Request.Method}}\u0026\u003e"}"#,
        )
    );
    assert_eq!(
        Observability::from_json(&config.to_json()).expect("own JSON"),
        config
    );
}

#[test]
fn observability_sections_report_their_problems_in_order() {
    let error = Observability::parse(&data(&[
        ("tracing-protocol", "grpc"),
        ("metrics-protocol", "otlp"),
        ("request-metrics-export-interval", "-1s"),
        ("runtime-profiling", "on"),
        ("logging.request-log-template", "{{"),
    ]))
    .expect_err("five problems");
    let complaints = complaints(&error);
    assert_eq!(
        complaints[..4],
        [
            "endpoint should be set for protocol \"grpc\"",
            "unsupported protocol \"otlp\"",
            "unsupported profile setting \"on\"",
            "export interval \"-1s\" should be greater than zero",
        ]
    );
    assert!(complaints[4].starts_with("template: requestLog:1: "));
    assert_eq!(complaints.len(), 5);
}

const KEYS: &[&str] = &[
    "stable-window",
    "min-scale",
    "max-scale",
    "max-scale-limit",
    "initial-scale",
    "scale-down-delay",
    "scale-to-zero-grace-period",
    "container-concurrency-target-percentage",
    "target-burst-capacity",
    "panic-window-percentage",
    "max-scale-up-rate",
    "enable-scale-to-zero",
    "buckets",
    "lease-duration",
    "queue-sidecar-image",
    "progress-deadline",
    "queue-sidecar-cpu-limit",
    "metrics-protocol",
    "metrics-endpoint",
    "metrics-export-interval",
    "tracing-sampling-rate",
    "logging.request-log-template",
    "domain-template",
    "rollout-duration",
    "system-internal-tls",
    "loglevel.activator",
    "zap-logger-config",
];

/// Lines of `key=value`; a number stands for one of the keys above.
fn mutated_configs_hold(input: &[u8]) {
    let data: Data = String::from_utf8_lossy(input)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let key = match key.parse::<usize>() {
                Ok(index) => KEYS[index % KEYS.len()],
                Err(_) => key,
            };
            (key.to_owned(), value.to_owned())
        })
        .collect();
    if let Ok(config) = Autoscaler::parse(&data) {
        assert!(config.stable_window >= crate::annotation::WINDOW_MIN);
        assert!(config.stable_window <= crate::annotation::WINDOW_MAX);
        assert!(!config.scale_to_zero_grace_period.is_zero());
        assert!(config.max_scale == 0 || config.min_scale <= config.max_scale);
    }
    if let Ok(config) = Deployment::parse(&data) {
        assert!(!config.queue_sidecar_image.is_empty());
        assert_eq!(config.progress_deadline.subsec_nanos(), 0);
    }
    if let Ok(config) = Observability::parse(&data)
        && !config.request_log_template.is_empty()
        && config.tracing.sampling_rate.is_finite()
    {
        let read = Observability::from_json(&config.to_json());
        assert_eq!(read.expect("own JSON"), config);
    }
    if let Ok(config) = LeaderElection::parse(&data)
        && let Ok(timing) = config.timing()
    {
        assert!(timing.lease_duration > timing.renew_deadline);
        assert!(timing.renew_deadline > timing.retry_period);
    }
    if let Ok(config) = Logging::parse(&data) {
        assert!(config.level("activator") >= config.levels.get("activator").copied());
    }
    if let Err(error) = Network::parse(&data) {
        assert!(error.problems().all(|problem| !problem.is_empty()));
    }
}

#[test]
fn whatever_a_config_map_says_an_accepted_one_keeps_the_rules() {
    let seeds: [&[u8]; 5] = [
        b"0=60s\n1=0\n2=0\n3=0\n4=1\n5=0s\n6=30s\n7=70\n8=-1\n9=10\n10=1000\n11=true",
        b"12=10\n13=60s\n14=image\n15=600s\n16=100m",
        b"17=grpc\n18=http://collector:4317\n19=1m\n20=0.1",
        b"21={{if .Request}}{{js .Request.URL}}{{end}}\n22={{.Name}}.{{.Domain}}\n23=0\n24=Enabled",
        b"25=debug\n26={\"level\":\"info\"}",
    ];
    crate::fuzz::mutate(&seeds, 2000, mutated_configs_hold);
}

/// Reading what was written gives the same again, whatever was read first.
fn mutated_json_holds(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(config) = Observability::from_json(&text) {
        let written = config.to_json();
        let again = Observability::from_json(&written).expect("own JSON");
        assert_eq!(Observability::from_json(&again.to_json()).ok(), Some(again));
    }
}

#[test]
fn whatever_the_json_says_it_can_be_written_again() {
    let seeds: [&[u8]; 3] = [
        br#"{"tracing":{"protocol":"none","samplingRate":0.5},"metrics":{}}"#,
        br#"{"runtime":{"profiling":"enabled","exportInterval":15},"requestMetrics":null}"#,
        br#"{"enableRequestLog":true,"requestLogTemplate":"\u003c{{.Request.Method}}"}"#,
    ];
    crate::fuzz::mutate(&seeds, 3000, mutated_json_holds);
}

/// A key that is listed but not read would be accepted with any value.
#[test]
fn every_listed_key_of_config_autoscaler_is_read() {
    for key in autoscaler::KEYS {
        let data = [(key.to_owned(), "?".to_owned())].into();
        let parsed = Autoscaler::parse(&data);
        assert!(
            parsed.is_err_and(|error| error.to_string().contains(key))
                || key == "pod-autoscaler-class",
            "{key}"
        );
    }
}
