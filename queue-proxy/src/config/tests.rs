use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn environment() -> BTreeMap<String, String> {
    [
        ("CONTAINER_CONCURRENCY", "10"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("USER_PORT", "8080"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_CONFIGURATION", ""),
        ("SERVING_REVISION", "hello-00001"),
        ("SERVING_POD", "hello-00001-deployment-abc"),
        ("SERVING_POD_IP", "10.0.0.7"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

fn with(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut environment = environment();
    for (name, value) in changes {
        environment.insert((*name).to_owned(), (*value).to_owned());
    }
    environment
}

fn read(changes: &[(&str, &str)]) -> Config {
    Config::from_environment(&with(changes)).expect("valid")
}

#[test]
fn the_least_environment_takes_the_defaults() {
    let config = read(&[]);
    assert_eq!(config.container_concurrency, NonZeroU32::new(10));
    assert_eq!(config.queue_depth(), 100);
    assert_eq!(config.app, "127.0.0.1:8080".parse().expect("address"));
    assert_eq!(config.revision_timeout, Duration::from_secs(300));
    assert_eq!(config.response_start_timeout, None);
    assert_eq!(config.idle_timeout, None);
    assert_eq!(config.observability, Observability::default());
    assert_eq!(config.options, Options::default());
}

#[test]
fn an_empty_environment_names_every_required_variable() {
    let problems = Config::from_environment(&BTreeMap::new()).expect_err("nothing there");
    let missing: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(missing.len(), 12, "{missing:?}");
    assert_eq!(
        missing[0],
        "required key CONTAINER_CONCURRENCY missing value"
    );
}

#[test]
fn numbers_below_one_mean_no_limit_and_no_time() {
    let config = read(&[
        ("CONTAINER_CONCURRENCY", "-1"),
        ("REVISION_TIMEOUT_SECONDS", "-5"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "-5"),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "0x10"),
    ]);
    assert_eq!(config.container_concurrency, None);
    assert_eq!(config.queue_depth(), 0);
    assert_eq!(config.revision_timeout, Duration::ZERO);
    assert_eq!(config.idle_timeout, None);
    assert_eq!(config.response_start_timeout, Some(Duration::from_secs(16)));
}

#[test]
fn the_largest_limit_upstream_accepts_is_kept() {
    let config = read(&[("CONTAINER_CONCURRENCY", "2147483647")]);
    assert_eq!(config.container_concurrency, NonZeroU32::new(2_147_483_647));
    assert_eq!(config.queue_depth(), u32::MAX);
}

#[test]
fn an_empty_port_is_chosen_by_the_system() {
    assert_eq!(read(&[("QUEUE_SERVING_PORT", "")]).serving_port, 0);
}

#[test]
fn row_46_empty_strings_of_the_controller_are_valid() {
    let config = read(&[
        ("SERVING_CONFIGURATION", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("QUEUE_PROXY_TLS_MIN_VERSION", ""),
        ("QUEUE_PROXY_TLS_MAX_VERSION", ""),
        ("QUEUE_PROXY_TLS_CIPHER_SUITES", ""),
        ("QUEUE_PROXY_TLS_CURVE_PREFERENCES", ""),
    ]);
    assert_eq!(config.tls.policy.min_version, "");
}

#[test]
fn row_48_the_pod_of_telemetry_is_not_the_pod_of_statistics() {
    let config = read(&[("HOSTNAME", "node"), ("POD_NAME", "pod")]);
    assert_eq!(config.identity.telemetry_pod, "pod");
    assert_eq!(config.identity.pod, "hello-00001-deployment-abc");
    assert_eq!(
        read(&[("HOSTNAME", "node"), ("POD_NAME", "")])
            .identity
            .telemetry_pod,
        "node"
    );
}

#[test]
fn row_45_unknown_and_capitalised_keys_are_accepted() {
    let config = read(&[(
        "OBSERVABILITY_CONFIG",
        r#"{"tracing":{},"METRICS":{"protocol":"none"},"Runtime":{"Profiling":"enabled","exportInterval":15000000000},
            "requestMetrics":{"protocol":"prometheus","exportInterval":60000000000},"EnableVarLogCollection":true,
            "LoggingURLTemplate":"x","enableRequestLog":true,"requestLogTemplate":"\u003c{{.Request.Method}}\u003e"}"#,
    )]);
    let observability = config.observability;
    assert!(observability.profiling && observability.request_log);
    assert_eq!(observability.request_log_template, "<{{.Request.Method}}>");
    assert_eq!(observability.metrics_protocol, MetricsProtocol::Prometheus);
    assert_eq!(
        observability.metrics_interval,
        Some(Duration::from_secs(60))
    );
}

#[test]
fn a_bad_observability_config_names_every_problem() {
    let problems = Observability::parse(
        r#"{"tracing":{"protocol":""},"requestMetrics":{"protocol":"prometheus","endpoint":":80","exportInterval":"60s"},"enableRequestLog":1}"#,
    )
    .expect_err("four problems");
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(Observability::parse("[]").is_err());
    assert!(Observability::parse("{").is_err());
    assert_eq!(Observability::parse("{}"), Ok(Observability::default()));
}

#[test]
fn the_older_variables_still_work() {
    let config = read(&[
        ("SERVING_REQUEST_METRICS_BACKEND", "prometheus"),
        ("SERVING_ENABLE_REQUEST_LOG", "true"),
        ("SERVING_REQUEST_LOG_TEMPLATE", "x"),
        ("ENABLE_PROFILING", "true"),
    ]);
    assert!(config.options.legacy_metrics);
    assert!(config.observability.request_log && config.observability.profiling);
    assert_eq!(config.observability.request_log_template, "x");
}

#[test]
fn the_prometheus_port_comes_from_the_environment_or_the_endpoint() {
    let endpoint = r#"{"requestMetrics":{"protocol":"prometheus","endpoint":"0.0.0.0:9999"}}"#;
    assert_eq!(
        read(&[("OBSERVABILITY_CONFIG", endpoint)])
            .options
            .user_metrics_port,
        9999
    );
    assert_eq!(
        read(&[
            ("OBSERVABILITY_CONFIG", endpoint),
            ("METRICS_PROMETHEUS_PORT", "9998")
        ])
        .options
        .user_metrics_port,
        9998
    );
}

#[test]
fn the_prometheus_host_comes_from_the_environment_or_the_endpoint() {
    let endpoint = r#"{"requestMetrics":{"protocol":"prometheus","endpoint":"[::1]:9999"}}"#;
    let host = |changes: &[(&str, &str)]| read(changes).options.user_metrics_host;
    assert_eq!(host(&[]), None);
    assert_eq!(
        host(&[("OBSERVABILITY_CONFIG", endpoint)]),
        "::1".parse().ok()
    );
    assert_eq!(
        host(&[
            ("OBSERVABILITY_CONFIG", endpoint),
            ("METRICS_PROMETHEUS_HOST", "localhost")
        ]),
        "127.0.0.1".parse().ok()
    );
}

#[test]
fn settings_of_our_own_have_upstreams_defaults_and_are_checked() {
    let config = read(&[
        ("PILOTLIGHT_QUEUE_DEPTH", "7"),
        ("PILOTLIGHT_QUIET_PERIOD", "1m30s"),
        ("PILOTLIGHT_BIND_ADDRESS", "127.0.0.9"),
        ("PILOTLIGHT_LEGACY_METRICS", "true"),
    ]);
    assert_eq!(config.queue_depth(), 7);
    assert_eq!(config.options.quiet_period, Duration::from_secs(90));
    assert_eq!(config.options.bind, "127.0.0.9".parse().ok());
    assert!(config.options.legacy_metrics);
    let delay = |text| {
        read(&[("PILOTLIGHT_OVERLOAD_DELAY", text)])
            .options
            .overload_delay
    };
    assert_eq!(delay(""), Some(Duration::from_millis(100)));
    assert_eq!(delay("1s"), Some(Duration::from_secs(1)));
    assert_eq!(delay("0"), None);
    let problems = Config::from_environment(&with(&[
        ("PILOTLIGHT_QUEUE_DEPTH", "0"),
        ("PILOTLIGHT_QUIET_PERIOD", "30"),
        ("PILOTLIGHT_OVERLOAD_DELAY", "soon"),
        ("PILOTLIGHT_BIND_ADDRESS", "here"),
        ("QUEUE_SERVING_PORT", "99999"),
        ("PROFILING_PORT", "x"),
    ]))
    .expect_err("six problems");
    assert_eq!(problems.iter().count(), 6, "{problems}");
}

/// Text that some variable takes, or nearly takes, or anything at all.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[-+]?[0-9]{1,20}",
        "(true|false|T|0|1|debug|1\\.[23])",
        "[0-9]{1,6}(ns|ms|s|m|h)",
        r#"\{"(tracing|metrics|requestMetrics|runtime)":\{"(protocol|exportInterval)":("[a-z]{0,9}"|-?[0-9]{1,19})\}\}"#,
        r#"\[?\{"(httpGet|tcpSocket|grpc|exec)":(null|\{"port":("[a-z]{0,3}"|-?[0-9]{1,6})\})\}\]?"#,
        r#"\{\{(range|if|\.Request|js|printf) ?[.a-zA-Z"%]{0,12}\}\}"#,
    ]
}

proptest! {
    /// Whatever the variables say, they are refused with a line per problem, or make a sidecar
    /// that can be built or says why not.
    #[test]
    fn any_environment_is_taken_or_refused(
        changes in proptest::collection::vec((0..NAMES.len(), value()), 0..6),
    ) {
        let mut environment = environment();
        for (name, value) in changes {
            environment.insert(NAMES[name].to_owned(), value);
        }
        match Config::from_environment(&environment) {
            Ok(config) => {
                let _ = crate::QueueProxy::new(config);
            }
            Err(problems) => prop_assert!(problems.iter().all(|it| !it.to_string().is_empty())),
        }
    }
}

/// What the test above changes.
const NAMES: [&str; 20] = [
    "CONTAINER_CONCURRENCY",
    "QUEUE_SERVING_PORT",
    "USER_PORT",
    "REVISION_TIMEOUT_SECONDS",
    "REVISION_RESPONSE_START_TIMEOUT_SECONDS",
    "REVISION_IDLE_TIMEOUT_SECONDS",
    "SERVING_READINESS_PROBE",
    "ENABLE_MULTI_CONTAINER_PROBES",
    "ENABLE_HTTP2_AUTO_DETECTION",
    "ENABLE_HTTP_FULL_DUPLEX",
    "SERVING_LOGGING_CONFIG",
    "SERVING_LOGGING_LEVEL",
    "SERVING_ENABLE_REQUEST_LOG",
    "SERVING_REQUEST_LOG_TEMPLATE",
    "SERVING_REQUEST_METRICS_BACKEND",
    "OBSERVABILITY_CONFIG",
    "METRICS_PROMETHEUS_PORT",
    "PILOTLIGHT_QUEUE_DEPTH",
    "PILOTLIGHT_QUIET_PERIOD",
    "PILOTLIGHT_BIND_ADDRESS",
];
