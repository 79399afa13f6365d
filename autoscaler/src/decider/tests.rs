use proptest::prelude::*;

use super::*;
use crate::spec::{Extensions, ScalingMetric};

mod example;
mod examples;

const SECOND_NS: i64 = 1_000_000_000;

fn spec() -> DeciderSpec {
    DeciderSpec {
        scaling_metric: ScalingMetric::Concurrency,
        max_scale_up_rate: 1000.0,
        max_scale_down_rate: 2.0,
        target_value: 70.0,
        total_value: 100.0,
        target_burst_capacity: 211.0,
        activator_capacity: 100.0,
        panic_threshold: 2.0,
        stable_window_ns: 60 * SECOND_NS,
        scale_down_delay_ns: 0,
        initial_scale: 1,
        activation_scale: 0,
        reachable: true,
        extensions: Extensions::default(),
    }
}

fn at(second: i64) -> UnixTime {
    UnixTime::from_seconds(second)
}

fn load(value: f64) -> Option<Observation> {
    Some(Observation {
        stable: value,
        panic: value,
        flow: None,
    })
}

#[test]
fn the_first_status_is_truncated_where_decisions_round_down() {
    let initial = |burst, initial_scale| {
        DeciderStatus::initial(&DeciderSpec {
            target_burst_capacity: burst,
            initial_scale,
            ..spec()
        })
    };
    assert_eq!(initial(211.0, 1).excess_burst_capacity, -111);
    assert_eq!(initial(200.5, 2).excess_burst_capacity, 0);
    assert_eq!(initial(-1.0, 5).excess_burst_capacity, -1);
    assert_eq!(initial(0.0, 5).excess_burst_capacity, 0);
    assert_eq!(initial(0.0, 5).desired_scale, UNKNOWN_SCALE);
}

#[test]
fn only_a_new_scale_or_a_new_sign_is_notable() {
    let mut status = DeciderStatus::initial(&spec());
    let mut store = |desired_scale, excess_burst_capacity| {
        status.store(Decision {
            desired_scale,
            excess_burst_capacity,
        })
    };
    assert!(store(1, -5));
    assert!(!store(1, -200), "still short");
    assert!(store(1, 0), "zero is enough");
    assert!(!store(1, 10));
    assert!(store(2, 10));
}

#[test]
fn a_decision_without_data_may_only_raise_the_scale() {
    let mut status = DeciderStatus::initial(&spec());
    let decided = |status: &DeciderStatus, desired_scale, ready_pods| {
        let decision = Decision {
            desired_scale,
            excess_burst_capacity: 7,
        };
        let kept = status.without_lowering(decision, ready_pods);
        assert_eq!(kept.excess_burst_capacity, 7);
        kept.desired_scale
    };
    assert_eq!(decided(&status, 0, 1), 1, "nothing decided: what is ready");
    assert_eq!(decided(&status, 0, 0), 0);
    assert_eq!(decided(&status, 3, 1), 3);
    status.desired_scale = 2;
    assert_eq!(decided(&status, 0, 1), 2);
    assert_eq!(decided(&status, 0, 5), 2, "what was decided counts");
    assert_eq!(decided(&status, 3, 5), 3);
}

#[test]
fn only_a_decided_zero_is_poked() {
    let mut status = DeciderStatus::initial(&spec());
    assert!(!status.is_poked_by(1.0), "unknown is not zero");
    status.desired_scale = 0;
    assert!(status.is_poked_by(1.0));
    assert!(!status.is_poked_by(0.0));
}

#[test]
fn numbers_that_are_none_never_take_pods_away() {
    let mut decider = Decider::new(&spec(), 0, at(0));
    let decision = decider.decide(&spec(), load(f64::NAN), 4, at(2)).unwrap();
    assert_eq!(decision.desired_scale, 2, "only the usual step down");
}

#[test]
fn a_scale_buffer_is_added_to_needs_but_not_to_none() {
    let mut spec = spec();
    spec.extensions.scale_buffer = 2;
    let mut decider = Decider::new(&spec, 0, at(0));
    let mut decide = |value| {
        let decision = decider.decide(&spec, load(value), 1, at(2));
        decision.unwrap().desired_scale
    };
    assert_eq!(decide(0.0), 0);
    assert_eq!(decide(30.0), 3);
}

