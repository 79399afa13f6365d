//! Sessions stay where they are, over real sockets.

use std::collections::HashSet;

use http::HeaderName;

use super::pods::Pod;
use super::*;
use crate::affinity::Affinity;

async fn world(affinity: Affinity, count: usize) -> (World, Vec<Pod>) {
    limited(affinity, count, 0).await
}

async fn limited(affinity: Affinity, count: usize, limit: u32) -> (World, Vec<Pod>) {
    with_pods(sticky(affinity, limit), count).await
}

fn sticky(affinity: Affinity, limit: u32) -> Revision {
    Revision {
        affinity: Some(affinity),
        ..revision(limit)
    }
}

async fn with_pods(revision: Revision, count: usize) -> (World, Vec<Pod>) {
    let world = World::with(revision).await;
    let mut pods = Vec::new();
    for _ in 0..count {
        pods.push(Pod::start().await);
    }
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
    world.list_and_wait(&addresses).await;
    (world, pods)
}

/// Which pod answered, by the requests that each has served.
fn served_by(pods: &[Pod], before: &[usize]) -> usize {
    let now = pods.iter().map(|pod| pod.state.served.get());
    now.zip(before)
        .position(|(now, before)| now > *before)
        .expect("a pod answered")
}

async fn ask(world: &World, pods: &[Pod], header: (&str, &str)) -> (usize, Answer) {
    let before: Vec<_> = pods.iter().map(|pod| pod.state.served.get()).collect();
    let request = to_revision("/").header(header.0, header.1);
    let answer = world.send(request.body(Empty::new()).unwrap()).await;
    assert_eq!(answer.status, 200);
    (served_by(pods, &before), answer)
}

/// A request that its session's pod does not start goes where the session's requests go meanwhile.
#[test]
fn redispatched_requests_stay_with_their_session() {
    run(async {
        let affinity = Affinity::Header(HeaderName::from_static("x-user"));
        let (world, pods) = limited(affinity, 5, 4).await;
        let user = ("x-user", "1");
        let home = ask(&world, &pods, user).await.0;
        let full = &pods[home].state;
        full.full.set(true);
        let mut at = HashSet::new();
        while full.refused.get() < 6 {
            at.insert(ask(&world, &pods, user).await.0);
        }
        assert_eq!(at.len(), 1, "{at:?}");
    });
}

/// A user stays at a pod; when that goes it is another one, and everybody else stays.
#[test]
fn by_header() {
    run(async {
        let affinity = Affinity::Header(HeaderName::from_static("x-user"));
        let (world, pods) = world(affinity, 3).await;
        let mut at = Vec::new();
        for user in 0..12 {
            let user = user.to_string();
            let (first, _) = ask(&world, &pods, ("x-user", &user)).await;
            for _ in 0..3 {
                assert_eq!(ask(&world, &pods, ("x-user", &user)).await.0, first);
            }
            at.push(first);
        }
        assert!(HashSet::<_>::from_iter(&at).len() > 1, "{at:?}");
        let gone = at[0];
        let left: Vec<_> = pods
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != gone)
            .map(|(_, pod)| pod.address)
            .collect();
        world.list_and_wait(&left).await;
        for (user, before) in at.iter().enumerate() {
            let (now, _) = ask(&world, &pods, ("x-user", &user.to_string())).await;
            if *before == gone {
                assert_ne!(now, gone);
            } else {
                assert_eq!(now, *before);
            }
        }
    });
}

/// The first response names the session, and later ones do not; a forged name counts for nothing.
#[test]
fn by_cookie() {
    run(async {
        let (world, pods) = world(Affinity::Cookie, 3).await;
        let (first, answer) = ask(&world, &pods, ("x", "y")).await;
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        let pair = cookie.split(';').next().unwrap();
        for _ in 0..5 {
            let (now, answer) = ask(&world, &pods, ("cookie", pair)).await;
            assert_eq!(now, first);
            assert!(!answer.headers.contains_key("set-cookie"));
        }
        let (_, forged) = ask(&world, &pods, ("cookie", "pilotlight-session=1.2")).await;
        assert!(forged.headers.contains_key("set-cookie"));
    });
}

