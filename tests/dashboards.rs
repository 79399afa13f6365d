//! The dashboards in `deploy/grafana` and the metrics that `docs/operations.md` names, against what
//! the three programs are scraped for: a panel of a metric that nobody has stays empty without a word.

#![allow(
    clippy::unwrap_used,
    reason = "a test, helpers included, fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;
use tests::app::App;
use tests::client::{Call, Protocol};
use tests::eventually;
use tests::sidecar::{SidecarProcess, with_binary};

const DASHBOARDS: [(&str, &str); 2] = [
    (
        "revisions.json",
        include_str!("../deploy/grafana/revisions.json"),
    ),
    (
        "revisions-legacy.json",
        include_str!("../deploy/grafana/revisions-legacy.json"),
    ),
];
const OPERATIONS: &str = include_str!("../docs/operations.md");
/// Whole scrapes, which tests of these programs keep up to date.
const ACTIVATOR: &str = include_str!("../activator/src/tests/scrape.txt");
const AUTOSCALER: &str = include_str!("../autoscaler/src/driver/tests/scrape.txt");

/// What Prometheus puts on every series of a pod that it finds by itself.
const OF_THE_TARGET: [&str; 2] = ["namespace", "pod"];

/// The labels of each series.
type Series = BTreeMap<String, BTreeSet<String>>;

/// A metric in an expression, with every label that is asked of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    metric: String,
    labels: Vec<String>,
}

#[test]
fn every_panel_has_its_metrics() {
    with_binary(async {
        let programs = scrapes().await;
        for (file, text) in DASHBOARDS {
            let asked = expressions(text);
            assert!(asked.len() > 5, "{file} has {} expressions", asked.len());
            for expression in asked {
                for Asked { metric, labels } in metrics(&expression) {
                    let of = programs.iter().filter_map(|series| series.get(&metric));
                    // One program may lack a label that another has on a metric of the same name.
                    let labelled = of.clone().any(|known| {
                        labels.iter().all(|label| {
                            known.contains(label) || OF_THE_TARGET.contains(&label.as_str())
                        })
                    });
                    assert!(of.count() > 0, "{file}: nobody has {metric}: {expression}");
                    assert!(labelled, "{file}: {metric} lacks {labels:?}: {expression}");
                }
            }
        }
    });
}

#[test]
fn every_metric_of_a_revision_is_in_a_panel() {
    let shown: BTreeSet<_> = DASHBOARDS
        .iter()
        .flat_map(|(_, text)| expressions(text))
        .flat_map(|expression| metrics(&expression))
        .map(|asked| asked.metric)
        .collect();
    let missing: Vec<_> = [ACTIVATOR, AUTOSCALER]
        .iter()
        .flat_map(|text| series(text).into_keys())
        .filter(|name| name.starts_with("kn_revision_") && !shown.contains(name))
        .collect();
    assert!(missing.is_empty(), "in no dashboard: {missing:?}");
}

#[test]
fn operations_names_metrics_that_there_are() {
    with_binary(async {
        let programs = scrapes().await;
        let names: Vec<_> = OPERATIONS
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| {
                [
                    "kn_",
                    "http_server_",
                    "http_client_",
                    "pilotlight_",
                    "revision_",
                ]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                    && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            })
            .collect();
        assert!(names.contains(&"kn_revision_request_concurrency"));
        for name in names {
            // A histogram has no series of its own name.
            let count = format!("{name}_count");
            let there = programs
                .iter()
                .any(|series| series.contains_key(name) || series.contains_key(&count));
            assert!(there, "docs/operations.md: nobody has {name}");
        }
    });
}

#[test]
fn expressions_are_read() {
    let asked = |metric: &str, labels: &[&str]| Asked {
        metric: metric.to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    assert_eq!(
        metrics(r#"sum by (le) (rate(a_bucket{b="c,d{", e=~"f"}[$__rate_interval])) / g"#),
        [asked("a_bucket", &["le", "b", "e"]), asked("g", &["le"])]
    );
    assert_eq!(
        metrics(r#"label_values(a{b="$c"}, d)"#),
        [asked("a", &["d", "b"])]
    );
}

/// The series of the three programs: those of the sidecar from a running one, with all it can have.
async fn scrapes() -> [Series; 3] {
    let app = App::start().await;
    let variables = [
        ("CONTAINER_CONCURRENCY", "10"),
        ("PILOTLIGHT_LEGACY_METRICS", "true"),
        (
            "OBSERVABILITY_CONFIG",
            r#"{"requestMetrics":{"protocol":"prometheus"},
                "tracing":{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:9"}}"#,
        ),
    ];
    let sidecar = SidecarProcess::with(app.address, &variables).await;
    let call = Call::get(sidecar.address, "hello", "/").protocol(Protocol::H2c);
    assert_eq!(call.send().await.unwrap().status, 200);
    let metrics = SocketAddr::new(sidecar.address.ip(), 9091);
    // A request is counted when its response has ended, which may be after the client has it.
    let scraped = eventually("a counted request", || async {
        let answer = Call::get(metrics, "hello", "/metrics").send().await?;
        let text = answer.text();
        let counted = text.contains("revision_request_count{");
        anyhow::ensure!(counted, "not counted yet");
        Ok(text)
    })
    .await;
    [series(&scraped), series(ACTIVATOR), series(AUTOSCALER)]
}

/// What a scrape has, by the names that expressions use.
fn series(scrape: &str) -> Series {
    let mut found = Series::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let Some(end) = line.find(['{', ' ']) else {
            continue;
        };
        let labels = found.entry(line[..end].to_owned()).or_default();
        labels.extend(metrics(line).into_iter().flat_map(|asked| asked.labels));
    }
    found
}

/// Every PromQL expression of a dashboard.
fn expressions(dashboard: &str) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if name == "expr" => found.push(text.clone()),
                        Value::String(text) if text.starts_with("label_values(") => {
                            found.push(text.clone());
                        }
                        value => collect(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(dashboard).unwrap(), &mut found);
    found
}

/// The metrics of an expression. What it groups by is asked of all of them.
fn metrics(expression: &str) -> Vec<Asked> {
    // `label_values(METRIC, LABEL)` is Grafana's: the label is the last word.
    if let Some(inner) = expression.strip_prefix("label_values(") {
        let (metric, label) = inner.trim_end_matches(')').rsplit_once(", ").unwrap();
        return metrics(&format!("sum by ({label}) ({metric})"));
    }
    let mut found: Vec<Asked> = Vec::new();
    let mut grouped = Vec::new();
    let mut rest = expression;
    let (mut in_braces, mut in_by) = (false, false);
    while let Some(first) = rest.chars().next() {
        let word = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if word == 0 {
            let skipped = match first {
                '"' => 2 + rest[1..].find('"').unwrap(),
                '[' => rest.find(']').unwrap(),
                _ => first.len_utf8(),
            };
            in_braces = (in_braces || first == '{') && first != '}';
            in_by &= first != ')';
            rest = &rest[skipped..];
            continue;
        }
        let (name, after) = rest.split_at(word);
        rest = after;
        if first.is_ascii_digit() {
            continue;
        }
        if in_by {
            grouped.push(name.to_owned());
        } else if in_braces {
            found.last_mut().unwrap().labels.push(name.to_owned());
        } else if name == "by" {
            in_by = true;
        } else if !after.trim_start().starts_with('(') && !after.starts_with(" by ") {
            found.push(Asked {
                metric: name.to_owned(),
                labels: Vec::new(),
            });
        }
    }
    for asked in &mut found {
        asked.labels.splice(0..0, grouped.iter().cloned());
    }
    found
}
