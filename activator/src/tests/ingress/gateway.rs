//! Changes while requests run, routes through the queue of a revision, and what the gateway itself
//! says.

use serde_json::json;

use super::super::*;
use super::cluster::{Backend, Cluster, rule, split, to};
use super::{ask, backend, get, status};
use crate::tests::pods::Pod;

/// Requests see only 200 through changes of headers and of backends, the change counts at once, and
/// what is gone is not asked any more.
#[test]
fn conformance_update() {
    run(async {
        let mut cluster = Cluster::start().await;
        let mut backends: Vec<Backend> = vec![cluster.backend("first").await];
        let spec = |service: &str, round: usize| {
            let paths = json!([{
                "appendHeaders": {"round": round.to_string()}, "splits": to(service),
            }]);
            json!({"rules": [rule(&["a"], &paths)]})
        };
        cluster.serve(&spec("first", 0));
        let entry = cluster.external;
        let stop = Rc::new(Cell::new(false));
        let stopped = Rc::clone(&stop);
        let (traffic, _) = background(async move {
            let mut count = 0;
            while !stopped.get() {
                assert_eq!(status(entry, "a", "/").await, 200);
                count += 1;
            }
            count
        });
        for round in 1..=10 {
            cluster.serve(&spec("first", round));
            assert_eq!(status(entry, "a", "/").await, 200);
            assert_eq!(backends[0].last().headers["round"], round.to_string());
        }
        for round in 0..10 {
            let name = format!("backend-{round}");
            // The change comes before its backend.
            cluster.serve(&spec(&name, round));
            assert_eq!(status(entry, "a", "/").await, 200);
            let next = cluster.backend(&name).await;
            cluster.rebuild();
            let answer = ask(entry, get("a", "/")).await;
            assert_eq!(backend(&answer), name);
            let old = std::mem::replace(&mut backends[0], next);
            cluster.remove_backend(&old);
        }
        stop.set(true);
        assert!(traffic.await.unwrap() > 0);
    });
}

/// Every 5xx of the gateway's own says why: in a header, in the log and in a metric.
#[test]
fn own_errors_have_reasons() {
    run(async {
        let (lines, _guard) = events();
        let mut cluster = Cluster::start().await;
        let gone = cluster.backend("gone").await;
        let _empty = cluster.backend("empty").await;
        cluster.external_name("nameless", "nowhere.invalid", 80);
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
        cluster.service_at("refusing", refusing.local_addr().unwrap());
        drop(refusing);
        let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
        cluster.service_at("breaking", breaking.local_addr().unwrap());
        tokio::task::spawn_local(super::super::request_path::serve_silently(breaking));
        for (service, status, reason) in [
            ("gone", 503, "no service"),
            ("empty", 503, "no endpoint"),
            ("nameless", 503, "name not resolved"),
            ("refusing", 502, "no connection"),
            ("breaking", 502, "connection broken"),
        ] {
            let mut split = split(service, 100);
            split["servicePort"] = json!(80);
            let paths = json!([{"splits": [split]}]);
            cluster.serve_as(service, &json!({"rules": [rule(&[service], &paths)]}));
            match service {
                "gone" => cluster.remove_backend(&gone),
                "empty" => cluster.no_addresses(service),
                _ => {}
            }
            let answer = ask(cluster.external, get(service, "/")).await;
            assert_eq!(answer.status, status, "{service}");
            assert_eq!(answer.headers["pilotlight-reason"], reason);
            let line = format!("namespace=\"ns\" service=\"{service}\" reason=\"{reason}\"");
            assert!(lines.text().contains(&line), "{}", lines.text());
            let counted = format!("pilotlight_activator_errors_total{{reason=\"{reason}\"}} 1");
            assert!(cluster.world.scrape().contains(&counted), "{reason}");
        }
    });
}

/// A revision's Service goes through the queue: held at zero, counted, and sent as an activator's.
/// Neither a client's headers nor its user agent get around the route (edge cases 73 and 77).
#[test]
fn edge_cases_73_and_77_revisions() {
    run(async {
        let mut cluster = Cluster::start().await;
        cluster.world.revision(revision(1)).await;
        cluster.revision_service("hello-00001");
        let app = cluster.backend("app").await;
        let paths = json!([
            {"path": "/app", "splits": to("app")},
            {"splits": to("hello-00001")},
        ]);
        cluster.serve(&json!({"rules": [rule(&["a"], &paths)]}));
        let request = get("a", "/")
            .header("knative-serving-revision", "other")
            .header("knative-serving-namespace", "other");
        let request = request.body(Empty::new()).unwrap();
        let (held, _) = background(send(cluster.external, request));
        eventually("it is held", || cluster.world.snapshot().queued == 1).await;
        let pod = Pod::start().await;
        cluster.world.list(&[pod.address]).await;
        assert_eq!(held.await.unwrap().body, "hello");
        assert_eq!(pod.seen().headers["k-proxy-request"], "activator");
        assert_eq!(pod.seen().headers["k-original-host"], "a");
        // What is no revision is sent straight, and does not claim to have been counted.
        let request = get("a", "/app").header("k-proxy-request", "activator");
        assert_eq!(ask(cluster.external, request).await.status, 200);
        assert!(!app.last().headers.contains_key("k-proxy-request"));
        let request = get("a", "/app").header("user-agent", "kube-probe/1.34");
        assert_eq!(ask(cluster.external, request).await.body, "");
        assert_eq!(app.requests(), 1);
    });
}