/// Two activators with the same secret in front of the same pods.
async fn two(affinity: Affinity, limit: u32) -> ([World; 2], Vec<Pod>) {
    let mut pods = Vec::new();
    for _ in 0..4 {
        pods.push(Pod::start().await);
    }
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
    let start = async |name: &str| {
        let mut options = Options::new(name, "10.1.0.1");
        options.affinity_secret = crate::options::Secret::new(b"shared".as_slice());
        let world = World::start_with(options).await;
        world.revision(sticky(affinity.clone(), limit)).await;
        world.list_and_wait(&addresses).await;
        world
    };
    (
        [start("activator-0").await, start("activator-1").await],
        pods,
    )
}

/// All activators with the same secret send a session to the same pod.
#[test]
fn activators_agree_on_sessions() {
    run(async {
        let header = Affinity::Header(HeaderName::from_static("x-user"));
        let ([one, other], pods) = two(header, 0).await;
        let mut at = HashSet::new();
        for user in 0..12 {
            let user = user.to_string();
            let first = ask(&one, &pods, ("x-user", &user)).await.0;
            assert_eq!(ask(&other, &pods, ("x-user", &user)).await.0, first);
            at.insert(first);
        }
        assert!(at.len() > 1);

        let ([one, other], pods) = two(Affinity::Cookie, 0).await;
        for _ in 0..6 {
            let (first, answer) = ask(&one, &pods, ("x", "y")).await;
            let cookie = answer.headers["set-cookie"].to_str().unwrap();
            let pair = cookie.split(';').next().unwrap();
            let (now, answer) = ask(&other, &pods, ("cookie", pair)).await;
            assert_eq!(now, first);
            assert!(!answer.headers.contains_key("set-cookie"));
        }
    });
}

fn served(pods: &[Pod]) -> usize {
    pods.iter().map(|pod| pod.state.served.get()).sum()
}

/// An app's session is found by an activator that did not see it begin, once and for all: a pod that
/// does not have it says so, and the next is asked.
#[test]
fn sessions_of_apps_are_found() {
    run(async {
        for limit in [0, 10] {
            let ([one, other], pods) = two(Affinity::Mcp, limit).await;
            let mut asked = 0;
            for method in ["GET", "POST", "DELETE", "POST"] {
                let begun = one.get("/initialize").await;
                let session = begun.headers["mcp-session-id"].clone();
                let ask = || {
                    let request = to_revision("/mcp").method(method);
                    let request = request.header("mcp-session-id", session.clone());
                    let body = match method {
                        "POST" => "{}",
                        _ => "",
                    };
                    request.body(http_body_util::Full::from(body)).unwrap()
                };
                let before = served(&pods);
                let found = respond(other.address, ask()).await;
                assert_eq!(found.status(), 200, "{method}, limit {limit}");
                asked += served(&pods) - before;
                for world in [&one, &other] {
                    let before = served(&pods);
                    assert_eq!(respond(world.address, ask()).await.status(), 200);
                    assert_eq!(served(&pods), before + 1, "it is known");
                }
            }
            assert!(asked > 4, "all were where the id says");
        }
    });
}

/// A session at a pod, and requests of it that have taken all room there.
struct Busy {
    world: World,
    pods: Vec<Pod>,
    home: usize,
    session: String,
    held: Vec<tokio::task::JoinHandle<Answer>>,
}

impl Busy {
    async fn new(limit: u32, requests: usize) -> Self {
        Self::of(sticky(Affinity::Mcp, limit), requests).await
    }

    async fn of(revision: Revision, requests: usize) -> Self {
        let (world, pods) = with_pods(revision, 4).await;
        let before: Vec<_> = pods.iter().map(|pod| pod.state.served.get()).collect();
        let begun = world.get("/initialize").await;
        let home = served_by(&pods, &before);
        let session = begun.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let mut busy = Self {
            world,
            pods,
            home,
            session,
            held: Vec::new(),
        };
        for count in 1..=requests {
            busy.held.push(busy.ask("/held"));
            let running = || busy.pods.iter().map(Pod::running).sum::<usize>();
            eventually("it runs", || running() == count).await;
        }
        busy
    }

