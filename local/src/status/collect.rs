//! Puts a report together from the parts of the running program.

use std::rc::Rc;

use activator::Activator;
use autoscaler::world::RevisionSnapshot;

use super::{Pod, Replicas, Report, Revision, Service, Traffic};
use crate::cluster::Cluster;
use crate::cluster::replica::State;
use crate::cluster::revision;
use crate::router::DOMAIN;
use crate::service;

/// What there is to ask.
#[derive(Debug)]
pub struct Sources {
    /// Services, revisions and replicas.
    pub cluster: Rc<Cluster>,
    /// What is held.
    pub activator: Activator,
    /// Addresses of the front port.
    pub listen: Vec<std::net::SocketAddr>,
}

/// What autoscaler and activator said.
#[derive(Clone, Copy)]
struct Seen<'a> {
    decisions: &'a [RevisionSnapshot],
    held: &'a [activator::RevisionSnapshot],
}

// === impl Sources ===

impl Sources {
    /// The report of now. `decisions` is the autoscaler's view, `requests` the gateway's count.
    pub fn report(&self, decisions: &[RevisionSnapshot], requests: usize) -> Report {
        let port = self.listen.first().map_or(0, std::net::SocketAddr::port);
        let seen = Seen {
            decisions,
            held: &self.activator.snapshot(),
        };
        let services = self.cluster.with_catalog(|catalog| {
            catalog
                .services()
                .iter()
                .map(|service| self.service(service, seen, port))
                .collect()
        });
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.listen.iter().map(ToString::to_string).collect(),
            requests,
            held: self.activator.queued(),
            services,
        }
    }

    fn service(&self, service: &service::Service, seen: Seen<'_>, port: u16) -> Service {
        let host = match service.namespace.as_str() {
            "default" => DOMAIN.to_owned(),
            namespace => format!("{namespace}.{DOMAIN}"),
        };
        let name = |revision: Option<&service::Revision>| {
            revision.map_or_else(String::new, |revision| revision.id.name.clone())
        };
        let traffic = service
            .active()
            .iter()
            .map(|target| Traffic {
                revision: target.revision.name.clone(),
                percent: target.percent,
                latest: target.latest,
                tag: target.tag.clone(),
                url: target
                    .tag
                    .as_ref()
                    .map(|tag| format!("http://{tag}-{}.{host}:{port}", service.name)),
            })
            .collect();
        Service {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            url: format!("http://{}.{host}:{port}", service.name),
            latest_created: name(service.latest_created()),
            latest_ready: name(service.latest_ready()),
            traffic,
            revisions: service
                .revisions
                .iter()
                .filter_map(|known| {
                    let running = self.cluster.revision(&known.id)?;
                    Some(revision(service, known, &running, seen))
                })
                .collect(),
        }
    }
}

fn revision(
    service: &service::Service,
    known: &service::Revision,
    running: &revision::Revision,
    seen: Seen<'_>,
) -> Revision {
    let decision = seen
        .decisions
        .iter()
        .find(|decision| decision.revision == known.id);
    let held = seen
        .held
        .iter()
        .find(|snapshot| snapshot.id == known.id)
        .map_or(0, |snapshot| snapshot.queued);
    let pods: Vec<Pod> = running
        .replicas
        .borrow()
        .values()
        .map(|replica| Pod {
            name: replica.pod.clone(),
            replica: replica.number,
            state: replica.state().as_str().to_owned(),
            pid: replica.pid().unwrap_or(0),
            port: replica.port,
            in_flight: replica.in_flight(),
            restarts: replica.restarts.get(),
        })
        .collect();
    let count = |state: State| {
        pods.iter()
            .filter(|pod| pod.state == state.as_str())
            .count()
    };
    Revision {
        name: known.id.name.clone(),
        ready: known.ready,
        traffic_percent: service
            .active()
            .iter()
            .filter(|target| target.revision == known.id)
            .map(|target| target.percent)
            .sum(),
        replicas: Replicas {
            ready: count(State::Ready),
            starting: count(State::Starting),
            waiting: count(State::Waiting),
            draining: count(State::Draining),
        },
        desired_scale: i64::from(running.wanted.get()),
        // Adding zero turns a negative zero into the plain one.
        concurrency: decision.map_or(0.0, |decision| decision.stable + 0.0),
        panic_concurrency: decision.map_or(0.0, |decision| decision.panic + 0.0),
        mode: if decision.is_some_and(|decision| decision.panic_mode) {
            "panic"
        } else {
            "stable"
        }
        .to_owned(),
        in_path: running.proxied.get(),
        excess_burst_capacity: decision.map_or(0, |decision| decision.excess_burst_capacity),
        active: running.active(),
        held,
        scrape_error: decision.and_then(|decision| decision.scrape_error.clone()),
        reason: running
            .trouble
            .borrow()
            .as_ref()
            .map(|trouble| trouble.reason.clone()),
        pods,
    }
}
