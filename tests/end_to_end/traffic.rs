//! Splits, tags, and moving traffic to a new revision.

use std::collections::BTreeMap;

use tests::load::{Stream, all_ok};
use tests::manifest::Service;
use tests::pilotlight::{Options, Pilotlight};

use crate::scaling::{at_zero, ready, revision};

fn two_revisions(traffic: &[&str]) -> String {
    let first = Service::new("split")
        .revision("split-one")
        .argument("--message=one");
    let mut second = Service::new("split")
        .revision("split-two")
        .argument("--message=two");
    for target in traffic {
        second = second.traffic(target);
    }
    format!("{}{}", first.yaml(), second.yaml())
}

#[tokio::test]
async fn a_split_divides_requests_by_percent() {
    let manifest = two_revisions(&[
        "{revisionName: split-one, percent: 80}",
        "{revisionName: split-two, percent: 20, tag: next}",
    ]);
    let pilotlight = Pilotlight::run(&manifest).await;
    let mut answers = BTreeMap::<String, u32>::new();
    for _ in 0..1_000 {
        let answer = pilotlight.get("split.localhost", "/").await;
        assert_eq!(answer.status, 200);
        *answers.entry(answer.text().trim().to_owned()).or_default() += 1;
    }
    // 800 expected with a standard error of 13: chance alone never leaves these bounds.
    let first = answers.get("one").copied().unwrap_or(0);
    assert!((650..=950).contains(&first), "{answers:?}");
    assert_eq!(answers.values().sum::<u32>(), 1_000, "{answers:?}");
    assert_eq!(answers.len(), 2, "{answers:?}");
}

#[tokio::test]
async fn a_tag_has_a_host_of_its_own() {
    let manifest = two_revisions(&[
        "{revisionName: split-one, percent: 100}",
        "{revisionName: split-two, percent: 0, tag: next}",
    ]);
    let pilotlight = Pilotlight::run(&manifest).await;
    assert_eq!(
        pilotlight
            .get("next-split.localhost", "/")
            .await
            .text()
            .trim(),
        "two"
    );
    assert_eq!(
        pilotlight.get("split.localhost", "/").await.text().trim(),
        "one"
    );
    assert_eq!(
        pilotlight
            .get("split.default.localhost", "/")
            .await
            .text()
            .trim(),
        "one"
    );
    assert_eq!(
        pilotlight
            .get("nothing.example.com", "/")
            .await
            .text()
            .trim(),
        "one"
    );
}

#[tokio::test]
async fn the_tag_header_routes_when_the_feature_is_on() {
    let traffic = [
        "{revisionName: split-one, percent: 100}",
        "{revisionName: split-two, percent: 0, tag: next}",
    ];
    let feature = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-features, namespace: knative-serving}\n\
                   data: {tag-header-based-routing: enabled}\n---\n";
    let pilotlight = Pilotlight::run(&format!("{feature}{}", two_revisions(&traffic))).await;
    let tagged = |tag: &str| {
        pilotlight
            .call("split.localhost", "/")
            .header("Knative-Serving-Tag", tag)
            .send()
    };
    assert_eq!(tagged("next").await.unwrap().text().trim(), "two");
    assert_eq!(tagged("unknown").await.unwrap().text().trim(), "one");
    let without = Pilotlight::run(&two_revisions(&traffic)).await;
    let answer = without
        .call("split.localhost", "/")
        .header("Knative-Serving-Tag", "next")
        .send()
        .await;
    assert_eq!(answer.unwrap().text().trim(), "one");
}

#[tokio::test]
async fn an_unknown_host_is_told_which_there_are() {
    let manifest = format!(
        "{}{}",
        Service::new("one").yaml(),
        Service::new("two").yaml()
    );
    let pilotlight = Pilotlight::run(&manifest).await;
    let answer = pilotlight.get("three.localhost", "/").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("one.localhost"), "{}", answer.text());
    assert!(answer.text().contains("two.localhost"), "{}", answer.text());
}

#[tokio::test]
async fn a_changed_template_takes_over_without_a_failed_request() {
    let first = Service::new("roll")
        .argument("--message=one")
        .autoscaling("min-scale", "1");
    let second = Service::new("roll")
        .argument("--message=two")
        .argument("--start-delay=1s")
        .autoscaling("min-scale", "1");
    let pilotlight = Pilotlight::start(Options {
        manifest: &first.yaml(),
        arguments: &["--watch"],
    })
    .await;
    pilotlight
        .until("the first revision ready", |status| {
            ready(status, "roll-00001") == 1
        })
        .await;
    let load = Stream::start(&pilotlight.call("roll.localhost", "/?sleep=20"), 8);
    pilotlight.edit(&second.yaml());
    pilotlight
        .until("all traffic at the second revision", |status| {
            revision(status, "roll-00002").is_some_and(|revision| revision["trafficPercent"] == 100)
        })
        .await;
    tests::eventually("an answer of the second revision", async || {
        let answer = pilotlight.get("roll.localhost", "/").await;
        if answer.text().trim() == "two" {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    let answers = load.finish().await;
    all_ok(&answers);
    at_zero(&pilotlight, "roll-00001").await;
}

#[tokio::test]
async fn traffic_never_moves_to_a_revision_that_does_not_become_ready() {
    let first = Service::new("stay")
        .argument("--message=one")
        .autoscaling("min-scale", "1");
    let broken = Service::new("stay")
        .argument("--fail-start=3")
        .autoscaling("min-scale", "1");
    let pilotlight = Pilotlight::start(Options {
        manifest: &first.yaml(),
        arguments: &["--watch"],
    })
    .await;
    pilotlight
        .until("the first revision ready", |status| {
            ready(status, "stay-00001") == 1
        })
        .await;
    pilotlight.edit(&broken.yaml());
    pilotlight
        .until("the second revision known", |status| {
            revision(status, "stay-00002").is_some()
        })
        .await;
    pilotlight.until_printed("stay-00002").await;
    for _ in 0..20 {
        assert_eq!(
            pilotlight.get("stay.localhost", "/").await.text().trim(),
            "one"
        );
    }
    let status = pilotlight.status().await;
    assert_eq!(
        revision(&status, "stay-00001").unwrap()["trafficPercent"],
        100,
        "{status:#}"
    );
}

#[tokio::test]
async fn an_invalid_edit_leaves_the_last_good_state_working() {
    let first = Service::new("keep").argument("--message=one");
    let pilotlight = Pilotlight::start(Options {
        manifest: &first.yaml(),
        arguments: &["--watch"],
    })
    .await;
    assert_eq!(
        pilotlight.get("keep.localhost", "/").await.text().trim(),
        "one"
    );
    let invalid = Service::new("keep").spec("containerConcurrency: -1");
    pilotlight.edit(&invalid.yaml());
    pilotlight.until_printed("containerConcurrency").await;
    assert_eq!(
        pilotlight.get("keep.localhost", "/").await.text().trim(),
        "one"
    );
}