    fn ask(&self, path: &str) -> tokio::task::JoinHandle<Answer> {
        let request = to_revision(path).header("mcp-session-id", &self.session);
        let request = request.body(Empty::new()).unwrap();
        background(send(self.world.address, request)).0
    }

    fn home(&self) -> &Pod {
        &self.pods[self.home]
    }

    /// Requests that pods without the session have been asked.
    fn elsewhere(&self) -> usize {
        served(&self.pods) - self.home().state.served.get()
    }

    async fn release(self) {
        for pod in &self.pods {
            pod.release(self.held.len());
        }
        for held in self.held {
            assert_eq!(held.await.unwrap().status, 200);
        }
    }
}

/// The pod of a session has no room: another one is asked, as ever, and after that 404 nobody else,
/// but the one that is known to have the session is waited for. Nobody waits behind.
#[test]
fn a_busy_pod_is_waited_for_when_another_has_not_the_session() {
    run(async {
        let busy = Busy::new(1, 1).await;
        assert_eq!(busy.home().running(), 1);
        let first = busy.ask("/mcp");
        eventually("it waits", || busy.world.snapshot().queued == 1).await;
        let second = busy.ask("/mcp");
        eventually("both wait", || busy.world.snapshot().queued == 2).await;
        assert_eq!(busy.elsewhere(), 2);
        assert_eq!(busy.world.get("/").await.status, 200);
        assert_eq!(busy.elsewhere(), 3);
        busy.home().release(1);
        for waiting in [first, second] {
            assert_eq!(waiting.await.unwrap().status, 200);
        }
        assert_eq!(busy.elsewhere(), 3);
        busy.release().await;
    });
}

/// Without a limit a pod is never full, but a session may have more than its share of it.
#[test]
fn a_pod_with_enough_to_do_is_asked_when_another_has_not_the_session() {
    run(async {
        let busy = Busy::new(0, 40).await;
        assert!(busy.home().running() < 40, "some went elsewhere");
        let elsewhere = busy.elsewhere();
        assert_eq!(busy.ask("/mcp").await.unwrap().status, 200);
        assert_eq!(busy.elsewhere(), elsewhere + 1);
        busy.release().await;
    });
}

/// A pod that is full of others' requests is waited for in the same way, and no other is asked twice.
#[test]
fn a_pod_that_says_it_is_full_is_waited_for_when_another_has_not_the_session() {
    run(async {
        let busy = Busy::new(4, 0).await;
        busy.home().state.full.set(true);
        let waiting = busy.ask("/mcp");
        eventually("it is refused again", || {
            busy.home().state.refused.get() >= 3
        })
        .await;
        busy.home().state.full.set(false);
        assert_eq!(waiting.await.unwrap().status, 200);
        assert_eq!(busy.elsewhere(), 1);
    });
}

/// It is waited for until it is gone: the session is looked for at the others then.
#[test]
fn a_busy_pod_that_goes_is_not_waited_for() {
    run(async {
        let busy = Busy::new(1, 1).await;
        let waiting = busy.ask("/mcp");
        eventually("it waits", || busy.world.snapshot().queued == 1).await;
        let others = busy.pods.iter().enumerate();
        let others = others.filter(|(at, _)| *at != busy.home);
        let left: Vec<_> = others.map(|(_, pod)| pod.address).collect();
        busy.world.list(&left).await;
        assert_eq!(waiting.await.unwrap().status, 404);
        assert!(busy.elsewhere() >= 3, "{}", busy.elsewhere());
        busy.release().await;
    });
}

