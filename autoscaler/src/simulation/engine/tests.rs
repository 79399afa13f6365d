use super::*;
use crate::simulation::traffic::{Shape, ShapeKind};

const MODEL: Model = Model {
    start_time: Lengths::Fixed(Duration::from_secs(3)),
    service_time: Lengths::Fixed(Duration::from_millis(200)),
    concurrency: 10,
};

fn setting(annotations: &[(&str, &str)]) -> Setting {
    Setting {
        annotations: annotations
            .iter()
            .map(|(key, value)| {
                (
                    format!("autoscaling.knative.dev/{key}"),
                    (*value).to_owned(),
                )
            })
            .collect(),
        container_concurrency: 10,
        ..Setting::default()
    }
}

fn run(setting: &Setting, traffic: &Traffic, seconds: u64) -> Outcome {
    simulate(&Run {
        setting,
        traffic,
        model: MODEL,
        duration: Some(Duration::from_secs(seconds)),
        seed: 1,
    })
    .unwrap()
}

fn constant(rate: f64) -> Traffic {
    Traffic::Shape(Shape::new(ShapeKind::Constant, rate, 0.0))
}

#[test]
fn an_idle_revision_wakes_at_the_first_request() {
    let outcome = run(&setting(&[]), &constant(10.0), 60);
    let summary = outcome.summary;
    // The poke scales at once, so the first requests wait for one start and no tick. The first
    // arrives within the first 100 ms.
    assert_eq!(summary.queueing_max_ms, 3000);
    assert_eq!(summary.cold_requests, 30);
    assert_eq!(summary.requests, 600);
    assert_eq!(summary.unserved, 0);

    // When the pod is ready 31 requests are there, of ages 0 to 3 s. It takes ten of them, and ten
    // more each 200 ms, while two more come: waits of 3.0 to 2.1 s, 2.2 to 1.3 s, 1.4 to 0.5 s, and
    // after 600 ms the rest of them, 0.6 to 0.1 s. So much for 36 requests; from then on two of ten
    // places are taken, and 564 do not wait.
    assert_eq!(summary.under_capacity_seconds, 3.6);
    assert_eq!(summary.queueing_seconds, 25.5 + 17.5 + 9.5 + 2.1);
    assert_eq!(summary.queueing_p50_ms, 0);
    // The 570th of 600 is the sixth that waits: 0.1, 0.2, 0.3, 0.4 and twice 0.5 s.
    assert_eq!(summary.queueing_p95_ms, 500);
    // The 594th has six above it, 3.0 to 2.5 s.
    assert_eq!(summary.queueing_p99_ms, 2400);
    // One pod for the first request, at 99 ms as all that follow. The average is that request as it
    // was reported at once, and of each second as many as were present on average, without it:
    // at 2 s (1 + 3.5 + 14.5) / 3 = 6.3, at 7 per pod still one pod; at 4 s, with 24.5 and 18.8,
    // 62.3 / 5 = 12.5, two pods. That is twice what is ready: a panic that outlasts the run.
    assert_eq!(summary.scale_changes, 2);
    assert_eq!(summary.peak_pods, 2);
}

#[test]
fn a_revision_without_requests_stays_at_zero() {
    let outcome = run(&setting(&[]), &constant(0.0), 300);
    assert_eq!(outcome.summary.pod_seconds, 0.0);
    assert_eq!(outcome.summary.scale_changes, 0);
    assert!(outcome.rows.iter().all(|row| row.replicas == 0));
}

#[test]
fn load_settles_at_the_pods_it_needs() {
    // 100 per second of 200 ms each are 20 at once: at 7 per pod that is 3 pods.
    let outcome = run(&setting(&[]), &constant(100.0), 600);
    let last = outcome.rows.last().unwrap();
    assert!((last.concurrency - 20.0).abs() < 0.5, "{last:?}");
    assert_eq!((last.ready, last.desired, last.queued), (3, 3, 0));
    assert!(!last.panic);
}

