//! Which destinations of a revision are usable: listed addresses and probe answers in, probes to
//! make and usable destinations out.
//!
//! A pure state machine; the prober makes the probes and keeps time. Every answer is acted
//! on at once, so a pod gets its first request as soon as its own probe passed, whatever the other
//! probes do. Upstream: `revisionWatcher` in `pkg/activator/net/revision_backends.go`, which works
//! in batches. On purpose we also
//! - let a probe that timed out have more time at the next attempt, up to [`MAX_PROBE_TIMEOUT`], and
//!   give those of new destinations what the last that passed had needed ([`Pace`]);
//! - take a pod that refuses or breaks connections of traffic out of rotation until a probe passes
//!   again;
//! - go on asking a ready pod every [`ASIDE_PAUSE`] while the ClusterIP is used, and go back to
//!   direct addressing when one answers, as well as at scale to zero.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::options::{MeshMode, ProbeOptions};
use crate::trackers::Usable;
use crate::world::Backends;

/// How far a probe's time grows after time-outs (unless the configured one is longer). Covers a
/// round trip of a second, with a connection to be made first.
pub const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause between probes of pods while the ClusterIP is used. One pod is asked at a time, which is
/// next to nothing in a mesh that hides them for good.
pub const ASIDE_PAUSE: Duration = Duration::from_secs(5);

/// How much longer a probe may take than one that passed: that one may have found a connection, where
/// the first of a new pod has a second round trip to make.
const MARGIN: u32 = 3;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with the body `queue`.
    Pass,
    /// An answer that no mesh would give in a pod's place: anything but 502 and 503.
    NotMesh,
    /// 502, 503 or a broken connection: perhaps a mesh's doing.
    Fail,
    /// No answer in time.
    TimedOut,
}

/// One of the addresses that can be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A pod.
    Pod(SocketAddr),
    /// The private Service.
    ClusterIp(SocketAddr),
}

/// A probe to make. Its answer comes back with the same number; an older one is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What to probe.
    pub target: Target,
    /// Which probe this is.
    pub number: u64,
    /// How long to wait before.
    pub delay: Duration,
    /// How long it may take then.
    pub timeout: Duration,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a probe; one under way for the same target is superseded.
    Probe(Probe),
    /// Stop probing this target.
    Cancel(Target),
    /// These destinations are usable from now on.
    Publish(Usable),
}

/// How long probes take here, so that those of a new pod need not find it out by time-outs.
///
/// One that passed quickly takes an eighth off what slower ones before it had left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    timeout: Duration,
}

/// The state of one revision's destinations.
#[derive(Debug)]
pub struct BackendsState {
    options: ProbeOptions,
    /// Whether a pod may be used before the platform calls it ready.
    probe_optimization: bool,
    pods: BTreeMap<SocketAddr, Pod>,
    cluster_ip: ClusterIp,
    pods_addressable: bool,
    published: Usable,
    next_number: u64,
}

#[derive(Debug)]
struct Pod {
    ready: bool,
    /// In rotation (provided it may be used at all).
    healthy: bool,
    /// The probe under way, if any.
    probe: Option<u64>,
    /// Failed since it was listed, or since the ClusterIP was tried.
    failed: bool,
    not_mesh: bool,
    /// Since it was listed.
    timeouts: u32,
}

#[derive(Debug, Default)]
struct ClusterIp {
    dest: Option<SocketAddr>,
    healthy: bool,
    probe: Option<(SocketAddr, u64)>,
    timeouts: u32,
}

// === impl Pace ===

impl Pace {
    /// A probe passed after so long.
    pub fn passed(&mut self, took: Duration) {
        let before = self.timeout - self.timeout / 8;
        let needed = took.saturating_mul(MARGIN).min(MAX_PROBE_TIMEOUT);
        self.timeout = before.max(needed);
    }

    /// What a probe gets whose destination's own past says `timeout`.
    pub fn stretch(&self, timeout: Duration) -> Duration {
        timeout.max(self.timeout)
    }
}

// === impl BackendsState ===

