//! What becomes of what was asked for: beliefs, contradictions and failures.

use super::super::revision::{Belief, asked_before};
use super::*;

#[test]
fn what_was_asked_for_is_not_asked_for_again_until_it_is_overdue() {
    let mut platform = Platform::new(&[], 1);
    platform.run_until(120, |it| it.replicas == 0);
    platform.obedient = false;
    platform.log.clear();
    platform.stat(1.0);
    assert_eq!(platform.scales(), [1]);
    // Ticks and further stats change nothing while the platform is busy.
    for _ in 0..20 {
        platform.run_seconds(1);
        platform.stat(1.0);
    }
    assert_eq!(platform.scales(), [1]);
    let modes = |it: &Platform| {
        let spec = |action: &Action| matches!(action, Action::ServerlessService { .. });
        it.log.iter().filter(|action| spec(action)).count()
    };
    assert!(modes(&platform) <= 1, "{:?}", platform.log);
    for _ in 0..20 {
        platform.run_seconds(1);
        platform.tell_sks();
    }
    assert_eq!(platform.scales(), [1, 1], "lost, and asked for again");
}

/// Somebody changes an object just as it is being written, and the world says so once.
#[test]
fn what_others_made_of_an_object_is_noticed_in_the_end() {
    let mut platform = Platform::new(&[], 1);
    platform.run_until(120, |it| it.replicas == 0);
    platform.obedient = false;
    platform.log.clear();
    platform
        .sks
        .as_mut()
        .expect("there is one")
        .spec
        .num_activators += 7;
    platform.tell_sks();
    assert_eq!(specs(&platform), 1, "{:?}", platform.log);
    platform.tell_sks();
    assert_eq!(specs(&platform), 1, "it may be on its way");
    platform.run_seconds(super::super::revision::BELIEF_LIMIT.as_secs() + 5);
    assert_eq!(specs(&platform), 2, "{:?}", platform.log);
}

/// The watch has nothing more to say of a change by somebody else once it was seen.
#[test]
fn what_could_not_be_put_back_is_tried_again() {
    let mut platform = Platform::new(&[], 1);
    platform.run_until(120, |it| it.replicas == 0);
    platform.obedient = false;
    platform.log.clear();
    let sks = platform.sks.as_mut().expect("there is one");
    sks.spec.num_activators += 7;
    platform.tell_sks();
    assert_eq!(specs(&platform), 1, "{:?}", platform.log);
    platform.fail(FailedAction::ServerlessService, None);
    platform.run_seconds(2);
    assert_eq!(specs(&platform), 2, "{:?}", platform.log);
}

#[test]
fn a_failed_patch_is_repeated_with_back_off_and_reported() {
    let mut platform = Platform::new(&[], 1);
    platform.run_until(120, |it| it.replicas == 0);
    platform.obedient = false;
    platform.log.clear();
    platform.stat(1.0);
    let mut now = Duration::ZERO;
    for attempt in 1..=6_u32 {
        assert_eq!(platform.scales().len(), attempt as usize);
        platform.fail(FailedAction::Scale, Some("no quota"));
        assert_eq!(platform.scales().len(), attempt as usize, "not at once");
        let delay = Duration::from_millis(5) * 2_u32.pow(attempt - 1);
        platform.run(delay);
        now += delay;
    }
    let event = |action: &Action| match action {
        Action::Event {
            reason, message, ..
        } => Some((*reason, message.clone())),
        _ => None,
    };
    let events: Vec<_> = platform.log.iter().filter_map(event).collect();
    assert_eq!(events.len(), 6);
    assert_eq!(events[0], ("InternalError", "no quota".to_owned()));
    // The object never saw the status that goes with the scale.
    assert_eq!(platform.object.status.desired_scale, Some(0));
}

#[test]
fn a_failed_write_is_reported_on_the_object_that_it_was_for() {
    let mut platform = Platform::new(&[], 1);
    for (action, object, expected) in [
        (
            FailedAction::Scale,
            EventObject::PodAutoscaler,
            "InternalError",
        ),
        (
            FailedAction::Metric,
            EventObject::PodAutoscaler,
            "InternalError",
        ),
        (
            FailedAction::Status,
            EventObject::PodAutoscaler,
            "UpdateFailed",
        ),
        (
            FailedAction::MetricStatus,
            EventObject::Metric,
            "UpdateFailed",
        ),
    ] {
        platform.log.clear();
        platform.fail_batch(BatchNumber::default(), action, Some("no quota"));
        let event = |entry: &Action| match entry {
            Action::Event { about, reason, .. } => Some((*about, *reason)),
            _ => None,
        };
        let events: Vec<_> = platform.log.iter().filter_map(event).collect();
        assert_eq!(events, [(object, expected)], "{action:?}");
    }
}

