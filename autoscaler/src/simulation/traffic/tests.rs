use super::*;

fn total(traffic: &Traffic, seconds: usize, seed: u64) -> u64 {
    per_second(traffic, seconds, seed).into_iter().sum()
}

fn per_second(traffic: &Traffic, seconds: usize, seed: u64) -> Vec<u64> {
    let mut arrivals = Arrivals::new(traffic, Duration::from_millis(500), seed);
    let mut counts = vec![0; seconds];
    let mut block = Vec::new();
    for index in 0..seconds * 1000 / BLOCK_MS {
        block.clear();
        arrivals.block(index, &mut block);
        assert!(block.is_sorted_by_key(|arrival| arrival.offset_ms));
        assert!(block.iter().all(|arrival| arrival.offset_ms < BLOCK_MS));
        let count: u64 = block.iter().map(|arrival| u64::from(arrival.count)).sum();
        counts[index * BLOCK_MS / 1000] += count;
    }
    counts
}

fn shape(kind: ShapeKind) -> Traffic {
    Traffic::Shape(Shape::new(kind, 10.0, 100.0))
}

#[test]
fn names_and_kinds_agree() {
    for &(name, kind) in ShapeKind::ALL {
        assert_eq!(ShapeKind::parse(name), Some(kind));
        assert_eq!(kind.as_str(), name);
    }
    assert_eq!(ShapeKind::parse("square"), None);
}

#[test]
fn shapes_have_the_course_they_are_named_for() {
    let at = |kind, second: usize| per_second(&shape(kind), 700, 1)[second];
    assert_eq!(at(ShapeKind::Constant, 300), 10);
    assert_eq!(
        (at(ShapeKind::Step, 59), at(ShapeKind::Step, 61)),
        (10, 100)
    );
    assert_eq!(
        (at(ShapeKind::Spike, 100), at(ShapeKind::Spike, 121)),
        (100, 10)
    );
    assert!((54..=56).contains(&at(ShapeKind::Ramp, 90)));
    assert!((99..=100).contains(&at(ShapeKind::Diurnal, 300)));
    assert_eq!(
        (at(ShapeKind::OnOff, 30), at(ShapeKind::OnOff, 90)),
        (100, 10)
    );
    assert!(at(ShapeKind::FlashCrowd, 119) > 90);
    assert!((54..=56).contains(&at(ShapeKind::FlashCrowd, 180)));
}

#[test]
fn random_shapes_keep_their_mean_and_follow_their_seed() {
    let poisson = shape(ShapeKind::Poisson);
    let arrived = total(&poisson, 1000, 7);
    assert!((9_600..10_400).contains(&arrived), "{arrived}");
    assert_eq!(arrived, total(&poisson, 1000, 7));
    assert_ne!(per_second(&poisson, 100, 7), per_second(&poisson, 100, 8));
    let bursty = per_second(&shape(ShapeKind::Bursty), 5000, 3);
    assert!(bursty.iter().any(|&n| n > 60) && bursty.iter().any(|&n| n < 30));
}

#[test]
fn large_and_small_poisson_means_are_met() {
    let mut rng = Rng::with_seed(5);
    for mean in [0.0, 0.3, 25.0, 400.0] {
        let sum: u64 = (0..4000).map(|_| poisson(&mut rng, mean)).sum();
        let got = sum as f64 / 4000.0;
        assert!((got - mean).abs() <= 0.05 * mean + 0.02, "{mean}: {got}");
    }
}

#[test]
fn traces_are_read_in_all_forms() {
    let csv = "time,value\n100,5\n# a comment\n\n102; 7\n";
    let expected = Traffic::Rates(vec![(0.0, 5.0), (2.0, 7.0)]);
    assert_eq!(parse_trace(csv, TraceKind::Rates), Ok(expected.clone()));
    let json = "{\"time\":102,\"value\":7}\n[100, 5]";
    assert_eq!(parse_trace(json, TraceKind::Rates), Ok(expected));
    let invocations = "{\"start\":1,\"duration\":0.25}";
    assert_eq!(
        parse_trace(invocations, TraceKind::Invocations),
        Ok(Traffic::Invocations(vec![(0.0, 0.25)]))
    );
}

#[test]
fn every_wrong_line_is_named() {
    let error = parse_trace("1,2\nx\n3,-4\n", TraceKind::Rates).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("line 2") && text.contains("line 3"), "{text}");
    assert_eq!(
        parse_trace("time,value\n", TraceKind::Rates)
            .unwrap_err()
            .to_string(),
        "no lines"
    );
    let many = "x\n".repeat(100);
    let text = format!("1,1\n{many}");
    let error = parse_trace(&text, TraceKind::Rates).unwrap_err();
    assert_eq!(error.to_string().matches("line ").count(), 20);
}

#[test]
fn traces_hold_their_value_until_the_next() {
    let rates = Traffic::Rates(vec![(0.0, 5.0), (2.0, 20.0)]);
    assert_eq!(per_second(&rates, 4, 0), [5, 5, 20, 20]);
    // Two at a time of half a second each are four per second.
    let concurrency = Traffic::Concurrency(vec![(0.0, 2.0)]);
    assert_eq!(per_second(&concurrency, 2, 0), [4, 4]);
    let single = Traffic::Invocations(vec![(0.0, 1.0), (0.05, 2.0), (1.5, 0.1)]);
    assert_eq!(per_second(&single, 2, 0), [2, 1]);
}

#[test]
fn a_header_or_keys_tell_what_a_trace_holds() {
    for (text, kind) in [
        ("time,value\n1,2", TraceKind::Rates),
        ("1,2", TraceKind::Rates),
        ("# duration\ntime,concurrency\n1,2", TraceKind::Concurrency),
        ("start,duration\n1,2", TraceKind::Invocations),
        ("{\"start\": 1, \"duration\": 2}", TraceKind::Invocations),
        ("{\"time\": 1, \"concurrency\": 2}", TraceKind::Concurrency),
        ("", TraceKind::Rates),
    ] {
        assert_eq!(TraceKind::detect(text), kind, "{text}");
    }
    let concurrency = parse_trace("{\"time\":1,\"concurrency\":3}", TraceKind::Concurrency);
    assert_eq!(concurrency, Ok(Traffic::Concurrency(vec![(0.0, 3.0)])));
}

#[test]
fn a_value_beyond_the_limit_is_refused() {
    assert!(parse_trace("1,1000000", TraceKind::Rates).is_ok());
    for line in ["1,1000001", "1,inf", "1,NaN", "1e13,1", "NaN,1"] {
        assert!(parse_trace(line, TraceKind::Rates).is_err(), "{line}");
    }
}
