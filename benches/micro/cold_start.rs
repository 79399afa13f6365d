//! The share of a cold start that is ours, measured from outside on real processes: from the moment
//! a request is sent until the app's process begins, and from the first connection that the app
//! accepts until it receives the request. Starting the program itself is the app's share.
//!
//! Every iteration wakes another service from zero. Criterion reports the mean; the median and the
//! 99th percentile of all iterations are printed at the end, with their two parts.

#![allow(clippy::print_stderr, reason = "a measurement talks on its terminal")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use benches::load::{Connection, get_host};
use benches::peers::loopback;
use benches::process::{Process, build, free_port};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use serving::AnchoredClock;

/// More at once would measure a crowd of processes instead of one cold start.
const MOST_SERVICES: u64 = 100;

/// Nanoseconds of one cold start.
#[derive(Clone, Copy)]
struct Share {
    to_spawn: i64,
    to_forward: i64,
}

fn manifest(services: u64) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-autoscaler, namespace: knative-serving}\n\
         data: {allow-zero-initial-scale: \"true\"}\n",
    );
    for number in 0..services {
        let _ = write!(
            text,
            "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: s{number}}}\n\
             spec: {{template: {{metadata: {{annotations: {{autoscaling.knative.dev/initial-scale: \"0\", \
             pilotlight.dev/local-command: pilotlight sample-app}}}}, spec: {{containers: [{{image: example.com/s}}]}}}}}}\n",
        );
    }
    text
}

async fn wake_all(program: &Path, services: u64) -> anyhow::Result<Vec<Share>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("services.yaml");
    std::fs::write(&path, manifest(services))?;
    let address = loopback(free_port()?);
    let mut command = Command::new(program);
    command
        .args(["run", "--listen", &address.to_string(), "-f"])
        .arg(&path);
    let mut process = Process::start("pilotlight", &mut command)?;
    process.listening(address).await?;
    let mut connection = Connection::open(address).await?;
    let clock = AnchoredClock::new();
    let mut shares = Vec::new();
    for number in 0..services {
        let request = get_host(&format!("s{number}.localhost"), "/env");
        let sent = clock.now().nanos();
        let status = connection.exchange(&request).await?;
        anyhow::ensure!(status == 200, "service {number} answered {status}");
        let times: serde_json::Value = serde_json::from_slice(connection.body())?;
        let at = |name: &str| times[name].as_i64().unwrap_or_default();
        shares.push(Share {
            to_spawn: at("startedAt") - sent,
            to_forward: at("receivedAt") - at("connectedAt"),
        });
    }
    Ok(shares)
}

fn cold_start(c: &mut Criterion) {
    let program = build("local", "pilotlight", "release").expect("pilotlight builds");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let mut all = Vec::new();
    let mut group = c.benchmark_group("cold start");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("our share", |b| {
        b.iter_custom(|iterations| {
            let mut sum = 0;
            let mut left = iterations;
            while left > 0 {
                let services = left.min(MOST_SERVICES);
                let shares = runtime
                    .block_on(wake_all(&program, services))
                    .expect("every service wakes");
                sum += shares
                    .iter()
                    .map(|share| share.to_spawn + share.to_forward)
                    .sum::<i64>();
                all.extend(shares);
                left -= services;
            }
            Duration::from_nanos(sum.unsigned_abs())
        });
    });
    group.finish();
    report("request in to process begun", &all, |share| share.to_spawn);
    report("first connection to request received", &all, |share| {
        share.to_forward
    });
    report("both", &all, |share| share.to_spawn + share.to_forward);
}

fn report(what: &str, all: &[Share], part: impl Fn(&Share) -> i64) {
    let mut nanos: Vec<i64> = all.iter().map(part).collect();
    nanos.sort_unstable();
    let at = |percent: usize| nanos[(nanos.len() - 1) * percent / 100] as f64 / 1e6;
    eprintln!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms of {}",
        at(50),
        at(99),
        nanos.len()
    );
}

criterion_group!(benches, cold_start);
criterion_main!(benches);
