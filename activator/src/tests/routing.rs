//! Waiting, binding, retrying: where requests go and when.

use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt;
use serving::server::Connection;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::pods::Pod;
use super::*;

/// A request for a revision at zero waits, and goes to the first pod whose probe passes.
#[test]
fn cold_start() {
    run(async {
        let world = World::with(revision(1)).await;
        let (request, _) = background(send(world.address, request("/")));
        eventually("it waits", || world.snapshot().queued == 1).await;
        assert!(world.scrape().contains(
            "kn_revision_request_queued{k8s_namespace_name=\"default\",kn_revision_name=\"hello-00001\"} 1"
        ));
        let (sleeping, pod) = (Pod::unready().await, Pod::start().await);
        world.list(&[sleeping.address, pod.address]).await;
        assert_eq!(request.await.unwrap().body, "hello");
        assert_eq!(pod.state.served.get(), 1);
        eventually("the other is probed on", || sleeping.state.probes.get() > 2).await;
        sleeping.state.ready.set(true);
        eventually("it is in rotation", || {
            world.snapshot().destinations.len() == 2
        })
        .await;
        assert_eq!(world.snapshot().capacity, 2);
    });
}

/// Edge case 62: pods that are listed before their Revision is known count when it is.
#[test]
fn edge_case_62_pods_before_their_revision() {
    run(async {
        let world = World::start().await;
        let pod = Pod::start().await;
        world.list(&[pod.address]).await;
        world.revision(revision(0)).await;
        assert_eq!(world.get("/").await.body, "hello");
    });
}

/// Upstream's `TestActivatorOverload` in small: no pod ever has more than its limit, and everyone
/// is served.
#[test]
fn limits_hold_and_everyone_is_served() {
    run(async {
        let world = World::with(revision(2)).await;
        let pods = [Pod::start().await, Pod::start().await];
        let requests: Vec<_> = (0..40)
            .map(|_| tokio::task::spawn_local(send(world.address, request("/held"))))
            .collect();
        eventually("all wait", || world.snapshot().queued == 40).await;
        world.list(&[pods[0].address, pods[1].address]).await;
        eventually("all slots are used", || {
            pods.iter().all(|pod| pod.running() == 2)
        })
        .await;
        assert_eq!(world.snapshot().in_flight, 4);
        for pod in &pods {
            pod.release(40);
        }
        for request in requests {
            assert_eq!(request.await.unwrap().status, 200);
        }
        assert!(pods.iter().all(|pod| pod.state.most_running.get() == 2));
        eventually("all slots are free", || world.snapshot().in_flight == 0).await;
    });
}

/// Edge case 51: who leaves the queue is gone from it at once, read body or not.
#[test]
fn edge_case_51_clients_that_leave() {
    run(async {
        let world = World::with(revision(1)).await;
        let mut get = TcpStream::connect(world.address).await.unwrap();
        let head = "Host: a\r\nKnative-Serving-Namespace: default\r\n\
                    Knative-Serving-Revision: hello-00001\r\n";
        get.write_all(format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes())
            .await
            .unwrap();
        let mut post = TcpStream::connect(world.address).await.unwrap();
        let body = "x".repeat(1000);
        post.write_all(
            format!("POST / HTTP/1.1\r\n{head}Content-Length: 100000\r\n\r\n{body}").as_bytes(),
        )
        .await
        .unwrap();
        eventually("both wait", || world.snapshot().queued == 2).await;
        drop(post);
        eventually("the POST left", || world.snapshot().queued == 1).await;
        drop(get);
        eventually("the GET left", || world.snapshot().queued == 0).await;
        assert_eq!(world.activator.queued(), 0);
    });
}

