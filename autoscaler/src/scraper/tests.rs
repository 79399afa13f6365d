//! Rounds against real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a pod's stand-in does with every request.
#[derive(Clone)]
enum Pod {
    Reports(Stat),
    /// Another pod at each request, in turn.
    Takes(Vec<Stat>),
    Answers(&'static str),
    /// Accepts connections and never answers.
    Hangs,
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// The last request.
    heard: Arc<Mutex<String>>,
}

async fn serve(pod: Pod) -> Server {
    serve_on("127.0.0.1:0", pod).await
}

async fn serve_on(address: &str, pod: Pod) -> Server {
    let listener = TcpListener::bind(address).await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        connections: Arc::default(),
        requests: Arc::default(),
        heard: Arc::default(),
    };
    let (connections, requests) = (server.connections.clone(), server.requests.clone());
    let heard = server.heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(talk(stream, pod.clone(), requests.clone(), heard.clone()));
        }
    });
    server
}

async fn talk(
    mut stream: TcpStream,
    pod: Pod,
    requests: Arc<AtomicUsize>,
    heard: Arc<Mutex<String>>,
) {
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let request = String::from_utf8(std::mem::take(&mut buffer)).unwrap();
        assert!(
            request.starts_with("GET /metrics HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains("Accept: application/protobuf\r\n"),
            "{request}"
        );
        let number = requests.fetch_add(1, Ordering::SeqCst);
        heard.lock().clone_from(&request);
        let answer = match &pod {
            Pod::Reports(stat) => protobuf(&stat.encode_to_vec()),
            Pod::Takes(turns) => protobuf(&turns[number % turns.len()].encode_to_vec()),
            Pod::Answers(text) => text.as_bytes().to_vec(),
            Pod::Hangs => std::future::pending().await,
        };
        if stream.write_all(&answer).await.is_err() || request.contains("Connection: close") {
            return;
        }
    }
}

fn protobuf(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn stat(name: &str, concurrency: f64) -> Stat {
    Stat {
        pod_name: name.to_owned(),
        average_concurrent_requests: concurrency,
        request_count: 2.0 * concurrency,
        process_uptime: 100.0,
        ..Stat::default()
    }
}

fn round(addresses: &[SocketAddr]) -> Box<Round> {
    Box::new(Round {
        options: Options::default(),
        host: "127.0.0.1".into(),
        targets: PodTargets {
            old: addresses.iter().copied().collect(),
            young: Default::default(),
        },
        connections: ConnectionPool::default(),
        pods_addressable: true,
        stable_window: Duration::from_secs(60),
    })
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

const UNAVAILABLE: Pod =
    Pod::Answers("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");

#[tokio::test]
async fn one_pod_is_asked_again_on_the_same_connection() {
    let pod = serve(Pod::Reports(stat("a", 3.0))).await;
    let mut connections = ConnectionPool::default();
    for _ in 0..5 {
        let mut round = round(&[pod.address]);
        round.connections = connections;
        let report = round.run().await;
        let sample = report.result.unwrap().unwrap();
        assert_eq!(sample.net_concurrency(), 3.0);
        assert_eq!(sample.net_request_count(), 6.0);
        assert!(report.duration.is_some());
        connections = report.connections;
        assert_eq!(connections.len(), 1);
    }
    assert_eq!(pod.connections.load(Ordering::SeqCst), 1);
    connections.retain(|address| address != pod.address);
    assert!(connections.is_empty());
}

#[tokio::test]
async fn a_connection_that_the_pod_closed_is_replaced() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Says that it keeps the connection, and closes it all the same.
        let keeps = LAST.replace("Connection: close\r\n", "");
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            stream.write_all(keeps.as_bytes()).await.unwrap();
        }
    });
    let mut connections = ConnectionPool::default();
    for _ in 0..3 {
        let mut round = round(&[address]);
        round.connections = connections;
        let report = round.run().await;
        assert!(report.result.is_ok(), "{:?}", report.result);
        connections = report.connections;
    }
}

#[tokio::test]
async fn no_pods_is_neither_data_nor_an_error() {
    let report = round(&[]).run().await;
    assert!(matches!(report.result, Ok(None)));
    assert_eq!(report.duration, None);
}

/// Covers upstream's `TestScrapeReportStatWhenAllCallsSucceed` and the extrapolation of its sample.
#[tokio::test]
async fn a_sample_stands_for_all_pods() {
    let pod = serve(Pod::Reports(stat("a", 1.5))).await;
    for (population, asked) in [(2, 2), (3, 3), (10, 7), (100, 14)] {
        let before = pod.requests.load(Ordering::SeqCst);
        let addresses = vec![pod.address; population];
        let sample = round(&addresses).run().await.result.unwrap().unwrap();
        let expected = 1.5 * population as f64;
        assert!(
            (sample.net_concurrency() - expected).abs() < 1e-9,
            "{population}"
        );
        assert_eq!(
            pod.requests.load(Ordering::SeqCst) - before,
            asked,
            "{population}"
        );
    }
}

