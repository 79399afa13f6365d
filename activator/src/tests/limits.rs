//! What may wait, for how long, and what is seen of it.

use std::cell::RefCell;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::pods::Pod;
use super::*;
use crate::options::STREAM_WINDOW;

async fn limited(change: impl FnOnce(&mut crate::Limits)) -> World {
    let mut options = Options::new("activator-0", "10.1.0.1");
    options.held_header = true;
    change(&mut options.limits);
    let world = World::start_with(options).await;
    world.revision(revision(1)).await;
    world
}

fn large(path: &str) -> Request<Empty<Bytes>> {
    let request = to_revision(path).header("x-large", "x".repeat(3000));
    request.body(Empty::new()).unwrap()
}

/// The answer of a limit: at once, with a reason and when to come again.
fn assert_refused(answer: &Answer, reason: &str) {
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["pilotlight-reason"], reason);
}

/// Requests are limited by what they hold, too; one that is larger than the limit may wait alone.
#[test]
fn queues_are_limited_in_bytes() {
    run(async {
        for in_all in [false, true] {
            let world = limited(|limits| {
                let limit = if in_all {
                    &mut limits.max_queued_bytes
                } else {
                    &mut limits.max_queued_bytes_per_revision
                };
                *limit = 3_000;
            })
            .await;
            let (waiting, _) = background(send(world.address, large("/")));
            eventually("one waits", || world.snapshot().queued == 1).await;
            assert!(world.snapshot().queued_bytes > 3_000);
            let reason = if in_all {
                "queues full of bytes"
            } else {
                "revision queue full of bytes"
            };
            assert_refused(&world.get("/").await, reason);
            let pod = Pod::start().await;
            world.list_and_wait(&[pod.address]).await;
            assert_eq!(waiting.await.unwrap().status, 200);
            assert_eq!(world.snapshot().queued_bytes, 0);
        }
    });
}

/// Whichever is shorter, the activator's limit or the revision's, ends the wait with a 503.
#[test]
fn waiting_is_limited_in_time() {
    run(async {
        let short = Some(Duration::from_millis(30));
        let long = Some(Duration::from_secs(300));
        for (in_all, of_revision) in [(short, None), (short, long), (long, short)] {
            let world = limited(|limits| limits.max_wait = in_all).await;
            let id = RevisionId::new("default", "patient");
            let patient = Revision {
                max_wait: of_revision,
                ..Revision::new(id)
            };
            world.revision(patient).await;
            let request = Request::get("/")
                .header("host", "patient.default.svc.cluster.local")
                .body(Empty::new());
            let answer = world.send(request.unwrap()).await;
            assert_refused(&answer, "waited too long");
            assert_eq!(world.activator.queued(), 0);
        }
    });
}

/// The limit is on all waits of a request together: one that no pod starts waits again and again.
#[test]
fn all_waits_count() {
    run(async {
        let world = limited(|limits| {
            limits.max_wait = Some(Duration::from_millis(200));
            limits.max_redispatches = 1_000;
        })
        .await;
        let full = Pod::start().await;
        full.state.full.set(true);
        world.list_and_wait(&[full.address]).await;
        assert_refused(&world.get("/").await, "waited too long");
        assert!(full.state.refused.get() > 1);
    });
}

