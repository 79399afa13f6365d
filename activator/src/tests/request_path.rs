//! What a request and its response look like on either side, and who answers what.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::pods::Pod;
use super::*;

async fn world_with_pod() -> (World, Pod) {
    let world = World::with(revision(0)).await;
    let pod = Pod::start().await;
    world.list_and_wait(&[pod.address]).await;
    (world, pod)
}

/// Edge cases 8 and 10, and the table of request changes.
#[test]
fn edge_cases_8_and_10_request_headers() {
    run(async {
        let (world, pod) = world_with_pod().await;
        let request = to_revision("//a/b?x=%zz")
            .header("k-proxy-request", "x")
            .header("k-network-hash", "abc")
            .header("knative-serving-tag", "blue")
            .header("x-forwarded-for", "1.2.3.4")
            .header("connection", "x-hop")
            .header("x-hop", "1");
        let answer = world.send(request.body(Empty::new()).unwrap()).await;
        assert_eq!(answer.body, "hello");
        let seen = pod.seen();
        let header = |name: &str| seen.headers.get(name).map(|it| it.to_str().unwrap());
        assert_eq!(header("host"), Some(&*pod.address.to_string()));
        assert_eq!(header("k-original-host"), Some("hello.example.com"));
        assert_eq!(header("k-proxy-request"), Some("activator"));
        assert_eq!(header("pilotlight-capability"), Some("1"));
        assert_eq!(header("knative-serving-tag"), Some("blue"));
        assert_eq!(header("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
        assert_eq!(seen.uri, "//a/b?x=%zz");
        for gone in [
            "k-network-hash",
            "knative-serving-revision",
            "knative-serving-namespace",
            "x-hop",
            "user-agent",
            "accept-encoding",
        ] {
            assert_eq!(header(gone), None, "{gone}");
        }
    });
}

/// Edge case 9: a Host that was rewritten before stays the original one.
#[test]
fn edge_case_9_original_host_is_kept() {
    run(async {
        let (world, pod) = world_with_pod().await;
        let request = to_revision("/").header("k-original-host", "vanity.example.com");
        world.send(request.body(Empty::new()).unwrap()).await;
        assert_eq!(pod.seen().headers["k-original-host"], "vanity.example.com");
    });
}

/// What an app answers passes through, with nothing added.
#[test]
fn responses_pass_through() {
    run(async {
        let (world, _pod) = world_with_pod().await;
        let answer = world.get("/teapot").await;
        assert_eq!(answer.status, 418);
        assert_eq!(answer.body, "short and stout\n");
        assert!(!answer.headers.contains_key("pilotlight-reason"));
    });
}

/// Edge cases 2, 11 and 12: both protocols on one port, and out goes what came in, whatever the
/// revision's protocol.
#[test]
fn edge_cases_2_11_and_12_protocols() {
    run(async {
        for protocol in [crate::Protocol::Http1, crate::Protocol::H2c] {
            let world = World::with(Revision {
                protocol,
                ..revision(0)
            })
            .await;
            let pod = Pod::start().await;
            world.list_and_wait(&[pod.address]).await;
            assert_eq!(world.get("/").await.body, "hello");
            assert_eq!(pod.seen().version, http::Version::HTTP_11);
            let mut sender = http2(world.address).await;
            let request = Request::get("http://rev.example.com/")
                .header("knative-serving-namespace", "default")
                .header("knative-serving-revision", "hello-00001")
                .body(Empty::<Bytes>::new())
                .unwrap();
            let answer = collect(sender.send_request(request).await.unwrap()).await;
            assert_eq!(answer.body, "hello");
            let seen = pod.seen();
            assert_eq!(seen.version, http::Version::HTTP_2);
            assert_eq!(seen.headers["k-original-host"], "rev.example.com");
            let authority = seen.uri.authority().unwrap().as_str();
            assert_eq!(authority, pod.address.to_string());
        }
    });
}

/// Edge cases 6 and 7, and the texts for revisions that are not known.
#[test]
fn edge_cases_6_and_7_lookup() {
    run(async {
        let (world, _pod) = world_with_pod().await;
        let by_host = |host: &str| {
            let request = Request::get("/").header("host", host);
            request.body(Empty::new()).unwrap()
        };
        let host = "hello-00001.default.svc.cluster.local:80";
        assert_eq!(world.send(by_host(host)).await.body, "hello");
        let unknown = world.send(by_host("example.com")).await;
        assert_eq!(unknown.status, 404);
        assert_eq!(
            unknown.body,
            "Error getting active endpoint: revision.serving.knative.dev \"\" not found\n"
        );
        assert_eq!(unknown.headers["x-content-type-options"], "nosniff");
        let request = Request::get("/")
            .header("host", "a")
            .header("knative-serving-namespace", "other")
            .header("knative-serving-revision", "hello-00001");
        let unknown = world.send(request.body(Empty::new()).unwrap()).await;
        assert_eq!(
            unknown.body,
            "Error getting active endpoint: revision.serving.knative.dev \"hello-00001\" not found\n"
        );
    });
}

/// Edge cases 1, 3 to 5 and 77 over the wire: probes are answered before any revision is looked at.
#[test]
fn edge_cases_1_3_to_5_and_77_probes() {
    run(async {
        let (world, pod) = world_with_pod().await;
        let probe = |name: &str, value: &str| {
            let request = to_revision("//healthz").header(name, value);
            request.body(Empty::new()).unwrap()
        };
        let answer = world.send(probe("k-network-probe", "activator")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "activator"));
        let answer = world.send(probe("k-network-probe", "queue")).await;
        assert_eq!(answer.status, 400);
        let answer = world.send(probe("user-agent", "kube-probe/1.34")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, ""));
        assert_eq!(pod.state.served.get(), 0);
        let answer = world.send(probe("k-network-probe", "")).await;
        assert_eq!(answer.body, "hello");
        world.activator.drain();
        let answer = world.send(probe("k-kubelet-probe", "1")).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (500, "received SIGTERM from kubelet\n")
        );
        // Edge case 58: traffic is served on.
        assert_eq!(world.get("/").await.body, "hello");
    });
}