/// Replicas ask each other at the private entry; from outside nobody learns anything.
#[test]
fn replicas_say_what_they_serve() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _app = cluster.backend("app").await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        let question = |name: &str| get("b", "/healthz").header("pilotlight-ingress", name);
        let answer = ask(cluster.local, question("ns/ing")).await;
        assert_eq!(answer.headers["k-network-hash"], cluster.hash());
        assert_eq!(ask(cluster.local, question("ns/other")).await.status, 404);
        let outside = ask(cluster.external, question("ns/ing")).await;
        assert!(!outside.headers.contains_key("k-network-hash"));
        assert_eq!(outside.headers["pilotlight-reason"], "no route");
    });
}

/// Sticky splits: a client stays at its backend, and when percents change, clients only move to
/// where the shares grow.
#[test]
fn splits_can_be_sticky() {
    run(async {
        let mut cluster = Cluster::start().await;
        let old = cluster.backend("old").await;
        let new = cluster.backend("new").await;
        let header = http::HeaderName::from_static("x-user");
        cluster.affinity = Some(crate::affinity::Affinity::Header(header));
        let spec = |percent: u32| {
            let splits = json!([split("old", 100 - percent), split("new", percent)]);
            json!({"rules": [rule(&["a"], &json!([{"splits": splits}]))]})
        };
        let mut at = vec!["old".to_owned(); 30];
        for percent in [10, 50, 90, 100] {
            cluster.serve(&spec(percent));
            for (user, before) in at.iter_mut().enumerate() {
                let request = || get("a", "/").header("x-user", user.to_string());
                let now = backend(&ask(cluster.external, request()).await);
                assert_eq!(backend(&ask(cluster.external, request()).await), now);
                assert!(*before == "old" || now == "new", "{user} moved back");
                *before = now;
            }
        }
        assert!(at.iter().all(|it| it == "new"));
        // Whoever has no name yet gets one with the first response.
        cluster.affinity = Some(crate::affinity::Affinity::Cookie);
        cluster.serve(&spec(50));
        let answer = ask(cluster.external, get("a", "/")).await;
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        let pair = cookie.split(';').next().unwrap();
        let again = || get("a", "/").header("cookie", pair);
        for _ in 0..10 {
            let again = ask(cluster.external, again()).await;
            assert_eq!(backend(&again), backend(&answer));
            assert!(!again.headers.contains_key("set-cookie"));
        }
        // The app sees it from the first request on, in one line with those of its own.
        let request = get("a", "/").header("cookie", "mine=1; too=2");
        let answer = ask(cluster.external, request).await;
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        let seen = match backend(&answer).as_str() {
            "old" => old.last(),
            _ => new.last(),
        };
        let pair = cookie.split(';').next().unwrap();
        let lines: Vec<_> = seen.headers.get_all("cookie").iter().collect();
        assert_eq!(lines, [&*format!("mine=1; too=2; {pair}")]);
        let again = || get("a", "/").header("cookie", pair);
        // It stays for as long as its backend has any share, however small, and then moves once.
        let (mine, other) = match backend(&answer).as_str() {
            "old" => (1, 0),
            _ => (99, 100),
        };
        cluster.serve(&spec(100 - mine));
        for _ in 0..10 {
            let again = ask(cluster.external, again()).await;
            assert_eq!(backend(&again), backend(&answer));
        }
        cluster.serve(&spec(100 - other));
        let moved = ask(cluster.external, again()).await;
        assert_ne!(backend(&moved), backend(&answer));
        assert!(moved.headers.contains_key("set-cookie"));
    });
}

/// Sessions of the Model Context Protocol get their names from the backend that began them, and stay
/// there for as long as it has a share, whichever gateway they come to.
#[test]
fn splits_stick_to_mcp_sessions() {
    run(async {
        let mut cluster = Cluster::start().await;
        let old = cluster.backend("old").await;
        let new = cluster.backend("new").await;
        cluster.affinity = Some(crate::affinity::Affinity::Mcp);
        let spec = |percent: u32| {
            let splits = match percent {
                0 => json!([split("old", 100)]),
                _ => json!([split("old", 100 - percent), split("new", percent)]),
            };
            json!({"rules": [rule(&["a"], &json!([{"splits": splits}]))]})
        };
        let at = async |entry, session: &http::HeaderValue| {
            let request = get("a", "/").header("mcp-session-id", session);
            backend(&ask(entry, request).await)
        };
        let initialize = async |entry| {
            let answer = ask(entry, get("a", "/initialize")).await;
            assert!(!answer.headers.contains_key("set-cookie"));
            answer.headers["mcp-session-id"].clone()
        };
        // One that begins before there is a split stays where it is, too.
        cluster.serve(&spec(0));
        let mut begun = vec![initialize(cluster.external).await];
        cluster.serve(&spec(50));
        for _ in 0..30 {
            begun.push(initialize(cluster.external).await);
        }
        for percent in [50, 90] {
            cluster.serve(&spec(percent));
            let other = cluster.another_gateway().await;
            for session in &begun {
                let of = session.to_str().unwrap().split_once('-').unwrap().0;
                for entry in [cluster.external, other] {
                    assert_eq!(at(entry, session).await, of);
                }
            }
        }
        // Apps see the names that they gave.
        for (state, name) in [(&old, "old"), (&new, "new")] {
            let seen = state.last().headers["mcp-session-id"].clone();
            let seen = seen.to_str().unwrap();
            assert!(
                seen.starts_with(name) && !seen.contains("pilotlight"),
                "{seen}"
            );
        }
        cluster.serve(&spec(100));
        for session in &begun {
            assert_eq!(at(cluster.external, session).await, "new");
        }
    });
}
