//! Requests with a body over HTTP/2 that a full queue-proxy has not started.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use hyper::client::conn::http2::SendRequest;

use super::pods::Pod;
use super::*;

const LIMIT: usize = crate::options::MAX_REPLAYED_BODY;

/// A body that says nothing of its length; the last frame says that it is the last.
struct Frames(VecDeque<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A client of HTTP/2, a pod that is taken first, and another one.
struct Scene {
    _world: World,
    first: Pod,
    second: Pod,
    sender: SendRequest<Frames>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::with(revision(1)).await;
        let first = Pod::start().await;
        let second = Pod::on(TcpListener::bind("127.0.0.2:0").await.unwrap());
        world.list_and_wait(&[first.address, second.address]).await;
        let sender = http2(world.address).await;
        Self {
            _world: world,
            first,
            second,
            sender,
        }
    }

    /// Sends the frames of a body, with its length if that is `stated`, to be given back.
    async fn echo(&mut self, frames: Vec<Frame<Bytes>>, stated: bool) -> Response<Incoming> {
        let mut request = to_revision("http://hello.example.com/echo").method("POST");
        if stated {
            let data = frames.iter().filter_map(|it| it.data_ref());
            let length: usize = data.map(Bytes::len).sum();
            request = request.header("content-length", length);
        }
        let body = Frames(frames.into());
        let sent = self.sender.send_request(request.body(body).unwrap());
        sent.await.unwrap()
    }
}

fn data(length: usize) -> Frame<Bytes> {
    Frame::data(Bytes::from("x".repeat(length)))
}

/// A small body whose length is stated is sent to another pod.
#[test]
fn bodies_of_a_stated_length() {
    run(async {
        for sizes in [vec![LIMIT], vec![9, 9]] {
            let mut scene = Scene::new().await;
            scene.first.state.full.set(true);
            let answer = scene.echo(sizes.iter().copied().map(data).collect(), true);
            let answer = collect(answer.await).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.len(), sizes.iter().sum::<usize>());
            assert_eq!(scene.first.state.refused.get(), 1);
            assert_eq!(scene.second.state.served.get(), 1);
        }
    });
}

/// So is one without a stated length, as calls of gRPC are, if it has come as a whole; that is the
/// client's to decide, so it may take several attempts.
#[test]
fn bodies_that_have_come() {
    run(async {
        let mut scene = Scene::new().await;
        scene.first.state.full.set(true);
        for _ in 0..1_000 {
            let refused = scene.first.state.refused.get();
            let answer = scene.echo(vec![data(LIMIT / 2), data(LIMIT / 2)], false);
            let answer = collect(answer.await).await;
            if answer.status == 200 {
                assert_eq!(answer.body.len(), LIMIT);
                if scene.first.state.refused.get() > refused {
                    return;
                }
            }
        }
        panic!("none was sent again");
    });
}

/// What is larger is not kept, and the pod's refusal is the answer; nothing is lost on the way to a
/// pod that has room.
#[test]
fn larger_bodies_are_not_kept() {
    run(async {
        let mut scene = Scene::new().await;
        for stated in [true, false] {
            let frames = vec![data(LIMIT), data(1), data(LIMIT)];
            let answer = collect(scene.echo(frames, stated).await).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.len(), 2 * LIMIT + 1);
        }
        scene.first.state.full.set(true);
        scene.second.state.full.set(true);
        let refused = |scene: &Scene| {
            let pods = [&scene.first, &scene.second];
            pods.iter().map(|it| it.state.refused.get()).sum::<usize>()
        };
        for at in 0..60 {
            let before = refused(&scene);
            let answer = scene.echo(vec![data(LIMIT + 1)], at % 2 == 0).await;
            assert_eq!(answer.status(), 503);
            assert_eq!(refused(&scene), before + 1);
        }
    });
}
