use super::*;

const SET: ConditionSet = ConditionSet::living(&["A", "B"]);

fn at(second: i64) -> UnixTime {
    UnixTime::from_seconds(second)
}

fn initialized() -> Conditions {
    let mut conditions = Conditions::new();
    SET.initialize(&mut conditions, at(1));
    conditions
}

fn ready(conditions: &Conditions) -> (ConditionStatus, &str, i64) {
    let ready = conditions.get(READY).unwrap();
    (
        ready.status,
        &*ready.reason,
        ready.last_transition_time.seconds(),
    )
}

#[test]
fn initializes_to_unknown_sorted_by_type() {
    let conditions = initialized();
    let types: Vec<_> = conditions.iter().map(|c| &*c.type_).collect();
    assert_eq!(types, ["A", "B", "Ready"]);
    assert!(
        conditions
            .iter()
            .all(|c| c.status == ConditionStatus::Unknown)
    );
}

#[test]
fn initializes_to_true_when_ready_is_true_already() {
    let ready = Condition::new(READY, ConditionStatus::True, Severity::Error);
    let mut conditions: Conditions = [ready].into_iter().collect();
    SET.initialize(&mut conditions, at(1));
    assert!(conditions.is_true("A") && conditions.is_true("B"));
}

#[test]
fn happy_when_all_dependents_are() {
    let mut conditions = initialized();
    SET.mark_true(&mut conditions, "A", at(2));
    assert_eq!(ready(&conditions), (ConditionStatus::Unknown, "", 1));
    SET.mark_true(&mut conditions, "B", at(3));
    assert_eq!(ready(&conditions), (ConditionStatus::True, "", 3));
}

#[test]
fn false_trumps_unknown_and_the_newest_false_wins() {
    let mut conditions = initialized();
    SET.mark_false(&mut conditions, "A", "Broken", "a", at(2));
    SET.mark_unknown(&mut conditions, "B", "Waiting", "b", at(3));
    assert_eq!(ready(&conditions), (ConditionStatus::False, "Broken", 2));
    SET.mark_false(&mut conditions, "B", "Worse", "b", at(4));
    assert_eq!(ready(&conditions), (ConditionStatus::False, "Worse", 4));
    SET.mark_true(&mut conditions, "B", at(5));
    assert_eq!(ready(&conditions), (ConditionStatus::False, "Broken", 5));
}

#[test]
fn a_change_of_reason_alone_renews_the_time() {
    let mut conditions = initialized();
    SET.mark_false(&mut conditions, "A", "TimedOut", "a", at(2));
    SET.mark_false(&mut conditions, "A", "TimedOut", "a", at(3));
    let time = |c: &Conditions| c.get("A").unwrap().last_transition_time.seconds();
    assert_eq!(time(&conditions), 2);
    SET.mark_false(&mut conditions, "A", "NoTraffic", "a", at(4));
    assert_eq!(time(&conditions), 4);
}

#[test]
fn informational_conditions_do_not_make_unhappy() {
    let mut conditions = initialized();
    SET.mark_true(&mut conditions, "A", at(2));
    SET.mark_true(&mut conditions, "B", at(2));
    SET.mark_false(&mut conditions, "Extra", "Whatever", "", at(3));
    assert_eq!(ready(&conditions), (ConditionStatus::True, "", 2));
    assert_eq!(conditions.get("Extra").unwrap().severity, Severity::Info);
}

#[test]
fn unchanged_conditions_keep_their_time_over_a_reconcile() {
    let old = initialized();
    let mut new = old.clone();
    SET.mark_unknown(&mut new, READY, "NewObservedGenFailure", "", at(7));
    SET.mark_true(&mut new, "A", at(8));
    SET.mark_true(&mut new, "B", at(8));
    SET.mark_unknown(&mut new, "A", "", "", at(9));
    new.keep_unchanged_times(&old, at(10));
    let time = |type_| new.get(type_).unwrap().last_transition_time.seconds();
    assert_eq!(time("A"), 1, "back to what it was");
    assert_eq!(time("B"), 10, "all changed ones share one time");
    assert!(!new.same_apart_from_times(&old));
    assert!(old.same_apart_from_times(&old.clone()));
}