/// Covers upstream's `TestScrapeAllPodsYoungPods` family: young pods are a reserve.
#[tokio::test]
async fn young_pods_are_asked_only_when_old_ones_fail() {
    let young = serve(Pod::Reports(stat("young", 1.0))).await;
    let old = serve(Pod::Reports(stat("old", 1.0))).await;
    let mut enough = round(&[old.address; 9]);
    enough.targets.young.push(young.address);
    enough.run().await.result.unwrap();
    assert_eq!(young.requests.load(Ordering::SeqCst), 0);

    let mut failing = round(&[nobody().await, old.address]);
    failing.targets.young.push(young.address);
    failing.targets.young.push(young.address);
    failing.run().await.result.unwrap();
    assert_eq!(young.requests.load(Ordering::SeqCst), 2);
}

/// Beyond upstream: what half of a small revision says is better than nothing.
#[tokio::test]
async fn half_of_the_sample_is_enough() {
    let pod = serve(Pod::Reports(stat("a", 2.0))).await;
    let dead = nobody().await;
    let half = round(&[pod.address, pod.address, dead, dead]).run().await;
    assert_eq!(half.result.unwrap().unwrap().net_concurrency(), 8.0);
    let less = round(&[pod.address, dead, dead, dead]).run().await;
    assert!(matches!(less.result, Err(ScrapeError::PodsExhausted)));
}

#[tokio::test]
async fn a_pod_that_hangs_delays_nobody_for_long() {
    let pod = serve(Pod::Reports(stat("a", 2.0))).await;
    let hanging = serve(Pod::Hangs).await;
    let report = round(&[pod.address, pod.address, hanging.address])
        .run()
        .await;
    assert_eq!(report.result.unwrap().unwrap().net_concurrency(), 6.0);
    // Without a limit of its own it would last as long as the hanging request.
    assert!(report.duration.unwrap() < client::SCRAPE_TIMEOUT);
    let alone = round(&[hanging.address]).run().await;
    assert!(matches!(alone.result, Err(ScrapeError::PodsExhausted)));
    assert!(alone.duration.unwrap() >= client::SCRAPE_TIMEOUT);
}

/// Upstream recognises this only with a single pod, because it counts its own cancellations.
#[tokio::test]
async fn a_mesh_is_recognised_however_many_pods_there_are() {
    let pod = serve(UNAVAILABLE).await;
    for population in [1, 3, 20] {
        let mut round = round(&vec![pod.address; population]);
        round.options.mesh = MeshCompatibilityMode::Disabled;
        let error = round.run().await.result.unwrap_err();
        assert!(
            matches!(error, ScrapeError::DirectScrapingNotAvailable),
            "{population}: {error}"
        );
    }
    let dead = nobody().await;
    let error = round(&[pod.address, dead]).run().await.result.unwrap_err();
    assert!(matches!(error, ScrapeError::PodsExhausted), "{error}");
}

#[tokio::test]
async fn behind_a_mesh_the_service_is_asked_from_then_on() {
    let pod = serve(UNAVAILABLE).await;
    // Stands for the private Service, which leads to the revision's only pod.
    let service = serve(Pod::Reports(stat("a", 4.0))).await;
    let mut first = round(&[pod.address]);
    first.options.service_port = service.address.port();
    let report = first.run().await;
    assert_eq!(report.result.unwrap().unwrap().net_concurrency(), 4.0);
    assert!(!report.pods_addressable);

    let asked = pod.requests.load(Ordering::SeqCst);
    let mut second = round(&[pod.address]);
    second.options.service_port = service.address.port();
    second.pods_addressable = false;
    second.run().await.result.unwrap();
    assert_eq!(pod.requests.load(Ordering::SeqCst), asked);
    assert_eq!(
        service.connections.load(Ordering::SeqCst),
        2,
        "no keep-alive"
    );
}

/// Where a mesh passes requests to single pods through, it is told which, and nobody else is asked.
#[tokio::test]
async fn a_mesh_that_passes_requests_through_is_told_to() {
    let pod = serve(Pod::Reports(stat("a", 3.0))).await;
    let ask = |passthrough| {
        let mut round = round(&[pod.address]);
        round.host = "private.default".into();
        round.options.passthrough = passthrough;
        round.run()
    };
    let says = |header: &str| pod.heard.lock().lines().any(|line| line == header);
    ask(false).await.result.unwrap();
    assert!(says(&format!("Host: {}", pod.address)));
    assert!(!pod.heard.lock().contains("Knative-Direct-Lb"));
    let report = ask(true).await;
    assert_eq!(report.result.unwrap().unwrap().net_concurrency(), 3.0);
    assert!(says("Host: private.default"));
    assert!(says("Knative-Direct-Lb: true"));

    let refusing = serve(UNAVAILABLE).await;
    let service = serve(Pod::Reports(stat("a", 4.0))).await;
    for pods_addressable in [true, false] {
        let mut round = round(&[refusing.address]);
        round.options.service_port = service.address.port();
        round.options.passthrough = true;
        round.pods_addressable = pods_addressable;
        let report = round.run().await;
        assert!(matches!(
            report.result,
            Err(ScrapeError::DirectScrapingNotAvailable)
        ));
        assert_eq!(report.pods_addressable, pods_addressable);
    }
    assert_eq!(refusing.requests.load(Ordering::SeqCst), 2);
    assert_eq!(service.requests.load(Ordering::SeqCst), 0);
}

