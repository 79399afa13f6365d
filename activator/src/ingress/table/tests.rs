//! Which way requests take. Names in quotes are those of upstream's conformance suite.

use serde_json::{Value, json};

use super::*;
use crate::ingress::spec::IngressSpec;

fn number(number: u32) -> Draw {
    Draw { number, part: None }
}

fn ingress(name: &str, spec: Value) -> Ingress {
    let mut spec: IngressSpec = serde_json::from_value(spec).unwrap();
    spec.set_defaults();
    Ingress {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        generation: 1,
        affinity: None,
        spec,
    }
}

fn rule(hosts: &[&str], paths: &Value) -> Value {
    json!({"hosts": hosts, "visibility": "ExternalIP", "http": {"paths": paths}})
}

fn to(service: &str) -> Value {
    json!([{"serviceNamespace": "ns", "serviceName": service, "servicePort": 80}])
}

fn built(ingresses: &[Ingress]) -> RouteTables {
    RouteTables::build(ingresses).0
}

/// A request's backend.
fn backend(
    table: &RouteTable,
    host: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    draw: u32,
) -> Option<String> {
    let mut all = HeaderMap::new();
    all.insert("host", HeaderValue::from_str(host).unwrap());
    for (name, value) in headers {
        all.append(*name, HeaderValue::from_str(value).unwrap());
    }
    match table.find(&path.parse().unwrap(), &all, false, |_| number(draw)) {
        Matched::Picked(picked) => Some(picked.split.backend.name.clone()),
        Matched::Nothing => None,
        Matched::Redirect => Some("redirect".to_owned()),
    }
}

fn plain(table: &RouteTable, host: &str, path: &str) -> Option<String> {
    backend(table, host, path, &[], 0)
}

