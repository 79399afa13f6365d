//! The concurrency limit under any mix of protocols and of clients that stay or leave.

use std::cell::Cell;
use std::rc::Rc;

use fastrand::Rng;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use queue_proxy::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, yield_now};

use crate::app::{App, AppBody, read_head, text};
use crate::client::{connect, get, h2c, h2c_get};
use crate::instance::{Sidecar, eventually, run};

/// Runs per limit; a failure names its seed.
const RUNS: u64 = 700;

/// Requests at once in one run: fewer than have a place or may wait for one.
const MOST_AT_ONCE: usize = 9;

/// Requests that may wait where the queue is small, and so many at once that some find no room.
const SMALL_QUEUE: usize = 2;
const CROWD: usize = 14;
const CROWDED_RUNS: u64 = 100;

/// Kinds of clients: two stay over HTTP/1 and HTTP/2, one upgrades, two leave.
const KINDS: u8 = 5;
const KINDS_THAT_STAY: usize = 3;

/// Requests of clients that stay, as the app has them at once. Those of clients that leave hold a
/// place as well, but the app learns late that they are over.
#[derive(Debug, Default)]
struct Busy {
    now: Cell<usize>,
    most: Cell<usize>,
    all: Cell<usize>,
}

struct Place(Rc<Busy>);

impl Place {
    fn take(busy: &Rc<Busy>) -> Self {
        busy.now.set(busy.now.get() + 1);
        busy.most.set(busy.most.get().max(busy.now.get()));
        busy.all.set(busy.all.get() + 1);
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

/// What became of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// There was no room in the queue.
    Refused,
    Left,
}

/// One client of a kind of its own.
async fn client(
    address: std::net::SocketAddr,
    mut http2: hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>>,
    kind: u8,
    turns: usize,
) -> Outcome {
    match kind {
        0 => {
            let answer = get(address, "/stays", "").await;
            outcome(answer.status, &answer.body)
        }
        1 => {
            let answer = h2c_get(&mut http2, "/stays").await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body");
            outcome(status, &String::from_utf8_lossy(&body.to_bytes()))
        }
        2 => upgrading(address, turns).await,
        3 => {
            let mut stream = connect(address).await;
            let request = "GET /leaves HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("open");
            pause(turns).await;
            Outcome::Left
        }
        _ => {
            tokio::select! {
                biased;
                _ = h2c_get(&mut http2, "/leaves") => {}
                () = pause(turns) => {}
            }
            Outcome::Left
        }
    }
}

fn outcome(status: u16, body: &str) -> Outcome {
    match (status, body) {
        (200, "ok") => Outcome::Served,
        (503, "pending request queue full\n") => Outcome::Refused,
        other => panic!("{other:?}"),
    }
}

async fn upgrading(address: std::net::SocketAddr, turns: usize) -> Outcome {
    let mut stream = connect(address).await;
    let request = "GET /stays HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("open");
    let head = read_head(&mut stream).await;
    if head.starts_with("HTTP/1.1 101 ") {
        pause(turns).await;
        return Outcome::Served;
    }
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    Outcome::Refused
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
                    let (kind, turns) = (random.u8(0..KINDS), random.usize(0..40));
                    clients.spawn_local(client(sidecar.data, http2.clone(), kind, turns));
                }
                while let Some(done) = clients.join_next().await {
                    let ended = matches!(done, Ok(Outcome::Served | Outcome::Left));
                    assert!(ended, "limit {limit}, seed {seed}: {done:?}");
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

/// The most that ever executed and waited, as seen between any two steps of anybody.
#[derive(Debug, Default)]
struct Load {
    executing: Cell<u64>,
    waiting: Cell<u64>,
}

impl Load {
    async fn watch(self: Rc<Self>, handle: Handle) {
        loop {
            let (executing, waiting) = handle.load();
            self.executing.set(self.executing.get().max(executing));
            self.waiting.set(self.waiting.get().max(waiting));
            yield_now().await;
        }
    }
}

#[test]
fn a_crowd_that_overflows_the_queue_exceeds_nothing_and_loses_nobody() {
    for limit in 1..=3 {
        run(async {
            let busy = Rc::new(Busy::default());
            let app = app(Rc::clone(&busy)).await;
            let (concurrency, depth) = (limit.to_string(), SMALL_QUEUE.to_string());
            let changes = [
                ("CONTAINER_CONCURRENCY", concurrency.as_str()),
                ("PILOTLIGHT_QUEUE_DEPTH", depth.as_str()),
            ];
            let sidecar = Sidecar::start(app.address, &changes).await;
            let handle = &sidecar.handle;
            let load = Rc::new(Load::default());
            let watch = tokio::task::spawn_local(Rc::clone(&load).watch(handle.clone()));
            let mut http2 = h2c(sidecar.data).await;
            let (mut refusals, mut mixed) = ([0; KINDS_THAT_STAY], 0);
            for seed in 0..CROWDED_RUNS {
                let run = format!("limit {limit}, seed {seed}");
                let mut random = Rng::with_seed(seed);
                let mut clients = JoinSet::new();
                let crowd = random.usize(1..=CROWD);
                for _ in 0..crowd {
                    let (kind, turns) = (random.u8(0..KINDS), random.usize(0..40));
                    let client = client(sidecar.data, http2.clone(), kind, turns);
                    clients.spawn_local(async move { (usize::from(kind), client.await) });
                }
                let (mut served, mut refused, mut left) = (0, 0, 0);
                while let Some(done) = clients.join_next().await {
                    match done {
                        Ok((_, Outcome::Served)) => served += 1,
                        Ok((kind, Outcome::Refused)) => {
                            refused += 1;
                            refusals[kind] += 1;
                        }
                        Ok((_, Outcome::Left)) => left += 1,
                        Err(error) => panic!("{run}: {error:?}"),
                    }
                }
                mixed += u32::from(refused > 0 && left > 0);
                // Behind everybody who left without waiting until he was heard.
                get(sidecar.data, "/leaves", "").await;
                h2c_get(&mut http2, "/leaves").await.expect("an answer");
                let most = (load.executing.get(), load.waiting.get());
                assert!(most.0 <= limit as u64, "{run}: {most:?}");
                assert!(most.1 <= SMALL_QUEUE as u64, "{run}: {most:?}");
                // Whoever comes first finds a place or room, whatever becomes of him.
                let too_many = crowd.saturating_sub(limit + SMALL_QUEUE);
                assert!(refused <= too_many, "{run}: {refused} of {crowd}");
                let what = format!("{run}: everything was given back");
                eventually(&what, || {
                    handle.in_flight() == 0 && handle.load() == (0, 0) && busy.now.get() == 0
                })
                .await;
                assert!(busy.most.get() <= limit, "{run}: {busy:?}");
                // Whoever was refused has not been there, and everybody else once.
                assert_eq!(busy.all.take(), served, "{run}");
            }
            watch.abort();
            let most = (load.executing.get(), load.waiting.get());
            assert_eq!(
                most,
                (limit as u64, SMALL_QUEUE as u64),
                "both were reached"
            );
            assert!(refusals.iter().all(|refused| *refused > 0), "{refusals:?}");
            assert!(mixed > 0, "clients left while others were refused");
        });
    }
}
