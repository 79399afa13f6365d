//! The activator as a gateway, over real sockets: every case of upstream's conformance suite
//! (`test/conformance/ingress` of knative.dev/networking), named `conformance_*` after it. The case
//! `ingressclass` needs an API server and is with the watches.

mod cluster;

use std::collections::HashMap;

use futures_util::{SinkExt, StreamExt};
use http::Version;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use self::cluster::{Backend, Cluster, rule, split, to};
use super::pods::Pod;
use super::*;

fn get(host: &str, path: &str) -> http::request::Builder {
    Request::get(path).header("host", host)
}

async fn ask(address: SocketAddr, request: http::request::Builder) -> Answer {
    send(address, request.body(Empty::new()).unwrap()).await
}

async fn status(address: SocketAddr, host: &str, path: &str) -> u16 {
    ask(address, get(host, path)).await.status.as_u16()
}

/// Who answered.
fn backend(answer: &Answer) -> String {
    answer.headers["x-backend"].to_str().unwrap().to_owned()
}

#[test]
fn conformance_basics() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        cluster
            .serve(&json!({"rules": [rule(&["a.example.com"], &json!([{"splits": to("app")}]))]}));
        let answer = ask(cluster.external, get("a.example.com", "/")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "app"));
        let seen = app.last();
        assert_eq!(seen.headers["host"], "a.example.com");
        assert_eq!(seen.headers["x-forwarded-proto"], "http");
        assert!(!seen.headers.contains_key("k-proxy-request"));
    });
}

#[test]
fn conformance_basics_http2() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster
            .backend_on("app", "http2", "kubernetes.io/h2c")
            .await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        assert_eq!(status(cluster.external, "a", "/x?y").await, 200);
        let seen = app.last();
        assert_eq!(seen.version, Version::HTTP_2);
        assert_eq!(seen.uri.authority().unwrap(), "a");
        assert_eq!(seen.uri.path_and_query().unwrap(), "/x?y");
        // And the other way round: an HTTP/2 client of a backend that speaks HTTP/1.
        let app = cluster.backend("plain").await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("plain")}]))]}));
        let mut client = cluster.http2().await;
        let request = Request::get("http://a/x?y").body(Full::default()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.body, "plain");
        let seen = app.last();
        assert_eq!(
            (seen.version, &*seen.uri.to_string()),
            (Version::HTTP_11, "/x?y")
        );
        assert_eq!(seen.headers["host"], "a");
    });
}

/// Bidirectional streams of 100 round trips; on one connection they reach both backends, each stream
/// one of them (edge case 66).
#[test]
fn conformance_grpc_and_grpc_split() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _one = cluster.backend_on("one", "h2c", "").await;
        let _two = cluster.backend_on("two", "h2c", "").await;
        let splits = json!([split("one", 50), split("two", 50)]);
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": splits}]))]}));
        let client = cluster.http2_streams().await;
        let mut seen = HashMap::<String, usize>::new();
        while seen.len() < 2 {
            assert!(seen.values().sum::<usize>() < 100, "{seen:?}");
            let (messages, body) = mpsc::channel::<Bytes>(1);
            let request = Request::post("http://a/echo")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(ChannelBody(body))
                .unwrap();
            let mut client = client.clone();
            let mut answer = client.send_request(request).await.unwrap();
            for round in 0..100 {
                let message = Bytes::from(format!("message {round:03}"));
                messages.send(message.clone()).await.unwrap();
                let mut echo = Vec::new();
                while echo.len() < message.len() {
                    let frame = answer.body_mut().frame().await.unwrap().unwrap();
                    echo.extend_from_slice(&frame.into_data().unwrap());
                }
                assert_eq!(echo, message);
            }
            drop(messages);
            let name = answer.headers()["x-backend"].to_str().unwrap().to_owned();
            *seen.entry(name).or_default() += 1;
        }
    });
}

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

