use std::time::Duration;

use super::*;
use crate::environment::Environment;

const SCOPE: Scope = Scope {
    name: "scope",
    version: "",
};

fn tracer(sampler: Sampler, max_queued: usize) -> Tracer {
    Tracer::new(TracerOptions {
        sampler,
        max_queued,
        ..TracerOptions::default()
    })
}

fn remote(flags: u8) -> RemoteContext {
    RemoteContext {
        context: SpanContext {
            trace_id: TraceId([7; 16]),
            span_id: SpanId([9; 8]),
            flags,
        },
        state: Some(HeaderValue::from_static("a=1")),
    }
}

fn begin(tracer: &Tracer, parent: Parent<'_>) -> Span {
    tracer.span(SCOPE, "name", SpanKind::Internal, parent, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn spans_hang_under_their_parents_and_end_once() {
    let tracer = tracer(Sampler::Always, 10);
    let caller = remote(0);
    let mut server = begin(&tracer, Parent::Remote(&caller));
    let mut child = begin(&tracer, Parent::Local(&server));
    assert_eq!(child.state(), Some(&HeaderValue::from_static("a=1")));
    child.set("key", "value");
    child.fail("reason");
    tokio::time::advance(Duration::from_millis(5)).await;
    child.end(Instant::now());
    child.set("late", "value");
    drop(child);
    server.end(Instant::now());
    let spans = tracer.take(10);
    let [child, server] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(child.parent, Some((server.context, false)));
    assert_eq!(server.parent, Some((caller.context, true)));
    assert_eq!(child.context.trace_id, caller.context.trace_id);
    assert!(
        child.context.is_sampled(),
        "the sampler overrules the caller"
    );
    assert_eq!(child.end.since(child.start), Duration::from_millis(5));
    assert_eq!(child.attributes, [Attribute::new("key", "value")]);
    assert_eq!(child.status, Status::Error("reason".to_owned()));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let tracer = tracer(Sampler::Always, 3);
    for _ in 0..5 {
        drop(begin(&tracer, Parent::None));
    }
    assert_eq!((tracer.queued(), tracer.dropped()), (3, 2));
    assert_eq!(tracer.take(2).len(), 2);
    drop(begin(&tracer, Parent::None));
    assert_eq!((tracer.queued(), tracer.dropped()), (2, 2));
}

#[test]
fn attributes_are_bounded() {
    let tracer = tracer(Sampler::Always, 1);
    let mut span = begin(&tracer, Parent::None);
    for _ in 0..MAX_ATTRIBUTES + 3 {
        span.set("key", "value");
    }
    drop(span);
    let spans = tracer.take(1);
    assert_eq!(spans[0].attributes.len(), MAX_ATTRIBUTES);
    assert_eq!(spans[0].dropped_attributes, 3);
}

#[test]
fn an_unsampled_span_has_ids_but_leaves_nothing() {
    let tracer = tracer(Sampler::Never, 10);
    let caller = remote(SAMPLED);
    let span = begin(&tracer, Parent::Remote(&caller));
    assert_eq!(span.context().trace_id, caller.context.trace_id);
    assert_ne!(span.context().span_id, caller.context.span_id);
    assert!(!span.context().is_sampled() && !span.is_recorded());
    drop(span);
    assert_eq!(tracer.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_exporter_is_told_when_enough_spans_wait() {
    let tracer = tracer(Sampler::Always, 10);
    let mut filled = std::pin::pin!(tracer.filled(2));
    drop(begin(&tracer, Parent::None));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut filled).await;
    assert!(early.is_err(), "one span is not enough");
    drop(begin(&tracer, Parent::None));
    filled.await;
}

fn configured(variables: &[(&str, &str)], rate: f64, is_stdout: bool) -> Result<Sampler, String> {
    let environment: &dyn Environment = &variables;
    Sampler::configured(environment, rate, is_stdout).map_err(|error| error.to_string())
}

/// `sampleFor` of upstream's tracing provider, and the SDK's own variables.
#[test]
fn samplers_are_configured_as_upstream() {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    for (variables, rate, expected) in [
        (&[][..], 0.0, Sampler::Never),
        (&[], -1.0, Sampler::Never),
        (&[], 0.25, Sampler::ParentOrRatio(0.25)),
        (&[], 1.0, Sampler::Always),
        (&[(ARGUMENT, "1")], 0.25, Sampler::Always),
        (&[(ARGUMENT, "0.5")], 0.25, Sampler::ParentOrRatio(0.25)),
        (&[(ARGUMENT, "0.5")], 0.0, Sampler::Never),
        (&[(NAME, "always_on")], 0.0, Sampler::Always),
        (&[(NAME, "always_off")], 1.0, Sampler::Never),
        (
            &[(NAME, "traceidratio"), (ARGUMENT, "0.5")],
            1.0,
            Sampler::Ratio(0.5),
        ),
        (
            &[(NAME, "traceidratio"), (ARGUMENT, "7")],
            1.0,
            Sampler::Ratio(1.0),
        ),
        (
            &[(NAME, "parentbased_always_off")],
            1.0,
            Sampler::ParentOrRatio(0.0),
        ),
        (&[(NAME, "unknown")], 0.0, Sampler::ParentOrRatio(1.0)),
    ] {
        let got = configured(variables, rate, false);
        assert_eq!(got, Ok(expected), "{variables:?} {rate}");
    }
    assert_eq!(configured(&[], 0.0, true), Ok(Sampler::Always));
    assert!(configured(&[(ARGUMENT, "many")], 0.5, false).is_err());
}

#[test]
fn a_ratio_decides_by_the_lower_half_of_the_id() {
    let mut id = [0xff; 16];
    assert!(!Sampler::Ratio(0.5).samples(TraceId(id), None));
    id[8] = 0x7f;
    assert!(Sampler::Ratio(0.5).samples(TraceId(id), None));
    assert!(!Sampler::Ratio(0.25).samples(TraceId(id), None));
    assert!(Sampler::Ratio(1.0).samples(TraceId([0xff; 16]), None));
    assert!(!Sampler::Ratio(0.0).samples(TraceId([0; 16]), None));
    let parent = |flags| Some(remote(flags).context);
    assert!(Sampler::ParentOrRatio(0.0).samples(TraceId(id), parent(SAMPLED)));
    assert!(!Sampler::ParentOrRatio(1.0).samples(TraceId(id), parent(0)));
}
