//! The whole command, from its arguments to what it prints.

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::options::{Command, Options};

/// What a command line prints, with `stdin` as its input.
fn run_with(line: &str, stdin: &str) -> Result<(String, Simulated), Exit> {
    let line = format!("pilotlight simulate {line}");
    let options = match Options::try_parse_from(line.split_whitespace())
        .unwrap()
        .command
    {
        Command::Simulate(options) => options,
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    let simulated = simulate(&options, &mut stdin.as_bytes(), &mut out)?;
    Ok((String::from_utf8(out).unwrap(), simulated))
}

fn run(line: &str) -> String {
    run_with(line, "").map_err(|exit| exit.message).unwrap().0
}

fn refused(line: &str, stdin: &str) -> String {
    let exit = run_with(line, stdin).unwrap_err();
    assert_eq!(exit.code, exit::INVALID_MANIFEST, "{}", exit.message);
    exit.message
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The summary of each setting.
fn summaries(line: &str) -> Vec<Value> {
    let of = |line: Value| line.get("summary").cloned();
    lines(&run(&format!("{line} -o json")))
        .into_iter()
        .filter_map(of)
        .collect()
}

#[test]
fn a_table_names_settings_and_compares_them() {
    let text = run("--shape spike --container-concurrency 10 --vs spare:scale-buffer=2");
    let rows: Vec<_> = text.lines().map(str::trim).collect();
    assert!(
        rows[0].contains("pods start in 3s, requests take 200ms"),
        "{text}"
    );
    assert_eq!(rows[2], "spike: 20/s, 200/s after 60s for 60s");
    assert!(rows[3].starts_with("SETTING  POD-SECONDS"), "{text}");
    assert!(rows[4].starts_with("base "), "{text}");
    assert!(
        rows[5].starts_with("spare ") && rows[5].contains("%)"),
        "{text}"
    );
}

#[test]
fn several_shapes_are_added_up() {
    let text = run("--shape all --duration 2m --vs target=50");
    for (name, _) in ShapeKind::ALL {
        assert!(text.contains(&format!("\n{name}: ")), "{name}");
    }
    let totals = text.split("all of them").nth(1).unwrap();
    assert!(
        totals.contains("  base ") && totals.contains("  target=50 "),
        "{totals}"
    );
}

#[test]
fn json_has_a_line_per_tick_and_one_of_the_whole() {
    let got = lines(&run("--shape step --duration 20s --vs x:target=7 -o json"));
    assert_eq!(got.len(), 2 * (9 + 1), "ticks at 2 s to 18 s");
    assert_eq!(got[0]["setting"], "base");
    assert_eq!(got[0]["at"], 2.0);
    assert_eq!(got[9]["summary"]["durationSeconds"], 20.0);
    assert_eq!(got[19]["setting"], "x");
    for field in [
        "traffic",
        "requestsPerSecond",
        "concurrency",
        "queued",
        "stable",
        "panicValue",
        "desired",
        "want",
        "excessBurstCapacity",
        "panic",
        "replicas",
        "ready",
        "mode",
        "active",
    ] {
        assert!(got[0].get(field).is_some(), "{field}");
    }
}

#[test]
fn a_seed_repeats_a_run_and_another_one_does_not() {
    let poisson = |seed| {
        run(&format!(
            "--shape poisson --duration 1m --seed {seed} -o json"
        ))
    };
    assert_eq!(poisson(4), poisson(4));
    assert_ne!(poisson(4), poisson(5));
}

#[test]
fn every_number_of_a_shape_and_of_the_model_has_an_effect() {
    let base = "--shape flash-crowd --container-concurrency 10 --duration 4m";
    let of = |more: &str| summaries(&format!("{base} {more}")).remove(0);
    let plain = of("");
    for more in [
        "--rate 40",
        "--peak 400",
        "--at 30s",
        "--width 30s",
        "--start-time 9s",
        "--start-time 1s..9s",
        "--start-time exp:3s",
        "--service-time 1s",
        "--pod-concurrency 2",
        "--initial-pods 3",
        "--annotation target=2",
        "--config stable-window=30s",
    ] {
        assert_ne!(of(more), plain, "{more}");
    }
    let on_off = |period| summaries(&format!("--shape on-off --duration 5m --period {period}"));
    assert_ne!(on_off("2m"), on_off("3m"));
}

#[test]
fn traces_come_from_a_file_or_standard_input() {
    let csv = "time,value\n0,50\n30,0\n";
    let (text, _) = run_with("--trace - -o json", csv).unwrap();
    let last = lines(&text).pop().unwrap();
    assert_eq!(last["summary"]["requests"], 1500);
    assert_eq!(last["summary"]["durationSeconds"], 210.0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.jsonl");
    fs::write(
        &file,
        "{\"start\":0,\"duration\":10}\n{\"start\":5,\"duration\":20}\n",
    )
    .unwrap();
    let file = file.display();
    let requests = |what: &str| {
        let line = format!("--trace {file} --trace-values {what} --duration 10s");
        summaries(&line)[0]["requests"].clone()
    };
    assert_eq!(requests("auto"), 2);
    assert_eq!(requests("invocations"), 2);
    assert_eq!(requests("rps"), 10 * 5 + 20 * 5);
    assert_eq!(requests("concurrency"), 50 * 5 + 100 * 5, "of 200 ms each");
}

#[test]
fn what_is_wrong_with_traffic_is_said_with_its_line() {
    let message = refused("--trace -", "1,2\nx,y\n3,-1\n");
    assert!(
        message.contains("-: line 2: \"x,y\"") && message.contains("-: line 3"),
        "{message}"
    );
    assert!(refused("--trace none.csv", "").starts_with("none.csv: cannot be read"));
    assert!(refused("--shape step --duration 200h", "").contains("longer than a week"));
    assert!(refused("--shape step --plot a.png", "").contains(".html or .svg"));
}

#[test]
fn settings_come_from_manifests_flags_and_comparisons() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hello.yaml");
    fs::write(
        &file,
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\n\
         spec: {template: {metadata: {annotations: {autoscaling.knative.dev/min-scale: \"3\"}},\n\
         \x20 spec: {containerConcurrency: 4, containers: [{image: i}]}}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-autoscaler}\n\
         data: {max-scale: \"5\"}\n",
    )
    .unwrap();
    let file = file.display();
    let got = lines(&run(&format!(
        "-f {file} --shape constant --rate 200 --initial-pods 1 --duration 30s -o json --vs min-scale=4,max-scale= \
         --vs free:container-concurrency=0,min-scale="
    )));
    let peak = |name: &str| {
        let of_setting = |line: &&Value| line["setting"] == name && line.get("summary").is_some();
        got.iter().find(of_setting).unwrap()["summary"]["peakPods"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(peak("hello"), 5, "config-autoscaler bounds it");
    assert!(
        peak("min-scale=4,max-scale=") == 5,
        "the key of the ConfigMap stays"
    );
    assert_eq!(peak("free"), 1, "a pod without a limit aims at 70 requests");

    // A manifest in place of the first setting.
    let versus = summaries(&format!("--shape constant --duration 30s --vs {file}"));
    assert_eq!(versus.len(), 2);
    assert!(versus[1]["podSeconds"].as_f64() > versus[0]["podSeconds"].as_f64());
}

#[test]
fn every_wrong_setting_is_told_at_once() {
    let message = refused(
        "--shape step --annotation nonsense=1 --config nonsense=1 --vs a:target=0 \
         --vs a:min-scale=1 --vs b:nonsense=2 --vs c:target --vs d:scale-buffer=-1 \
         --vs e:stable-window=1s --vs f:container-concurrency=x --vs none.yaml",
        "",
    );
    for part in [
        "command line: --annotation: no annotation is called \"nonsense\"",
        "command line: --config: config-autoscaler has no key \"nonsense\"",
        "setting a: annotations[autoscaling.knative.dev/target]",
        "a setting is called \"a\" already",
        "--vs: no annotation is called \"nonsense\"",
        "none.yaml: cannot be read",
        "setting d: annotations[pilotlight.dev/scale-buffer]: invalid value: -1",
        "setting e: config-autoscaler: ",
        "\"container-concurrency=x\" is not a number",
    ] {
        assert!(message.contains(part), "{part} in:\n{message}");
    }
    let many: String = (0..MAX_SETTINGS)
        .map(|n| format!(" --vs {n}:target=5"))
        .collect();
    assert!(refused(&format!("--shape step{many}"), "").contains("more than 16 settings"));
}

#[test]
fn one_of_several_services_is_chosen_by_name() {
    let service = |name: &str| {
        format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{template: {{spec: {{containers: [{{image: i}}]}}}}}}\n---\n"
        )
    };
    let manifests = service("one") + &service("two");
    let message = refused("-f - --shape step", &manifests);
    assert!(message.contains("several Services (one, two)"), "{message}");
    let message = refused("-f - --shape step --service three", &manifests);
    assert!(
        message.contains("no such Service, there are: one, two"),
        "{message}"
    );
    let line = "-f - --shape step --service two --duration 10s";
    assert!(run_with(line, &manifests).unwrap().0.contains("  two "));
}

#[test]
fn drawings_need_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.html", "a.svg"] {
        let path = folder.path().join(name);
        let line = format!(
            "--shape spike,step --container-concurrency 10 --vs <i>:scale-buffer=1 --plot {}",
            path.display()
        );
        run(&line);
        let drawn = fs::read_to_string(&path).unwrap();
        for part in [
            "spike: 20/s",
            "step: 20/s",
            ">base<",
            "&lt;i&gt;",
            "scale-buffer=1",
            "class=\"panic\"",
            "class=\"ready\"",
        ] {
            assert!(drawn.contains(part), "{name}: {part}");
        }
        // A namespace is no address that anything is loaded from.
        let loads = drawn.replace("http://www.w3.org/2000/svg", "");
        for part in ["http", "src=", "href=", "url(", "<script", "@import"] {
            assert!(!loads.contains(part), "{name}: {part}");
        }
        assert_eq!(name.ends_with("html"), drawn.starts_with("<!doctype html>"));
        assert!(drawn.len() < 400_000, "{} bytes", drawn.len());
    }
    let line = format!(
        "--shape step --duration 10s --plot {}/no/a.svg",
        folder.path().display()
    );
    let exit = run_with(&line, "").unwrap_err();
    assert_eq!(exit.code, exit::FAILED);
    assert!(
        exit.message.contains("cannot be written"),
        "{}",
        exit.message
    );
}

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/decider.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_scenario_prints_the_columns_of_its_vector_tick_by_tick() {
    let file = vectors();
    let case = &file["cases"][3];
    let id = case["id"].as_str().unwrap();
    let (text, simulated) = run_with(
        &format!("--scenario - --check --case {id}"),
        &file.to_string(),
    )
    .unwrap();
    assert_eq!(simulated.difference, None);
    let ticks = lines(&text);
    assert_eq!(
        ticks.len(),
        case["input"]["ticks"].as_array().unwrap().len()
    );
    for (tick, line) in ticks.iter().enumerate() {
        assert_eq!(line["case"], id);
        for field in [
            "desired",
            "excessBurstCapacity",
            "statusDesired",
            "statusEbc",
            "numActivators",
            "bounded",
        ] {
            assert_eq!(line[field], case["expected"][field][tick], "{field}");
        }
        let want = &case["expected"]["lifecycle"]["want"][tick];
        assert_eq!(line["lifecycle"]["want"], *want);
    }
    // One case alone, or its input alone, will do.
    let (alone, _) = run_with("--scenario - --check", &case.to_string()).unwrap();
    assert_eq!(alone, text);
    let (input, _) = run_with("--scenario -", &case["input"].to_string()).unwrap();
    assert_eq!(input.lines().count(), ticks.len());
}

#[test]
fn a_check_ends_at_the_first_difference() {
    let mut case = vectors()["cases"][0].clone();
    let check = |case: &Value| {
        let (text, simulated) = run_with("--scenario - --check", &case.to_string()).unwrap();
        (text.lines().count(), simulated.difference)
    };
    assert_eq!(check(&case).1, None);
    let wrong = |case: &mut Value, field: &str, value: Value| {
        let before = case["expected"][field].clone();
        case["expected"][field] = value;
        let (count, difference) = check(case);
        case["expected"][field] = before;
        (count, difference.unwrap_or_else(|| panic!("{field}")))
    };
    let mut desired = case["expected"]["desired"].clone();
    desired[5] = json!(77);
    let (count, difference) = wrong(&mut case, "desired", desired);
    assert_eq!(count, 6, "nothing after it");
    assert!(
        difference.contains("case decider-0: tick 5 at 12000 ms: desired: expected 77, got "),
        "{difference}"
    );
    for (field, value) in [
        ("initialPanic", json!(true)),
        ("spec", json!({})),
        ("panic", json!("1")),
        ("unknown", json!(1)),
    ] {
        let (count, difference) = wrong(&mut case, field, value);
        assert_eq!(count, 0);
        assert!(difference.contains(field), "{difference}");
    }
    case["expected"].as_object_mut().unwrap().remove("unknown");
    let mut panic = case["expected"]["panic"].as_str().unwrap().to_owned();
    let flipped = if panic.starts_with('1') { "0" } else { "1" };
    panic.replace_range(0..1, flipped);
    assert!(wrong(&mut case, "panic", json!(panic)).1.contains("tick 0"));
}

#[test]
fn what_is_no_scenario_is_refused() {
    for (text, part) in [
        ("{", "not JSON"),
        ("{}", "no cases"),
        ("[]", "no cases"),
        ("{\"cases\":[{\"id\":\"a\",\"input\":{}}]}", "case a: "),
        (
            "{\"start\":0,\"samples\":[],\"ticks\":[1],\"ready\":[]}",
            "1 ticks but 0 ready",
        ),
        (
            "{\"start\":0,\"samples\":[],\"ticks\":[],\"ready\":[],\"config\":{\"min-scale\":\"x\"}}",
            "config-autoscaler is invalid: ",
        ),
    ] {
        assert!(refused("--scenario -", text).contains(part), "{text}");
    }
    let bare = "{\"start\":0,\"samples\":[],\"ticks\":[],\"ready\":[]}";
    assert!(refused("--scenario - --check", bare).contains("nothing to check"));
    assert!(refused("--scenario - --case x", bare).contains("no case has the id \"x\""));
}

#[test]
fn whoever_stops_reading_has_seen_enough() {
    struct Closed;
    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let exit = put(&mut Closed, "x").unwrap_err();
    assert_eq!((exit.code, &*exit.message), (exit::OK, ""));
}
