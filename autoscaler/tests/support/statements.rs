//! Statements that hold whatever the bytes. A property test makes bytes up, and the fuzzers in
//! `serving/fuzz` include this file.

use autoscaler::collection::Collection;
use autoscaler::decider::{Decider, Observation};
use autoscaler::pod_autoscaler::Reachability;
use autoscaler::spec::{Settings, Source, validate_extensions};
use autoscaler::stat_frame;
use prost::Message as _;
use serving::UnixTime;
use serving::config::{Autoscaler, Data, Deployment, LeaderElection, Logging, Network};
use serving::stat::WireStatMessages;

/// A frame of stats is accepted exactly where the general decoder accepts it, and what is skipped is
/// what carries no stat.
pub(crate) fn stat_frames(frame: &[u8]) {
    let mut messages = Vec::new();
    let read = stat_frame::decode(frame, &mut messages);
    match WireStatMessages::decode(frame) {
        Ok(reference) => {
            read.expect("the general decoder accepts it");
            let stats = reference.messages.iter().filter(|it| it.stat.is_some());
            let names = messages.iter().map(|it| (it.namespace, it.name));
            assert!(names.eq(stats.map(|it| (&*it.namespace, &*it.name))));
        }
        Err(_) => {
            read.expect_err("the general decoder refuses it");
            assert!(messages.is_empty(), "half a frame");
        }
    }
}

/// Lines of `key=value`.
fn lines(data: &[u8]) -> Data {
    let text = String::from_utf8_lossy(data);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Whatever annotations say, decisions are made, and none of them is negative. Bounds may be: only the
/// webhook refuses them, and they are never patched.
pub(crate) fn annotations(data: &[u8]) {
    let annotations = lines(data);
    // Problems are told, not punished.
    let _ = validate_extensions(&annotations);
    live(&annotations, &Autoscaler::default());
}

/// Whatever config maps say, they are refused with problems, or decisions are made under them.
pub(crate) fn config_maps(data: &[u8]) {
    let map = lines(data);
    for problem in [
        Deployment::parse(&map).err(),
        Network::parse(&map).err(),
        Logging::parse(&map).err(),
        LeaderElection::parse(&map)
            .and_then(|it| it.timing().map(drop))
            .err(),
    ] {
        assert!(problem.is_none_or(|problem| !problem.to_string().is_empty()));
    }
    match Autoscaler::parse(&map) {
        Ok(config) => live(&Data::new(), &config),
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
}

/// A few seconds of a revision.
fn live(annotations: &Data, config: &Autoscaler) {
    for reachability in [Reachability::Reachable, Reachability::Unreachable] {
        let settings = Settings::derive(&Source {
            annotations,
            container_concurrency: 0,
            reachability,
            autoscaler: config,
            progress_deadline_ns: 600_000_000_000,
        });
        let at = UnixTime::from_seconds;
        let mut collection = Collection::new(&settings.collection);
        let mut decider = Decider::new(&settings.decider, 1, at(0));
        for second in 1..10_i64 {
            collection.record(at(second), 10.0 * second as f64, 1.0);
            let observed = collection.observe_for(&settings.decider, at(second));
            let observed = observed.or(Some(Observation::default()));
            let decision = decider.decide(&settings.decider, observed, 1_u32, at(second));
            assert!(decision.is_some_and(|it| it.desired_scale >= 0));
        }
    }
}