#[test]
fn an_idle_revision_returns_to_zero_after_window_and_grace() {
    let traffic = Traffic::Rates(vec![(0.0, 50.0), (60.0, 0.0)]);
    let outcome = run(&setting(&[]), &traffic, 300);
    let gone = outcome
        .rows
        .iter()
        .find(|row| row.at > 60.0 && row.replicas == 0);
    let at = gone.unwrap().at;
    assert!((118.0..=152.0).contains(&at), "{at}");
    assert_eq!(outcome.rows.last().unwrap().active, 'F');
}

#[test]
fn a_burst_panics_and_its_peak_is_held() {
    let traffic = Traffic::Shape(Shape::new(ShapeKind::Spike, 20.0, 400.0));
    let outcome = run(&setting(&[]), &traffic, 300);
    assert!(outcome.summary.panic_seconds >= 60.0);
    assert!(outcome.summary.peak_pods >= 12);
    assert!(outcome.summary.under_capacity_seconds > 0.0);
    let mut held = 0;
    for row in outcome.rows.iter().filter(|row| row.panic) {
        assert!(row.desired >= held, "{row:?}");
        held = row.desired;
    }
}

#[test]
fn bounds_hold_whatever_comes() {
    let traffic = Traffic::Shape(Shape::new(ShapeKind::Bursty, 5.0, 300.0));
    let setting = Setting {
        initial_pods: 2,
        ..setting(&[("min-scale", "2"), ("max-scale", "5")])
    };
    let outcome = run(&setting, &traffic, 900);
    assert!(
        outcome
            .rows
            .iter()
            .all(|row| (2..=5).contains(&row.replicas))
    );
    assert_eq!(outcome.summary.peak_pods, 5);
}

#[test]
fn requests_are_conserved_and_runs_repeat() {
    let traffic = Traffic::Shape(Shape::new(ShapeKind::Poisson, 80.0, 0.0));
    let setting = setting(&[]);
    let run = Run {
        setting: &setting,
        traffic: &traffic,
        model: Model {
            start_time: Lengths::Uniform(Duration::from_secs(1), Duration::from_secs(6)),
            service_time: Lengths::Exponential(Duration::from_millis(150)),
            ..MODEL
        },
        duration: Some(Duration::from_secs(300)),
        seed: 11,
    };
    let first = simulate(&run).unwrap();
    assert_eq!(first, simulate(&run).unwrap());
    assert_ne!(first, simulate(&Run { seed: 12, ..run }).unwrap());
    let arrived: f64 = first
        .rows
        .iter()
        .map(|row| row.requests_per_second * 2.0)
        .sum();
    assert!(first.summary.requests as f64 - arrived <= 2.0 * 200.0);
}

#[test]
fn single_requests_keep_their_own_duration() {
    let traffic = Traffic::Invocations(vec![(0.0, 100.0), (0.0, 0.5), (10.0, 0.5)]);
    let setting = Setting {
        initial_pods: 1,
        ..setting(&[])
    };
    let outcome = run(&setting, &traffic, 130);
    let at = |second: f64| *outcome.rows.iter().find(|row| row.at == second).unwrap();
    assert_eq!(at(50.0).concurrency, 1.0);
    assert_eq!(at(104.0).concurrency, 0.0);
}

#[test]
fn a_trace_ends_the_run_and_a_week_is_the_limit() {
    let setting = setting(&[]);
    let traffic = Traffic::Rates(vec![(0.0, 1.0), (20.0, 0.0)]);
    let run = Run {
        setting: &setting,
        traffic: &traffic,
        model: MODEL,
        duration: None,
        seed: 0,
    };
    assert_eq!(simulate(&run).unwrap().summary.duration_seconds, 200.0);
    let too_long = Run {
        duration: Some(MAX_DURATION + Duration::from_secs(1)),
        ..run
    };
    assert!(matches!(simulate(&too_long), Err(InvalidRun::TooLong)));
}

fn twenty_minutes(setting: &Setting, traffic: &Traffic, model: Model) -> Summary {
    let run = Run {
        setting,
        traffic,
        model,
        duration: Some(Duration::from_secs(1200)),
        seed: 1,
    };
    simulate(&run).unwrap().summary
}

