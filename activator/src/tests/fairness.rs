//! One revision's burst beside another revision's request.

use super::pods::Pod;
use super::*;

/// Requests that wait for the busy revision, by connections and streams of each.
const BURST: (usize, usize) = (20, 200);

/// While thousands of requests are let through to one revision, those of others go on: they are let
/// through a few at a time, and each lets the next one go.
#[test]
fn a_burst_lets_others_through() {
    run(async {
        let world = World::with(revision(0)).await;
        let other = RevisionId::new("default", "other-00001");
        world.revision(Revision::new(other.clone())).await;
        let mut burst = Vec::new();
        for _ in 0..BURST.0 {
            let sender = http2(world.address).await;
            for _ in 0..BURST.1 {
                let request = to_revision("http://hello.example.com/");
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                let mut sender = sender.clone();
                let asked = async move { sender.send_request(request).await.unwrap().status() };
                burst.push(background(asked).0);
            }
        }
        let waiting = BURST.0 * BURST.1;
        eventually("all wait", || world.snapshot().queued == waiting).await;
        let request = Request::get("/")
            .header("host", "other.example.com")
            .header("knative-serving-namespace", "default")
            .header("knative-serving-revision", "other-00001");
        let request = request.body(Empty::new()).unwrap();
        let (asked, _) = background(send(world.address, request));
        eventually("it waits", || world.activator.queued() == waiting + 1).await;
        let pods = [Pod::start().await, Pod::start().await];
        for (of, pod) in [id(), other].into_iter().zip(&pods) {
            let backends = Backends {
                ready: vec![pod.address],
                ..Backends::default()
            };
            world.update(Update::Backends(of, backends)).await;
        }
        assert_eq!(asked.await.unwrap().status, 200);
        let left = world.snapshot().queued;
        assert!(left > 0, "the whole burst went first");
        for one in burst {
            assert_eq!(one.await.unwrap(), 200);
        }
    });
}
