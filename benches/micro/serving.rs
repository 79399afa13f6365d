//! Accounting and wire: what every request or every second pays.

use criterion::{Criterion, criterion_group, criterion_main};
use serving::UnixTime;
use serving::breaker::{Breaker, BreakerParams};
use serving::request_stats::RequestStats;
use serving::stat::{Stat, StatBatch, WireStatMessages};

fn breaker(c: &mut Criterion) {
    let params = BreakerParams {
        queue_depth: 100,
        max_concurrency: 10,
        initial_capacity: 10,
    };
    let breaker = Breaker::new(params).expect("valid parameters");
    c.bench_function("breaker/reserve and release", |b| {
        b.iter(|| breaker.try_reserve())
    });
}

fn request_stats(c: &mut Criterion) {
    let stats = RequestStats::new(UnixTime(0));
    let mut now = 0;
    c.bench_function("request_stats/arrive and depart", |b| {
        b.iter(|| {
            now += 2_000;
            stats.arrive(UnixTime(now), false);
            stats.depart(UnixTime(now + 1_000), false);
        });
    });
}

fn stat(c: &mut Criterion) {
    let stat = Stat {
        pod_name: "hello-00001-deployment-6b8f-x2x9z".to_owned(),
        average_concurrent_requests: 3.25,
        request_count: 118.0,
        process_uptime: 4711.0,
        ..Stat::default()
    };
    c.bench_function("stat/encode one scrape", |b| {
        b.iter(|| prost::Message::encode_to_vec(&stat))
    });
    let mut batch = StatBatch::default();
    for index in 0..100 {
        batch
            .push("default", &format!("hello-{index:05}"), &stat.borrowed())
            .expect("a hundred fit");
    }
    let frame = batch.take();
    c.bench_function("stat/decode a frame of 100", |b| {
        b.iter(|| WireStatMessages::from_frame(&frame).map(|messages| messages.messages.len()));
    });
}

criterion_group!(benches, breaker, request_stats, stat);
criterion_main!(benches);
