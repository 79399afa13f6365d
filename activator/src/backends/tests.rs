//! Scenarios of upstream's `TestRevisionWatcher` and `TestRevisionBackendManager*`.

use super::*;

fn dest(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8012))
}

fn cluster_ip() -> SocketAddr {
    SocketAddr::from(([192, 168, 0, 7], 80))
}

/// A revision and the world's answers to it.
struct Case {
    state: BackendsState,
    effects: Vec<Effect>,
    pending: BTreeMap<Target, Probe>,
    published: Vec<Usable>,
}

impl Case {
    fn new(mesh_mode: MeshMode) -> Self {
        Self::with(mesh_mode, true, false)
    }

    fn with(mesh_mode: MeshMode, probe_optimization: bool, addressability: bool) -> Self {
        let options = ProbeOptions {
            mesh_mode,
            mesh_pod_addressability: addressability,
            ..ProbeOptions::default()
        };
        Self {
            state: BackendsState::new(options, probe_optimization, 0),
            effects: Vec::new(),
            pending: BTreeMap::new(),
            published: Vec::new(),
        }
    }

    fn list(&mut self, ready: &[u8], not_ready: &[u8]) -> &mut Self {
        self.list_with(ready, not_ready, Some(cluster_ip()))
    }

    fn list_with(
        &mut self,
        ready: &[u8],
        not_ready: &[u8],
        cluster_ip: Option<SocketAddr>,
    ) -> &mut Self {
        let backends = Backends {
            ready: ready.iter().copied().map(dest).collect(),
            not_ready: not_ready.iter().copied().map(dest).collect(),
            cluster_ip,
        };
        self.state.list(&backends, &mut self.effects);
        self.settle()
    }

    fn answer(&mut self, target: Target, answer: Answer) -> &mut Self {
        let probe = self.pending.remove(&target).expect("it is being probed");
        self.state.answered(&probe, answer, &mut self.effects);
        self.settle()
    }

    fn pod(&mut self, last: u8, answer: Answer) -> &mut Self {
        self.answer(Target::Pod(dest(last)), answer)
    }

    fn cluster(&mut self, answer: Answer) -> &mut Self {
        self.answer(Target::ClusterIp(cluster_ip()), answer)
    }

    fn settle(&mut self) -> &mut Self {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Probe(probe) => {
                    self.pending.insert(probe.target, probe);
                }
                Effect::Cancel(target) => {
                    assert!(self.pending.remove(&target).is_some(), "nothing to cancel");
                }
                Effect::Publish(usable) => self.published.push(usable),
            }
        }
        self
    }

    fn probed(&self) -> Vec<Target> {
        self.pending.keys().copied().collect()
    }

    fn take_published(&mut self) -> Vec<Usable> {
        std::mem::take(&mut self.published)
    }

    /// What is published now; an assertion for "and nothing else".
    #[track_caller]
    fn expect(&mut self, expected: &[Usable]) -> &mut Self {
        assert_eq!(self.take_published(), expected);
        self
    }

    #[track_caller]
    fn expect_probed(&mut self, pods: &[u8]) -> &mut Self {
        let targets: Vec<_> = pods.iter().map(|last| Target::Pod(dest(*last))).collect();
        assert_eq!(self.probed(), targets);
        self
    }
}

fn pods(last: &[u8]) -> Usable {
    Usable::Pods(last.iter().copied().map(dest).collect())
}

fn through_cluster_ip(backends: usize) -> Usable {
    Usable::ClusterIp {
        dest: cluster_ip(),
        backends,
    }
}

#[test]
fn each_passed_probe_is_published_at_once() {
    Case::new(MeshMode::Auto)
        .list(&[1], &[2])
        .expect(&[])
        .expect_probed(&[1, 2])
        .pod(2, Answer::Pass)
        .expect(&[pods(&[2])])
        .pod(1, Answer::Pass)
        .expect(&[pods(&[1, 2])])
        .expect_probed(&[])
        .list(&[], &[])
        .expect(&[pods(&[])]);
}

#[test]
fn new_pods_are_probed_at_once_and_failures_later() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[], &[1]);
    assert_eq!(case.pending[&Target::Pod(dest(1))].delay, Duration::ZERO);
    case.pod(1, Answer::Fail);
    let pause = ProbeOptions::default().frequency;
    assert_eq!(case.pending[&Target::Pod(dest(1))].delay, pause);
    // The platform calls it ready: no reason to wait for the next attempt.
    case.list(&[1], &[]);
    assert_eq!(case.pending[&Target::Pod(dest(1))].delay, Duration::ZERO);
}