#[test]
fn starting_pods_count_for_panic_and_growth_when_asked_to() {
    let mut spec = DeciderSpec {
        max_scale_up_rate: 2.0,
        ..spec()
    };
    let supply = Supply {
        ready: 1,
        starting: 3,
    };
    // Four pods needed: over the threshold of one pod, not of four.
    let decide = |spec: &DeciderSpec| {
        let mut decider = Decider::new(spec, 0, at(0));
        let decision = decider.decide(spec, load(280.0), supply, at(2)).unwrap();
        (decision.desired_scale, decider.is_panicking())
    };
    assert_eq!(decide(&spec), (2, true));
    spec.extensions.count_starting_pods = true;
    assert_eq!(decide(&spec), (4, false));
}

/// One pod that took ten seconds and requests of 200 ms; then ten times as many requests.
#[test]
fn a_burst_is_answered_by_what_was_learned_only_when_asked_to() {
    let calm = Flow {
        requests: 20.0,
        concurrency: 4.0,
        stable_requests: 20.0,
        ..Flow::default()
    };
    let burst = Flow {
        requests: 200.0,
        concurrency: 160.0,
        concurrency_growth: 150.0,
        stable_requests: 25.0,
        ..calm
    };
    let observed = |value: f64, flow: Flow| {
        Some(Observation {
            stable: value,
            panic: value,
            flow: Some(flow),
        })
    };
    let starting = Supply {
        ready: 0,
        starting: 1,
    };
    let run = |learn_start_time: bool| {
        let mut spec = DeciderSpec {
            target_value: 7.0,
            total_value: 10.0,
            ..spec()
        };
        spec.extensions.learn_start_time = learn_start_time;
        spec.extensions.slots_per_pod = Some(10.0);
        let mut decider = Decider::new(&spec, 0, at(0));
        decider.observe_supply(&spec, 0, at(0));
        decider.observe_supply(&spec, starting, at(1));
        decider.observe_supply(&spec, 1, at(11));
        for second in (12..30).step_by(2) {
            decider.decide(&spec, observed(4.0, calm), 1, at(second));
        }
        let one = Supply::from(1);
        let urgent = decider.is_urgent(&spec, observed(30.0, burst), one, 1, at(31));
        let first = decider
            .decide(&spec, observed(30.0, burst), 1, at(31))
            .unwrap();
        // Nothing is ordered twice: what was ordered is coming.
        let coming = Supply {
            ready: 1,
            starting: first.desired_scale as u32 - 1,
        };
        let later = Flow {
            concurrency: 160.0 + 150.0 * 4.0,
            ..burst
        };
        decider.observe_supply(&spec, coming, at(31));
        let second = decider
            .decide(&spec, observed(400.0, later), coming, at(35))
            .unwrap();
        (urgent, first.desired_scale, second.desired_scale)
    };
    // Six pods for 40 requests at once, 33 for the 1650 that will wait by then.
    assert_eq!(run(true), (true, 39, 39));
    // The reference sees 30, then 400, over 7 each.
    assert_eq!(run(false), (false, 5, 58));
}

prop_compose! {
    fn any_flow()(values in prop::array::uniform6(0.0f64..1e4)) -> Flow {
        let [requests, concurrency, request_growth, concurrency_growth, chance, stable_requests] = values;
        Flow {
            requests,
            chance,
            concurrency,
            request_growth,
            concurrency_growth: concurrency_growth - 5e3,
            stable_requests,
        }
    }
}

prop_compose! {
    fn any_spec()(
        rates in (1.01f64..1000.0, 1.01f64..10.0),
        target in 0.01f64..200.0,
        burst in prop_oneof![Just(-1.0), Just(0.0), 1.0f64..500.0],
        threshold in 1.1f64..10.0,
        delay in 0i64..20,
        activation_scale in 0i32..6,
        reachable: bool,
    ) -> DeciderSpec {
        DeciderSpec {
            max_scale_up_rate: rates.0,
            max_scale_down_rate: rates.1,
            target_value: target,
            total_value: target / 0.7,
            target_burst_capacity: burst,
            panic_threshold: threshold,
            scale_down_delay_ns: delay * SECOND_NS,
            activation_scale,
            reachable,
            ..spec()
        }
    }
}

prop_compose! {
    fn ticks()(
        ticks in prop::collection::vec(
            (prop::option::weighted(0.9, (0.0f64..500.0, 0.0f64..500.0)), 0u32..40),
            1..80,
        )
    ) -> Vec<(Option<Observation>, u32)> {
        ticks
            .into_iter()
            .map(|(observed, ready)| {
                let observation = |(stable, panic)| Observation { stable, panic, flow: None };
                (observed.map(observation), ready)
            })
            .collect()
    }
}