#[test]
fn a_status_that_lost_a_conflict_is_written_again_silently() {
    let mut platform = Platform::new(&[], 1);
    platform.run_seconds(10);
    platform.obedient = false;
    platform.log.clear();
    platform.replicas = 2;
    platform.tell_pods();
    let statuses = |it: &Platform| {
        let is_status = |action: &&Action| matches!(action, Action::Status { .. });
        it.log.iter().filter(is_status).count()
    };
    assert_eq!(statuses(&platform), 1);
    platform.fail(FailedAction::Status, None);
    platform.run_seconds(1);
    assert_eq!(statuses(&platform), 2);
    assert!(
        !platform
            .log
            .iter()
            .any(|action| matches!(action, Action::Event { .. }))
    );
}

/// The generations that the statuses speak of, in the order in which they are written.
fn generations(platform: &Platform) -> Vec<i64> {
    let generation = |action: &Action| match action {
        Action::Status { status, .. } => Some(status.observed_generation),
        _ => None,
    };
    platform.log.iter().filter_map(generation).collect()
}

fn specs(platform: &Platform) -> usize {
    let spec = |action: &&Action| matches!(action, Action::ServerlessService { .. });
    platform.log.iter().filter(spec).count()
}

/// A platform that carries nothing out, a batch with a spec and a status, and one with a newer status.
fn spec_and_status_then_status() -> (Platform, BatchNumber, BatchNumber) {
    let mut platform = Platform::new(&[], 1);
    platform.run_seconds(10);
    platform.obedient = false;
    platform.log.clear();
    let mut sks = platform.sks.clone().map(Box::new);
    sks.as_mut().expect("there is one").spec.num_activators += 7;
    let now = platform.now;
    let update = Update::ServerlessService(id(), sks);
    platform.core.update(update, now);
    platform.tell_generation(2);
    let first = platform.batch_of(FailedAction::ServerlessService);
    assert_eq!(platform.batch_of(FailedAction::Status), first, "one batch");
    platform.tell_generation(3);
    let second = platform.batch_of(FailedAction::Status);
    assert_ne!(second, first);
    assert_eq!((generations(&platform), specs(&platform)), (vec![2, 3], 1));
    (platform, first, second)
}

#[test]
fn a_failure_takes_back_nothing_that_was_asked_for_since() {
    let (mut platform, first, second) = spec_and_status_then_status();

    // The second is carried out all the same: its status is the newest there is.
    platform.fail_batch(first, FailedAction::ServerlessService, None);
    platform.run_seconds(1);
    assert_eq!((generations(&platform), specs(&platform)), (vec![2, 3], 2));

    // It is taken back when the second fails in its turn.
    platform.fail_batch(second, FailedAction::Status, None);
    platform.run_seconds(1);
    assert_eq!(
        (generations(&platform), specs(&platform)),
        (vec![2, 3, 3], 2)
    );
}

#[test]
fn a_failure_takes_back_nothing_that_was_asked_for_before() {
    let (mut platform, first, second) = spec_and_status_then_status();
    platform.fail_batch(second, FailedAction::Status, None);
    platform.run_seconds(1);
    assert_eq!(
        (generations(&platform), specs(&platform)),
        (vec![2, 3, 3], 1)
    );
    platform.fail_batch(first, FailedAction::ServerlessService, None);
    platform.run_seconds(1);
    assert_eq!(specs(&platform), 2);
}

/// The status for a failure is as much on its way as any other: what the watch still tells of before
/// does not undo it, so that the time of the next change is counted from it.
#[test]
fn the_status_for_a_failure_is_held_on_to() {
    let mut platform = Platform::new(&[], 1);
    platform.run_seconds(10);
    platform.obedient = false;
    platform.log.clear();
    let window = [("autoscaling.knative.dev/window", "30s")];
    platform.object.annotations = revision(&window).annotations;
    platform.tell_generation(2);
    platform.fail(FailedAction::Metric, None);
    platform.tell_generation(2);
    let ready = |action: &Action| match action {
        Action::Status { status, .. } => status.conditions.get(READY).cloned(),
        _ => None,
    };
    let ready: Vec<_> = platform.log.iter().filter_map(ready).collect();
    let statuses: Vec<_> = ready.iter().map(|it| it.status.as_str()).collect();
    assert_eq!(statuses, ["True", "Unknown", "True"], "{ready:?}");
    assert_eq!(ready[2].last_transition_time, platform.now.unix);
}

#[test]
fn what_was_the_case_before_two_requests_is_what_the_first_found() {
    let now = Instant::now();
    let (first, second) = (BatchNumber::default(), BatchNumber::default().next());
    let mut asked = Some(Belief::new("b", first, now).instead_of("a"));
    let before = asked_before(&mut asked, "b");
    assert_eq!(before, "a");
    let mut asked = Some(Belief::new("c", second, now).instead_of(before));
    if let Some(belief) = &mut asked {
        belief.contradicted("d");
    }
    assert_eq!(asked_before(&mut asked, "c"), "d");
    assert_eq!(asked_before(&mut asked, "e"), "e");
}
