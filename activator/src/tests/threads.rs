//! An activator on two threads: one set of slots, queues and limits, connections of each.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::pods::Pod;
use super::request_path::read_head;
use super::*;
use crate::Limits;

/// A sibling that serves on a thread and a port of its own until this is dropped.
struct Thread {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Thread {
    fn start(activator: &Activator) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let sibling = activator.sibling();
        let thread = std::thread::spawn(move || {
            run(async {
                let socket = TcpListener::from_std(socket).unwrap();
                let shutdown = Shutdown::new();
                let served = server::serve(
                    vec![Listener::plain(socket)],
                    Rc::new(sibling.activator()),
                    crate::server_options(),
                    shutdown.clone(),
                );
                let stopped = async {
                    let _ = stopped.await;
                    shutdown.drain();
                    shutdown.stop();
                };
                tokio::join!(served, stopped);
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        // A second panic would hide the first.
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// A slot is one slot, whichever thread a request came to, and who waits on one thread gets what is
/// given back on the other.
#[test]
fn slots_are_shared() {
    run(async {
        let world = World::with(revision(1)).await;
        let thread = Thread::start(&world.activator);
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        for (first, second) in [
            (world.address, thread.address),
            (thread.address, world.address),
        ] {
            let (held, _) = background(send(first, request("/held")));
            eventually("it runs", || pod.running() == 1).await;
            let (waiting, is_done) = background(send(second, request("/")));
            eventually("it waits", || world.snapshot().queued == 1).await;
            assert!(!is_done.get());
            pod.release(1);
            assert_eq!(held.await.unwrap().body, "released");
            assert_eq!(waiting.await.unwrap().status, 200);
        }
        assert_eq!(pod.state.most_running.get(), 1);
        assert_eq!(world.activator.queued(), 0);
        let scrape = world.scrape();
        let count = scrape
            .lines()
            .find(|line| line.starts_with("http_server_request_duration_seconds_count"));
        assert!(count.is_some_and(|line| line.ends_with(" 4")), "{scrape}");
    });
}

/// What may wait is counted over all threads; health is one for all.
#[test]
fn limits_and_health_are_shared() {
    run(async {
        let mut options = Options::new("activator-0", "10.1.0.1");
        options.limits = Limits {
            max_queued_per_revision: 1,
            ..Limits::default()
        };
        let world = World::start_with(options).await;
        world.revision(revision(1)).await;
        let thread = Thread::start(&world.activator);
        let (waiting, _) = background(send(world.address, request("/")));
        eventually("it waits", || world.activator.queued() == 1).await;
        let refused = send(thread.address, request("/")).await;
        assert_eq!(refused.status, 503);
        assert!(refused.headers.contains_key("retry-after"));
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        assert_eq!(waiting.await.unwrap().status, 200);
        assert_eq!(send(thread.address, request("/")).await.status, 200);
        let health = || {
            let health = Request::get("/").header("user-agent", "kube-probe/1.34");
            health.header("host", "a").body(Empty::new()).unwrap()
        };
        assert_eq!(send(thread.address, health()).await.status, 200);
        world.activator.drain();
        assert_eq!(send(thread.address, health()).await.status, 500);
    });
}

/// A client that leaves one thread's queue makes room for those of all.
#[test]
fn who_leaves_is_gone_from_the_queue_of_all() {
    run(async {
        let world = World::with(revision(1)).await;
        let thread = Thread::start(&world.activator);
        let mut client = TcpStream::connect(thread.address).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nKnative-Serving-Namespace: default\r\n\
                     Knative-Serving-Revision: hello-00001\r\n\r\n";
        client.write_all(head).await.unwrap();
        eventually("it waits", || world.activator.queued() == 1).await;
        drop(client);
        eventually("it left", || world.activator.queued() == 0).await;
    });
}

/// Each thread keeps connections to pods, and closes them when the pods are gone.
#[test]
fn connections_end_with_the_pod() {
    run(async {
        let world = World::with(revision(0)).await;
        let thread = Thread::start(&world.activator);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pod = socket.local_addr().unwrap();
        let (opened, mut connections) = mpsc::channel(8);
        let (closed, mut ends) = mpsc::channel(8);
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                opened.send(()).await.unwrap();
                let closed = closed.clone();
                tokio::task::spawn_local(async move {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
                    while read_head(&mut stream).await.ends_with("\r\n\r\n") {
                        stream.write_all(answer).await.unwrap();
                    }
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    let _ = closed.send(()).await;
                });
            }
        });
        world.list_and_wait(&[pod]).await;
        // The probe's, which the first thread keeps.
        connections.recv().await.unwrap();
        for _ in 0..3 {
            assert_eq!(send(thread.address, request("/")).await.status, 200);
        }
        connections.recv().await.unwrap();
        assert!(
            connections.try_recv().is_err(),
            "one connection for three requests"
        );
        assert!(ends.try_recv().is_err());
        world.update(Update::BackendsDeleted(id())).await;
        ends.recv().await.unwrap();
        ends.recv().await.unwrap();
    });
}
