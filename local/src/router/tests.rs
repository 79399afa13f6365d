use super::*;

fn id(name: &str) -> RevisionId {
    RevisionId::new("default", name)
}

fn service(namespace: &str, name: &str, shares: &[(&str, u32)], tags: &[&str]) -> ServiceRoutes {
    ServiceRoutes {
        namespace: namespace.into(),
        name: name.into(),
        split: Split::new(
            shares
                .iter()
                .map(|(name, share)| (id(name), *share))
                .collect(),
        ),
        tags: tags
            .iter()
            .map(|tag| ((*tag).to_owned(), id(&format!("{tag}-target"))))
            .collect(),
    }
}

fn table() -> RoutingTable {
    RoutingTable::new(
        vec![
            service("shop", "hello", &[("shop-1", 100)], &[]),
            service(
                "default",
                "hello",
                &[("hello-1", 80), ("hello-2", 20)],
                &["blue"],
            ),
            service("default", "blue-hello", &[("other-1", 100)], &["green"]),
        ],
        true,
    )
}

#[track_caller]
fn routed(host: &str, expected: &str) {
    let table = table();
    let route = table.route(Some(host), None, 0).expect("a route");
    assert_eq!(route.revision.name, expected, "{host}");
}

#[test]
fn hosts_select_service_namespace_and_tag() {
    routed("hello.localhost", "hello-1");
    routed("HELLO.localhost:8080", "hello-1");
    routed("hello.localhost.", "hello-1");
    routed("hello.default.localhost", "hello-1");
    routed("hello.shop.localhost:80", "shop-1");
    routed("green-blue-hello.localhost", "green-target");
    routed("blue-hello.default.localhost", "other-1");
    for host in [
        "",
        "localhost",
        "nobody.localhost",
        "[::1]:8080",
        "127.0.0.1",
    ] {
        assert_eq!(
            table().route(Some(host), None, 0),
            Err(UnknownHost),
            "{host}"
        );
    }
    assert_eq!(table().route(None, None, 0), Err(UnknownHost));
}

#[test]
fn with_one_service_any_host_works() {
    let table = RoutingTable::new(
        vec![service("default", "hello", &[("hello-1", 100)], &["blue"])],
        false,
    );
    for host in [
        None,
        Some("127.0.0.1:8080"),
        Some("[::1]:8080"),
        Some("my.machine"),
    ] {
        assert_eq!(
            table.route(host, None, 7).expect("a route").revision.name,
            "hello-1"
        );
    }
    let tagged = table.route(Some("blue-hello.localhost"), None, 7);
    assert_eq!(tagged.expect("a route").by, RouteBy::TagHost("blue"));
}

#[test]
fn the_tag_header_routes_only_when_the_feature_is_on() {
    let table = table();
    let route = table
        .route(Some("hello.localhost"), Some("blue"), 0)
        .expect("a route");
    assert_eq!(
        (route.revision.name.as_str(), route.by),
        ("blue-target", RouteBy::TagHeader("blue"))
    );
    let unknown = table
        .route(Some("hello.localhost"), Some("red"), 0)
        .expect("a route");
    assert_eq!(unknown.by, RouteBy::Split);
    let off = RoutingTable::new(
        vec![service("default", "hello", &[("hello-1", 100)], &["blue"])],
        false,
    );
    let route = off.route(None, Some("blue"), 0).expect("a route");
    assert_eq!(route.by, RouteBy::Split);
}

#[test]
fn shares_are_exact_over_the_whole_range() {
    let table = table();
    let mut counts = HashMap::new();
    for random in 0..1000 {
        let route = table
            .route(Some("hello.localhost"), None, random)
            .expect("a route");
        *counts.entry(route.revision.name.clone()).or_insert(0) += 1;
    }
    assert_eq!(counts["hello-1"], 800);
    assert_eq!(counts["hello-2"], 200);
}

#[test]
fn a_service_without_routes_is_unknown() {
    let table = RoutingTable::new(vec![service("default", "hello", &[], &[])], false);
    assert_eq!(table.route(None, None, 0), Err(UnknownHost));
    assert_eq!(
        RoutingTable::default().route(None, None, 0),
        Err(UnknownHost)
    );
}

#[test]
fn lost_clients_are_told_the_hosts() {
    assert_eq!(
        table().known_hosts(),
        [
            "blue-hello.localhost",
            "green-blue-hello.localhost",
            "hello.localhost",
            "hello.shop.localhost",
        ]
    );
}

proptest::proptest! {
    #[test]
    fn any_host_is_answered(host in ".{0,40}", random: u32) {
        let _ = table().route(Some(&host), Some(&host), random);
    }

    #[test]
    fn a_choice_has_a_share(shares in proptest::collection::vec(0_u32..100, 1..6), random: u32) {
        let split = Split::new(shares.iter().enumerate().filter(|(_, share)| **share > 0).map(|(index, share)| (id(&index.to_string()), *share)).collect());
        let chosen = split.choose(random);
        proptest::prop_assert_eq!(chosen.is_some(), shares.iter().any(|share| *share > 0));
    }
}