/// Edge case 72: a backend's 503 is passed on, nothing is sent twice.
#[test]
fn conformance_retry_and_edge_case_72() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        app.fail(1);
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        assert_eq!(status(cluster.external, "a", "/").await, 503);
        assert_eq!(app.requests(), 1);
        assert_eq!(status(cluster.external, "a", "/").await, 200);
        assert_eq!(app.requests(), 2);
    });
}

/// Neither before the head nor within the body does a pause end an exchange.
#[test]
fn conformance_timeout() {
    run(async {
        let mut cluster = Cluster::start().await;
        let app = cluster.backend("app").await;
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": to("app")}]))]}));
        let request = get("a", "/held").body(Empty::new()).unwrap();
        let (held, done) = background(send(cluster.external, request));
        eventually("it is held", || app.requests() == 1).await;
        assert!(!done.get());
        app.release();
        assert_eq!(held.await.unwrap().status, 200);
        let (messages, body) = mpsc::channel::<Bytes>(1);
        let request = Request::post("/echo").header("host", "a");
        let request = request.body(ChannelBody(body)).unwrap();
        messages.send(Bytes::from_static(b"first")).await.unwrap();
        let mut answer = respond(cluster.external, request).await;
        assert_eq!(answer.status(), 200);
        let first = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        messages.send(Bytes::from_static(b"second")).await.unwrap();
        let second = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(second.into_data().unwrap(), "second");
    });
}

/// The same host with and without TLS, and redirects for one of two Ingresses at once.
#[test]
fn conformance_tls_and_httpoption() {
    run(async {
        let mut cluster = Cluster::start().await;
        let _app = cluster.backend("app").await;
        cluster.certificate("secret");
        let spec = |host: &str, option: &str| {
            json!({
                "tls": [{"hosts": [host], "secretName": "secret", "secretNamespace": "ns"}],
                "rules": [rule(&[host], &json!([{"splits": to("app")}]))],
                "httpOption": option,
            })
        };
        cluster.serve_as("on", &spec("kn-user-default", "Enabled"));
        cluster.serve_as("off", &spec("data-plane.knative.dev", "Redirected"));
        assert_eq!(status(cluster.external, "kn-user-default", "/").await, 200);
        let answer = ask(cluster.external, get("data-plane.knative.dev:80", "/a?b")).await;
        assert_eq!(answer.status, 301);
        assert_eq!(
            answer.headers["location"],
            "https://data-plane.knative.dev/a?b"
        );
        for host in ["kn-user-default", "data-plane.knative.dev"] {
            let answer = cluster.get_tls(host, "/").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert!(cluster.get_tls("other.example.com", "/").await.is_err());
    });
}

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

/// 100 round trips on one socket; sockets reach both backends, and each stays at its own.
#[test]
fn conformance_websocket_and_websocket_split() {
    run(async {
        let mut cluster = Cluster::start().await;
        cluster.websocket_backend("one").await;
        cluster.websocket_backend("two").await;
        let splits = json!([split("one", 50), split("two", 50)]);
        cluster.serve(&json!({"rules": [rule(&["a"], &json!([{"splits": splits}]))]}));
        let mut seen = HashMap::<String, usize>::new();
        while seen.len() < 2 {
            assert!(seen.values().sum::<usize>() < 100, "{seen:?}");
            let stream = TcpStream::connect(cluster.external).await.unwrap();
            let (mut socket, _) = tokio_tungstenite::client_async("ws://a/", stream)
                .await
                .unwrap();
            let mut who = None;
            for round in 0..100 {
                socket.send(Message::text(round.to_string())).await.unwrap();
                let echo = socket.next().await.unwrap().unwrap().into_text().unwrap();
                let (name, text) = echo.split_once(' ').unwrap();
                assert_eq!(text, round.to_string());
                assert_eq!(who.get_or_insert(name.to_owned()), name);
            }
            *seen.entry(who.unwrap()).or_default() += 1;
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
        tokio::task::spawn_local(super::request_path::serve_silently(breaking));
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
        let _old = cluster.backend("old").await;
        let _new = cluster.backend("new").await;
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
