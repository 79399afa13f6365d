//! Windows that go from one replica to another.

use super::*;

/// A standby at the same moment as `old`, with the same world, that owns nothing yet.
fn standby(old: &Platform, annotations: &[(&str, &str)]) -> Platform {
    let mut new = Platform::new(annotations, old.replicas);
    new.now = old.now;
    new.tell(Update::Ownership(Arc::new(OwnsNone)));
    new.object = old.object.clone();
    new.sks.clone_from(&old.sks);
    let object = Box::new(new.object.clone());
    new.tell(Update::PodAutoscaler(object));
    new.tell_sks();
    new.log.clear();
    new
}

/// Edge case 55 of a restart: the average would cover only the seconds since, and the last pod of a
/// revision that was just used would go.
#[test]
fn a_new_leader_goes_on_with_the_windows_of_the_old_one() {
    let annotations = [("autoscaling.knative.dev/target", "10")];
    let mut old = Platform::new(&annotations, 1);
    old.load = Some(4.0);
    old.run_seconds(100);
    assert_eq!(old.replicas, 1);
    let messages = old.core.hand_over(old.now);
    assert_eq!(messages.len(), 1);

    let lead = |handed_over: bool| {
        let mut new = standby(&old, &annotations);
        if handed_over {
            new.core.take_over(&messages[0], new.now).unwrap();
        }
        new.run_seconds(12);
        assert_eq!(new.log, [], "a standby does nothing");
        new.load = Some(0.0);
        new.tell(Update::Ownership(Arc::new(OwnsAllNow)));
        new.run_seconds(4);
        new.snapshot()
    };
    let (cold, warm) = (lead(false), lead(true));
    assert_eq!((cold.desired, warm.desired), (0, 1));
    assert!(warm.stable > 2.5, "{warm:?}");
}

#[test]
fn windows_that_come_late_still_count_and_stand_for_no_data() {
    let annotations = [("autoscaling.knative.dev/target", "10")];
    let mut old = Platform::new(&annotations, 4);
    old.load = Some(28.0);
    old.run_seconds(100);
    let messages = old.core.hand_over(old.now);

    // The pods do not answer the new leader: whatever it was handed, it decides nothing.
    let mut blind = standby(&old, &annotations);
    blind.core.take_over(&messages[0], blind.now).unwrap();
    blind.load = None;
    blind.tell(Update::Ownership(Arc::new(OwnsAllNow)));
    blind.run_seconds(200);
    assert_eq!(blind.snapshot().desired, -1);
    assert_eq!(blind.scales(), [] as [i32; 0]);

    // Handed over after it began.
    let mut late = standby(&old, &annotations);
    late.load = Some(0.0);
    late.tell(Update::Ownership(Arc::new(OwnsAllNow)));
    late.run_seconds(5);
    assert!(late.snapshot().stable < 1.0);
    late.core.take_over(&messages[0], late.now).unwrap();
    late.run_seconds(2);
    assert!(late.snapshot().stable > 20.0, "{:?}", late.snapshot());
    assert_eq!(late.scales(), [] as [i32; 0]);
}

#[test]
fn what_nobody_claims_is_forgotten_and_what_is_not_ours_is_not_handed_over() {
    let mut old = Platform::new(&[], 1);
    old.run_seconds(10);
    let messages = old.core.hand_over(old.now);
    let mut new = standby(&old, &[]);
    new.core.take_over(&messages[0], new.now).unwrap();
    let until = new.core.handed_over.until().unwrap();
    assert!(new.core.next_due().is_some_and(|due| due <= until));
    new.run_seconds(61);
    assert_eq!(new.core.handed_over.until(), None);
    assert!(new.core.take_over(b"\xff", new.now).is_err());

    old.tell(Update::Ownership(Arc::new(OwnsNone)));
    assert_eq!(old.core.hand_over(old.now), [] as [Bytes; 0]);
}
