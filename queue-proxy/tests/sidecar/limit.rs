//! The concurrency limit under any mix of protocols and of clients that stay or leave.

use std::cell::Cell;
use std::rc::Rc;

use fastrand::Rng;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, yield_now};

use crate::app::{App, AppBody, read_head, text};
use crate::client::{connect, get, h2c, h2c_get};
use crate::instance::{Sidecar, eventually, run};

/// Runs per limit; a failure names its seed.
const RUNS: u64 = 350;

/// Requests at once in one run: fewer than have a place or may wait for one.
const MOST_AT_ONCE: usize = 9;

/// Requests of clients that stay, as the app has them at once. Those of clients that leave hold a
/// place as well, but the app learns late that they are over.
#[derive(Debug, Default)]
struct Busy {
    now: Cell<usize>,
    most: Cell<usize>,
}

struct Place(Rc<Busy>);

impl Place {
    fn take(busy: &Rc<Busy>) -> Self {
        busy.now.set(busy.now.get() + 1);
        busy.most.set(busy.most.get().max(busy.now.get()));
        Self(Rc::clone(busy))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.set(self.0.now.get() - 1);
    }
}

/// Takes a random while; keeps a place until its answer is made or its tunnel has ended.
async fn app(busy: Rc<Busy>) -> App {
    App::start(move |mut request| {
        let stays = request.uri().path() == "/stays";
        let place = stays.then(|| Place::take(&busy));
        async move {
            for _ in 0..fastrand::usize(0..20) {
                yield_now().await;
            }
            if !request.headers().contains_key("upgrade") {
                return text("ok");
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::task::spawn_local(async move {
                if let Ok(upgraded) = upgrade.await {
                    let mut received = Vec::new();
                    // A client that leaves a tunnel may reset it.
                    let _ = TokioIo::new(upgraded).read_to_end(&mut received).await;
                    drop(place);
                }
            });
            switching()
        }
    })
    .await
}

fn switching() -> Response<AppBody> {
    let mut response = text("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", http::HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", http::HeaderValue::from_static("echo"));
    response
}

async fn pause(turns: usize) {
    for _ in 0..turns {
        yield_now().await;
    }
}

/// One client of a kind of its own.
async fn client(
    address: std::net::SocketAddr,
    mut http2: hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>>,
    kind: u8,
    turns: usize,
) {
    match kind {
        0 => assert_eq!(get(address, "/stays", "").await.status, 200),
        1 => {
            let answer = h2c_get(&mut http2, "/stays").await.expect("an answer");
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.expect("a body");
        }
        2 => {
            let mut stream = connect(address).await;
            let request =
                "GET /stays HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("open");
            let head = read_head(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            pause(turns).await;
        }
        3 => {
            let mut stream = connect(address).await;
            let request = "GET /leaves HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("open");
            pause(turns).await;
        }
        _ => {
            tokio::select! {
                biased;
                _ = h2c_get(&mut http2, "/leaves") => {}
                () = pause(turns) => {}
            }
        }
    }
}

#[test]
fn no_mix_of_clients_exceeds_the_limit_or_keeps_a_place() {
    for limit in 1..=3 {
        run(async {
            let busy = Rc::new(Busy::default());
            let app = app(Rc::clone(&busy)).await;
            let concurrency = limit.to_string();
            let changes = [("CONTAINER_CONCURRENCY", concurrency.as_str())];
            let sidecar = Sidecar::start(app.address, &changes).await;
            let http2 = h2c(sidecar.data).await;
            for seed in 0..RUNS {
                let mut random = Rng::with_seed(seed);
                let mut clients = JoinSet::new();
                for _ in 0..random.usize(1..=MOST_AT_ONCE) {
                    let (kind, turns) = (random.u8(0..5), random.usize(0..40));
                    clients.spawn_local(client(sidecar.data, http2.clone(), kind, turns));
                }
                while let Some(done) = clients.join_next().await {
                    assert!(done.is_ok(), "limit {limit}, seed {seed}: {done:?}");
                    let (executing, _) = sidecar.handle.load();
                    assert!(
                        executing <= limit,
                        "limit {limit}, seed {seed}: {executing}"
                    );
                }
                let handle = &sidecar.handle;
                let what = format!("limit {limit}, seed {seed}: everything was given back");
                eventually(&what, || {
                    handle.in_flight() == 0 && handle.load() == (0, 0) && busy.now.get() == 0
                })
                .await;
                let most = busy.most.get();
                assert!(most as u64 <= limit, "limit {limit}, seed {seed}: {most}");
            }
            assert_eq!(busy.most.get() as u64, limit, "the limit was reached");
        });
    }
}
