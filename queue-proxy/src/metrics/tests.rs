use std::collections::BTreeMap;

use super::*;

fn metrics(legacy: bool) -> Metrics {
    let environment: BTreeMap<String, String> = [
        ("CONTAINER_CONCURRENCY", "1"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("USER_PORT", "8080"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_CONFIGURATION", "hello"),
        ("SERVING_REVISION", "hello-00001"),
        ("SERVING_POD", "pod"),
        ("SERVING_POD_IP", "10.0.0.7"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let mut config = Config::from_environment(&environment).expect("valid");
    config.options.legacy_metrics = legacy;
    Metrics::new(&config)
}

fn facts() -> ServerFacts {
    ServerFacts {
        method: Method::GET,
        version: Version::HTTP_11,
        tls: false,
        host: "hello.default.example.com:8080".into(),
        route_tag: Cow::Borrowed(serving::header::DISABLED_TAG),
        request_bytes: 3,
    }
}

#[test]
fn a_scrape_has_upstreams_names_and_labels() {
    let metrics = metrics(true);
    metrics.admitted(7);
    metrics.invoked(StatusCode::OK, Duration::from_millis(20));
    metrics.served(&facts(), StatusCode::OK, 11, Duration::from_millis(20));
    metrics.exchanged(&facts(), Ok(StatusCode::OK), Duration::from_millis(20));
    metrics.exchanged(&facts(), Err("net.OpError"), Duration::from_millis(20));
    let text = prometheus_text(&metrics.registry);
    for line in [
        "target_info{container_name=\"queue-proxy\",k8s_namespace_name=\"default\"",
        "kn_serving_queue_depth{otel_scope_name=\"knative.dev/serving/pkg/queue\",otel_scope_schema_url=\"\",otel_scope_version=\"\"} 7",
        "http_response_status_code=\"200\"} 1",
        "# TYPE http_server_request_duration_seconds histogram",
        "# TYPE http_server_request_body_size_bytes histogram",
        "# TYPE http_server_response_body_size_bytes histogram",
        "# TYPE http_client_request_duration_seconds histogram",
        "# TYPE http_client_request_body_size_bytes histogram",
        "# HELP kn_serving_invocation_duration_seconds The duration of task execution\n",
        "kn_route_tag=\"kn:disabled\"",
        "server_address=\"hello.default.example.com\",server_port=\"8080\",url_scheme=\"http\"",
        "server_address=\"127.0.0.1\",server_port=\"8080\"",
        "le=\"0.025\",http_response_status_code=\"200\"} 1",
        "revision_request_count{",
        "revision_queue_depth{",
        "response_code=\"200\",response_code_class=\"2xx\",route_tag=\"DISABLED\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