#[test]
fn removed_pods_are_dropped_and_their_late_answers_ignored() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1, 2], &[])
        .pod(1, Answer::Pass)
        .expect(&[pods(&[1])]);
    let late = case.pending[&Target::Pod(dest(2))];
    case.list(&[], &[3])
        .expect(&[pods(&[])])
        .expect_probed(&[3]);
    case.list(&[], &[2, 3]);
    case.state.answered(&late, Answer::Pass, &mut case.effects);
    case.settle().expect(&[]);
}

/// Edge case 26: from ready to not ready means a new probe, and traffic until it fails.
#[test]
fn edge_case_26_ready_to_not_ready() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1], &[])
        .pod(1, Answer::Pass)
        .expect(&[pods(&[1])]);
    case.list(&[], &[1])
        .expect(&[])
        .expect_probed(&[1])
        .pod(1, Answer::Pass)
        .expect(&[])
        .expect_probed(&[]);
    case.list(&[1], &[]).expect_probed(&[]);
    case.list(&[], &[1])
        .pod(1, Answer::Fail)
        .expect(&[pods(&[])]);
}

/// Edge case 27: with an exec or startup probe a pod waits for the platform's word.
#[test]
fn edge_case_27_no_probe_optimization() {
    let mut case = Case::with(MeshMode::Auto, false, false);
    case.list(&[], &[1]).expect(&[]).expect_probed(&[]);
    case.list(&[1], &[])
        .expect_probed(&[1])
        .pod(1, Answer::Pass)
        .expect(&[pods(&[1])]);
    case.list(&[], &[1]).expect(&[pods(&[])]).expect_probed(&[]);
}

/// Edge case 28: 503 may come from a mesh; the ClusterIP is used only if it answers itself.
#[test]
fn edge_case_28_possible_mesh() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1], &[2]).pod(1, Answer::Fail);
    assert!(!case.probed().contains(&Target::ClusterIp(cluster_ip())));
    case.pod(2, Answer::TimedOut);
    assert!(case.probed().contains(&Target::ClusterIp(cluster_ip())));
    case.cluster(Answer::Fail).expect(&[]);
    // Once more round the pods before the ClusterIP's next turn.
    case.pod(1, Answer::Fail);
    assert!(!case.probed().contains(&Target::ClusterIp(cluster_ip())));
    case.pod(2, Answer::Fail)
        .cluster(Answer::Pass)
        .expect(&[through_cluster_ip(1)])
        .expect_probed(&[1]);
}

/// Edge case 29: 404 or 500 come from no mesh.
#[test]
fn edge_case_29_not_mesh() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1, 2], &[])
        .pod(1, Answer::NotMesh)
        .pod(2, Answer::Fail)
        .expect_probed(&[1, 2]);
}

/// Edge case 30: the ClusterIP stays until a pod answers, which differs from upstream on purpose, as
/// does that it is forgotten at scale to zero.
#[test]
fn edge_case_30_cluster_ip_sticks() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1], &[])
        .pod(1, Answer::Fail)
        .cluster(Answer::Pass)
        .expect(&[through_cluster_ip(1)])
        .expect_probed(&[1]);
    // One pod at a time, and seldom.
    case.list(&[1, 2], &[3])
        .expect(&[through_cluster_ip(2)])
        .expect_probed(&[1]);
    assert_eq!(case.pending[&Target::Pod(dest(1))].delay, ASIDE_PAUSE);
    case.pod(1, Answer::Fail).expect_probed(&[2]);
    assert_eq!(case.pending[&Target::Pod(dest(2))].delay, ASIDE_PAUSE);
    case.pod(2, Answer::NotMesh).expect_probed(&[1]);
    case.pod(1, Answer::TimedOut).expect_probed(&[2]);
    case.expect(&[]);
    case.list(&[], &[]).expect(&[pods(&[])]).expect_probed(&[]);
    case.list(&[1], &[]).expect_probed(&[1]);
}

/// Pods that could not be addressed for a moment are, once one of them answers: all the others are
/// asked at once, so that as many as there are take over together.
#[test]
fn direct_addressing_comes_back() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1, 2, 3], &[4])
        .pod(1, Answer::Fail)
        .pod(2, Answer::Fail)
        .pod(3, Answer::Fail)
        .pod(4, Answer::Fail)
        .cluster(Answer::Pass)
        .expect(&[through_cluster_ip(3)])
        .expect_probed(&[1]);
    case.pod(1, Answer::Pass).expect(&[]).expect_probed(&[2, 3]);
    for last in [2, 3] {
        let probe = case.pending[&Target::Pod(dest(last))];
        assert_eq!(probe.delay, Duration::ZERO);
    }
    case.pod(2, Answer::Pass).expect(&[]);
    case.pod(3, Answer::Fail)
        .expect(&[pods(&[1, 2])])
        .expect_probed(&[3, 4]);
    case.pod(3, Answer::Pass)
        .pod(4, Answer::Pass)
        .expect(&[pods(&[1, 2, 3]), pods(&[1, 2, 3, 4])])
        .expect_probed(&[]);
    // The ClusterIP is as unknown as before.
    case.list(&[5], &[]).take_published();
    case.pod(5, Answer::Fail);
    assert!(case.probed().contains(&Target::ClusterIp(cluster_ip())));
}

