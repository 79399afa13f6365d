//! Several activators of ours in one path share pods; with anybody else's they divide them.

use serving::names;

use super::pods::Pod;
use super::*;

/// Two activators on addresses of their own and one port, as their pods have it.
async fn pair() -> [World; 2] {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let mut worlds = Vec::new();
    for socket in [first, second] {
        let ip = socket.local_addr().unwrap().ip().to_string();
        worlds.push(start(socket, &ip, port).await);
    }
    worlds.try_into().ok().expect("two")
}

async fn start(socket: TcpListener, ip: &str, port: u16) -> World {
    let mut options = Options::new("activator", ip);
    options.peer_port = port;
    let world = World::start_on(socket, options);
    world.revision(revision(1)).await;
    world
}

async fn list_activators(world: &World) {
    let addresses = ["127.0.0.1", "127.0.0.2"].map(str::to_owned).into();
    let public = crate::PublicEndpoints { addresses };
    world.update(Update::PublicEndpoints(id(), public)).await;
}

/// Pods with one place each, that say how busy they are.
async fn our_pods<const N: usize>() -> [Pod; N] {
    let mut pods = Vec::new();
    for _ in 0..N {
        let pod = Pod::start().await;
        pod.state.places.set(Some(1));
        pods.push(pod);
    }
    pods.try_into().ok().expect("as many")
}

/// All of a revision's pods work for whichever activator has the requests.
#[test]
fn pods_are_shared() {
    run(async {
        let worlds = pair().await;
        let pods = our_pods::<2>().await;
        for world in &worlds {
            list_activators(world).await;
            world.list(&pods.each_ref().map(|pod| pod.address)).await;
        }
        // Until a pod has said that its queue-proxy is ours, everyone has a part.
        for world in &worlds {
            eventually("the own part", || world.snapshot().destinations.len() == 1).await;
            assert_eq!(world.get("/").await.status, 200);
            eventually("all pods", || world.snapshot().destinations.len() == 2).await;
        }
        let busy = &worlds[0];
        let held: Vec<_> = (0..4)
            .map(|_| background(send(busy.address, request("/held"))).0)
            .collect();
        eventually("both pods work", || {
            pods.iter().all(|pod| pod.running() == 1)
        })
        .await;
        // The other activator's request waits there until a place is free, and no longer.
        let (other, _) = background(send(worlds[1].address, request("/")));
        eventually("it was refused", || {
            pods.iter().any(|it| it.state.refused.get() > 0)
        })
        .await;
        pods.iter().for_each(|pod| pod.release(4));
        assert_eq!(other.await.unwrap().status, 200);
        for one in held {
            assert_eq!(one.await.unwrap().body, "released");
        }
        assert!(pods.iter().all(|pod| pod.state.most_running.get() <= 1));
    });
}

/// A queue-proxy that does not report (any more) would let requests wait that must not, so pods are
/// divided again. Errors prove nothing.
#[test]
fn pods_that_cease_to_report_are_divided() {
    run(async {
        let [world, other] = pair().await;
        let pods = our_pods::<2>().await;
        list_activators(&world).await;
        list_activators(&other).await;
        world.list(&pods.each_ref().map(|pod| pod.address)).await;
        eventually("the own part", || world.snapshot().destinations.len() == 1).await;
        assert_eq!(world.get("/").await.status, 200);
        eventually("all pods", || world.snapshot().destinations.len() == 2).await;
        pods.iter().for_each(|pod| pod.state.places.set(None));
        assert_eq!(world.get("/teapot").await.status, 418);
        // Hop-by-hop headers do not arrive, so nobody was asked.
        let unasked = to_revision("/").header("connection", names::CAPABILITY_HEADER);
        let body = http_body_util::Full::new(Bytes::from("x".repeat(20 << 10)));
        let post = unasked.method("POST").body(body).unwrap();
        assert_eq!(respond(world.address, post).await.status(), 200);
        assert_eq!(world.snapshot().destinations.len(), 2);
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(world.snapshot().destinations.len(), 1);
        assert_eq!(world.snapshot().capacity, 1);
        // The own pod's successor reports, and the other one has not been asked since.
        pods.iter().for_each(|pod| pod.state.places.set(Some(1)));
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(world.snapshot().destinations.len(), 2);
    });
}

/// An activator that is not ours keeps its part of the pods to itself.
#[test]
fn pods_are_divided_with_others() {
    run(async {
        let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = own.local_addr().unwrap().port();
        // Answers the question as upstream does: a pod's server knows nothing of capabilities.
        let upstreams = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let asked = Rc::new(Cell::new(0));
        tokio::task::spawn_local(answer_as_upstream(upstreams, Rc::clone(&asked)));
        let world = start(own, "127.0.0.1", port).await;
        let pods = our_pods::<2>().await;
        list_activators(&world).await;
        world.list(&pods.each_ref().map(|pod| pod.address)).await;
        eventually("the own part", || world.snapshot().destinations.len() == 1).await;
        eventually("the other was asked", || asked.get() == 1).await;
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(world.snapshot().destinations.len(), 1);
        assert_eq!(world.snapshot().capacity, 1);
    });
}

async fn answer_as_upstream(socket: TcpListener, asked: Rc<Cell<usize>>) {
    use tokio::io::AsyncWriteExt;
    loop {
        let (mut stream, _) = socket.accept().await.unwrap();
        let head = super::request_path::read_head(&mut stream).await;
        assert!(head.contains("K-Network-Probe: activator"), "{head}");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nactivator";
        stream.write_all(answer).await.unwrap();
        asked.set(asked.get() + 1);
    }
}