/// So is one whose client has sent more behind its request, which nobody reads yet.
#[test]
fn clients_that_leave_unread_requests_behind() {
    run(async {
        let world = World::with(revision(1)).await;
        let get = "GET / HTTP/1.1\r\nHost: a\r\nKnative-Serving-Namespace: default\r\n\
                   Knative-Serving-Revision: hello-00001\r\n\r\n";
        for pause in [Duration::ZERO, Duration::from_millis(30)] {
            let mut client = TcpStream::connect(world.address).await.unwrap();
            client.write_all(get.as_bytes()).await.unwrap();
            eventually("it waits", || world.snapshot().queued == 1).await;
            for _ in 0..3 {
                client.write_all(get.as_bytes()).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            assert_eq!(world.snapshot().queued, 1);
            drop(client);
            eventually("it left", || world.snapshot().queued == 0).await;
        }
        // Who stays gets its answers.
        let mut client = TcpStream::connect(world.address).await.unwrap();
        client.write_all(get.as_bytes()).await.unwrap();
        eventually("it waits", || world.snapshot().queued == 1).await;
        client.write_all(get.repeat(3).as_bytes()).await.unwrap();
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        eventually("all are served", || pod.state.served.get() == 4).await;
    });
}

/// Past a limit the answer is 503, at once, with a reason and when to come again.
#[test]
fn full_queues() {
    run(async {
        let (lines, _guard) = events();
        let mut options = Options::new("activator-0", "10.1.0.1");
        options.limits.max_queued_per_revision = 1;
        let world = World::start_with(options).await;
        world.revision(revision(1)).await;
        let (waiting, _) = background(send(world.address, request("/")));
        eventually("one waits", || world.snapshot().queued == 1).await;
        let refused = world.get("/").await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.body, "pending request queue full\n");
        assert_eq!(refused.headers["retry-after"], "1");
        assert_eq!(refused.headers["pilotlight-reason"], "revision queue full");
        let line = "request failed revision=default/hello-00001 reason=\"revision queue full\"";
        assert!(lines.text().contains(line), "{}", lines.text());
        let pod = Pod::start().await;
        world.list(&[pod.address]).await;
        assert_eq!(waiting.await.unwrap().status, 200);
        assert!(
            world
                .scrape()
                .contains("pilotlight_activator_errors_total{reason=\"revision queue full\"} 1")
        );
    });
}

/// A queue-proxy that is full and did not start the request is left for another.
#[test]
fn full_pods_are_left_for_others() {
    run(async {
        let world = World::with(revision(1)).await;
        // The lower address is taken first.
        let full = Pod::start().await;
        let free = Pod::on(TcpListener::bind("127.0.0.2:0").await.unwrap());
        full.state.full.set(true);
        world.list_and_wait(&[full.address, free.address]).await;
        for _ in 0..5 {
            let answer = world.get("/").await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (200, "hello"));
            assert!(!answer.headers.contains_key("pilotlight-not-started"));
        }
        assert_eq!(free.state.served.get(), 5);
        assert!(full.state.refused.get() > 0);
        // While all are full the request waits for one that is not any more.
        free.state.full.set(true);
        let (request, _) = background(send(world.address, request("/")));
        eventually("it is in line again", || world.snapshot().queued == 1).await;
        full.state.full.set(false);
        free.state.full.set(false);
        assert_eq!(request.await.unwrap().status, 200);
    });
}

/// A request that cannot be repeated is answered with the 503, without headers of ours.
#[test]
fn full_pods_and_requests_with_a_body() {
    run(async {
        let world = World::with(revision(1)).await;
        let full = Pod::start().await;
        full.state.full.set(true);
        world.list_and_wait(&[full.address]).await;
        let body = http_body_util::Full::new(Bytes::from_static(b"body"));
        let request = to_revision("/").method("POST").body(body).unwrap();
        let answer = collect(respond(world.address, request).await).await;
        assert_eq!(answer.status, 503);
        assert!(!answer.headers.contains_key("pilotlight-not-started"));
        assert!(!answer.headers.contains_key("pilotlight-load"));
    });
}

/// Edge case 13: a pod that refuses connections, when there is no other: 502 in Go's words.
#[test]
fn edge_case_13_connection_refused() {
    run(async {
        let world = World::with(revision(0)).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        pod.die();
        eventually("it is gone", || {
            std::net::TcpStream::connect(pod.address).is_err()
        })
        .await;
        let answer = world.get("/").await;
        assert_eq!(answer.status, 502);
        let expected = format!("dial tcp {}: connect: connection refused\n", pod.address);
        assert_eq!(answer.body, expected);
        assert_eq!(answer.headers["pilotlight-reason"], "no connection");
    });
}

/// Edge case 76: a pod that dies unannounced is out of rotation after the first refused
/// connection, the request goes to another, and the pod is back when it answers probes again.
#[test]
fn edge_case_76_dead_pods_are_noticed_from_traffic() {
    run(async {
        let world = World::with(revision(1)).await;
        // The lower address is taken first.
        let dead = Pod::start().await;
        let alive = Pod::on(TcpListener::bind("127.0.0.2:0").await.unwrap());
        world.list_and_wait(&[dead.address, alive.address]).await;
        dead.die();
        eventually("it is gone", || {
            std::net::TcpStream::connect(dead.address).is_err()
        })
        .await;
        for _ in 0..4 {
            assert_eq!(world.get("/").await.status, 200);
        }
        assert_eq!(alive.state.served.get(), 4);
        eventually("it is out of rotation", || {
            world.snapshot().destinations.len() == 1
        })
        .await;
        let socket = TcpListener::bind(dead.address).await.unwrap();
        let again = Pod::on(socket);
        eventually("it is back", || world.snapshot().destinations.len() == 2).await;
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(again.state.served.get(), 1);
    });
}