/// Who is asked aside may leave, or stop being ready, at any moment.
#[test]
fn pods_asked_aside_that_leave() {
    let mut case = Case::with(MeshMode::Auto, false, false);
    case.list(&[1], &[])
        .pod(1, Answer::Fail)
        .cluster(Answer::Pass);
    case.list(&[2], &[]).expect_probed(&[2]);
    case.list(&[3], &[2]).expect_probed(&[3]);
    case.list(&[], &[3]).expect_probed(&[]);
    case.list(&[1, 2, 3], &[]).expect_probed(&[1]);
    case.take_published();
    // The last one that has not answered yet.
    case.pod(1, Answer::Pass).pod(2, Answer::Pass).expect(&[]);
    case.list(&[1, 2], &[])
        .expect(&[through_cluster_ip(2), pods(&[1, 2])])
        .expect_probed(&[]);
}

/// A mesh that hides pods, by what the operator says, is never tried.
#[test]
fn hidden_pods_are_not_asked_aside() {
    let mut case = Case::new(MeshMode::Enabled);
    case.list(&[1, 2], &[]).cluster(Answer::Pass);
    case.expect_probed(&[]);
    case.list(&[1, 2, 3], &[]).expect_probed(&[]);
}

/// Edge case 31: addressable pods in a mesh that hides them are never usable.
#[test]
fn edge_case_31_contradictory_mesh_settings() {
    Case::with(MeshMode::Enabled, true, true)
        .list(&[1], &[2])
        .expect(&[])
        .expect_probed(&[]);
}

/// Edge case 32: the ClusterIP's address is taken from each list anew.
#[test]
fn edge_case_32_new_cluster_ip() {
    let mut case = Case::new(MeshMode::Enabled);
    case.list(&[1], &[]).cluster(Answer::Pass);
    case.expect(&[through_cluster_ip(1)]);
    let other = SocketAddr::from(([192, 168, 0, 8], 80));
    case.list_with(&[1], &[], Some(other))
        .expect(&[Usable::ClusterIp {
            dest: other,
            backends: 1,
        }]);
    case.list_with(&[1, 2], &[], None).expect(&[]);
}

/// Edge case 33: a slow probe holds up nobody.
#[test]
fn edge_case_33_one_slow_probe() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1, 2, 3], &[])
        .pod(1, Answer::Pass)
        .pod(3, Answer::Pass)
        .expect(&[pods(&[1]), pods(&[1, 3])]);
    let base = ProbeOptions::default().timeout;
    for factor in [2, 4, 8] {
        case.pod(2, Answer::TimedOut);
        assert_eq!(case.pending[&Target::Pod(dest(2))].timeout, base * factor);
    }
    case.pod(2, Answer::TimedOut);
    assert_eq!(
        case.pending[&Target::Pod(dest(2))].timeout,
        MAX_PROBE_TIMEOUT
    );
    case.pod(2, Answer::Pass).expect(&[pods(&[1, 2, 3])]);
}

#[test]
fn disabled_trusts_ready_pods_and_never_uses_the_cluster_ip() {
    let mut case = Case::new(MeshMode::Disabled);
    case.list(&[1], &[2])
        .expect(&[pods(&[1])])
        .expect_probed(&[2])
        .pod(2, Answer::Fail)
        .expect_probed(&[2]);
    case.list(&[], &[2]).expect(&[pods(&[])]);
    case.pod(2, Answer::Fail).expect_probed(&[2]);
}

#[test]
fn enabled_never_probes_pods() {
    let mut case = Case::new(MeshMode::Enabled);
    case.list(&[1], &[2]);
    assert_eq!(case.probed(), [Target::ClusterIp(cluster_ip())]);
    case.cluster(Answer::Fail).cluster(Answer::Pass);
    case.expect(&[through_cluster_ip(1)]);
    case.list(&[1, 2], &[]).expect(&[through_cluster_ip(2)]);
}

