//! Which requests are probes, and what probers are told.

use crate::app::App;
use crate::client::{get, send};
use crate::instance::{Sidecar, bind, eventually, run};

const KUBELET: &str = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";
const ACTIVATOR: &str = "User-Agent: Knative-Activator-Probe\r\nK-Network-Probe: queue\r\n";
const TCP_PROBE: &str = r#"{"tcpSocket":{"port":$PORT,"host":"127.0.0.1"},"successThreshold":1,"periodSeconds":1,"timeoutSeconds":1}"#;

#[test]
fn row_2_a_ready_app_is_answered_with_queue_and_an_unready_one_with_an_empty_503() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[("SERVING_READINESS_PROBE", TCP_PROBE)]).await;
        for prober in [KUBELET, ACTIVATOR] {
            let answer = get(sidecar.data, "/healthz", prober).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "queue"));
            assert_eq!(answer.header("content-length"), Some("5"));
        }
        assert!(sidecar.handle.ready());
        assert_eq!(app.requests(), 0);

        let closed = bind().await;
        let nobody = closed.local_addr().expect("bound");
        drop(closed);
        let unready = Sidecar::start(nobody, &[("SERVING_READINESS_PROBE", TCP_PROBE)]).await;
        for prober in [KUBELET, ACTIVATOR] {
            let answer = get(unready.data, "/", prober).await;
            assert_eq!((answer.status, answer.body.as_str()), (503, ""));
        }
        assert!(!unready.handle.ready());
    });
}

#[test]
fn row_3_a_probe_for_the_queue_from_an_unknown_agent_is_an_ordinary_request() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        let answer = get(
            sidecar.data,
            "/x",
            "User-Agent: curl\r\nK-Network-Probe: queue\r\n",
        )
        .await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        let seen = app.last();
        assert_eq!(seen.target, "/x");
        assert_eq!(seen.headers["k-network-probe"], "queue");
    });
}

#[test]
fn row_4_a_kubelet_header_alone_bypasses_the_queue_and_keeps_its_host() {
    run(async {
        let (release, wait) = tokio::sync::watch::channel(false);
        let app = App::start(move |request| {
            let mut wait = wait.clone();
            async move {
                if request.uri().path() == "/hold" {
                    wait.wait_for(|go| *go).await.expect("the test releases");
                }
                crate::app::text("ok")
            }
        })
        .await;
        let sidecar = Sidecar::start(app.address, &[("CONTAINER_CONCURRENCY", "1")]).await;
        let held = tokio::task::spawn_local(get(sidecar.data, "/hold", ""));
        let running = app.running.clone();
        eventually("the only place is taken", || running.get() == 1).await;
        let headers = "K-Kubelet-Probe: y\r\nK-Original-Host: other.example.com\r\n";
        let answer = get(sidecar.data, "/", headers).await;
        assert_eq!(answer.body, "ok");
        let seen = app.last();
        assert_eq!(seen.host, "hello.example.com");
        assert_eq!(seen.headers["k-original-host"], "other.example.com");
        assert_eq!(sidecar.handle.load(), (1, 0));
        release.send_replace(true);
        assert_eq!(held.await.expect("no panic").status, 200);
    });
}

#[test]
fn row_5_a_kubelet_agent_without_the_header_is_refused_on_every_path() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        for path in ["/", "/healthz", "/any?x=1"] {
            let answer = get(sidecar.data, path, "User-Agent: kube-probe/1.34\r\n").await;
            assert_eq!(answer.status, 400);
            assert_eq!(answer.body, "unexpected probe header value: \n");
            assert_eq!(
                answer.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
        let answer = get(
            sidecar.data,
            "/",
            "User-Agent: Knative-Autoscaling-Probe\r\nK-Network-Probe: activator\r\n",
        )
        .await;
        assert_eq!(answer.body, "unexpected probe header value: activator\n");
        assert_eq!(app.requests(), 0);
    });
}

#[test]
fn row_6_a_network_probe_gets_its_hash_back_whatever_the_app_does() {
    run(async {
        let closed = bind().await;
        let nobody = closed.local_addr().expect("bound");
        drop(closed);
        let sidecar = Sidecar::start(nobody, &[("SERVING_READINESS_PROBE", TCP_PROBE)]).await;
        let headers = "User-Agent: Knative-Ingress-Probe\r\nK-Network-Probe: probe\r\nK-Network-Hash: abc\r\n";
        let answer = get(sidecar.data, "/healthz", headers).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("k-network-hash"), Some("abc"));
        let answer = get(sidecar.data, "/", "K-Network-Probe: probe\r\n").await;
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.body,
            "a probe request must contain a non-empty \"K-Network-Hash\" header\n"
        );
    });
}

#[test]
fn options_of_the_server_itself_never_reaches_the_app() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        for address in [sidecar.data, sidecar.admin] {
            let request = "OPTIONS * HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1\r\nConnection: close\r\n\r\n";
            let answer = send(address, request).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        }
        assert_eq!(app.requests(), 0);
    });
}

#[test]
fn the_admin_port_has_one_path() {
    run(async {
        let app = App::ok().await;
        let sidecar = Sidecar::start(app.address, &[]).await;
        for path in ["/", "/health", "/wait-for-drain/"] {
            let answer = get(sidecar.admin, path, "").await;
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(answer.body, "404 page not found\n");
        }
        let answer = get(sidecar.admin, "//wait-for-drain", "").await;
        assert_eq!(answer.status, 307);
        assert_eq!(answer.header("location"), Some("/wait-for-drain"));
    });
}
