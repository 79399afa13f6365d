//! Pods that die unannounced, as traffic finds out: by connections that end without an answer, in
//! both protocols, and by silence.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use super::pods::Pod;
use super::request_path::read_head;
use super::*;

/// A pod played by hand at 127.0.0.1, which is taken first.
struct Played {
    address: SocketAddr,
    state: Rc<State>,
}

struct State {
    ready: Cell<bool>,
    probes: Cell<usize>,
    requests: Cell<usize>,
    /// Whether connections stay open after a probe.
    keeps: bool,
    /// What the pod does with a request, by its number.
    reply: Box<dyn Fn(usize) -> Reply>,
}

/// What a played pod does with a request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Answer,
    /// Ends the connection.
    End,
    /// Ends it as soon as the pod is not ready.
    EndLater,
    /// Resets it.
    Reset,
    /// Reads no further.
    Nothing,
}

impl Played {
    fn start(keeps: bool, reply: impl Fn(usize) -> Reply + 'static) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Inherited by what is accepted: a large head does not fit.
        socket.set_recv_buffer_size(1).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let socket = socket.listen(64).unwrap();
        let address = socket.local_addr().unwrap();
        let state = Rc::new(State {
            ready: Cell::new(true),
            probes: Cell::default(),
            requests: Cell::default(),
            keeps,
            reply: Box::new(reply),
        });
        let played = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                tokio::task::spawn_local(play(stream, Rc::clone(&played)));
            }
        });
        Self { address, state }
    }
}

async fn play(mut stream: TcpStream, state: Rc<State>) {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    loop {
        // Probes are GETs. Of a large head no more may be read than it takes to tell.
        let mut first = [0];
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return;
        }
        if first == *b"G" {
            read_head(&mut stream).await;
            state.probes.set(state.probes.get() + 1);
            if !state.ready.get() {
                return;
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream.write_all(b"queue").await.unwrap();
            if !state.keeps {
                return;
            }
            continue;
        }
        state.requests.set(state.requests.get() + 1);
        match (state.reply)(state.requests.get()) {
            Reply::Nothing => std::future::pending().await,
            Reply::Reset => return stream.set_zero_linger().unwrap(),
            Reply::End => {
                read_head(&mut stream).await;
                return;
            }
            Reply::EndLater => {
                read_head(&mut stream).await;
                eventually("it is not ready", || !state.ready.get()).await;
                return;
            }
            Reply::Answer => {
                read_head(&mut stream).await;
                stream.write_all(OK.as_bytes()).await.unwrap();
                stream.write_all(b"again").await.unwrap();
            }
        }
    }
}

/// A pod that is taken after the one at 127.0.0.1.
async fn second() -> Pod {
    Pod::on(TcpListener::bind("127.0.0.2:0").await.unwrap())
}

async fn send_as(world: &World, method: &str) -> Answer {
    let request = to_revision("/").method(method);
    world.send(request.body(Empty::new()).unwrap()).await
}

fn in_rotation(world: &World, address: SocketAddr) -> bool {
    let all = world.snapshot().destinations;
    all.iter().any(|(dest, _)| *dest == address)
}

/// A new connection ends without an answer: the pod gets nothing more before it has answered a
/// probe. What may be repeated goes to another pod, what may not is a 502.
#[test]
fn pods_that_break_connections_are_probed_first() {
    run(async {
        for reply in [Reply::End, Reply::Reset] {
            for (method, status) in [("PUT", 200), ("POST", 502)] {
                let world = World::with(revision(1)).await;
                let broken = Played::start(false, move |_| reply);
                let alive = second().await;
                world.list_and_wait(&[broken.address, alive.address]).await;
                broken.state.ready.set(false);
                let answer = send_as(&world, method).await;
                assert_eq!(answer.status, status, "{method} {reply:?}");
                for _ in 0..4 {
                    assert_eq!(send_as(&world, method).await.body, "hello");
                }
                assert_eq!(broken.state.requests.get(), 1);
                eventually("it is out", || !in_rotation(&world, broken.address)).await;
                broken.state.ready.set(true);
                eventually("it is back", || in_rotation(&world, broken.address)).await;
            }
        }
    });
}