/// Edge case 76: a pod that dies unannounced is noticed from traffic (upstream does not).
#[test]
fn edge_case_76_refused_connections() {
    let mut case = Case::new(MeshMode::Auto);
    case.list(&[1, 2], &[])
        .pod(1, Answer::Pass)
        .pod(2, Answer::Pass)
        .take_published();
    case.state.lost(dest(1), &mut case.effects);
    case.settle().expect(&[pods(&[2])]).expect_probed(&[1]);
    case.state.lost(dest(1), &mut case.effects);
    case.settle().expect(&[]).expect_probed(&[1]);
    case.pod(1, Answer::Fail)
        .pod(1, Answer::Pass)
        .expect(&[pods(&[1, 2])]);
}

/// Where probes take a dial and an exchange of so long a round trip; the time until `until` holds.
fn far_away(
    case: &mut Case,
    pace: &mut Pace,
    round_trip: Duration,
    until: impl Fn(&Case) -> bool,
) -> Duration {
    let mut under_way: BTreeMap<Target, (Probe, Duration)> = BTreeMap::new();
    let mut now = Duration::ZERO;
    while !until(case) {
        under_way.retain(|target, (probe, _)| case.pending.get(target) == Some(probe));
        for (target, probe) in &case.pending {
            let timeout = pace.stretch(probe.timeout);
            let ends = now + probe.delay + timeout.min(2 * round_trip);
            under_way.entry(*target).or_insert((*probe, ends));
        }
        let (target, ends) = under_way
            .iter()
            .map(|(target, (_, ends))| (*target, *ends))
            .min_by_key(|(_, ends)| *ends)
            .expect("something is being probed");
        let (probe, _) = under_way.remove(&target).expect("found");
        now = ends;
        assert!(now < Duration::from_secs(20), "never, at {round_trip:?}");
        if pace.stretch(probe.timeout) < 2 * round_trip {
            case.answer(target, Answer::TimedOut);
        } else {
            pace.passed(2 * round_trip);
            case.answer(target, Answer::Pass);
        }
    }
    now
}

/// Pods become usable at any round trip up to a second, and further ones within their first probe.
#[test]
fn pods_far_away() {
    for round_trip in [1, 70, 300, 600, 1_000].map(Duration::from_millis) {
        let mut pace = Pace::default();
        let mut case = Case::new(MeshMode::Auto);
        // Without a ClusterIP that would be as far away.
        case.list_with(&[1], &[], None);
        let took = far_away(&mut case, &mut pace, round_trip, |case| {
            !case.published.is_empty()
        });
        assert!(took < Duration::from_secs(6), "{round_trip:?}: {took:?}");
        case.expect(&[pods(&[1])]);
        case.list_with(&[1, 2], &[], None);
        let took = far_away(&mut case, &mut pace, round_trip, |case| {
            !case.published.is_empty()
        });
        assert_eq!(took, 2 * round_trip, "a new pod of the revision");
        let mut other = Case::new(MeshMode::Auto);
        other.list_with(&[3], &[], None);
        let took = far_away(&mut other, &mut pace, round_trip, |case| {
            !case.published.is_empty()
        });
        assert_eq!(took, 2 * round_trip, "a pod of another revision");
    }
}

/// So does a ClusterIP; beside it pods come first, though it is asked whenever they time out.
#[test]
fn cluster_ips_far_away() {
    for round_trip in [1, 70, 300, 600, 1_000].map(Duration::from_millis) {
        for (mode, expected) in [
            (MeshMode::Enabled, through_cluster_ip(1)),
            (MeshMode::Auto, pods(&[1])),
        ] {
            let mut case = Case::new(mode);
            case.list(&[1], &[]);
            let took = far_away(&mut case, &mut Pace::default(), round_trip, |case| {
                !case.published.is_empty()
            });
            assert!(took < Duration::from_secs(6), "{round_trip:?}: {took:?}");
            case.expect(&[expected]);
        }
    }
}

/// A slow moment is forgotten after a while.
#[test]
fn the_pace_follows_the_probes() {
    let own = ProbeOptions::default().timeout;
    let mut pace = Pace::default();
    assert_eq!(pace.stretch(own), own);
    pace.passed(Duration::from_millis(400));
    assert_eq!(pace.stretch(own), Duration::from_millis(1_200));
    pace.passed(Duration::from_secs(2));
    assert_eq!(pace.stretch(own), MAX_PROBE_TIMEOUT);
    let later = MAX_PROBE_TIMEOUT * 2;
    assert_eq!(pace.stretch(later), later, "what is configured is not cut");
    for _ in 0..30 {
        pace.passed(Duration::from_millis(1));
    }
    assert_eq!(pace.stretch(own), own);
}