/// An upgrade is tunnelled and holds its slot until it is closed.
#[test]
fn upgrades_are_tunnelled() {
    run(async {
        let world = World::with(revision(1)).await;
        let pod = Pod::start().await;
        world.list_and_wait(&[pod.address]).await;
        // The pod's server is used for the probe only; the tunnel's other end is this listener.
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::task::spawn_local(serve_tunnels(socket));
        world.list_and_wait(&[address]).await;
        let mut client = TcpStream::connect(world.address).await.unwrap();
        client.write_all(UPGRADE).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        client.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
        assert_eq!(world.snapshot().in_flight, 1);
        assert_eq!(world.activator.tunnels().active(), 1);
        drop(client);
        eventually("the slot is free", || world.snapshot().in_flight == 0).await;
    });
}

/// Edge case 46: the response-start timeout cuts a tunnel in which the app has said nothing and no
/// other; the total one cuts any, and the idle one when nothing passes.
#[test]
fn edge_case_46_tunnels_end_at_the_timeouts() {
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(400);
    run(async {
        for (timeout, idle_timeout, response_start_timeout, said) in [
            (SHORT, None, SHORT / 4, "hello"),
            (LONG, Some(SHORT), SHORT / 4, "hello"),
            (LONG, None, SHORT, ""),
        ] {
            let world = World::with(Revision {
                timeout,
                idle_timeout,
                response_start_timeout: Some(response_start_timeout),
                ..revision(1)
            })
            .await;
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::task::spawn_local(serve_tunnels(socket));
            world.list_and_wait(&[address]).await;
            let start = tokio::time::Instant::now();
            let mut client = TcpStream::connect(world.address).await.unwrap();
            client.write_all(UPGRADE).await.unwrap();
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
            client.write_all(said.as_bytes()).await.unwrap();
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, said);
            let lasted = tokio::time::Instant::now() - start;
            assert!((SHORT * 3 / 4..LONG / 2).contains(&lasted), "{lasted:?}");
            eventually("the slot is free", || world.snapshot().in_flight == 0).await;
        }
    });
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\
    Knative-Serving-Namespace: default\r\nKnative-Serving-Revision: hello-00001\r\n\r\n";

/// Answers probes; switches protocols for anything else and then echoes.
async fn serve_tunnels(socket: TcpListener) {
    loop {
        let (mut stream, _) = socket.accept().await.unwrap();
        tokio::task::spawn_local(async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                if head.contains("K-Network-Probe") {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
                    stream.write_all(answer).await.unwrap();
                    continue;
                }
                let answer =
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
        });
    }
}