/// Slow starts: pods are ordered once, for what arrives and what waits, and not for the queue that
/// the start itself makes.
#[test]
fn learned_start_times_serve_bursts_sooner_with_fewer_pods() {
    let model = Model {
        start_time: Lengths::Fixed(Duration::from_secs(10)),
        ..MODEL
    };
    let outcome = |traffic: &Traffic, learn: bool| {
        let mut setting = setting(&[]);
        if learn {
            let key = "pilotlight.dev/learn-start-time".to_owned();
            setting.annotations.insert(key, "true".to_owned());
        }
        twenty_minutes(&setting, traffic, model)
    };
    for &(name, kind) in ShapeKind::ALL {
        let traffic = Traffic::Shape(Shape {
            period: Duration::from_secs(300),
            ..Shape::new(kind, 20.0, 200.0)
        });
        let (plain, learned) = (outcome(&traffic, false), outcome(&traffic, true));
        assert!(
            learned.pod_seconds <= plain.pod_seconds,
            "{name}: {learned:?}"
        );
        assert!(
            learned.queueing_seconds <= plain.queueing_seconds * 1.001,
            "{name}: {learned:?}"
        );
        if matches!(
            kind,
            ShapeKind::Spike | ShapeKind::OnOff | ShapeKind::Bursty
        ) {
            assert!(
                learned.pod_seconds < plain.pod_seconds * 0.6,
                "{name}: {learned:?}"
            );
            assert!(
                learned.queueing_seconds < plain.queueing_seconds * 0.9,
                "{name}"
            );
        }
    }
}

/// The settings that the operators' documents show, on every shape: neither more pods nor more waiting.
#[test]
fn spare_pods_and_a_second_target_cost_less_and_wait_less() {
    struct Case {
        start: u64,
        service: Duration,
        rates: (f64, f64),
        annotations: [(&'static str, &'static str); 2],
    }
    let utilization = "autoscaling.knative.dev/target-utilization-percentage";
    let cases = [
        Case {
            start: 10,
            service: Duration::from_millis(200),
            rates: (150.0, 600.0),
            annotations: [("pilotlight.dev/scale-buffer", "3"), (utilization, "80")],
        },
        Case {
            start: 5,
            service: Duration::from_secs(5),
            rates: (2.0, 20.0),
            annotations: [
                ("pilotlight.dev/second-target", "2.05"),
                (utilization, "71"),
            ],
        },
    ];
    for case in cases {
        let model = Model {
            start_time: Lengths::Fixed(Duration::from_secs(case.start)),
            service_time: Lengths::Fixed(case.service),
            ..MODEL
        };
        let outcome = |traffic: &Traffic, annotations: &[(&str, &str)]| {
            let annotations = annotations.iter();
            let setting = Setting {
                annotations: annotations
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
                ..setting(&[])
            };
            twenty_minutes(&setting, traffic, model)
        };
        let (mut pods, mut waiting) = ((0.0, 0.0), (0.0, 0.0));
        for &(name, kind) in ShapeKind::ALL {
            let traffic = Traffic::Shape(Shape {
                at: Duration::from_secs(180),
                period: Duration::from_secs(300),
                ..Shape::new(kind, case.rates.0, case.rates.1)
            });
            let (plain, better) = (outcome(&traffic, &[]), outcome(&traffic, &case.annotations));
            let seen = format!("{name}: {better:?} instead of {plain:?}");
            assert!(better.pod_seconds <= plain.pod_seconds, "{seen}");
            assert!(better.queueing_seconds <= plain.queueing_seconds, "{seen}");
            pods = (pods.0 + plain.pod_seconds, pods.1 + better.pod_seconds);
            waiting.0 += plain.queueing_seconds;
            waiting.1 += better.queueing_seconds;
        }
        assert!(pods.1 < pods.0 * 0.96, "{pods:?}");
        assert!(waiting.1 < waiting.0 * 0.8, "{waiting:?}");
    }
}
