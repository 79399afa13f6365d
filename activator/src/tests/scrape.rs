//! A whole scrape after a known life, but for its values.

use serving::resource::{Identity, register_target};
use serving::telemetry::prometheus_text;

use super::pods::Pod;
use super::*;

/// Every sample with `V` for its value and `P` for a pod's port and `N` for our version, sorted within its metric.
fn normalised(registry: &Registry) -> String {
    let mut text = String::new();
    let mut samples = Vec::new();
    for line in prometheus_text(registry).lines() {
        if line.starts_with('#') {
            samples.sort();
            text.extend(samples.drain(..));
            text.extend([line, "\n"]);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let series = match series.split_once("server_port=\"") {
            Some((before, rest)) => {
                let (_, after) = rest.split_once('"').unwrap();
                format!("{before}server_port=\"P\"{after}")
            }
            None => series.to_owned(),
        };
        let version = concat!("service_version=\"", env!("CARGO_PKG_VERSION"), "\"");
        let series = series.replace(version, "service_version=\"N\"");
        samples.push(format!("{series} V\n"));
    }
    samples.sort();
    text.extend(samples);
    text
}

impl World {
    /// The value of the only series that starts so and has all of these in its labels.
    fn value(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let text = prometheus_text(&self.registry);
        let mut found = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|it| it.starts_with('{'))
                && labels.iter().all(|label| line.contains(label))
        });
        let line = found.next()?;
        assert_eq!(found.next(), None, "more than one {name}");
        line.rsplit_once(' ')?.1.parse().ok()
    }

    fn gauges(&self) -> [Option<f64>; 2] {
        let value = |name| self.value(name, &["kn_revision_name=\"hello-00001\""]);
        [
            value("kn_revision_request_queued"),
            value("kn_revision_request_active"),
        ]
    }
}

#[test]
fn a_scrape_has_every_series() {
    run(async {
        let mut world = World::start().await;
        let identity = Identity {
            service: "activator",
            version: env!("CARGO_PKG_VERSION"),
            namespace: "knative-serving",
            pod: "activator-0",
        };
        register_target(&mut world.registry, &identity.resource());
        let configured = Revision {
            configuration: "hello".to_owned(),
            ..revision(0)
        };
        world.revision(configured).await;
        // A request that waits, and an error of our own.
        let gone = RevisionId::new("default", "gone-00001");
        world.revision(Revision::new(gone.clone())).await;
        let to_gone = Request::get("/")
            .header("host", "gone-00001.default.svc.cluster.local")
            .body(Empty::new());
        let (waiting, _) = background(send(world.address, to_gone.unwrap()));
        eventually("it waits", || world.activator.queued() == 1).await;
        world.update(Update::RevisionDeleted(gone)).await;
        assert_eq!(waiting.await.unwrap().status, 500);
        // From zero.
        let (held, _) = background(send(world.address, request("/held")));
        eventually("it is queued", || world.gauges() == [Some(1.0), Some(0.0)]).await;
        let pod = Pod::start().await;
        world.list(&[pod.address]).await;
        eventually("it is active", || world.gauges() == [Some(0.0), Some(1.0)]).await;
        pod.release(1);
        assert_eq!(held.await.unwrap().status, 200);
        eventually("it is over", || world.gauges() == [Some(0.0), Some(0.0)]).await;
        // For nobody.
        let unknown = Request::get("/").header("host", "a").body(Empty::new());
        let unknown = world.send(unknown.unwrap()).await;
        assert_eq!(unknown.status, 404);
        let labels = [
            "http_response_status_code=\"404\"",
            "kn_revision_name=\"\"",
            "otel_scope_version=\"0.69.0\"",
        ];
        let size = world.value("http_server_response_body_size_bytes_sum", &labels);
        assert_eq!(size, Some(unknown.body.len() as f64));
        for metric in ["request_duration_seconds", "request_body_size_bytes"] {
            let name = format!("http_server_{metric}_count");
            assert_eq!(world.value(&name, &labels), Some(1.0));
        }
        eventually("it is reported", || {
            let name = "kn_revision_request_concurrency";
            world.value(name, &["hello-00001"]).is_some()
        })
        .await;
        assert_eq!(normalised(&world.registry), include_str!("scrape.txt"));
    });
}

/// Probes come before any measuring.
#[test]
fn probes_are_not_measured() {
    run(async {
        let world = World::with(revision(0)).await;
        for (name, value) in [
            ("user-agent", "kube-probe/1.34"),
            ("k-network-probe", "activator"),
        ] {
            let probe = Request::get("/").header("host", "a").header(name, value);
            world.send(probe.body(Empty::new()).unwrap()).await;
        }
        let text = prometheus_text(&world.registry);
        assert!(!text.contains("http_server_request_duration_seconds_count"));
    });
}