/// In-flight requests to a pod that left are left alone; new ones go elsewhere.
#[test]
fn removed_pods_finish_what_they_have() {
    run(async {
        let world = World::with(revision(1)).await;
        let (old, new) = (Pod::start().await, Pod::start().await);
        world.list_and_wait(&[old.address]).await;
        let (running, _) = background(send(world.address, request("/held")));
        eventually("it runs", || old.running() == 1).await;
        world.list(&[new.address]).await;
        assert_eq!(world.get("/").await.body, "hello");
        assert_eq!(new.state.served.get(), 1);
        old.release(1);
        assert_eq!(running.await.unwrap().body, "released");
    });
}

/// A revision that is deleted lets go of who waits; later requests find nothing.
#[test]
fn deleted_revisions() {
    run(async {
        let world = World::with(revision(1)).await;
        let (waiting, _) = background(send(world.address, request("/")));
        eventually("it waits", || world.snapshot().queued == 1).await;
        world.update(Update::RevisionDeleted(id())).await;
        let answer = waiting.await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (500, ""));
        assert_eq!(world.get("/").await.status, 404);
        assert!(!world.scrape().contains("hello-00001"));
    });
}

/// A slot is held until the last byte of the response.
#[test]
fn slots_are_held_until_the_response_ends() {
    run(async {
        let world = World::with(revision(1)).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let body = ChannelBody(receiver);
        let request = to_revision("/echo").method("POST").body(body).unwrap();
        sender.send(Bytes::from_static(b"first")).await.unwrap();
        let mut response = respond(world.address, request).await;
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        let (second, done) = background(send(world.address, super::request("/")));
        eventually("the other waits", || world.snapshot().queued == 1).await;
        assert!(!done.get());
        drop(sender);
        assert!(response.body_mut().frame().await.is_none());
        assert_eq!(second.await.unwrap().status, 200);
    });
}

/// Edge case 52: a client that leaves in the middle frees its slot and cancels the request.
#[test]
fn edge_case_52_leaving_in_the_middle() {
    run(async {
        let world = World::with(revision(1)).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let (running, _) = background(send(world.address, request("/held")));
        eventually("it runs", || pod.running() == 1).await;
        let waiting = Rc::new(background(send(world.address, request("/"))).1);
        eventually("another waits", || world.snapshot().queued == 1).await;
        running.abort();
        eventually("the other is served", || waiting.get()).await;
        eventually("it was cancelled", || pod.running() == 0).await;
    });
}

/// Edge case 15: a cold start that takes too long is a 504 of the activator's, not a 503.
#[test]
fn edge_case_15_timeout_while_waiting() {
    run(async {
        let world = World::with(Revision {
            timeout: Duration::from_millis(50),
            ..revision(1)
        })
        .await;
        let answer = world.get("/").await;
        assert_eq!(answer.status, 504);
        assert_eq!(answer.body, "activator request timeout");
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(world.snapshot().queued, 0);
    });
}

/// Edge cases 48 and 49: the idle timeout also limits the time to the first byte, and so does the
/// response-start timeout, which a webhook sets for revisions with a longer total one.
#[test]
fn edge_cases_48_and_49_before_the_first_byte() {
    run(async {
        for with in [
            Revision {
                idle_timeout: Some(Duration::from_millis(50)),
                ..revision(0)
            },
            Revision {
                response_start_timeout: Some(Duration::from_millis(50)),
                ..revision(0)
            },
        ] {
            let world = World::with(with).await;
            let pod = Pod::start().await;
            world.list_and_wait(&[pod.address]).await;
            let answer = world.get("/held").await;
            assert_eq!(answer.status, 504);
            eventually("the app's request is cancelled", || pod.running() == 0).await;
        }
    });
}

/// What a waiting request holds is mostly this future: hyper's buffers come on top.
#[test]
fn a_waiting_request_is_small() {
    fn size<'a, F>(
        _: impl Fn(&'a Activator, hyper::Request<Incoming>, &'a Connection) -> F,
    ) -> usize {
        size_of::<F>()
    }
    let size = size(|activator, request, connection| activator.handle(request, connection));
    assert!(size <= 424, "{size}");
}
