//! What the process adds to an activator: warnings at the start, and its end.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pods::Pod;
use super::request_path::read_head;
use super::*;
use crate::kubernetes::process;
use crate::{MeshMode, ProbeOptions};

/// Edge case 31: settings with which no revision can be reached are warned of, and no others.
#[test]
fn edge_case_31_contradictory_mesh_settings_are_warned_of() {
    for mesh_mode in [MeshMode::Auto, MeshMode::Enabled, MeshMode::Disabled] {
        for mesh_pod_addressability in [false, true] {
            let (lines, _guard) = events();
            process::warn_of_contradictions(&ProbeOptions {
                mesh_mode,
                mesh_pod_addressability,
                ..ProbeOptions::default()
            });
            let expected = mesh_mode == MeshMode::Enabled && mesh_pod_addressability;
            assert_eq!(lines.text().starts_with("WARN "), expected, "{mesh_mode:?}");
        }
    }
}

/// Answers probes; gives back whatever comes after an upgrade.
async fn serve_echo(socket: TcpListener) {
    loop {
        let (mut stream, _) = socket.accept().await.unwrap();
        tokio::task::spawn_local(async move {
            let mut head = read_head(&mut stream).await;
            while head.contains("K-Network-Probe") {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
                stream.write_all(answer).await.unwrap();
                head = read_head(&mut stream).await;
            }
            let switch = b"HTTP/1.1 101 Switching Protocols\r\n\
                           Connection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(switch).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

/// A process that serves until it is told to stop, and what is under way in it.
struct Ending {
    world: World,
    address: SocketAddr,
    pod: Pod,
    stop: oneshot::Sender<()>,
    ended: Rc<Cell<bool>>,
    held: tokio::task::JoinHandle<Answer>,
    tunnel: TcpStream,
}

impl Ending {
    async fn start(drain: Duration) -> Self {
        let patient = Revision {
            timeout: Duration::from_secs(3_600),
            ..revision(1)
        };
        let world = World::with(patient).await;
        let pod = Pod::start().await;
        let echo = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let listed = [pod.address, echo.local_addr().unwrap()];
        tokio::task::spawn_local(serve_echo(echo));
        world.list_and_wait(&listed).await;
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let activator = world.activator.clone();
        let (stop, stopped) = oneshot::channel();
        let (_task, ended) = background(async move {
            let listeners = vec![Listener::plain(socket)];
            let stopped = async { stopped.await.unwrap() };
            process::serve(&activator, listeners, Vec::new(), drain, stopped).await;
        });
        let (held, _) = background(send(address, request("/held")));
        eventually("it runs", || pod.running() == 1).await;
        let mut tunnel = TcpStream::connect(address).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\
                     Knative-Serving-Namespace: default\r\n\
                     Knative-Serving-Revision: hello-00001\r\n\r\n";
        tunnel.write_all(head).await.unwrap();
        let switched = read_head(&mut tunnel).await;
        assert!(switched.starts_with("HTTP/1.1 101 "), "{switched}");
        Self {
            world,
            address,
            pod,
            stop,
            ended,
            held,
            tunnel,
        }
    }

    async fn echo(&mut self) {
        self.tunnel.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        self.tunnel.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }
}

/// Edge case 58: told to end, an activator fails its health checks and serves on until load balancers
/// have heard of it; then its listeners close, and it ends with the last request and tunnel.
#[test]
fn edge_case_58_the_end() {
    const DRAIN: Duration = Duration::from_secs(1);
    run(async {
        let mut ending = Ending::start(DRAIN).await;
        let told = Instant::now();
        let stop = std::mem::replace(&mut ending.stop, oneshot::channel().0);
        stop.send(()).unwrap();
        eventually("health fails", || ending.world.activator.health().is_err()).await;
        let health = Request::get("/").header("user-agent", "kube-probe/1.34");
        let health = health.header("host", "a").body(Empty::new()).unwrap();
        assert_eq!(send(ending.address, health).await.status, 500);
        // A request of its own, for a revision that has no place left: it waits, as ever.
        let (waiting, _) = background(send(ending.address, request("/")));
        eventually("it waits", || ending.world.snapshot().queued == 1).await;
        eventually("the listener closes", || {
            std::net::TcpStream::connect(ending.address).is_err()
        })
        .await;
        let took = Instant::now().duration_since(told);
        assert!(took >= DRAIN, "{took:?}");
        ending.echo().await;
        assert!(!ending.ended.get());
        ending.pod.release(1);
        assert_eq!(ending.held.await.unwrap().body, "released");
        assert_eq!(waiting.await.unwrap().status, 200);
        ending.tunnel.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        ending.tunnel.read_exact(&mut echo).await.unwrap();
        assert!(!ending.ended.get(), "there is a tunnel");
        drop(ending.tunnel);
        let ended = ending.ended;
        eventually("the end", || ended.get()).await;
    });
}

/// What does not end by itself is ended before the platform kills the process.
#[test]
fn the_end_is_not_waited_for_for_ever() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(async {
        let mut ending = Ending::start(Duration::from_secs(45)).await;
        tokio::time::pause();
        let told = Instant::now();
        let stop = std::mem::replace(&mut ending.stop, oneshot::channel().0);
        stop.send(()).unwrap();
        while !ending.ended.get() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let took = Instant::now().duration_since(told);
            if took < Duration::from_secs(45 + 540) {
                assert!(!ending.ended.get(), "after {took:?}");
            }
            assert!(took < Duration::from_secs(600));
        }
        tokio::time::resume();
        let mut rest = Vec::new();
        let _ = ending.tunnel.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        assert!(ending.held.await.is_err(), "its connection is cut");
    });
}

/// The start asks for a minute at most, whether nobody listens or somebody who says nothing.
#[test]
fn the_api_server_is_not_waited_for_for_ever() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [&silent, &refused].map(|it| it.local_addr().unwrap());
        drop(refused);
        for address in addresses {
            let uri = format!("http://{address}").parse().unwrap();
            let client = kube::Client::try_from(kube::Config::new(uri)).unwrap();
            let begun = Instant::now();
            process::check_version(&client, (1, 34)).await.unwrap_err();
            let took = Instant::now().duration_since(begun);
            let minute = Duration::from_secs(60)..Duration::from_secs(62);
            assert!(minute.contains(&took), "{address}: {took:?}");
        }
    });
}