/// A wait for the pod of a session has the limits of any other.
#[test]
fn a_busy_pod_is_not_waited_for_without_end() {
    run(async {
        let max_wait = Some(Duration::from_millis(50));
        let revision = Revision {
            max_wait,
            ..sticky(Affinity::Mcp, 1)
        };
        let busy = Busy::of(revision, 1).await;
        let answer = busy.ask("/mcp").await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["pilotlight-reason"], "waited too long");
        assert_eq!(busy.elsewhere(), 1);
        assert_eq!(busy.world.snapshot().queued, 0);
        busy.release().await;
    });
}

/// A session that no pod has is looked for at each pod once, if at all: not with a body that is not
/// kept, nor when too many are looked for.
#[test]
fn sessions_that_nobody_has_are_404() {
    run(async {
        let (world, pods) = limited(Affinity::Mcp, 4, 10).await;
        let ask = |body: usize| {
            let request = to_revision("/mcp").method("POST");
            let request = request.header("mcp-session-id", "made-up");
            let body = http_body_util::Full::from(vec![0; body]);
            respond(world.address, request.body(body).unwrap())
        };
        assert_eq!(ask(2).await.status(), 404);
        assert_eq!(served(&pods), 4);
        assert_eq!(
            ask(crate::options::MAX_REPLAYED_BODY + 1).await.status(),
            404
        );
        assert_eq!(served(&pods), 5);
        for _ in 0..40 {
            assert_eq!(ask(2).await.status(), 404);
        }
        let all = served(&pods) - 5;
        assert!(all < 40 * 4, "{all}");
    });
}

/// The app names the session; from then on its requests go where it is, until that pod is gone.
#[test]
fn by_mcp_session() {
    run(async {
        let (world, pods) = world(Affinity::Mcp, 3).await;
        for _ in 0..6 {
            let before: Vec<_> = pods.iter().map(|pod| pod.state.served.get()).collect();
            let answer = world.get("/initialize").await;
            let maker = served_by(&pods, &before);
            let session = answer.headers["mcp-session-id"].to_str().unwrap();
            for _ in 0..4 {
                let (now, _) = ask(&world, &pods, ("mcp-session-id", session)).await;
                assert_eq!(now, maker);
            }
        }
        let before: Vec<_> = pods.iter().map(|pod| pod.state.served.get()).collect();
        let answer = world.get("/initialize").await;
        let maker = served_by(&pods, &before);
        let session = answer.headers["mcp-session-id"].to_str().unwrap();
        let left: Vec<_> = pods
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != maker)
            .map(|(_, pod)| pod.address)
            .collect();
        world.list_and_wait(&left).await;
        // The app is to say what it makes of a session that it does not know.
        let (now, _) = ask(&world, &pods, ("mcp-session-id", session)).await;
        assert_ne!(now, maker);
    });
}

/// A session that is hotter than its pod may be uses the others, and no pod gets beyond its limit.
#[test]
fn a_hot_session_keeps_the_limit() {
    run(async {
        let affinity = Affinity::Header(HeaderName::from_static("x-user"));
        let (world, pods) = limited(affinity, 3, 2).await;
        let address = world.address;
        let mut requests = Vec::new();
        for _ in 0..8 {
            let request = to_revision("/held").header("x-user", "hot");
            let request = request.body(Empty::new()).unwrap();
            requests.push(background(async move { send(address, request).await }).0);
        }
        eventually("all pods are full", || {
            pods.iter().all(|pod| pod.running() == 2) && world.snapshot().queued == 2
        })
        .await;
        for pod in &pods {
            pod.release(8);
        }
        for request in requests {
            assert_eq!(request.await.unwrap().status, 200);
        }
        assert!(pods.iter().all(|pod| pod.state.most_running.get() == 2));
    });
}

/// The pod of a session dies without anybody saying so: the request goes to another one.
#[test]
fn a_dead_pod_is_no_error() {
    run(async {
        let affinity = Affinity::Header(HeaderName::from_static("x-user"));
        let (world, pods) = world(affinity, 2).await;
        let (at, _) = ask(&world, &pods, ("x-user", "a")).await;
        pods[at].die();
        for _ in 0..3 {
            let (now, _) = ask(&world, &pods, ("x-user", "a")).await;
            assert_ne!(now, at);
        }
    });
}