impl BackendsState {
    /// Nothing is listed yet. Probes are counted from `number` on.
    pub fn new(options: ProbeOptions, probe_optimization: bool, number: u64) -> Self {
        Self {
            options,
            probe_optimization,
            pods: BTreeMap::new(),
            cluster_ip: ClusterIp::default(),
            pods_addressable: true,
            published: Usable::Pods(Vec::new()),
            next_number: number,
        }
    }

    /// The listed addresses changed.
    pub fn list(&mut self, backends: &Backends, effects: &mut Vec<Effect>) {
        self.cluster_ip.dest = backends.cluster_ip;
        self.remove_unlisted(backends, effects);
        if backends.has_no_pods() {
            self.pods_addressable = true;
            self.cluster_ip.healthy = false;
            self.cancel_cluster_ip(effects);
            self.publish(Usable::Pods(Vec::new()), effects);
            return;
        }
        let ready: BTreeSet<_> = backends.ready.iter().copied().collect();
        for dest in &ready {
            self.list_pod(*dest, true, effects);
        }
        for dest in backends.not_ready.iter().filter(|it| !ready.contains(it)) {
            self.list_pod(*dest, false, effects);
        }
        if self.probes_pods() {
            self.publish_pods(effects);
        } else {
            self.use_cluster_ip(effects);
            self.go_on_aside(None, effects);
        }
    }

    /// The number to go on with, when nothing is listed and nothing is under way: then this state
    /// is as good as a new one.
    pub fn at_rest(&self) -> Option<u64> {
        let nothing = Usable::Pods(Vec::new());
        let at_rest =
            self.pods.is_empty() && self.cluster_ip.probe.is_none() && self.published == nothing;
        at_rest.then_some(self.next_number)
    }

    /// A probe was answered.
    pub fn answered(&mut self, probe: &Probe, answer: Answer, effects: &mut Vec<Effect>) {
        match probe.target {
            Target::Pod(dest) => self.pod_answered(dest, probe.number, answer, effects),
            Target::ClusterIp(dest) => {
                self.cluster_ip_answered(dest, probe.number, answer, effects);
            }
        }
    }

    /// Traffic found that a pod in rotation may be gone.
    pub fn lost(&mut self, dest: SocketAddr, effects: &mut Vec<Effect>) {
        let Some(pod) = self.pods.get_mut(&dest) else {
            return;
        };
        if !pod.healthy || !self.pods_addressable {
            return;
        }
        pod.healthy = false;
        self.publish_pods(effects);
        self.probe_pod(dest, Duration::ZERO, effects);
    }

    fn probes_pods(&self) -> bool {
        self.pods_addressable && self.options.mesh_mode != MeshMode::Enabled
    }

    fn may_use_cluster_ip(&self) -> bool {
        !self.options.mesh_pod_addressability && self.options.mesh_mode != MeshMode::Disabled
    }

    fn remove_unlisted(&mut self, backends: &Backends, effects: &mut Vec<Effect>) {
        let listed: BTreeSet<_> = backends.ready.iter().chain(&backends.not_ready).collect();
        self.pods.retain(|dest, pod| {
            let stays = listed.contains(dest);
            if !stays && pod.probe.is_some() {
                effects.push(Effect::Cancel(Target::Pod(*dest)));
            }
            stays
        });
    }

    fn list_pod(&mut self, dest: SocketAddr, ready: bool, effects: &mut Vec<Effect>) {
        let probes = self.probes_pods();
        let pod = self.pods.entry(dest).or_insert_with(|| Pod {
            ready: !ready,
            healthy: false,
            probe: None,
            failed: false,
            not_mesh: false,
            timeouts: 0,
        });
        if pod.ready == ready {
            return;
        }
        pod.ready = ready;
        if !probes {
            // Ready pods are asked aside, one by one.
            if !ready {
                pod.healthy = false;
                if pod.probe.take().is_some() {
                    effects.push(Effect::Cancel(Target::Pod(dest)));
                }
            }
            return;
        }
        if ready && self.options.mesh_mode == MeshMode::Disabled {
            pod.healthy = true;
            if pod.probe.take().is_some() {
                effects.push(Effect::Cancel(Target::Pod(dest)));
            }
        } else if ready && pod.healthy {
            // It passed already; the platform only agrees.
        } else if ready || self.probe_optimization {
            // A pod that was healthy stays in rotation until this probe says otherwise.
            self.probe_pod(dest, Duration::ZERO, effects);
        } else {
            pod.healthy = false;
            if pod.probe.take().is_some() {
                effects.push(Effect::Cancel(Target::Pod(dest)));
            }
        }
    }

