//! What changes under load and must not be felt: pods that come and go, activators that are
//! restarted one after the other, an autoscaler that is gone.

use std::cell::RefCell;

use tokio::task::JoinHandle;

use super::pods::Pod;
use super::*;

/// A client on each of so many connections, one request after the other, until told to stop.
struct Load {
    clients: Vec<JoinHandle<()>>,
    done: Rc<Cell<usize>>,
    failed: Rc<RefCell<Vec<String>>>,
    stop: Rc<Cell<bool>>,
}

impl Load {
    /// `choose` says where the next request goes, as a load balancer does.
    fn start(clients: usize, choose: impl Fn() -> SocketAddr + 'static) -> Self {
        let choose = Rc::new(choose);
        let (done, failed) = (Rc::new(Cell::new(0)), Rc::<RefCell<Vec<String>>>::default());
        let stop = Rc::new(Cell::new(false));
        let clients = (0..clients)
            .map(|_| {
                let (choose, done) = (Rc::clone(&choose), Rc::clone(&done));
                let (failed, stop) = (Rc::clone(&failed), Rc::clone(&stop));
                tokio::task::spawn_local(async move {
                    while !stop.get() {
                        let answer = send(choose(), request("/")).await;
                        done.set(done.get() + 1);
                        if answer.status != StatusCode::OK {
                            failed.borrow_mut().push(format!("{answer:?}"));
                        }
                    }
                })
            })
            .collect();
        Self {
            clients,
            done,
            failed,
            stop,
        }
    }

    /// Waits for so many further requests.
    async fn goes_on(&self, count: usize) {
        let until = self.done.get() + count;
        eventually("requests go on", || self.done.get() >= until).await;
    }

    /// Ends it; every request must have been answered with 200.
    async fn end(self) {
        self.stop.set(true);
        for client in self.clients {
            client.await.expect("every request is answered");
        }
        assert_eq!(*self.failed.borrow(), [""; 0]);
    }
}

/// Pods come and go, each time announced, while requests are under way: none of them fails, and no
/// pod gets more than its limit.
#[test]
fn pods_come_and_go_under_load() {
    run(async {
        let world = World::with(revision(2)).await;
        let address = world.address;
        let mut pods = Vec::new();
        for _ in 0..3 {
            pods.push(Pod::start().await);
        }
        let list = |pods: &[Pod]| pods.iter().map(|pod| pod.address).collect::<Vec<_>>();
        world.list_and_wait(&list(&pods)).await;
        let load = Load::start(12, move || address);
        let mut gone = Vec::new();
        for _ in 0..12 {
            pods.push(Pod::start().await);
            world.list_and_wait(&list(&pods)).await;
            load.goes_on(20).await;
            gone.push(pods.remove(0));
            world.list(&list(&pods)).await;
            load.goes_on(20).await;
        }
        // All at once, and back again: whoever comes meanwhile waits.
        world.list(&[]).await;
        eventually("requests wait", || world.snapshot().queued > 0).await;
        world.list(&list(&pods)).await;
        load.goes_on(20).await;
        load.end().await;
        for pod in pods.iter().chain(&gone) {
            assert!(pod.state.most_running.get() <= 2);
        }
    });
}

/// An activator with a server that can be told to stop.
struct Replica {
    activator: Activator,
    address: SocketAddr,
    shutdown: Shutdown,
    served: JoinHandle<()>,
    _updates: mpsc::Sender<Update>,
}

async fn replica(pod: SocketAddr) -> Replica {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (updates, received) = mpsc::channel(UPDATES_CAPACITY);
    let options = Options::new("activator", "10.1.0.1");
    let (activator, driver) = crate::new(options, received, &mut Registry::default());
    tokio::task::spawn_local(driver.run());
    let backends = Backends {
        ready: vec![pod],
        ..Backends::default()
    };
    for update in [
        Update::Revision(revision(0)),
        Update::Backends(id(), backends),
    ] {
        updates.send(update).await.unwrap();
    }
    let shutdown = Shutdown::new();
    let listeners = vec![Listener::plain(socket)];
    let handler = Rc::new(activator.clone());
    let options = ServerOptions::default();
    let served = server::serve(listeners, handler, options, shutdown.clone());
    let served = tokio::task::spawn_local(served);
    eventually("the revision is known", || !activator.snapshot().is_empty()).await;
    Replica {
        activator,
        address,
        shutdown,
        served,
        _updates: updates,
    }
}

/// Replicas are replaced one after the other, as a Deployment does it: the new one first, then the
/// old one's health fails, clients go elsewhere, and it finishes what it has. No request fails.
#[test]
fn activators_are_restarted_under_load() {
    run(async {
        let pod = Pod::start().await;
        let healthy = Rc::new(RefCell::new(Vec::<(SocketAddr, Activator)>::new()));
        let mut replicas = vec![replica(pod.address).await, replica(pod.address).await];
        for it in &replicas {
            healthy
                .borrow_mut()
                .push((it.address, it.activator.clone()));
        }
        let (all, turn) = (Rc::clone(&healthy), Cell::new(0));
        let load = Load::start(8, move || {
            let all = all.borrow();
            let mut healthy = all.iter().filter(|(_, it)| it.health().is_ok()).cycle();
            turn.set(turn.get() + 1);
            healthy.nth(turn.get()).expect("one is always healthy").0
        });
        for _ in 0..4 {
            load.goes_on(20).await;
            let new = replica(pod.address).await;
            healthy
                .borrow_mut()
                .push((new.address, new.activator.clone()));
            replicas.push(new);
            let old = replicas.remove(0);
            old.activator.drain();
            // What load balancers need to hear of it; whoever is late is served all the same.
            load.goes_on(20).await;
            assert_eq!(send(old.address, request("/")).await.status, StatusCode::OK);
            old.shutdown.drain();
            old.served.await.expect("it finishes what it has");
            healthy
                .borrow_mut()
                .retain(|(address, _)| *address != old.address);
        }
        load.goes_on(20).await;
        load.end().await;
    });
}

/// The autoscaler is cut off: what is known stays good, new pods are found, and a revision that is
/// cold is served as soon as somebody starts it.
#[test]
fn the_data_path_goes_on_without_an_autoscaler() {
    run(async {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = Options::new("activator-0", "10.1.0.1");
        options.autoscaler_url = Some(format!("ws://{}", nobody.local_addr().unwrap()));
        let world = World::start_with(options).await;
        world.revision(revision(1)).await;
        let address = world.address;
        let (waiting, _) = background(send(address, request("/")));
        eventually("it waits", || world.snapshot().queued == 1).await;
        let pods = [Pod::start().await, Pod::start().await];
        world.list_and_wait(&[pods[0].address]).await;
        assert_eq!(waiting.await.unwrap().status, 200);
        let load = Load::start(4, move || address);
        load.goes_on(20).await;
        let both = [pods[0].address, pods[1].address];
        world.list_and_wait(&both).await;
        load.goes_on(20).await;
        world.list(&both[1..]).await;
        load.goes_on(20).await;
        load.end().await;
        assert!(world.activator.health().is_err());
        assert!(pods.iter().all(|pod| pod.state.most_running.get() == 1));
    });
}
