//! The threads of a process that serves with several.

use http::HeaderValue;
use serving::{header, names};
use tokio_util::sync::CancellationToken;

use super::pods::Pod;
use super::*;
use crate::ingress::front::{Gateway, Routing};
use crate::kubernetes::workers::Workers;

/// A further thread accepts from the first one's sockets, routes as the gateway says at any moment,
/// and ends with the process, after what it has under way. Here the first one accepts nothing.
#[test]
fn a_thread_serves_and_drains() {
    run(async {
        let world = World::with(revision(1)).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let gateway = Gateway::new(world.activator.clone(), 7);
        let [plain, local] = [(), ()].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, local_address] = [&plain, &local].map(|it| it.local_addr().unwrap());
        let [plain, local] = [plain, local].map(|socket| {
            socket.set_nonblocking(true).unwrap();
            vec![Listener::plain(TcpListener::from_std(socket).unwrap())]
        });
        let entries = [(gateway.front(true), local)];
        let stop = CancellationToken::new();
        let mut workers = Workers::default();
        let ended = (Duration::from_millis(50), stop.clone());
        workers
            .start(&world.activator, (&plain, &entries), None, ended)
            .unwrap();
        let asked = || {
            let asked = Request::get("/").header("host", "a");
            let asked = asked.header(names::INGRESS_HEADER, "default/a");
            asked.body(Empty::new()).unwrap()
        };
        assert_eq!(send(local_address, asked()).await.status, 404);
        gateway.replace(Routing {
            hashes: [("default/a".to_owned(), "c0ffee".to_owned())].into(),
            ..Routing::default()
        });
        let answer = send(local_address, asked()).await;
        assert_eq!(
            answer.headers.get(&header::HASH),
            Some(&HeaderValue::from_static("c0ffee"))
        );
        let (held, is_done) = background(send(address, request("/held")));
        eventually("it runs", || pod.running() == 1).await;
        stop.cancel();
        // The sockets are open for as long as this thread has them.
        drop((plain, entries));
        eventually("the thread stops accepting", || {
            std::net::TcpStream::connect(address).is_err()
        })
        .await;
        let (ended, has_ended) = background(workers.ended());
        assert!(!is_done.get() && !has_ended.get());
        pod.release(1);
        assert_eq!(held.await.unwrap().body, "released");
        ended.await.unwrap();
        assert!(world.activator.health().is_err());
    });
}
