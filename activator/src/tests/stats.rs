//! What the autoscaler hears, and what it means for health.

use futures_util::StreamExt;
use serving::stat::WireStatMessages;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::pods::Pod;
use super::*;

struct Autoscaler {
    socket: TcpListener,
}

type Stream = WebSocketStream<TcpStream>;

impl Autoscaler {
    async fn start() -> (Self, Options) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = Options::new("activator-0", "10.1.0.1");
        options.autoscaler_url = Some(format!("ws://{}", socket.local_addr().unwrap()));
        (Self { socket }, options)
    }

    async fn accept(&self) -> Stream {
        let (stream, _) = self.socket.accept().await.unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    }
}

/// The next frame's messages as (name, average, count).
async fn next(stream: &mut Stream) -> Vec<(String, f64, f64)> {
    loop {
        if let Message::Binary(frame) = stream.next().await.unwrap().unwrap() {
            let messages = WireStatMessages::from_frame(&frame).unwrap().messages;
            return messages
                .into_iter()
                .map(|message| {
                    let stat = message.stat.unwrap();
                    assert_eq!(stat.pod_name, "activator-0");
                    assert_eq!(message.namespace, "default");
                    let (average, count) = (stat.average_concurrent_requests, stat.request_count);
                    (message.name, average, count)
                })
                .collect();
        }
    }
}

/// The first request pokes at once; reports follow each second, a zero at the end.
#[test]
fn pokes_and_reports() {
    run(async {
        let (autoscaler, options) = Autoscaler::start().await;
        let world = World::start_with(options).await;
        world.revision(revision(0)).await;
        let mut stream = autoscaler.accept().await;
        eventually("connected", || world.activator.health().is_ok()).await;
        let (waiting, _) = background(send(world.address, request("/")));
        let name = "hello-00001".to_owned();
        assert_eq!(next(&mut stream).await, [(name.clone(), 1.0, 1.0)]);
        // The first report is discounted by what the poke said.
        let first = next(&mut stream).await;
        assert_eq!(first, [(name.clone(), 0.0, 0.0)]);
        let second = next(&mut stream).await;
        assert_eq!(second.len(), 1);
        assert!((second[0].1 - 1.0).abs() < 1e-6, "{second:?}");
        assert_eq!(second[0].2, 0.0);
        let pod = Pod::start().await;
        world.list(&[pod.address]).await;
        assert_eq!(waiting.await.unwrap().status, 200);
        // The report of its end, and a last zero.
        assert_eq!(next(&mut stream).await.len(), 1);
        assert_eq!(next(&mut stream).await, [(name.clone(), 0.0, 0.0)]);
        let scrape = world.scrape();
        assert!(scrape.contains("kn_activator_stats_conn_reachable{peer=\"autoscaler\"} 1"));
        assert!(
            scrape.contains("kn_revision_request_concurrency"),
            "{scrape}"
        );
    });
}

/// Edge case 39: without the autoscaler health fails, while requests are served.
#[test]
fn edge_case_39_health_follows_the_connection() {
    run(async {
        let (autoscaler, options) = Autoscaler::start().await;
        let world = World::start_with(options).await;
        world.revision(revision(0)).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        let why = "connection has not yet been established";
        assert_eq!(world.activator.health(), Err(why));
        let stream = autoscaler.accept().await;
        eventually("healthy", || world.activator.health().is_ok()).await;
        drop(stream);
        drop(autoscaler);
        eventually("unhealthy", || world.activator.health() == Err(why)).await;
        assert_eq!(world.get("/").await.body, "hello");
        let request = Request::get("/").header("host", "a");
        let request = request.header("user-agent", "kube-probe/1.34");
        let answer = world.send(request.body(Empty::new()).unwrap()).await;
        assert_eq!(answer.body, format!("{why}\n"));
        assert!(
            world
                .scrape()
                .contains("kn_activator_stats_conn_errors_total{peer=\"autoscaler\"} 1")
        );
    });
}

/// Edge case 42: a revision that is deleted while a request counts is still reported, to its zero.
#[test]
fn edge_case_42_deleted_revisions_are_reported() {
    run(async {
        let (autoscaler, options) = Autoscaler::start().await;
        let world = World::start_with(options).await;
        world.revision(revision(0)).await;
        let mut stream = autoscaler.accept().await;
        eventually("connected", || world.activator.health().is_ok()).await;
        let (waiting, _) = background(send(world.address, request("/")));
        assert_eq!(next(&mut stream).await[0].1, 1.0);
        world.update(Update::RevisionDeleted(id())).await;
        assert_eq!(waiting.await.unwrap().status, 500);
        let name = "hello-00001".to_owned();
        loop {
            let messages = next(&mut stream).await;
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].0, name);
            if messages[0].1 == 0.0 {
                break;
            }
        }
        assert!(!world.scrape().contains("hello-00001"));
    });
}
