use super::*;
use crate::manifest::settings::Defaults;
use crate::router::RouteBy;
use std::collections::BTreeMap;

fn document(version: &str, traffic: Vec<TrafficTarget>) -> ServiceDocument {
    ServiceDocument {
        file: "hello.yaml".into(),
        namespace: "default".into(),
        name: "hello".into(),
        template: Template::from_command(
            vec![version.into()],
            BTreeMap::new(),
            &Defaults::default(),
        ),
        traffic,
    }
}

fn named(name: &str, version: &str) -> ServiceDocument {
    let mut document = document(version, vec![TrafficTarget::latest()]);
    document.template.name = Some(name.into());
    document
}

fn latest(version: &str) -> ServiceDocument {
    document(version, vec![TrafficTarget::latest()])
}

fn pinned(name: &str, percent: u32, tag: Option<&str>) -> TrafficTarget {
    TrafficTarget {
        revision_name: Some(name.into()),
        percent,
        tag: tag.map(str::to_owned),
        path: "spec.traffic[0]".into(),
    }
}

fn id(name: &str) -> RevisionId {
    RevisionId::new("default", name)
}

fn routed(catalog: &Catalog) -> String {
    let table = catalog.routes(false);
    let route = table.route(None, None, 0).expect("a route");
    assert_eq!(route.by, RouteBy::Split);
    route.revision.name.clone()
}

#[test]
fn documents_are_successive_versions() {
    let mut catalog = Catalog::default();
    let changes = catalog
        .apply(&[latest("a"), latest("a"), latest("b"), latest("a")])
        .expect("valid");
    assert_eq!(
        changes.created,
        [id("hello-00001"), id("hello-00002"), id("hello-00003")]
    );
    assert_eq!(routed(&catalog), "hello-00003");
    assert_eq!(
        catalog.reachability(&id("hello-00001")),
        Reachability::Unreachable
    );
}

#[test]
fn traffic_moves_when_the_new_revision_is_ready_and_never_before() {
    let mut catalog = Catalog::default();
    catalog.apply(&[latest("a")]).expect("valid");
    assert!(catalog.mark_ready(&id("hello-00001")));
    assert!(!catalog.mark_ready(&id("hello-00001")));
    let changes = catalog.apply(&[latest("b")]).expect("valid");
    assert_eq!(changes.created, [id("hello-00002")]);
    assert_eq!(routed(&catalog), "hello-00001");
    assert_eq!(
        catalog.reachability(&id("hello-00002")),
        Reachability::Unknown
    );
    assert!(catalog.mark_ready(&id("hello-00002")));
    assert_eq!(routed(&catalog), "hello-00002");
    assert_eq!(
        catalog.reachability(&id("hello-00001")),
        Reachability::Unreachable
    );
}

#[test]
fn pinned_traffic_waits_for_its_revision_too() {
    let mut catalog = Catalog::default();
    catalog.apply(&[latest("a")]).expect("valid");
    catalog.mark_ready(&id("hello-00001"));
    let split = vec![
        pinned("hello-00001", 80, None),
        pinned("hello-00002", 20, Some("next")),
    ];
    catalog.apply(&[document("b", split)]).expect("valid");
    assert!(
        catalog
            .routes(false)
            .route(Some("next-hello.localhost"), None, 99)
            .expect("held by the old")
            .by
            == RouteBy::Split
    );
    catalog.mark_ready(&id("hello-00002"));
    let table = catalog.routes(false);
    assert_eq!(
        table.route(None, None, 99).expect("a route").revision.name,
        "hello-00002"
    );
    assert_eq!(
        table
            .route(Some("next-hello.localhost"), None, 0)
            .expect("a route")
            .by,
        RouteBy::TagHost("next")
    );
}

#[test]
fn a_document_appended_or_changed_makes_one_revision() {
    let mut catalog = Catalog::default();
    catalog.apply(&[latest("a")]).expect("valid");
    let appended = catalog.apply(&[latest("a"), latest("b")]).expect("valid");
    assert_eq!(appended.created, [id("hello-00002")]);
    let changed = catalog.apply(&[latest("a"), latest("c")]).expect("valid");
    assert_eq!(changed.created, [id("hello-00003")]);
    let same = catalog.apply(&[latest("a"), latest("c")]).expect("valid");
    assert_eq!(same, Changes::default());
}

#[test]
fn unknown_revisions_are_listed_with_the_known_and_change_nothing() {
    let mut catalog = Catalog::default();
    catalog.apply(&[latest("a")]).expect("valid");
    let problems = catalog
        .apply(&[document("b", vec![pinned("hello-00009", 100, None)])])
        .expect_err("an unknown revision");
    assert_eq!(
        problems[0].to_string(),
        "hello.yaml: spec.traffic[0].revisionName: unknown revision \"hello-00009\"; known: hello-00001, hello-00002"
    );
    assert_eq!(catalog.services()[0].revisions.len(), 1);
}

/// The rule of upstream's `VerifyNameChange` (revision_validation_test.go).
#[test]
fn own_names_change_with_the_template() {
    let mut catalog = Catalog::default();
    catalog
        .apply(&[named("hello-x", "a"), named("hello-y", "b")])
        .expect("valid");
    let problems = catalog
        .apply(&[named("hello-y", "c")])
        .expect_err("a name twice");
    assert!(problems[0].rule.contains("hello-y"), "{problems:?}");
    catalog.mark_ready(&id("hello-x"));
    catalog.mark_ready(&id("hello-y"));
    assert_eq!(routed(&catalog), "hello-y");
    let back = catalog.apply(&[named("hello-x", "a")]).expect("valid");
    assert!(back.created.is_empty());
    assert_eq!(routed(&catalog), "hello-x");
}

#[test]
fn a_service_no_longer_named_is_removed() {
    let mut catalog = Catalog::default();
    let mut other = latest("a");
    other.name = "other".into();
    catalog.apply(&[latest("a"), other]).expect("valid");
    let changes = catalog.apply(&[latest("a")]).expect("valid");
    assert_eq!(changes.removed, [id("other-00001")]);
    assert_eq!(catalog.services().len(), 1);
}

#[test]
fn idle_revisions_are_forgotten_beyond_the_limit() {
    let mut catalog = Catalog::default();
    let mut removed = Vec::new();
    for version in 0..MAX_IDLE_REVISIONS + 5 {
        let changes = catalog
            .apply(&[latest(&version.to_string())])
            .expect("valid");
        removed.extend(changes.removed);
        let newest = catalog.services()[0]
            .latest_created()
            .expect("one")
            .id
            .clone();
        catalog.mark_ready(&newest);
    }
    // Before the newest is ready the one before it still has the traffic.
    assert_eq!(
        catalog.services()[0].revisions.len(),
        MAX_IDLE_REVISIONS + 2
    );
    assert_eq!(removed[0], id("hello-00001"));
    assert_eq!(removed.len(), 3);
}