/// A request that waits for the slot of one that breaks does not get it before a probe has passed.
#[test]
fn waiting_requests_are_kept_from_lost_pods() {
    run(async {
        let world = World::with(revision(1)).await;
        let broken = Played::start(false, |at| match at {
            1 => Reply::EndLater,
            _ => Reply::Answer,
        });
        world.list_and_wait(&[broken.address]).await;
        let post = || {
            let request = to_revision("/").method("POST");
            background(send(world.address, request.body(Empty::new()).unwrap())).0
        };
        let running = post();
        eventually("one runs", || broken.state.requests.get() == 1).await;
        let waiting = post();
        eventually("one waits", || world.snapshot().queued == 1).await;
        let probes = broken.state.probes.get();
        broken.state.ready.set(false);
        assert_eq!(running.await.unwrap().status, 502);
        eventually("it is probed", || broken.state.probes.get() > probes).await;
        assert_eq!(broken.state.requests.get(), 1);
        broken.state.ready.set(true);
        assert_eq!(waiting.await.unwrap().body, "again");
    });
}

/// A pod may close an idle connection just as it is used again: it is not suspected for that.
#[test]
fn one_idle_connection_that_ends_is_no_dead_pod() {
    run(async {
        let world = World::with(revision(1)).await;
        let closing = Played::start(true, |at| if at == 1 { Reply::End } else { Reply::Answer });
        let other = second().await;
        world.list_and_wait(&[closing.address, other.address]).await;
        let probes = closing.state.probes.get();
        // Over the connection that the probe has left.
        assert_eq!(send_as(&world, "POST").await.status, 502);
        assert_eq!(send_as(&world, "POST").await.body, "again");
        assert!(in_rotation(&world, closing.address));
        assert_eq!(closing.state.probes.get(), probes);
    });
}

/// A pod dies under streams of HTTP/2: each gets its own answer, and no further request has to find
/// out.
#[test]
fn pods_that_break_streams_are_noticed() {
    run(async {
        let world = World::with(revision(2)).await;
        let dead = Pod::start().await;
        let alive = second().await;
        world.list_and_wait(&[dead.address, alive.address]).await;
        let mut sender = http2(world.address).await;
        let mut held = Vec::new();
        for method in ["GET", "POST"] {
            let request = to_revision("http://hello.example.com/held").method(method);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request);
            held.push(background(async { collect(response.await.unwrap()).await }).0);
        }
        eventually("both run", || dead.running() == 2).await;
        dead.die();
        eventually("it is out", || !in_rotation(&world, dead.address)).await;
        alive.release(1);
        let post = held.pop().unwrap().await.unwrap();
        assert_eq!(post.status, 502);
        let get = held.pop().unwrap().await.unwrap();
        assert_eq!(get.body, "released");
    });
}

/// A pod whose kernel takes no more stands for one whose node is gone: its requests fail in time and
/// go elsewhere, in either protocol, and it gets no more.
#[test]
fn silent_pods_are_noticed() {
    run(async {
        for is_http2 in [false, true] {
            let mut options = Options::new("activator-0", "10.1.0.1");
            options.max_silence = Duration::from_millis(300);
            let world = World::start_with(options).await;
            world.revision(revision(1)).await;
            let silent = Played::start(true, |_| Reply::Nothing);
            let alive = second().await;
            world.list_and_wait(&[silent.address, alive.address]).await;
            silent.state.ready.set(false);
            let large = to_revision("http://hello.example.com/")
                .method("PUT")
                .header("x-large", "x".repeat(48 << 10))
                .body(Empty::new())
                .unwrap();
            let answer = if is_http2 {
                let mut sender = http2(world.address).await;
                collect(sender.send_request(large).await.unwrap()).await
            } else {
                world.send(large).await
            };
            assert_eq!(answer.body, "hello", "HTTP/2: {is_http2}");
            assert_eq!(send_as(&world, "POST").await.body, "hello");
            assert_eq!(silent.state.requests.get(), 1, "HTTP/2: {is_http2}");
        }
    });
}