/// What a Service says that leads to the pods in turn, young ones of one request at a time and old
/// ones of four, and how often it is asked.
async fn through_a_service(population: usize, ages: &[&str]) -> (Sample, usize) {
    let pods = ages.iter().enumerate().map(|(number, age)| match *age {
        "old" => Stat {
            process_uptime: 60.0,
            ..stat(&number.to_string(), 4.0)
        },
        _ => Stat {
            process_uptime: 59.9,
            ..stat(&number.to_string(), 1.0)
        },
    });
    let service = serve(Pod::Takes(pods.collect())).await;
    // Nobody asks the pods themselves.
    let mut round = round(&vec![service.address; population]);
    round.options.mesh = MeshCompatibilityMode::Enabled;
    round.options.service_port = service.address.port();
    let sample = round.run().await.result.unwrap().unwrap();
    let said = format!("Host: 127.0.0.1:{}", service.address.port());
    assert!(service.heard.lock().lines().any(|line| line == said));
    (sample, service.requests.load(Ordering::SeqCst))
}

/// Covers upstream's `TestScrapeReportStatWhenAllCallsSucceed` for a Service, `TestOldPodShortCircuit`
/// and `TestOldPodsFallback`.
#[tokio::test]
async fn old_pods_behind_a_service_count_first() {
    // Two old ones end both workers.
    let (sample, requests) = through_a_service(2, &["old", "old"]).await;
    assert_eq!((sample.net_concurrency(), requests), (8.0, 2));
    assert_eq!(sample.net_request_count(), 16.0);
    // The worker that met the young one looks for an old one, and meets only the two.
    let (sample, requests) = through_a_service(2, &["young", "old"]).await;
    assert_eq!(sample.net_concurrency(), 5.0);
    assert!((11..=12).contains(&requests), "{requests}");
    // As many young ones as are wanted do, and the workers end at the first one more.
    let (sample, _) = through_a_service(2, &["young"; 6]).await;
    assert_eq!(sample.net_concurrency(), 2.0);
    // Seven of ten are wanted: all five old ones and two young ones.
    let (sample, _) = through_a_service(10, &["old", "young"].repeat(5)).await;
    let expected = (5.0 * 4.0 + 2.0 * 1.0) * 10.0 / 7.0;
    assert!((sample.net_concurrency() - expected).abs() < 1e-9);
    assert!((sample.net_request_count() - 2.0 * expected).abs() < 1e-9);
}

/// Covers upstream's `TestOldPodsFallback` and the error of a Service that always leads to one pod.
#[tokio::test]
async fn a_service_must_lead_to_different_pods() {
    let service = serve(Pod::Reports(stat("a", 4.0))).await;
    let mut round = round(&[nobody().await, nobody().await]);
    round.options.mesh = MeshCompatibilityMode::Enabled;
    round.options.service_port = service.address.port();
    let error = round.run().await.result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unsuccessful scrape, sampleSize=2: did not receive stat from an unscraped pod"
    );
}

#[tokio::test]
async fn answers_that_are_no_stat_are_refused() {
    let text = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n";
    let parameter = "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf; charset=utf-8\r\nContent-Length: 0\r\n\r\n";
    let garbage = "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 3\r\n\r\n\u{7f}xx";
    for answer in [text, parameter, garbage, "not HTTP\r\n\r\n"] {
        let pod = serve(Pod::Answers(answer)).await;
        let report = round(&[pod.address]).run().await;
        assert!(report.result.is_err(), "{answer}");
    }
    let long = serve(Pod::Reports(stat(&"n".repeat(400), 1.0))).await;
    assert!(round(&[long.address]).run().await.result.is_err());
    // The longest name that fits.
    let name = "n".repeat(serving::stat::MAX_SCRAPE_BYTES - 30);
    let longest = stat(&name, 1.0);
    assert_eq!(longest.encoded_len(), serving::stat::MAX_SCRAPE_BYTES);
    let fits = serve(Pod::Reports(longest)).await;
    round(&[fits.address]).run().await.result.unwrap();
}
