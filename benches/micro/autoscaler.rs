//! What one decision and one second of data cost, however many pods there are.

use autoscaler::collection::Collection;
use autoscaler::decider::Decider;
use autoscaler::pod_autoscaler::Reachability;
use autoscaler::spec::{Settings, Source};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serving::UnixTime;

fn settings() -> Settings {
    Settings::derive(&Source {
        annotations: &Default::default(),
        container_concurrency: 0,
        reachability: Reachability::Reachable,
        autoscaler: &Default::default(),
        progress_deadline_ns: 600_000_000_000,
    })
}

fn record(c: &mut Criterion) {
    let settings = settings();
    let mut collection = Collection::new(&settings.collection);
    let mut second = 0;
    c.bench_function("collection/record a second", |b| {
        b.iter(|| {
            second += 1;
            collection.record(UnixTime::from_seconds(second), 12.5, 40.0);
        });
    });
}

fn decide(c: &mut Criterion) {
    let settings = settings();
    let mut group = c.benchmark_group("decider/observe and decide");
    for pods in [1_u32, 100, 10_000] {
        let mut collection = Collection::new(&settings.collection);
        for second in 0..120 {
            collection.record(UnixTime::from_seconds(second), f64::from(pods) * 50.0, 10.0);
        }
        let now = UnixTime::from_seconds(120);
        let mut decider = Decider::new(&settings.decider, pods, now);
        group.bench_with_input(BenchmarkId::from_parameter(pods), &pods, |b, &pods| {
            b.iter(|| {
                let observed = collection.observe(settings.decider.scaling_metric, now);
                decider.decide(&settings.decider, observed, pods, now)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, record, decide);
criterion_main!(benches);
