//! Choosing a pod.

use std::cell::Cell;

use activator::picker::{Candidate, Policy};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

struct Pod {
    in_flight: Cell<u32>,
    limit: u32,
}

impl Candidate for Pod {
    fn has_free_slot(&self) -> bool {
        self.limit == 0 || self.in_flight.get() < self.limit
    }

    fn weight(&self) -> u32 {
        self.in_flight.get()
    }
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("picker");
    for limit in [0, 1, 10] {
        for count in [10, 100, 1_000] {
            let pods: Vec<Pod> = (0..count)
                .map(|_| Pod {
                    in_flight: Cell::new(0),
                    limit,
                })
                .collect();
            let mut policy = Policy::for_container_concurrency(limit);
            let mut seed = fastrand::Rng::with_seed(7);
            let id = BenchmarkId::new(format!("container concurrency {limit}"), count);
            group.bench_function(id, |b| {
                b.iter(|| policy.pick(&pods, |below| seed.usize(..below)))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
