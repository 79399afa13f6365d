//! Spans, pushed metrics and trace context, between a client, an app and a collector.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::app::{App, read_head, stream, text, write};
use crate::client::get;
use crate::collector::{Collector, attributes};
use crate::instance::{Sidecar, eventually, run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tracing(protocol: &str, collector: SocketAddr, rate: f64) -> String {
    format!(
        r#"{{"tracing":{{"protocol":"{protocol}","endpoint":"http://{collector}","samplingRate":{rate}}},"requestMetrics":{{"protocol":"prometheus"}}}}"#
    )
}

async fn traced(app: SocketAddr, config: &str, changes: &[(&str, &str)]) -> Sidecar {
    let mut all = vec![("OBSERVABILITY_CONFIG", config), ("POD_NAME", "pod-1")];
    all.extend_from_slice(changes);
    Sidecar::configured(app, &all, |config| {
        config.options.quiet_period = Duration::from_millis(10);
    })
    .await
}

/// Drains, which exports what is left.
async fn finish(mut sidecar: Sidecar) {
    sidecar.terminate().await;
    (&mut sidecar.finished)
        .await
        .expect("no panic")
        .expect("a clean end");
}

fn seen(app: &App) -> HeaderMap {
    app.seen.borrow().last().expect("a request").headers.clone()
}

async fn spans_reach_a_collector(protocol: &str) {
    let app = App::ok().await;
    let collector = Collector::start().await;
    let config = tracing(protocol, collector.address, 1.0);
    let variables = [
        ("CONTAINER_CONCURRENCY", "1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "zone=a%20b,service.name=ignored",
        ),
    ];
    let sidecar = traced(app.address, &config, &variables).await;
    let headers = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\nUser-Agent: test\r\n");
    assert_eq!(get(sidecar.data, "/path?query", &headers).await.status, 200);
    finish(sidecar).await;

    let server = collector.span("GET");
    let proxy = collector.span("kn.queueproxy.proxy");
    let wait = collector.span("kn.queueproxy.wait");
    let client = collector.span("HTTP GET");
    assert_eq!(collector.spans().len(), 4);
    assert_eq!(hex(&server.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(server.flags, 0x301, "sampled, and the parent is remote");
    assert_eq!(proxy.parent_span_id, server.span_id);
    assert_eq!(wait.parent_span_id, proxy.span_id);
    assert_eq!(client.parent_span_id, wait.span_id);
    assert_eq!((server.kind, proxy.kind, client.kind), (2, 1, 3));
    for span in [&server, &proxy, &wait, &client] {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(span.trace_state, "a=1");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    assert!(wait.end_time_unix_nano <= client.end_time_unix_nano);

    let to_app = seen(&app);
    let expected = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(to_app["traceparent"], expected);
    assert_eq!(to_app["tracestate"], "a=1");

    let server = attributes(&server.attributes);
    for expected in [
        "client.address=127.0.0.1",
        "http.request.method=GET",
        "http.response.body.size=2",
        "http.response.status_code=200",
        "kn.route.tag=kn:disabled",
        "network.peer.address=127.0.0.1",
        "network.protocol.version=1.1",
        "server.address=hello.example.com",
        "url.path=/path",
        "url.scheme=http",
        "user_agent.original=test",
    ] {
        assert!(
            server.iter().any(|it| it == expected),
            "{expected}: {server:?}"
        );
    }
    let client = attributes(&client.attributes);
    let url = format!("url.full=http://{}/path?query", app.address);
    for expected in [
        &*url,
        "server.address=127.0.0.1",
        "http.response.status_code=200",
    ] {
        assert!(
            client.iter().any(|it| it == expected),
            "{expected}: {client:?}"
        );
    }
    let scopes: Vec<_> = collector
        .spans()
        .into_iter()
        .map(|(scope, _)| scope)
        .collect();
    assert!(
        scopes.contains(&"knative.dev/serving/pkg/queue".to_owned()),
        "{scopes:?}"
    );

    let requests = collector.traces.borrow();
    let resource = requests[0].resource_spans[0].resource.clone().expect("one");
    let resource = attributes(&resource.attributes);
    for expected in [
        "container.name=queue-proxy",
        "k8s.namespace.name=default",
        "k8s.pod.name=pod-1",
        "kn.configuration.name=hello",
        "kn.revision.name=hello-00001",
        "kn.service.name=hello",
        "service.instance.id=pod-1",
        "service.name=hello",
        "zone=a b",
    ] {
        assert!(
            resource.iter().any(|it| it == expected),
            "{expected}: {resource:?}"
        );
    }
    assert_eq!(collector.headers.borrow()[0]["api-key"], "secret");
}

#[test]
fn spans_reach_a_collector_over_http() {
    run(spans_reach_a_collector("http/protobuf"));
}

#[test]
fn spans_reach_a_collector_over_grpc() {
    run(spans_reach_a_collector("grpc"));
}

#[test]
fn an_encrypted_collector_is_verified() {
    run(async {
        let app = App::ok().await;
        let own = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/certificates/collector-ca.crt"
        );
        let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates/second.crt");
        for protocol in ["http/protobuf", "grpc"] {
            let collector = Collector::encrypted().await;
            let config = tracing(protocol, collector.address, 1.0).replace("http://", "");
            for (certificate, spans) in [(own, 3), (other, 0)] {
                collector.traces.borrow_mut().clear();
                let trusted = [("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate)];
                let sidecar = traced(app.address, &config, &trusted).await;
                get(sidecar.data, "/", "").await;
                finish(sidecar).await;
                assert_eq!(collector.spans().len(), spans, "{protocol} {certificate}");
            }
        }
    });
}

#[test]
fn without_a_limit_nothing_waits_and_failures_show() {
    run(async {
        let app = App::start(|request| async move {
            if request.uri().path() == "/slow" {
                std::future::pending::<()>().await;
            }
            let mut response = text("no");
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        })
        .await;
        let collector = Collector::start().await;
        let config = tracing("http/protobuf", collector.address, 1.0);
        let timeout = [("REVISION_TIMEOUT_SECONDS", "1")];
        let sidecar = traced(app.address, &config, &timeout).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 503);
        finish(sidecar).await;
        assert_eq!(collector.spans().len(), 3);
        let client = collector.span("HTTP GET");
        assert_eq!(
            client.parent_span_id,
            collector.span("kn.queueproxy.proxy").span_id
        );
        assert_eq!(client.status.map(|status| status.code), Some(2));
        assert!(attributes(&client.attributes).contains(&"error.type=503".to_owned()));
        assert!(collector.span("GET").parent_span_id.is_empty());

        collector.traces.borrow_mut().clear();
        let sidecar = traced(app.address, &config, &timeout).await;
        assert_eq!(get(sidecar.data, "/slow", "").await.status, 504);
        finish(sidecar).await;
        let server = collector.span("GET");
        assert_eq!(server.status.map(|status| status.code), Some(2));
        let texts = attributes(&server.attributes);
        assert!(
            texts.contains(&"http.response.status_code=504".to_owned()),
            "{texts:?}"
        );
        let client = collector.span("HTTP GET").status.expect("a status");
        assert_eq!(client.message, "context canceled");
    });
}

#[test]
fn an_absent_app_fails_the_client_span_and_the_metric_has_gos_type() {
    run(async {
        let socket = crate::instance::bind().await;
        let nobody = socket.local_addr().expect("bound");
        drop(socket);
        let collector = Collector::start().await;
        let config = tracing("http/protobuf", collector.address, 1.0);
        let sidecar = traced(nobody, &config, &[]).await;
        assert_eq!(get(sidecar.data, "/", "").await.status, 502);
        let scrape = get(sidecar.user_metrics, "/metrics", "").await.body;
        assert!(scrape.contains("error_type=\"net.OpError\""), "{scrape}");
        finish(sidecar).await;
        let client = collector.span("HTTP GET");
        assert!(attributes(&client.attributes).contains(&"error.type=net.OpError".to_owned()));
        let reason = client.status.expect("a status").message;
        assert!(reason.contains("connection refused"), "{reason}");
    });
}

#[test]
fn an_unsampled_trace_goes_on_unsampled_and_nothing_is_exported() {
    run(async {
        let app = App::ok().await;
        let collector = Collector::start().await;
        let config = tracing("http/protobuf", collector.address, 0.0);
        let sidecar = traced(app.address, &config, &[]).await;
        let sampled = PARENT.replace("-00f067aa0ba902b7-00", "-00f067aa0ba902b7-01");
        get(sidecar.data, "/", &format!("traceparent: {sampled}\r\n")).await;
        let first = seen(&app)["traceparent"]
            .to_str()
            .expect("ASCII")
            .to_owned();
        assert!(first.starts_with(&format!("00-{TRACE}-")), "{first}");
        assert!(
            first.ends_with("-00") && !first.contains("00f067aa0ba902b7"),
            "{first}"
        );
        get(sidecar.data, "/", "").await;
        let second = seen(&app)["traceparent"]
            .to_str()
            .expect("ASCII")
            .to_owned();
        assert!(
            second.ends_with("-00") && !second.contains(TRACE),
            "{second}"
        );
        finish(sidecar).await;
        assert!(collector.traces.borrow().is_empty());
    });
}

#[test]
fn without_tracing_a_valid_context_passes_in_canonical_form() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        get(sidecar.data, "/", "").await;
        for name in ["traceparent", "tracestate", "baggage"] {
            assert!(!seen(&app).contains_key(name), "{name} was made up");
        }
        let future = PARENT.replacen("00-", "cc-", 1);
        let headers = format!(
            "traceparent: {future}-more\r\ntraceparent: x\r\ntracestate: a=1, b=2\r\n\
             baggage: k = v ,broken\r\nbaggage: l=w\r\nX-B3-TraceId: {TRACE}\r\n"
        );
        get(sidecar.data, "/", &headers).await;
        let got = seen(&app);
        assert_eq!(
            got.get_all("traceparent").iter().collect::<Vec<_>>(),
            [PARENT]
        );
        assert_eq!(got["tracestate"], "a=1,b=2");
        assert_eq!(
            got.get_all("baggage").iter().collect::<Vec<_>>(),
            ["k=v,l=w"]
        );
        assert_eq!(got["x-b3-traceid"], TRACE);
    });
}

#[test]
fn b3_is_read_and_written_behind_its_switch() {
    run(async {
        let app = App::ok().await;
        let collector = Collector::start().await;
        let config = tracing("http/protobuf", collector.address, 0.5);
        let sidecar = traced(app.address, &config, &[("PILOTLIGHT_B3", "true")]).await;
        let headers = format!("b3: {TRACE}-00f067aa0ba902b7-1\r\n");
        get(sidecar.data, "/", &headers).await;
        finish(sidecar).await;
        let client = hex(&collector.span("HTTP GET").span_id);
        let got = seen(&app);
        assert_eq!(got["traceparent"], format!("00-{TRACE}-{client}-01"));
        assert_eq!(got["x-b3-traceid"], TRACE);
        assert_eq!(got["x-b3-spanid"], client);
        assert_eq!(got["x-b3-sampled"], "1");
        assert!(!got.contains_key("b3"));
    });
}

/// A forwarded probe skips the server instrumentation, a kubelet-style one the proxy span too.
#[test]
fn forwarded_probes_have_the_spans_that_upstream_gives_them() {
    run(async {
        let app = App::ok().await;
        let collector = Collector::start().await;
        let config = tracing("http/protobuf", collector.address, 1.0);
        let sidecar = traced(app.address, &config, &[]).await;
        let forwarded = format!("K-Network-Probe: other\r\ntraceparent: {PARENT}\r\n");
        get(sidecar.data, "/", &forwarded).await;
        finish(sidecar).await;
        assert_eq!(collector.spans().len(), 2);
        let proxy = collector.span("kn.queueproxy.proxy");
        assert!(proxy.parent_span_id.is_empty() && hex(&proxy.trace_id) != TRACE);
        assert_eq!(collector.span("HTTP GET").parent_span_id, proxy.span_id);

        collector.traces.borrow_mut().clear();
        let sidecar = traced(app.address, &config, &[]).await;
        get(sidecar.data, "/", "K-Kubelet-Probe: 1\r\n").await;
        let answered = "K-Network-Probe: queue\r\nUser-Agent: kube-probe/1\r\n";
        get(sidecar.data, "/", answered).await;
        finish(sidecar).await;
        assert_eq!(collector.spans().len(), 1);
        assert!(collector.span("HTTP GET").parent_span_id.is_empty());
    });
}

#[test]
fn a_busy_collector_gets_the_batch_again_and_a_refusal_is_counted() {
    run(async {
        let app = App::ok().await;
        let busy = Collector::refusing(2, StatusCode::SERVICE_UNAVAILABLE).await;
        let config = tracing("http/protobuf", busy.address, 1.0);
        let sidecar = traced(app.address, &config, &[]).await;
        get(sidecar.data, "/", "").await;
        finish(sidecar).await;
        assert_eq!(busy.spans().len(), 3);

        let unwilling = Collector::refusing(usize::MAX, StatusCode::BAD_REQUEST).await;
        let config = tracing("http/protobuf", unwilling.address, 1.0);
        let sidecar = traced(app.address, &config, &[]).await;
        // A full batch is sent at once.
        for _ in 0..171 {
            get(sidecar.data, "/", "").await;
        }
        let mut lost = String::new();
        for _ in 0..1000 {
            let scrape = get(sidecar.user_metrics, "/metrics", "").await.body;
            let line = scrape
                .lines()
                .find(|line| line.starts_with("pilotlight_spans_lost_total"));
            lost = line.unwrap_or_default().to_owned();
            if lost != "pilotlight_spans_lost_total 0" {
                break;
            }
        }
        assert_eq!(lost, "pilotlight_spans_lost_total 512");
    });
}

#[test]
fn two_sidecars_in_one_process_export_each_to_its_own_collector() {
    run(async {
        let app = App::ok().await;
        let mut parts = Vec::new();
        for name in ["one", "two"] {
            let collector = Collector::start().await;
            let config = tracing("http/protobuf", collector.address, 1.0);
            let service = [("SERVING_SERVICE", name)];
            let sidecar = traced(app.address, &config, &service).await;
            parts.push((name, collector, sidecar));
        }
        for (name, _, sidecar) in &parts {
            get(sidecar.data, &format!("/{name}"), "").await;
        }
        for (name, collector, sidecar) in parts {
            finish(sidecar).await;
            let path = format!("url.path=/{name}");
            assert!(attributes(&collector.span("GET").attributes).contains(&path));
            let requests = collector.traces.borrow();
            let resource = requests[0].resource_spans[0].resource.clone().expect("one");
            let service = format!("service.name={name}");
            assert!(attributes(&resource.attributes).contains(&service));
        }
    });
}

async fn metrics_are_pushed(protocol: &str) {
    let app = App::ok().await;
    let collector = Collector::start().await;
    let config = format!(
        r#"{{"requestMetrics":{{"protocol":"{protocol}","endpoint":"http://{}","exportInterval":20000000}}}}"#,
        collector.address
    );
    let variables = [("CONTAINER_CONCURRENCY", "1")];
    let sidecar = traced(app.address, &config, &variables).await;
    get(sidecar.data, "/", "").await;
    let pushed = collector.clone();
    // More than once, without waiting for the end.
    eventually("pushed twice", || pushed.metrics.borrow().len() >= 2).await;
    get(sidecar.data, "/", "Knative-Serving-Tag: blue\r\n").await;
    finish(sidecar).await;

    let invocations = collector.histogram("kn.serving.invocation.duration");
    assert_eq!(
        invocations,
        [(vec!["http.response.status_code=200".to_owned()], 2)]
    );
    for name in [
        "http.server.request.duration",
        "http.server.request.body.size",
        "http.server.response.body.size",
    ] {
        let tags = ["kn:disabled", "blue"];
        let expected = tags.map(|tag| {
            let attributes = [
                "http.request.method=GET",
                "http.response.status_code=200",
                &format!("kn.route.tag={tag}"),
                "network.protocol.name=http",
                "network.protocol.version=1.1",
                "server.address=hello.example.com",
                "url.scheme=http",
            ];
            (attributes.map(str::to_owned).to_vec(), 1)
        });
        assert_eq!(collector.histogram(name), expected, "{name}");
    }
    for name in [
        "http.client.request.duration",
        "http.client.request.body.size",
    ] {
        let series = collector.histogram(name);
        assert_eq!(series.len(), 2);
        let port = format!("server.port={}", app.address.port());
        for expected in ["server.address=127.0.0.1", &port] {
            assert!(series[0].0.iter().any(|it| it == expected), "{series:?}");
        }
    }
    let depth = collector.metric("kn.serving.queue.depth").expect("a gauge");
    assert_eq!(depth.unit, "{request}");
    assert!(matches!(depth.data, Some(Data::Gauge(_))));
    let duration = collector.metric("http.server.request.duration");
    assert_eq!(duration.map(|metric| metric.unit).as_deref(), Some("s"));
}

#[test]
fn metrics_are_pushed_over_http_at_an_interval_and_at_the_end() {
    run(metrics_are_pushed("http/protobuf"));
}

#[test]
fn metrics_are_pushed_over_grpc_at_an_interval_and_at_the_end() {
    run(metrics_are_pushed("grpc"));
}

/// The count of the series of `histogram` that has `label`.
fn count(scrape: &str, histogram: &str, label: &str) -> Option<u64> {
    scrape
        .lines()
        .filter(|line| line.starts_with(&format!("{histogram}_count{{")) && line.contains(label))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
        .next()
}

/// Status per recorder, one row per situation, after upstream's table.
#[test]
fn each_recorder_sees_the_status_that_upstream_shows_it() {
    const SERVER: &str = "http_server_request_duration_seconds";
    const OWN: &str = "kn_serving_invocation_duration_seconds";
    run(async {
        let broken = App::raw(|mut stream| async move {
            read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
            )
            .await;
        })
        .await;
        let slow = App::start(|_| std::future::pending()).await;
        let late = App::start(|_| async {
            let (sender, response) = stream();
            sender.send(Ok("part")).await.expect("room");
            tokio::task::spawn_local(async move {
                sender.closed().await;
            });
            response
        })
        .await;
        let fine = App::ok().await;
        for (app, server, own) in [
            (fine.address, Some(200), Some(200)),
            (slow.address, Some(504), Some(200)),
            (late.address, Some(200), Some(500)),
            (broken, None, Some(500)),
        ] {
            let timeout = [("REVISION_TIMEOUT_SECONDS", "1")];
            let sidecar = Sidecar::start(app, &timeout).await;
            get(sidecar.data, "/", "").await;
            let handle = sidecar.handle.clone();
            eventually("over", || handle.in_flight() == 0).await;
            let scrape = get(sidecar.user_metrics, "/metrics", "").await.body;
            for (histogram, status) in [(SERVER, server), (OWN, own)] {
                let any = count(&scrape, histogram, "");
                assert_eq!(any, status.map(|_| 1), "{histogram} {status:?}\n{scrape}");
                if let Some(status) = status {
                    let label = format!("http_response_status_code=\"{status}\"");
                    assert_eq!(count(&scrape, histogram, &label), Some(1), "{scrape}");
                }
            }
        }
    });
}