proptest! {
    /// Nothing is decided on missing data; a decision is never negative, never above the larger
    /// of rate limit and activation scale unless held from before. While panicking it never falls,
    /// but for what a delay still held from before the panic.
    #[test]
    fn decisions_stay_within_their_limits(spec in any_spec(), ticks in ticks(), ready: u8) {
        let mut decider = Decider::new(&spec, u32::from(ready), at(0));
        let mut highest_so_far = i32::from(ready);
        let mut held: Option<i32> = None;
        for (tick, (observed, ready)) in ticks.into_iter().enumerate() {
            let now = at(2 * (tick as i64 + 1));
            let decision = decider.decide(&spec, observed, ready, now);
            prop_assert_eq!(decision.is_some(), observed.is_some());
            let Some(decision) = decision else { continue };
            let cap = (spec.max_scale_up_rate * f64::from(ready.max(1))).ceil() as i32;
            highest_so_far = highest_so_far.max(cap).max(spec.activation_scale);
            prop_assert!(decision.desired_scale >= 0);
            prop_assert!(decision.desired_scale <= highest_so_far);
            if decider.is_panicking() && decider.delay.is_none() {
                prop_assert!(held.is_none_or(|before| decision.desired_scale >= before));
                held = Some(decision.desired_scale);
            } else {
                held = None;
            }
        }
    }

    /// What is seen of the flow changes nothing without the extension; with it a decision is within
    /// what the rate and the pods that are coming allow, or held from before.
    #[test]
    fn learning_stays_within_the_limits(
        spec in any_spec(),
        ticks in ticks(),
        flows in prop::collection::vec(any_flow(), 80),
        learn_start_time: bool,
    ) {
        let mut spec = DeciderSpec { scale_down_delay_ns: 0, ..spec };
        spec.extensions.learn_start_time = learn_start_time;
        spec.extensions.count_starting_pods = learn_start_time;
        spec.extensions.slots_per_pod = Some(10.0);
        let mut decider = Decider::new(&spec, 0, at(0));
        let mut plain = decider.clone();
        let mut highest = 0;
        for (tick, ((observed, ready), flow)) in ticks.into_iter().zip(flows).enumerate() {
            let now = at(7 * (tick as i64 + 1));
            let supply = Supply { ready, starting: tick as u32 % 3 };
            let flowing = observed.map(|observed| Observation { flow: Some(flow), ..observed });
            let decision = decider.decide(&spec, flowing, supply, now);
            prop_assert_eq!(decision.is_some(), observed.is_some());
            let Some(decision) = decision else { continue };
            let cap = (spec.max_scale_up_rate * spec.counted(supply)).ceil() as i32;
            highest = highest.max(cap).max(spec.activation_scale);
            prop_assert!((0..=highest).contains(&decision.desired_scale));
            if !learn_start_time {
                let as_ever = plain.decide(&spec, observed, supply, now);
                prop_assert_eq!(Some(decision), as_ever);
            }
        }
    }

    /// Outside panic mode at least the floor of the scale-down rate stays.
    #[test]
    fn scale_down_is_limited_while_reachable(spec in any_spec(), value in 0.0f64..500.0, ready in 0u32..40) {
        let spec = DeciderSpec { reachable: true, ..spec };
        let mut decider = Decider::new(&spec, 0, at(0));
        let decision = decider.decide(&spec, load(value), ready, at(2)).unwrap();
        let floor = (f64::from(ready.max(1)) / spec.max_scale_down_rate).floor();
        prop_assert!(f64::from(decision.desired_scale) >= floor);
    }

    /// More load never means fewer pods, with the same history.
    #[test]
    fn a_decision_is_monotone_in_load(
        spec in any_spec(),
        ticks in ticks(),
        (low, more) in (0.0f64..300.0, 0.0f64..300.0),
        ready in 0u32..40,
    ) {
        let mut decider = Decider::new(&spec, 0, at(0));
        let now = at(2 * (ticks.len() as i64 + 1));
        for (tick, (observed, ready)) in ticks.into_iter().enumerate() {
            decider.decide(&spec, observed, ready, at(2 * (tick as i64 + 1)));
        }
        let under = |value| decider.clone().decide(&spec, load(value), ready, now).unwrap();
        let (less, greater) = (under(low), under(low + more));
        prop_assert!(less.desired_scale <= greater.desired_scale);
        prop_assert!(less.excess_burst_capacity >= greater.excess_burst_capacity);
    }
}