fn is(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// "hosts/multiple": case and port do not matter.
#[test]
fn several_hosts() {
    let hosts = [
        "foo.example.com",
        "www.foo.example.com",
        "a-b-1.example.com",
    ];
    let tables = built(&[ingress(
        "i",
        json!({"rules": [rule(&hosts, &json!([{"splits": to("a")}]))]}),
    )]);
    for host in [
        "foo.example.com",
        "WWW.foo.example.com:8080",
        "a-b-1.example.com:80",
    ] {
        assert_eq!(plain(&tables.external, host, "/"), is("a"), "{host}");
    }
    for host in ["example.com", "", "xfoo.example.com", "foo.example.com:x"] {
        assert_eq!(plain(&tables.external, host, "/"), None, "{host}");
    }
}

/// "dispatch/path": prefixes in their order, the rest to the path without one.
#[test]
fn paths() {
    let paths = json!([
        {"path": "/foo", "splits": to("foo")},
        {"path": "/bar", "splits": to("bar")},
        {"splits": to("rest")},
    ]);
    let tables = built(&[ingress("i", json!({"rules": [rule(&["a"], &paths)]}))]);
    for (path, expected) in [
        ("/foo", "foo"),
        ("/foolish/x?y", "foo"),
        ("/bar", "bar"),
        ("/", "rest"),
        ("/asdf", "rest"),
    ] {
        assert_eq!(plain(&tables.external, "a", path), is(expected), "{path}");
    }
}

/// "dispatch/percentage": each backend gets exactly its share of a hundred draws, 0 % nothing.
#[test]
fn percentages() {
    let shares = [1, 2, 4, 8, 16, 32, 37, 0, 0, 0];
    let splits: Vec<_> = shares
        .iter()
        .enumerate()
        .map(|(at, percent)| {
            json!({"serviceNamespace": "ns", "serviceName": at.to_string(),
                "servicePort": 80, "percent": percent})
        })
        .collect();
    let paths = json!([{"splits": splits}]);
    let tables = built(&[ingress("i", json!({"rules": [rule(&["a"], &paths)]}))]);
    let mut got = [0; 10];
    for draw in 0..100 {
        let name = backend(&tables.external, "a", "/", &[], draw).unwrap();
        got[name.parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(got, shares);
}

/// "headers/tags": a header must match whole; missing, empty and other values do not.
#[test]
fn header_matches() {
    let paths = json!([
        {"headers": {"Knative-Serving-Tag": {"exact": "blue"}}, "splits": to("blue")},
        {"splits": to("default")},
    ]);
    let tables = built(&[ingress("i", json!({"rules": [rule(&["a"], &paths)]}))]);
    let with = |value: &str| {
        backend(
            &tables.external,
            "a",
            "/",
            &[("knative-serving-tag", value)],
            0,
        )
    };
    assert_eq!(with("blue"), is("blue"));
    for other in ["", "green", "blue2", "Blue"] {
        assert_eq!(with(other), is("default"), "{other}");
    }
    assert_eq!(plain(&tables.external, "a", "/"), is("default"));
}

/// "visibility" and edge case 71: what is local is not found from outside.
#[test]
fn edge_case_71_visibility() {
    let tables = built(&[ingress(
        "i",
        json!({"rules": [
            {"hosts": ["x.ns", "x.ns.svc"], "visibility": "ClusterLocal",
             "http": {"paths": [{"splits": to("a")}]}},
            rule(&["x.example.com"], &json!([{"splits": to("a")}])),
        ]}),
    )]);
    for host in ["x.ns", "x.ns.svc"] {
        assert_eq!(plain(&tables.local, host, "/"), is("a"));
        assert_eq!(plain(&tables.external, host, "/"), None);
    }
    assert_eq!(plain(&tables.external, "x.example.com", "/"), is("a"));
    assert_eq!(plain(&tables.local, "x.example.com", "/"), None);
}

/// "httpoption": per Ingress, for clients without TLS, and not within the cluster.
#[test]
fn redirects() {
    let spec = |option: &str, host: &str| {
        json!({"httpOption": option, "rules": [
            rule(&[host], &json!([{"splits": to("a")}])),
            {"hosts": [host], "visibility": "ClusterLocal",
             "http": {"paths": [{"splits": to("a")}]}},
        ]})
    };
    let tables = built(&[
        ingress("on", spec("Enabled", "on")),
        ingress("off", spec("Redirected", "off")),
        ingress("unsaid", spec("", "unsaid")),
    ]);
    assert_eq!(plain(&tables.external, "off", "/"), is("redirect"));
    assert_eq!(plain(&tables.external, "on", "/"), is("a"));
    assert_eq!(plain(&tables.external, "unsaid", "/"), is("a"));
    assert_eq!(plain(&tables.local, "off", "/"), is("a"));
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("off"));
    let secure = tables
        .external
        .find(&Uri::from_static("/"), &headers, true, |_| number(0));
    assert!(matches!(secure, Matched::Picked(_)));
}

/// "headers/pre-split", "headers/post-split", edge case 65: set, not added; the split's win. A
/// client cannot choose a revision.
#[test]
fn edge_case_65_headers_are_set() {
    let paths = json!([{
        "rewriteHost": "inner.example.com",
        "appendHeaders": {"x-path": "path", "x-both": "path"},
        "splits": [{"serviceNamespace": "ns", "serviceName": "a", "servicePort": 80,
            "appendHeaders": {"x-both": "split", "Knative-Serving-Revision": "a"}}],
    }]);
    let tables = built(&[ingress("i", json!({"rules": [rule(&["a"], &paths)]}))]);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "a"),
        ("x-path", "client"),
        ("x-path", "client again"),
        ("knative-serving-revision", "other"),
        ("knative-serving-namespace", "other"),
        ("k-original-host", "other"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let found = tables
        .external
        .find(&Uri::from_static("/"), &headers, false, |_| number(0));
    let Matched::Picked(picked) = found else {
        panic!("not found")
    };
    let host = picked.apply(&mut headers, false);
    assert_eq!(host.unwrap(), "inner.example.com");
    let all = |name: &str| {
        let values = headers.get_all(name).iter();
        values.map(|it| it.to_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-path"), ["path"]);
    assert_eq!(all("x-both"), ["split"]);
    assert_eq!(all("knative-serving-revision"), ["a"]);
    assert!(all("knative-serving-namespace").is_empty());
    assert!(all("k-original-host").is_empty());
}

/// "headers/probe": `override` becomes the hash, anything else stays.
#[test]
fn probe_hash() {
    let ingress = ingress(
        "i",
        json!({"rules": [rule(&["a"], &json!([{"splits": to("a")}]))]}),
    );
    let tables = built(std::slice::from_ref(&ingress));
    for (sent, expected) in [("override", ingress.hash()), ("mine", "mine".to_owned())] {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a"));
        headers.insert(&header::HASH, HeaderValue::from_static(sent));
        let found = tables
            .external
            .find(&Uri::from_static("/healthz"), &headers, false, |_| {
                number(0)
            });
        let Matched::Picked(picked) = found else {
            panic!("not found")
        };
        picked.apply(&mut headers, false);
        assert_eq!(headers[&header::HASH], expected.as_str());
    }
}

/// A host belongs to one Ingress; several rules of it are tried in order, those without hosts last.
#[test]
fn owners_and_order() {
    let first = ingress(
        "first",
        json!({"rules": [
            rule(&["a"], &json!([{"path": "/foo", "splits": to("foo")}])),
            rule(&["a"], &json!([{"path": "/bar", "splits": to("bar")}])),
            rule(&[], &json!([{"splits": to("any")}])),
        ]}),
    );
    let second = ingress(
        "second",
        json!({"rules": [rule(&["a", "b"], &json!([{"splits": to("second")}]))]}),
    );
    let (tables, conflicts) = RouteTables::build([&first, &second]);
    assert_eq!(plain(&tables.external, "a", "/foo"), is("foo"));
    assert_eq!(plain(&tables.external, "a", "/bar"), is("bar"));
    assert_eq!(plain(&tables.external, "a", "/else"), is("any"));
    assert_eq!(plain(&tables.external, "b", "/foo"), is("second"));
    let expected = Conflict {
        ingress: ("ns".to_owned(), "second".to_owned()),
        owner: ("ns".to_owned(), "first".to_owned()),
        host: "a".to_owned(),
    };
    assert_eq!(conflicts, [expected]);
}
