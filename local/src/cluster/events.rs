//! What replicas tell the cluster: starts, readiness, exits, departures.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use autoscaler::pods::{Pod, PodPhase};
use autoscaler::world::RevisionPod;
use rustix::process::Pid;

use super::Cluster;
use super::replica::{Replica, State};
use super::revision::{Revision, Trouble};
use crate::supervisor::process::{Launch, Process};
use crate::tether::SELF;

/// Between looks whether the guard is there.
const GUARD_CHECK: Duration = Duration::from_secs(1);

impl Cluster {
    /// Starts a process in the guard's care.
    pub fn start_process(&self, launch: &Launch) -> io::Result<Process> {
        let process = Process::start(SELF, launch, &self.console)?;
        if let Err(error) = self.guard.borrow_mut().watch(process.group()) {
            tracing::warn!(%error, "no guard; only first processes are tied to this one");
        }
        Ok(process)
    }

    /// Sees to it that there is a guard, for as long as it is polled.
    pub async fn keep_guard(self: Rc<Self>) {
        loop {
            tokio::time::sleep(GUARD_CHECK).await;
            if let Err(error) = self.guard.borrow_mut().check() {
                tracing::warn!(%error, "the guard cannot be started again");
            }
        }
    }

    /// A process group is gone.
    pub fn forget_process(&self, group: Pid) {
        if let Err(error) = self.guard.borrow_mut().forget(group) {
            tracing::warn!(%error, "no guard");
        }
    }

    /// A replica's state changed: endpoints, pods and the path follow.
    pub fn replica_changed(&self, revision: &Rc<Revision>) {
        let ready: Vec<_> = revision
            .replicas
            .borrow()
            .values()
            .filter(|replica| replica.state() == State::Ready)
            .map(Rc::clone)
            .collect();
        revision.ready.replace(ready);
        let changed = revision.reconcile_serverless_service(self.now());
        self.note_path(revision);
        self.mark(revision, |it| {
            it.pods = true;
            it.serverless_service = changed;
        });
    }

    /// Notes where the revision's public service leads now.
    pub(super) fn note_path(&self, revision: &Revision) {
        if revision.removed.get() {
            return;
        }
        let ready = revision.ready.borrow();
        let address = match ready.first() {
            Some(replica) if !revision.proxied.get() => replica.data,
            _ => self.paths.activator,
        };
        self.paths.board.set(&revision.id, address);
    }

    /// A replica's app is ready.
    pub fn replica_ready(&self, revision: &Rc<Revision>, replica: &Rc<Replica>) {
        self.replica_changed(revision);
        revision.set_trouble(None);
        let took = self.now().since(replica.created);
        self.console.say(format_args!(
            "{} {} is ready after {} ms",
            revision.id.name,
            replica.number,
            took.as_millis()
        ));
    }

    /// A replica's app is not ready, for a reason.
    pub fn not_ready_because(&self, revision: &Revision, reason: String) {
        if revision
            .trouble
            .borrow()
            .as_ref()
            .is_some_and(|known| known.refuses)
        {
            return;
        }
        revision.set_trouble(Some(Trouble {
            reason,
            refuses: false,
            retry_after: 1,
        }));
    }

    /// A replica's app has ended by itself or could not be started.
    pub fn app_exited(
        &self,
        revision: &Rc<Revision>,
        replica: &Replica,
        how: &str,
        was_ready: bool,
    ) {
        let (pause, exits) = {
            let mut back_off = revision.back_off.borrow_mut();
            if was_ready {
                back_off.ready();
            }
            let pause = back_off.exited_early();
            (pause, back_off.exits())
        };
        let seconds = pause.as_secs_f64();
        self.console.complain(format_args!(
            "{} {} ended: {how}; it starts again in {seconds} s",
            revision.id.name, replica.number
        ));
        let refuses = exits >= self.settings.borrow().start_failures;
        revision.set_trouble(Some(Trouble {
            reason: format!("the app ended {exits} times in a row: {how}"),
            refuses,
            retry_after: pause.as_secs().max(1),
        }));
        self.replica_changed(revision);
    }

    /// How long to wait before an app is started again.
    pub fn pause_of(&self, revision: &Revision) -> Duration {
        revision.back_off.borrow().pause()
    }

    /// A replica and its process are gone.
    pub fn replica_gone(self: &Rc<Self>, revision: &Rc<Revision>, replica: &Replica) {
        revision.replicas.borrow_mut().remove(&replica.number);
        self.ports.borrow_mut().release(replica.port);
        self.replicas.set(self.replicas.get() - 1);
        self.replica_changed(revision);
        self.replica_ended.notify_one();
        if self.over_limit.replace(false) {
            for revision in self.revisions() {
                self.scale(&revision);
            }
        }
    }

    /// The revision's pods, as the autoscaler counts them.
    pub fn pods(revision: &Revision) -> Vec<RevisionPod> {
        revision
            .replicas
            .borrow()
            .values()
            .map(|replica| RevisionPod {
                pod: Pod {
                    phase: PodPhase::Running,
                    deleting: replica.is_draining(),
                    ready: replica.state() == State::Ready,
                    start_time: Some(replica.created),
                    ip: Some(replica.statistics.ip()),
                },
                stats: Some(replica.statistics),
            })
            .collect()
    }
}