/// Bodies of waiting requests stay with their clients, who may leave meanwhile.
#[test]
fn unread_bodies_take_no_memory() {
    const WHOLE: usize = 64 << 20;
    /// More than any socket's buffers hold, and a fraction of the body.
    const HELD_BY_SOCKETS: usize = 24 << 20;
    run(async {
        let world = limited(|_| {}).await;
        let written = Rc::new(Cell::new(0));
        let counter = Rc::clone(&written);
        let mut client = TcpStream::connect(world.address).await.unwrap();
        // Behind full buffers the end of a stream would not arrive, a reset does.
        client.set_zero_linger().unwrap();
        let (http1, _) = background(async move {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nKnative-Serving-Namespace: default\r\n\
                 Knative-Serving-Revision: hello-00001\r\nContent-Length: {WHOLE}\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let chunk = vec![0; 64 << 10];
            for _ in 0..WHOLE / chunk.len() {
                client.write_all(&chunk).await.unwrap();
                counter.set(counter.get() + chunk.len());
            }
        });
        eventually("it waits", || world.snapshot().queued == 1).await;
        settled(&written).await;
        assert!(written.get() < HELD_BY_SOCKETS, "{}", written.get());
        assert!(world.snapshot().queued_bytes < 64 << 10);
        http1.abort();
        eventually("the HTTP/1 client left", || world.snapshot().queued == 0).await;

        written.set(0);
        let stream = TcpStream::connect(world.address).await.unwrap();
        let tasks = Tasks::default();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(tasks.clone(), TokioIo::new(stream))
                .await
                .unwrap();
        let (connection, _) = background(connection);
        let (chunks, body) = mpsc::channel(1);
        let request = to_revision("http://hello.example.com/").method("POST");
        let (_answer, _) =
            background(sender.send_request(request.body(ChannelBody(body)).unwrap()));
        let counter = Rc::clone(&written);
        let (_writer, _) = background(async move {
            let chunk = Bytes::from(vec![0; 64 << 10]);
            while chunks.send(chunk.clone()).await.is_ok() {
                counter.set(counter.get() + chunk.len());
            }
        });
        eventually("it waits", || world.snapshot().queued == 1).await;
        settled(&written).await;
        // Its client has a few chunks more, and everything else is counted.
        let (held, sent) = (world.snapshot().queued_bytes, written.get());
        assert!(held + (256 << 10) > sent, "{sent}, {held} of it counted");
        assert!(sent >= STREAM_WINDOW as usize, "{sent}");
        connection.abort();
        tasks.0.borrow_mut().abort_all();
        eventually("the HTTP/2 client left", || world.snapshot().queued == 0).await;
    });
}

/// A stream of HTTP/2 that its client takes back leaves the queue, and the others of its connection
/// stay.
#[test]
fn streams_that_are_taken_back_leave_the_queue() {
    run(async {
        let world = limited(|_| {}).await;
        let sender = http2(world.address).await;
        let ask = |path: &str| {
            let request = to_revision(&format!("http://hello.example.com{path}"));
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let mut sender = sender.clone();
            background(async move { collect(sender.send_request(request).await.unwrap()).await }).0
        };
        let (kept, taken_back) = (ask("/"), ask("/teapot"));
        eventually("both wait", || world.snapshot().queued == 2).await;
        taken_back.abort();
        eventually("one is gone", || world.snapshot().queued == 1).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        assert_eq!(kept.await.unwrap().body, "hello");
        assert_eq!(pod.state.served.get(), 1);
    });
}

/// A POST over HTTP/2 whose body has begun and does not end.
async fn begin_body(sender: &SendRequest<ChannelBody>) -> (JoinHandle<()>, mpsc::Sender<Bytes>) {
    let (chunks, body) = mpsc::channel(1);
    let request = to_revision("http://hello.example.com/").method("POST");
    let request = request.body(ChannelBody(body)).unwrap();
    let mut sender = sender.clone();
    let (asking, _) = background(async move {
        let _ = sender.send_request(request).await;
    });
    chunks.send(Bytes::from_static(b"begun")).await.unwrap();
    (asking, chunks)
}

/// What the streams of one connection may send of bodies that nobody reads is one window, and counts
/// as one; it is free again when they have left.
#[test]
fn streams_share_the_window_of_their_connection() {
    const WINDOW: usize = 1 << 20;
    const HEADS: usize = 64 << 10;
    run(async {
        let world = limited(|_| {}).await;
        let sender = http2(world.address).await;
        for _ in 0..2 {
            let mut streams = Vec::new();
            for count in 1..=40 {
                streams.push(begin_body(&sender).await);
                eventually("it waits", || world.snapshot().queued == count).await;
            }
            let held = world.snapshot().queued_bytes;
            assert!((WINDOW..WINDOW + HEADS).contains(&held), "{held}");
            streams.iter().for_each(|(asking, _)| asking.abort());
            eventually("all are gone", || world.snapshot().queued == 0).await;
            assert_eq!(world.snapshot().queued_bytes, 0);
        }
        let other = http2(world.address).await;
        let mut streams = Vec::new();
        for (sender, most) in [(&sender, 1), (&other, 2)] {
            streams.push(begin_body(sender).await);
            eventually("it waits", || world.snapshot().queued == most).await;
            let expected = most * STREAM_WINDOW as usize;
            let held = world.snapshot().queued_bytes;
            assert!((expected..expected + HEADS).contains(&held), "{held}");
        }
    });
}

