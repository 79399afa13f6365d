//! Tells the autoscaler and the activator what changed, in their own vocabularies.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use autoscaler::plan::ScaleTarget;
use autoscaler::world::ClusterConfig;
use serving::{RevisionId, names};
use tokio::sync::mpsc;

use super::Cluster;
use super::outbox::{Changed, Next};
use super::replica::State;
use super::revision::Revision;
use crate::manifest::Protocol;

/// Upstream's default of `progress-deadline` in `config-deployment`.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// The ends of the two channels.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// To the autoscaler's driver.
    pub autoscaler: mpsc::Sender<autoscaler::world::Update>,
    /// To the activator's driver.
    pub activator: mpsc::Sender<activator::Update>,
}

/// Sends changes as they are marked, until one of the receivers is gone.
pub async fn send(cluster: Rc<Cluster>, to: Listeners) {
    loop {
        let sent = match cluster.outbox().next().await {
            Next::Config => send_config(&cluster, &to).await,
            Next::Revision(id, changed) => match cluster.revision(&id) {
                Some(revision) => send_changed(&revision, changed, &to).await,
                None => send_removed(&id, &to).await,
            },
        };
        if sent.is_none() {
            return;
        }
    }
}

async fn send_config(cluster: &Cluster, to: &Listeners) -> Option<()> {
    let config = ClusterConfig {
        autoscaler: cluster.config(),
        progress_deadline: PROGRESS_DEADLINE,
    };
    let update = autoscaler::world::Update::Config(Arc::new(config));
    to.autoscaler.send(update).await.ok()
}

/// `None` when a receiver is gone.
async fn send_changed(revision: &Revision, changed: Changed, to: &Listeners) -> Option<()> {
    use autoscaler::world::Update;
    let id = || revision.id.clone();
    // The activator first: a new replica is to be probed before anything else is thought about.
    if changed.revision {
        let update = activator::Update::Revision(activator_revision(revision));
        to.activator.send(update).await.ok()?;
    }
    if changed.pods {
        let update = activator::Update::Backends(id(), backends(revision));
        to.activator.send(update).await.ok()?;
    }
    let mut updates = Vec::with_capacity(4);
    if changed.pods {
        updates.push(Update::Pods(id(), Cluster::pods(revision)));
    }
    if changed.scale_target {
        let replicas = i32::try_from(revision.wanted.get()).unwrap_or(i32::MAX);
        let target = ScaleTarget {
            replicas: Some(replicas),
        };
        updates.push(Update::ScaleTarget(id(), Some(target)));
    }
    if changed.serverless_service {
        let sks = revision.serverless_service().map(Box::new);
        updates.push(Update::ServerlessService(id(), sks));
    }
    if changed.pod_autoscaler {
        updates.push(Update::PodAutoscaler(Box::new(revision.pod_autoscaler())));
    }
    for update in updates {
        to.autoscaler.send(update).await.ok()?;
    }
    Some(())
}

async fn send_removed(id: &RevisionId, to: &Listeners) -> Option<()> {
    use autoscaler::world::Update;
    to.autoscaler
        .send(Update::PodAutoscalerDeleted(id.clone()))
        .await
        .ok()?;
    to.activator
        .send(activator::Update::BackendsDeleted(id.clone()))
        .await
        .ok()?;
    let update = activator::Update::RevisionDeleted(id.clone());
    to.activator.send(update).await.ok()
}

/// Replicas whose queue-proxy listens: ready ones, and those the activator may find ready sooner
/// than anybody else by probing.
fn backends(revision: &Revision) -> activator::Backends {
    let mut backends = activator::Backends::default();
    for replica in revision.replicas.borrow().values() {
        match replica.state() {
            State::Ready => backends.ready.push(replica.data),
            State::Starting => backends.not_ready.push(replica.data),
            State::Waiting | State::Draining => {}
        }
    }
    backends
}

fn activator_revision(revision: &Revision) -> activator::Revision {
    let template = &revision.template;
    let annotation = |name: &str| template.annotations.get(name);
    let some = |timeout: Duration| (!timeout.is_zero()).then_some(timeout);
    activator::Revision {
        container_concurrency: template.container_concurrency,
        protocol: match template.container.protocol {
            Protocol::Http1 => activator::Protocol::Http1,
            Protocol::H2c => activator::Protocol::H2c,
        },
        timeout: template.timeout,
        response_start_timeout: some(template.response_start_timeout),
        idle_timeout: some(template.idle_timeout),
        service: revision.service.clone(),
        configuration: revision.service.clone(),
        full_duplex: template
            .annotations
            .get("features.knative.dev/http-full-duplex")
            .is_some_and(|value| value.eq_ignore_ascii_case("enabled")),
        // The manifest was refused if they cannot be read.
        max_wait: annotation(names::MAX_WAIT_ANNOTATION)
            .and_then(|value| activator::annotations::max_wait(value).ok()),
        affinity: revision.affinity.clone(),
        ..activator::Revision::new(revision.id.clone())
    }
}