/// Answers probes; ends the connection without a word on anything else.
pub(super) async fn serve_silently(socket: TcpListener) {
    break_requests(socket, Rc::default()).await;
}

/// As [`serve_silently`], counting what it breaks. A probe leaves no connection behind.
pub(super) async fn break_requests(socket: TcpListener, broken: Rc<Cell<usize>>) {
    loop {
        let (mut stream, _) = socket.accept().await.unwrap();
        let broken = Rc::clone(&broken);
        tokio::task::spawn_local(async move {
            let head = read_head(&mut stream).await;
            if head.contains("K-Network-Probe") {
                let answer =
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nqueue";
                return stream.write_all(answer).await.unwrap();
            }
            broken.set(broken.get() + usize::from(!head.is_empty()));
        });
    }
}

pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte).await, Ok(1)) {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Edge case 53: a stream that breaks upstream is aborted downstream, never ended cleanly. Edge
/// case 47: so is one that meets the total timeout, where upstream appends a text.
#[test]
fn edge_cases_47_and_53_broken_streams() {
    run(async {
        for (breaks, begun, seen) in [
            (true, "4\r\nbody\r\n", None),
            (false, "4\r\nbody\r\n", None),
            (true, "", None),
            // Nothing of the app's is damaged.
            (false, "", Some("activator request timeout")),
        ] {
            let world = World::with(Revision {
                timeout: Duration::from_millis(300),
                ..revision(0)
            })
            .await;
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::task::spawn_local(serve_broken(socket, begun, breaks));
            world.list_and_wait(&[address]).await;
            let response = respond(world.address, request("/")).await;
            assert_eq!(response.status(), 200);
            let body = http_body_util::BodyExt::collect(response.into_body()).await;
            let body = body.map(|body| body.to_bytes()).ok();
            assert_eq!(
                body.as_deref(),
                seen.map(str::as_bytes),
                "{breaks} {begun:?}"
            );
        }
    });
}

/// Answers probes; begins a chunked response for anything else, and breaks off or goes silent.
async fn serve_broken(socket: TcpListener, begun: &'static str, breaks: bool) {
    loop {
        let (mut stream, _) = socket.accept().await.unwrap();
        tokio::task::spawn_local(async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                if head.contains("K-Network-Probe") {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
                    stream.write_all(answer).await.unwrap();
                    continue;
                }
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let answer = format!("{head}{begun}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                if breaks {
                    return;
                }
            }
        });
    }
}

/// The four numbers of a request end up in the histograms, under the revision's labels.
#[test]
fn requests_are_measured() {
    run(async {
        let (world, _pod) = world_with_pod().await;
        world.get("/").await;
        eventually("it is measured", || {
            let text = world.scrape();
            let line = text.lines().find(|line| {
                line.starts_with("http_server_request_duration_seconds_count")
                    && line.contains("kn_service_name=\"hello\"")
                    && line.contains("http_response_status_code=\"200\"")
            });
            line.is_some_and(|line| line.ends_with(" 1"))
        })
        .await;
    });
}

/// Edge case 60: a template that cannot be used changes nothing.
#[test]
fn edge_case_60_request_log() {
    run(async {
        let (world, _pod) = world_with_pod().await;
        let lines = Lines::default();
        let writer = serving::telemetry::LineWriter::new(lines.clone()).unwrap();
        world.activator.log_requests_to(writer);
        let template = "{{.Request.Method}} {{.Request.Host}} {{.Response.Code}} \
                        {{.Response.Size}} {{.Revision.Name}} [{{.Revision.PodName}}{{.TraceID}}] \
                        TLS: {{.Request.TLS}}";
        world.activator.set_request_log(Some(template)).unwrap();
        for refused in ["", "{{.Request"] {
            assert!(world.activator.set_request_log(Some(refused)).is_err());
        }
        world.get("/teapot").await;
        let expected = "GET hello.example.com 418 16 hello-00001 [] TLS: <nil>\n";
        eventually("a line", || lines.text().len() >= expected.len()).await;
        assert_eq!(lines.text(), expected);
        world.activator.set_request_log(None).unwrap();
        world.get("/teapot").await;
        assert_eq!(lines.text(), expected);
    });
}