    fn probe_pod(&mut self, dest: SocketAddr, delay: Duration, effects: &mut Vec<Effect>) {
        let number = self.number();
        let Some(pod) = self.pods.get_mut(&dest) else {
            return;
        };
        pod.probe = Some(number);
        effects.push(Effect::Probe(Probe {
            target: Target::Pod(dest),
            number,
            delay,
            timeout: grown(self.options.timeout, pod.timeouts),
        }));
    }

    fn pod_answered(
        &mut self,
        dest: SocketAddr,
        number: u64,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(pod) = self.pods.get_mut(&dest) else {
            return;
        };
        if pod.probe != Some(number) {
            return;
        }
        pod.probe = None;
        pod.healthy = answer == Answer::Pass;
        pod.not_mesh = matches!(answer, Answer::Pass | Answer::NotMesh);
        pod.failed = answer != Answer::Pass;
        // An answer in time says that the time is right, whatever else it says.
        if answer == Answer::TimedOut {
            pod.timeouts = pod.timeouts.saturating_add(1);
        }
        if !self.pods_addressable {
            self.go_on_aside(Some(dest), effects);
            return;
        }
        self.publish_pods(effects);
        if answer != Answer::Pass {
            self.probe_pod(dest, self.options.frequency, effects);
            self.consider_cluster_ip(effects);
        }
    }

    /// While the ClusterIP is used: asks one ready pod after the other, and once one has passed all
    /// the others, to go back to direct addressing with as many as there are.
    fn go_on_aside(&mut self, answered: Option<SocketAddr>, effects: &mut Vec<Effect>) {
        if self.pods_addressable || self.options.mesh_mode != MeshMode::Auto {
            return;
        }
        let healthy = self.pods.values().filter(|pod| pod.healthy).count();
        let passed = answered.is_some_and(|dest| self.pods[&dest].healthy);
        if passed && healthy == 1 {
            for dest in self.ready_pods(|pod| !pod.healthy) {
                self.probe_pod(dest, Duration::ZERO, effects);
            }
        }
        if !self.ready_pods(|pod| pod.probe.is_some()).is_empty() {
            return;
        }
        if healthy > 0 {
            self.address_pods(effects);
            return;
        }
        let ready = self.ready_pods(|_| true);
        let next = ready.iter().find(|dest| Some(**dest) > answered);
        if let Some(dest) = next.or(ready.first()) {
            self.probe_pod(*dest, ASIDE_PAUSE, effects);
        }
    }

    /// From the ClusterIP back to the pods that have passed; the others are probed as ever.
    fn address_pods(&mut self, effects: &mut Vec<Effect>) {
        self.pods_addressable = true;
        self.cluster_ip.healthy = false;
        self.cancel_cluster_ip(effects);
        self.publish_pods(effects);
        let optimization = self.probe_optimization;
        let others = self
            .pods
            .iter()
            .filter(|(_, pod)| !pod.healthy && pod.probe.is_none() && (pod.ready || optimization));
        let others: Vec<_> = others.map(|(dest, pod)| (*dest, pod.failed)).collect();
        for (dest, failed) in others {
            let pause = if failed {
                self.options.frequency
            } else {
                Duration::ZERO
            };
            self.probe_pod(dest, pause, effects);
        }
    }

