//! The spans of requests, as upstream's activator makes them.

use serving::trace::{SpanData, SpanKind, Status, Tracer, TracerOptions, Value};

use super::pods::Pod;
use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn attribute<'s>(span: &'s SpanData, key: &str) -> Option<&'s Value> {
    let mut all = span.attributes.iter();
    all.find(|it| it.key == key).map(|it| &it.value)
}

fn named<'s>(spans: &'s [SpanData], name: &str) -> &'s SpanData {
    let mut all = spans.iter();
    all.find(|span| span.name == name)
        .unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
}

async fn traced(revision: Revision, b3: bool) -> (World, Tracer) {
    let world = World::with(revision).await;
    let tracer = Tracer::new(TracerOptions::default());
    world.activator.trace_to(tracer.clone(), b3);
    (world, tracer)
}

async fn finished(tracer: &Tracer, count: usize) -> Vec<SpanData> {
    eventually("all spans have ended", || tracer.queued() >= count).await;
    tracer.take(usize::MAX)
}

/// Server, slot, proxy and client; the caller's context is the parent and the queue-proxy is told
/// of the client's.
#[test]
fn spans_of_a_request() {
    run(async {
        let (world, tracer) = traced(revision(1), false).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let request = to_revision("/teapot?q=1").header("traceparent", PARENT);
        let request = request.header("tracestate", "a=b").header("b3", "0");
        assert_eq!(
            world.send(request.body(Empty::new()).unwrap()).await.status,
            418
        );
        let spans = finished(&tracer, 4).await;
        assert_eq!(spans.len(), 4);
        let server = named(&spans, "GET");
        assert_eq!(server.kind, SpanKind::Server);
        let (parent, is_remote) = server.parent.unwrap();
        assert_eq!(parent.to_header(), PARENT);
        assert!(is_remote);
        let text = |text: &'static str| Some(Value::from(text));
        let status = attribute(server, "http.response.status_code");
        assert_eq!(status, Some(&Value::Integer(418)));
        for (key, value) in [
            ("kn.revision.name", "hello-00001"),
            ("kn.service.name", "hello"),
            ("k8s.namespace.name", "default"),
            ("url.path", "/teapot"),
        ] {
            assert_eq!(attribute(server, key).cloned(), text(value), "{key}");
        }
        for name in ["throttler_try", "activator_proxy"] {
            let span = named(&spans, name);
            assert_eq!(span.kind, SpanKind::Internal);
            assert_eq!(span.parent, Some((server.context, false)));
            assert_eq!(span.status, Status::Unset);
        }
        let client = named(&spans, "GET /teapot");
        assert_eq!(client.kind, SpanKind::Client);
        let proxy = named(&spans, "activator_proxy");
        assert_eq!(client.parent, Some((proxy.context, false)));
        assert!(
            matches!(client.status, Status::Error(_)),
            "418 is an error of the client's side"
        );
        let seen = pod.seen().headers;
        assert_eq!(seen["traceparent"], client.context.to_header());
        assert_eq!(seen["tracestate"], "a=b");
        assert_eq!(seen["b3"], "0", "passed as it came");
    });
}

/// A request that is refused says so in the span of the slot; one for nobody has a server's span
/// alone; a pod that takes no connection has a span, and the next one has, too.
#[test]
fn spans_of_failures() {
    run(async {
        let waits = Revision {
            max_wait: Some(Duration::from_millis(5)),
            ..revision(1)
        };
        let (world, tracer) = traced(waits, true).await;
        assert_eq!(world.get("/").await.status, 503);
        let spans = finished(&tracer, 2).await;
        let refused = named(&spans, "throttler_try");
        assert_eq!(refused.status, Status::Error("waited too long".to_owned()));
        assert!(matches!(named(&spans, "GET").status, Status::Error(_)));
        let request = Request::get("/").header("host", "nobody.example.com");
        let answer = world.send(request.body(Empty::new()).unwrap()).await;
        assert_eq!(answer.status, 404);
        let spans = finished(&tracer, 1).await;
        assert_eq!(spans.len(), 1);
        let pods = [Pod::start().await, Pod::start().await];
        world
            .list_and_wait(&pods.each_ref().map(|pod| pod.address))
            .await;
        pods[0].die();
        pods[1].state.full.set(false);
        let request =
            to_revision("/").header("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1");
        assert_eq!(
            world.send(request.body(Empty::new()).unwrap()).await.status,
            200
        );
        eventually("the server's span has ended", || tracer.queued() >= 4).await;
        let spans = tracer.take(usize::MAX);
        let clients: Vec<_> = spans
            .iter()
            .filter(|it| it.kind == SpanKind::Client)
            .collect();
        assert_eq!(spans.len(), 1 + 3 * clients.len(), "{spans:?}");
        let server = named(&spans, "GET");
        let trace = server.context.trace_id;
        assert_eq!(
            format!("{:x}", u128::from_be_bytes(trace.0)),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert!(spans.iter().all(|span| span.context.trace_id == trace));
        assert!(pods[1].seen().headers.contains_key("x-b3-traceid"));
    });
}
