//! Services that are only names.

use std::cell::RefCell;

use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Semaphore;

use super::super::*;
use super::cluster::{Cluster, rule, split};
use super::{ask, get};

/// What a test says of names.
struct Script {
    asked: RefCell<Vec<String>>,
    gate: Semaphore,
    finds: Cell<Option<SocketAddr>>,
}

async fn cluster() -> (Cluster, Rc<Script>) {
    let script = Rc::new(Script {
        asked: RefCell::default(),
        gate: Semaphore::new(0),
        finds: Cell::new(None),
    });
    let scripted = Rc::clone(&script);
    let mut cluster = Cluster::start_with_lookup(Box::new(move |name| {
        let script = Rc::clone(&scripted);
        async move {
            script.asked.borrow_mut().push(name);
            script.gate.acquire().await.unwrap().forget();
            Ok(script.finds.get().into_iter().collect())
        }
        .boxed_local()
    }))
    .await;
    cluster.external_name("named", "app.example", 80);
    let paths = json!([{"splits": [split("named", 100)]}]);
    cluster.serve(&json!({"rules": [rule(&["a"], &paths)]}));
    (cluster, script)
}

/// All requests wait for one look-up, and a name without addresses is not asked for at once again.
#[test]
fn a_name_is_looked_up_once() {
    run(async {
        let (cluster, script) = cluster().await;
        let entry = cluster.external;
        let asking = join_all((0..10).map(|_| ask(entry, get("a", "/"))));
        let (asking, _) = background(asking);
        eventually("it is looked up", || !script.asked.borrow().is_empty()).await;
        script.gate.add_permits(1);
        for answer in asking.await.unwrap() {
            assert_eq!(answer.status, 503);
            assert_eq!(answer.headers["pilotlight-reason"], "name not resolved");
        }
        assert_eq!(*script.asked.borrow(), ["app.example:80"]);
        // A second look-up would find the address, when there is one.
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        script.finds.set(Some(socket.local_addr().unwrap()));
        tokio::task::spawn_local(serve_h2c(socket, Rc::default()));
        script.gate.add_permits(1);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while ask(entry, get("a", "/")).await.status != 200 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(script.asked.borrow().len(), 2);
    });
}

/// Changes of other routes leave its connections as they are.
#[test]
fn connections_to_a_name_survive_changes() {
    run(async {
        let (mut cluster, script) = cluster().await;
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        script.finds.set(Some(socket.local_addr().unwrap()));
        script.gate.add_permits(10);
        let connections = Rc::default();
        tokio::task::spawn_local(serve_h2c(socket, Rc::clone(&connections)));
        for _ in 0..3 {
            assert_eq!(ask(cluster.external, get("a", "/")).await.status, 200);
            cluster.rebuild();
        }
        assert_eq!(connections.get(), 1);
    });
}

async fn serve_h2c(socket: TcpListener, connections: Rc<Cell<usize>>) {
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        connections.set(connections.get() + 1);
        let service = hyper::service::service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::task::spawn_local(served);
    }
}
