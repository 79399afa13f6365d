//! Which rule and path a request takes, and what is changed of it on the way.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::*;
use super::cluster::{Cluster, rule, split, to};
use super::{ask, backend, get, status};
use crate::tests::pods::Pod;

#[test]
fn conformance_headers_pre_split_and_post_split() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        let splits: Vec<Value> = (0..4)
            .map(|at| {
                let mut split = split("app", 25);
                split["appendHeaders"] = json!({"foo-split": at.to_string()});
                split
            })
            .collect();
        let paths = json!([{"appendHeaders": {"foo-path": "bar"}, "splits": splits}]);
        cluster.serve(&json!({"rules": [rule(&["a"], &paths)]}));
        for bogus in [false, true] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..100 {
                let mut request = get("a", "/");
                if bogus {
                    request = request.header("foo-path", "x").header("foo-split", "x");
                }
                assert_eq!(ask(cluster.external, request).await.status, 200);
                let headers = app.last().headers;
                assert_eq!(headers.get_all("foo-path").iter().count(), 1);
                assert_eq!(headers["foo-path"], "bar");
                seen.insert(headers["foo-split"].to_str().unwrap().to_owned());
            }
            assert_eq!(Vec::from_iter(seen), ["0", "1", "2", "3"]);
        }
    });
}

/// Edge case 75: the hash comes from the matched rule, and an unknown host gets 404.
#[test]
fn conformance_headers_probe_and_edge_case_75() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _app = cluster.backend("app").await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        let probe = |host: &str, hash: &str| {
            get(host, "/healthz")
                .header("user-agent", "Knative-Ingress-Probe")
                .header("k-network-probe", "probe")
                .header("k-network-hash", hash)
        };
        let hash = cluster.hash();
        for (sent, expected) in [("override", &*hash), ("mine", "mine")] {
            let answer = ask(cluster.external, probe("a", sent)).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.headers["k-network-hash"], expected);
        }
        let unknown = ask(cluster.external, probe("b", "override")).await;
        assert_eq!(unknown.status, 404);
        // For a revision, which may be at zero, this activator answers itself.
        cluster.world.revision(revision(1)).await;
        cluster.revision_service("hello-00001");
        let paths = json!([{"splits": to("hello-00001")}]);
        cluster.serve(&json!({"rules": [rule(&["a"], &paths)]}));
        let answer = ask(cluster.external, probe("a", "override")).await;
        assert_eq!(answer.headers["k-network-hash"], cluster.hash());
        // The ports of the activator proper go on as before.
        let answer = ask(cluster.world.address, probe("b", "override")).await;
        assert_eq!(answer.headers["k-network-hash"], "override");
    });
}

#[test]
fn conformance_hosts_multiple_and_dispatch_rule() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        let hosts = [
            "foo.com",
            "www.foo.com",
            "a-b-1.something-really-really-long.knative.dev",
            "add.your.interesting.domain.here.io",
        ];
        let other = json!([{"appendHeaders": {"which": "other"}, "splits": to("app")}]);
        let paths = json!([{"appendHeaders": {"which": "first"}, "splits": to("app")}]);
        cluster.serve(&json!({"rules": [rule(&hosts, &paths), rule(&["other.com"], &other)]}));
        for host in hosts {
            assert_eq!(status(cluster.external, host, "/").await, 200);
            assert_eq!(app.last().headers["which"], "first");
        }
        assert_eq!(status(cluster.external, "other.com", "/").await, 200);
        assert_eq!(app.last().headers["which"], "other");
    });
}