/// Each metric's type, and the labels of its series.
fn shape(scrape: &str) -> Vec<String> {
    let mut shapes: Vec<String> = scrape
        .lines()
        .filter_map(|line| {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                return Some(declared.to_owned());
            }
            let (name, labels) = line
                .strip_suffix(" 1")
                .map_or(line, |line| line)
                .split_once('{')?;
            let name = name.strip_suffix("_bucket")?;
            let mut names: Vec<_> = labels
                .split("\",")
                .filter_map(|label| label.split_once('='))
                .map(|(label, _)| label)
                .filter(|label| !label.starts_with("otel_scope_"))
                .collect();
            names.sort_unstable();
            Some(format!("{name} {}", names.join(" ")))
        })
        .collect();
    shapes.sort();
    shapes.dedup();
    shapes
}

#[test]
fn a_scrape_has_upstreams_names_types_and_labels() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        get(sidecar.data, "/", "").await;
        let scrape = get(sidecar.user_metrics, "/metrics", "").await;
        let server = "http_request_method http_response_status_code kn_route_tag le \
                      network_protocol_name network_protocol_version server_address server_port \
                      url_scheme";
        let client = "error_type http_request_method http_response_status_code kn_route_tag le \
                      network_protocol_name network_protocol_version server_address server_port \
                      url_scheme";
        let mut expected = vec![
            "kn_serving_queue_depth gauge".to_owned(),
            "target_info gauge".to_owned(),
        ];
        for (name, labels) in [
            ("http_client_request_body_size_bytes", client),
            ("http_client_request_duration_seconds", client),
            ("http_server_request_body_size_bytes", server),
            ("http_server_request_duration_seconds", server),
            ("http_server_response_body_size_bytes", server),
            (
                "kn_serving_invocation_duration_seconds",
                "http_response_status_code le",
            ),
        ] {
            expected.push(format!("{name} histogram"));
            expected.push(format!("{name} {labels}"));
        }
        expected.sort();
        assert_eq!(shape(&scrape.body), expected, "{}", scrape.body);
    });
}