/// A call that has come as a whole counts as what it is, although it states no length.
#[test]
fn small_calls_are_counted_as_they_are() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [&head, payload].concat()
    }
    run(async {
        let world = limited(|_| {}).await;
        let mut fields = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            ("knative-serving-namespace", "default"),
            ("knative-serving-revision", "hello-00001"),
        ] {
            // Literals that are not to be indexed.
            fields.push(0);
            for text in [name, value] {
                fields.push(u8::try_from(text.len()).unwrap());
                fields.extend_from_slice(text.as_bytes());
            }
        }
        let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
        bytes.extend(frame(1, 0x4, 1, &fields));
        bytes.extend(frame(0, 0x1, 1, b"a small message"));
        let mut client = TcpStream::connect(world.address).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        eventually("it waits", || world.snapshot().queued == 1).await;
        let held = world.snapshot().queued_bytes;
        assert!(held < 1 << 10, "{held}");
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        eventually("it arrives", || pod.state.served.get() == 1).await;
    });
}

/// What hyper spawns for a client, one task of which owns the socket.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<tokio::task::JoinSet<()>>>);

impl<F: Future + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.borrow_mut().spawn_local(async move {
            task.await;
        });
    }
}

/// Waits until a number has stopped growing.
async fn settled(number: &Cell<usize>) {
    let mut before = usize::MAX;
    while before != number.get() {
        before = number.get();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A cold start is in three histograms of its revision and, if wanted, in a header; a request that
/// did not wait is in neither.
#[test]
fn cold_starts_are_visible() {
    run(async {
        let world = limited(|_| {}).await;
        let (waiting, _) = background(send(world.address, request("/")));
        eventually("it waits", || world.snapshot().queued == 1).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let answer = waiting.await.unwrap();
        let held: f64 = answer.headers["pilotlight-held"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(held > 0.0);
        let scrape = world.scrape();
        for name in ["held", "pod_ready", "first_byte"] {
            let line =
                format!("pilotlight_activator_{name}_seconds_count{{kn_service_name=\"hello\"");
            let line = scrape.lines().find(|it| it.starts_with(&line));
            assert!(
                line.is_some_and(|it| it.ends_with(" 1")),
                "{name}: {scrape}"
            );
        }
        let warm = world.get("/").await;
        assert!(!warm.headers.contains_key("pilotlight-held"));
        let count = "pilotlight_activator_held_seconds_count";
        assert!(
            world
                .scrape()
                .lines()
                .any(|it| it.starts_with(count) && it.ends_with(" 1"))
        );
    });
}

/// A client that leaves the queue has its line in the request log.
#[test]
fn who_leaves_is_logged() {
    run(async {
        let world = limited(|_| {}).await;
        let lines = Lines::default();
        let writer = serving::telemetry::LineWriter::new(lines.clone()).unwrap();
        world.activator.log_requests_to(writer);
        let template = "{{.Request.RequestURI}} {{.Response.Code}} {{.Response.Size}}";
        world.activator.set_request_log(Some(template)).unwrap();
        let (waiting, _) = background(send(world.address, request("/left")));
        eventually("it waits", || world.snapshot().queued == 1).await;
        waiting.abort();
        eventually("a line", || lines.text() == "/left 500 0\n").await;
    });
}

/// A request with a small body is sent to another pod when the first is full, too; a large one is
/// not, because it is not kept.
#[test]
fn small_bodies_are_kept_for_another_pod() {
    run(async {
        let world = limited(|_| {}).await;
        let full = Pod::start().await;
        full.state.full.set(true);
        // The lower address is taken first.
        let free = Pod::on(TcpListener::bind("127.0.0.2:0").await.unwrap());
        let post = |length: usize| {
            let body = http_body_util::Full::new(Bytes::from("x".repeat(length)));
            let request = to_revision("/echo").method("POST");
            respond(world.address, request.body(body).unwrap())
        };
        world.list_and_wait(&[full.address, free.address]).await;
        for _ in 0..3 {
            let answer = collect(post(crate::options::MAX_REPLAYED_BODY).await).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.len(), crate::options::MAX_REPLAYED_BODY);
        }
        assert_eq!(free.state.served.get(), 3);
        world.list_and_wait(&[full.address]).await;
        let refused = full.state.refused.get();
        assert!(refused > 0);
        let answer = collect(post(crate::options::MAX_REPLAYED_BODY + 1).await).await;
        assert_eq!(answer.status, 503);
        assert_eq!(full.state.refused.get(), refused + 1);
    });
}

/// A connection that breaks before any answer is tried elsewhere for what may be done twice.
#[test]
fn broken_connections() {
    run(async {
        for (method, status) in [("GET", 200), ("PUT", 200), ("POST", 502)] {
            let world = limited(|_| {}).await;
            // The lower address is taken first.
            let broken = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = broken.local_addr().unwrap();
            tokio::task::spawn_local(super::request_path::serve_silently(broken));
            let socket = TcpListener::bind("127.0.0.2:0").await.unwrap();
            let pod = Pod::on(socket);
            world.list_and_wait(&[address, pod.address]).await;
            let request = to_revision("/").method(method);
            let answer = world.send(request.body(Empty::new()).unwrap()).await;
            assert_eq!(answer.status, status, "{method}");
        }
    });
}

/// A pod at `127.0.0.<last>`, which is taken before those with higher numbers.
async fn pod_at(last: u8) -> Pod {
    Pod::on(
        TcpListener::bind(SocketAddr::from(([127, 0, 0, last], 0)))
            .await
            .unwrap(),
    )
}

async fn kill(pods: &[Pod]) {
    pods.iter().for_each(Pod::die);
    for pod in pods {
        eventually("it is gone", || {
            std::net::TcpStream::connect(pod.address).is_err()
        })
        .await;
    }
}

/// A connection that cannot be made is tried elsewhere so often and no oftener: two dead pods are
/// got over with two retries, three are not.
#[test]
fn connect_retries_are_limited() {
    run(async {
        for (count, status) in [(2_u8, 200), (3, 502)] {
            let world = limited(|limits| limits.max_connect_retries = 2).await;
            let mut dead = Vec::new();
            for last in 1..=count {
                dead.push(pod_at(last).await);
            }
            let alive = pod_at(count + 1).await;
            let mut all: Vec<_> = dead.iter().map(|pod| pod.address).collect();
            all.push(alive.address);
            world.list_and_wait(&all).await;
            kill(&dead).await;
            let answer = world.get("/").await;
            assert_eq!(answer.status, status, "{count} dead pods");
            assert_eq!(alive.state.served.get(), usize::from(status == 200));
        }
    });
}

/// A request that is refused everywhere is refused as often as it may be sent.
#[test]
fn redispatches_are_limited() {
    run(async {
        for max_redispatches in [0, 1, 3] {
            let world = limited(|limits| limits.max_redispatches = max_redispatches).await;
            let pods = [pod_at(1).await, pod_at(2).await];
            pods.iter().for_each(|pod| pod.state.full.set(true));
            world
                .list_and_wait(&pods.each_ref().map(|pod| pod.address))
                .await;
            assert_eq!(world.get("/").await.status, 503);
            let refused: usize = pods.iter().map(|pod| pod.state.refused.get()).sum();
            assert_eq!(refused, max_redispatches as usize + 1);
        }
    });
}

/// However many retries each request has, those of all after failures are ten at first, a fifth of
/// the requests and ten a second.
#[test]
fn retries_are_limited_by_the_budget() {
    const REQUESTS: usize = 200;
    run(async {
        let world = limited(|limits| limits.max_connect_retries = 8).await;
        let attempts = Rc::new(Cell::new(0));
        let mut pods = Vec::new();
        for _ in 0..2 {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            pods.push(socket.local_addr().unwrap());
            let attempts = Rc::clone(&attempts);
            tokio::task::spawn_local(super::request_path::break_requests(socket, attempts));
        }
        world.list_and_wait(&pods).await;
        let start = tokio::time::Instant::now();
        for _ in 0..REQUESTS {
            // Each is out of rotation until it has answered a probe.
            eventually("there are two to try", || {
                world.snapshot().destinations.len() == 2
            })
            .await;
            assert_eq!(world.get("/").await.status, 502);
        }
        let took = tokio::time::Instant::now().duration_since(start);
        let seconds = took.as_secs() + 1;
        let retries = attempts.get() - REQUESTS;
        let most = 10 + REQUESTS / 5 + 10 * usize::try_from(seconds).unwrap();
        assert!((10..=most).contains(&retries), "{retries} in {seconds} s");
        assert!(most < REQUESTS, "{seconds} s are too many to tell");
    });
}