/// Paths to backends of their own, shares of a thousand requests, and both together. The shares of
/// the draws are exact; see the table's own tests.
async fn dispatches(cluster: &mut Cluster, visibility: &str, entry: SocketAddr) {
    for name in ["foo", "bar", "rest", "1", "9", "40", "50", "0"] {
        cluster.backend(name).await;
    }
    let shares = json!([
        split("1", 1),
        split("9", 9),
        split("40", 40),
        split("50", 50),
        split("0", 0)
    ]);
    let paths = json!([
        {"path": "/foo", "splits": to("foo")},
        {"path": "/bar", "splits": to("bar")},
        {"path": "/shares", "splits": shares},
        {"splits": to("rest")},
    ]);
    let mut rule = rule(&["a"], &paths);
    rule["visibility"] = json!(visibility);
    cluster.serve(&json!({"rules": [rule]}));
    for (path, expected) in [
        ("/foo", "foo"),
        ("/bar", "bar"),
        ("/", "rest"),
        ("/asdf", "rest"),
    ] {
        assert_eq!(backend(&ask(entry, get("a", path)).await), expected);
    }
    let mut seen = HashMap::<String, u32>::new();
    for _ in 0..1000 {
        let answer = ask(entry, get("a", "/shares")).await;
        *seen.entry(backend(&answer)).or_default() += 1;
    }
    for percent in [1u32, 9, 40, 50] {
        let got = seen.get(&percent.to_string()).copied().unwrap_or(0);
        assert!(got.abs_diff(percent * 10) <= 100, "{percent}%: {got}");
    }
    assert_eq!(seen.get("0"), None);
}

#[test]
fn conformance_dispatch_path_percentage_and_both() {
    run(async {
        let mut cluster = Cluster::start().await;
        let entry = cluster.external;
        dispatches(&mut cluster, "ExternalIP", entry).await;
    });
}

#[test]
fn conformance_visibility_split_and_path() {
    run(async {
        let mut cluster = Cluster::start().await;
        let entry = cluster.local;
        dispatches(&mut cluster, "ClusterLocal", entry).await;
        assert_eq!(status(cluster.external, "a", "/foo").await, 404);
    });
}

/// Edge case 71 over the wire.
#[test]
fn conformance_visibility() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _app = cluster.backend("app").await;
        let hosts = ["x.ns", "x.ns.svc", "x.ns.svc.cluster.local"];
        let mut rule = rule(&hosts, &json!([{"splits": to("app")}]));
        rule["visibility"] = json!("ClusterLocal");
        cluster.serve(&json!({"rules": [rule]}));
        for host in hosts {
            assert_eq!(status(cluster.external, host, "/").await, 404);
            assert_eq!(status(cluster.local, host, "/").await, 200);
        }
    });
}

/// A vanity host is rewritten to a host of the cluster, which is reached through a name (edge case
/// 70); the app finally sees what the client asked for, when the Ingress says so.
#[test]
fn conformance_host_rewrite_and_edge_case_70() {
    run(async {
        let mut cluster = Cluster::start().await;
        cluster.world.revision(revision(1)).await;
        let pod = Pod::start().await;
        cluster.world.list_and_wait(&[pod.address]).await;
        cluster.revision_service("hello-00001");
        let inner = "hello.default.svc.cluster.local";
        let mut local = rule(&[inner], &json!([{"splits": to("hello-00001")}]));
        local["visibility"] = json!("ClusterLocal");
        cluster.serve_as("route", &json!({"rules": [local]}));
        // `localhost` stands for the private entry's Service.
        cluster.external_name("placeholder", "localhost", cluster.local.port());
        let mut split = split("placeholder", 100);
        split["servicePort"] = json!(cluster.local.port());
        split["appendHeaders"] = json!({"K-Original-Host": "vanity.example.com"});
        let paths = json!([{"rewriteHost": inner, "splits": [split]}]);
        cluster.serve_as(
            "mapping",
            &json!({"rules": [rule(&["vanity.example.com"], &paths)]}),
        );
        let answer = ask(cluster.external, get("vanity.example.com", "/")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
        let seen = pod.seen();
        assert_eq!(seen.headers["k-original-host"], "vanity.example.com");
        assert_eq!(seen.headers["k-proxy-request"], "activator");
    });
}

#[test]
fn conformance_headers_tags() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _blue = cluster.backend("blue").await;
        let _rest = cluster.backend("rest").await;
        let paths = json!([
            {"headers": {"Knative-Serving-Tag": {"exact": "blue"}}, "splits": to("blue")},
            {"splits": to("rest")},
        ]);
        cluster.serve(&json!({"rules": [rule(&["a"], &paths)]}));
        for (tag, expected) in [
            (Some("blue"), "blue"),
            (Some(""), "rest"),
            (Some("x"), "rest"),
            (None, "rest"),
        ] {
            let mut request = get("a", "/");
            if let Some(tag) = tag {
                request = request.header("knative-serving-tag", tag);
            }
            assert_eq!(backend(&ask(cluster.external, request).await), expected);
        }
    });
}