    fn ready_pods(&self, and: impl Fn(&Pod) -> bool) -> Vec<SocketAddr> {
        let ready = self.pods.iter().filter(|(_, pod)| pod.ready && and(pod));
        ready.map(|(dest, _)| *dest).collect()
    }

    fn publish_pods(&mut self, effects: &mut Vec<Effect>) {
        let usable = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.healthy)
            .map(|(dest, _)| *dest)
            .collect();
        self.publish(Usable::Pods(usable), effects);
    }

    fn publish(&mut self, usable: Usable, effects: &mut Vec<Effect>) {
        if self.published != usable {
            self.published = usable.clone();
            effects.push(Effect::Publish(usable));
        }
    }

    /// Tries the ClusterIP once every probed pod has failed in a way that a mesh could cause.
    fn consider_cluster_ip(&mut self, effects: &mut Vec<Effect>) {
        if !self.may_use_cluster_ip() || self.pods.values().any(|pod| pod.healthy) {
            return;
        }
        let mut probed = self.pods.values().filter(|pod| pod.probe.is_some());
        if !probed.all(|pod| pod.failed && !pod.not_mesh) {
            return;
        }
        for pod in self.pods.values_mut() {
            pod.failed = false;
        }
        self.probe_cluster_ip(Duration::ZERO, effects);
    }

    /// The way of a revision whose pods cannot be addressed.
    fn use_cluster_ip(&mut self, effects: &mut Vec<Effect>) {
        if !self.may_use_cluster_ip() {
            return;
        }
        let Some(dest) = self.cluster_ip.dest else {
            return;
        };
        if self.cluster_ip.healthy {
            let backends = self.pods.values().filter(|pod| pod.ready).count();
            self.publish(Usable::ClusterIp { dest, backends }, effects);
        } else {
            self.probe_cluster_ip(Duration::ZERO, effects);
        }
    }

    fn probe_cluster_ip(&mut self, delay: Duration, effects: &mut Vec<Effect>) {
        let Some(dest) = self.cluster_ip.dest else {
            return;
        };
        if let Some((probed, _)) = self.cluster_ip.probe {
            if probed == dest {
                return;
            }
            self.cancel_cluster_ip(effects);
        }
        let number = self.number();
        self.cluster_ip.probe = Some((dest, number));
        effects.push(Effect::Probe(Probe {
            target: Target::ClusterIp(dest),
            number,
            delay,
            timeout: grown(self.options.timeout, self.cluster_ip.timeouts),
        }));
    }

    fn cluster_ip_answered(
        &mut self,
        dest: SocketAddr,
        number: u64,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        if self.cluster_ip.probe != Some((dest, number)) {
            return;
        }
        self.cluster_ip.probe = None;
        if answer == Answer::TimedOut {
            self.cluster_ip.timeouts = self.cluster_ip.timeouts.saturating_add(1);
        }
        if answer == Answer::Pass {
            if self.pods.values().any(|pod| pod.healthy) && self.probes_pods() {
                // A pod passed in the meantime: direct addressing wins.
                return;
            }
            self.cluster_ip.healthy = true;
            self.pods_addressable = false;
            for (dest, pod) in &mut self.pods {
                pod.healthy = false;
                if pod.probe.take().is_some() {
                    effects.push(Effect::Cancel(Target::Pod(*dest)));
                }
            }
            self.use_cluster_ip(effects);
            self.go_on_aside(None, effects);
        } else if !self.probes_pods() {
            self.probe_cluster_ip(self.options.frequency, effects);
        }
    }

    fn cancel_cluster_ip(&mut self, effects: &mut Vec<Effect>) {
        if let Some((dest, _)) = self.cluster_ip.probe.take() {
            effects.push(Effect::Cancel(Target::ClusterIp(dest)));
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

/// The time of a probe after so many time-outs.
fn grown(timeout: Duration, timeouts: u32) -> Duration {
    let factor = 1u32.checked_shl(timeouts.min(16)).unwrap_or(u32::MAX);
    timeout
        .saturating_mul(factor)
        .min(MAX_PROBE_TIMEOUT.max(timeout))
}

#[cfg(test)]
mod tests;
