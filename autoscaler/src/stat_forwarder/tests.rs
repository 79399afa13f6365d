use std::time::Duration;

use futures_util::StreamExt as _;
use prost::Message as _;
use serving::stat::{Stat, WireStatMessage, WireStatMessages};
use tokio::net::TcpListener;

use super::*;

const KEYS: [&str; 4] = ["hello-00001", "hello-00002", "hello-00003", "hello-00004"];

fn addressing() -> Addressing {
    Addressing {
        own_ip: "10.0.0.1".to_owned(),
        namespace: "knative-serving".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        port: 8080,
    }
}

fn frame(names: &[&str], timestamp: i64) -> Bytes {
    let message = |name: &&str| WireStatMessage {
        namespace: "default".to_owned(),
        name: (*name).to_owned(),
        stat: Some(Stat {
            average_concurrent_requests: 3.0,
            timestamp,
            ..Stat::default()
        }),
    };
    let messages = names.iter().map(message).collect();
    WireStatMessages { messages }.encode_to_vec().into()
}

fn names(frame: &[u8]) -> Vec<String> {
    let messages = WireStatMessages::from_frame(frame).unwrap().messages;
    messages.into_iter().map(|message| message.name).collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("within ten seconds")
}

struct Running {
    assignments: Assignments,
    frames: mpsc::Sender<Bytes>,
    local: mpsc::Receiver<Bytes>,
    _stop: tokio_util::sync::DropGuard,
}

fn start(buckets: u32) -> Running {
    let assignments = Assignments::new(BucketSet::autoscaler(buckets));
    let (local_sender, local) = mpsc::channel(16);
    let (frames, receiver) = mpsc::channel(16);
    let shutdown = CancellationToken::new();
    let forwarder = StatForwarder::new(assignments.clone(), local_sender);
    tokio::spawn(forwarder.run(receiver, shutdown.clone()));
    Running {
        assignments,
        frames,
        local,
        _stop: shutdown.drop_guard(),
    }
}

/// Covers upstream's `TestForwarderReconcile` family: what a Lease's holder means.
#[test]
fn a_lease_assigns_its_bucket() {
    let assignments = Assignments::new(BucketSet::autoscaler(2));
    let bucket = "autoscaler-bucket-01-of-02";
    let assign = |holder: &str| assignments.assign_to_holder(bucket, holder, &addressing());
    assert!(!assign("no-underscore"));
    assert!(assign("autoscaler-a_10.0.0.1"));
    assert!(assignments.is_local(bucket));
    assert!(!assign("autoscaler-a_10.0.0.1"), "unchanged");
    assert!(!assign(""), "released: the old holder goes on");
    assert!(assignments.is_local(bucket));
    assert!(assign("autoscaler-b_fd00::2"));
    let expected = Assignment::Remote(vec![
        "ws://[fd00::2]:8080".to_owned(),
        "ws://autoscaler-bucket-01-of-02.knative-serving.svc.cluster.local:8080".to_owned(),
    ]);
    assert_eq!(*assignments.buckets[1].borrow(), expected);
    assert!(!assignments.assign_to_holder("other", "a_10.0.0.1", &addressing()));
}

#[tokio::test]
async fn with_one_bucket_of_its_own_frames_pass_as_they_are() {
    let mut running = start(1);
    let bucket = running.assignments.names()[0].clone();
    running.assignments.assign(&bucket, Assignment::Local);
    let sent = frame(&KEYS, 0);
    running.frames.send(sent.clone()).await.unwrap();
    assert_eq!(soon(running.local.recv()).await.unwrap(), sent);
}

#[tokio::test]
async fn stats_of_others_are_sent_on_with_the_time_of_their_arrival() {
    let mut running = start(2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let [mine, theirs] = [0, 1].map(|at| running.assignments.names()[at].clone());
    running.assignments.assign(&mine, Assignment::Local);
    // The first address is dead.
    let urls = vec!["ws://127.0.0.1:1".to_owned(), url];
    running
        .assignments
        .assign(&theirs, Assignment::Remote(urls));

    let set = BucketSet::autoscaler(2);
    let (here, there): (Vec<_>, Vec<_>) = KEYS
        .iter()
        .partition(|name| set.owner(&format!("default/{name}")) == mine);
    assert!(!here.is_empty() && !there.is_empty(), "{here:?} {there:?}");

    running.frames.send(frame(&KEYS, 0)).await.unwrap();
    assert_eq!(names(&soon(running.local.recv()).await.unwrap()), here);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut peer = tokio_tungstenite::accept_async(stream).await.unwrap();
    let mut received = Vec::new();
    while received.len() < there.len() {
        let bytes = soon(peer.next()).await.unwrap().unwrap().into_data();
        for message in WireStatMessages::from_frame(&bytes).unwrap().messages {
            let stat = message.stat.unwrap();
            assert_eq!(stat.average_concurrent_requests, 3.0);
            assert!(stat.timestamp > 1_500_000_000, "{stat:?}");
            received.push(message.name);
        }
    }
    assert_eq!(received, there);

    running.frames.send(frame(&there, 77)).await.unwrap();
    let bytes = soon(peer.next()).await.unwrap().unwrap().into_data();
    let messages = WireStatMessages::from_frame(&bytes).unwrap().messages;
    assert_eq!(messages[0].stat.as_ref().unwrap().timestamp, 77);
}

#[tokio::test]
async fn what_waits_for_an_owner_is_recorded_here_when_it_becomes_ours() {
    let mut running = start(1);
    running.frames.send(frame(&KEYS[..1], 5)).await.unwrap();
    running.frames.send(frame(&KEYS[1..2], 5)).await.unwrap();
    let bucket = running.assignments.names()[0].clone();
    // Nobody is there yet, then somebody who cannot be reached.
    let dead = Assignment::Remote(vec!["ws://127.0.0.1:1".to_owned()]);
    running.assignments.assign(&bucket, dead);
    running.assignments.assign(&bucket, Assignment::Local);
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(names(&soon(running.local.recv()).await.unwrap()));
    }
    assert_eq!(received, KEYS[..2]);
}

#[tokio::test(start_paused = true)]
async fn no_more_waits_than_the_limit_and_no_longer() {
    let mut running = start(1);
    let many: Vec<_> = std::iter::repeat_n(KEYS[0], 100).collect();
    for _ in 0..30 {
        running.frames.send(frame(&many, 5)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bucket = running.assignments.names()[0].clone();
    running.assignments.assign(&bucket, Assignment::Local);
    let mut received = 0;
    while let Ok(Some(bytes)) =
        tokio::time::timeout(Duration::from_secs(1), running.local.recv()).await
    {
        received += names(&bytes).len();
    }
    // One queue full waits in the channel, and one in the task.
    assert!(
        (MAX_WAITING..=2 * MAX_WAITING).contains(&received),
        "{received}"
    );

    running.assignments.assign(&bucket, Assignment::Unknown);
    running.frames.send(frame(&many, 5)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    running.assignments.assign(&bucket, Assignment::Local);
    let late = tokio::time::timeout(Duration::from_secs(5), running.local.recv()).await;
    assert!(late.is_err(), "{late:?}");
}
