//! What a failure says of its destination.

use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};

use super::*;

/// The head of whichever request comes first, and its connection; the others go back.
async fn next_request(streams: &mut Vec<TcpStream>) -> TcpStream {
    let reads = streams
        .iter()
        .map(|it| Box::pin(async { it.peek(&mut [0]).await }));
    let (_, at, _) = futures_util::future::select_all(reads).await;
    let mut stream = streams.swap_remove(at);
    read_head(&mut stream).await;
    stream
}

async fn post(upstream: &Rc<Upstream>) -> Result<Response<UpstreamBody>, ForwardError> {
    let sent = upstream.send(request("POST", Body::empty(())), Protocol::Http1);
    sent.await
}

/// Sends a request over a connection that idles, and ends that.
async fn broken_while_idle(upstream: &Rc<Upstream>, streams: &mut Vec<TcpStream>) -> bool {
    let end = async { drop(next_request(streams).await) };
    let (failed, ()) = tokio::join!(post(upstream), end);
    failed.expect_err("no answer").is_lost()
}

/// An app may close an idle connection just as it is used again; it does not do so twice in a row
/// while it answers.
#[test]
fn one_end_of_an_idle_connection_is_a_coincidence() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let mut streams = Vec::from(warm_three(&app, &upstream).await);
        assert!(!broken_while_idle(&upstream, &mut streams).await);
        assert!(broken_while_idle(&upstream, &mut streams).await);
        let answer = async {
            let mut stream = next_request(&mut streams).await;
            write(&mut stream, OK).await;
            stream
        };
        let (answered, stream) = tokio::join!(post(&upstream), answer);
        drop(answered.expect("an answer"));
        assert!(!broken_while_idle(&upstream, &mut vec![stream]).await);
    });
}

/// What ends later was not closed for idling.
#[test]
fn a_late_end_is_no_coincidence() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let mut streams = vec![warm(&app, &upstream).await];
        let end = async {
            let stream = next_request(&mut streams).await;
            tokio::time::pause();
            tokio::time::advance(CLOSES_IDLE).await;
            tokio::time::resume();
            drop(stream);
        };
        let (failed, ()) = tokio::join!(post(&upstream), end);
        assert!(failed.expect_err("no answer").is_lost());
    });
}

/// On a new connection there is nothing that could have been closed for idling; an answer that makes
/// no sense is an answer, and a client that breaks off is not the app's doing.
#[test]
fn new_connections() {
    local(async {
        for (answer, lost) in [
            ("", true),
            ("HTTP/1.1 20", true),
            ("nonsense\r\n\r\n", false),
        ] {
            let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
            let play = async {
                let mut stream = accept(&app).await;
                read_head(&mut stream).await;
                write(&mut stream, answer).await;
            };
            let (failed, ()) = tokio::join!(post(&upstream), play);
            assert_eq!(failed.expect_err("no answer").is_lost(), lost, "{answer}");
        }
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        drop(app);
        assert!(post(&upstream).await.expect_err("nobody").is_lost());
    });
}

#[test]
fn a_client_that_breaks_off_says_nothing_of_the_app() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let (front, client) = (listen().await, async |address| {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            write(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
            )
            .await;
        });
        let address = front.local_addr().expect("bound");
        let (failed, failures) = tokio::sync::oneshot::channel();
        let failed = RefCell::new(Some(failed));
        let serve = async {
            let stream = accept(&front).await;
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let upstream = Rc::clone(&upstream);
                let failed = failed.take();
                async move {
                    let request = request.map(|body| Body::incoming(body, ()));
                    let sent = upstream.send(request, Protocol::Http1).await;
                    let error = sent.expect_err("the client breaks off");
                    let _ = failed.expect("one request").send(error.is_lost());
                    Ok::<_, Infallible>(Response::new(Body::empty(())))
                }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        };
        let app = async {
            let mut stream = accept(&app).await;
            read_rest(&mut stream).await;
        };
        tokio::join!(serve, client(address), async {
            tokio::select! {
                () = app => panic!("the proxy's answer comes first"),
                lost = failures => assert!(!lost.expect("an answer")),
            }
        });
    });
}

/// Ends every connection of HTTP/2 once so many streams are open on it, after one answer.
async fn end_streams(app: TcpListener, count: usize) {
    loop {
        let stream = accept(&app).await;
        let end = Rc::new(tokio::sync::Notify::new());
        let seen = Rc::new(Cell::new(0));
        let (ending, counting) = (Rc::clone(&end), Rc::clone(&seen));
        let service = service_fn(move |_| {
            counting.set(counting.get() + 1);
            let (at, ending) = (counting.get(), Rc::clone(&ending));
            async move {
                if at > 1 {
                    if at > count {
                        ending.notify_one();
                    }
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Body::full("ok", ())))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(Local);
        let served = server.serve_connection(TokioIo::new(stream), service);
        tokio::task::spawn_local(async move {
            tokio::select! {
                _ = served => {}
                () = end.notified() => {}
            }
        });
    }
}

/// A connection of HTTP/2 that ends under a single stream may have idled; under several it did not.
#[test]
fn streams_that_end_without_an_answer() {
    local(async {
        for (count, lost) in [(1, false), (2, true)] {
            let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
            let app = tokio::task::spawn_local(end_streams(app, count));
            let send = || upstream.send(request("POST", Body::empty(())), Protocol::Http2);
            drop(send().await.expect("the first is answered"));
            let sent = (0..count).map(|_| send());
            let failed = futures_util::future::join_all(sent).await;
            let says: Vec<_> = failed
                .into_iter()
                .map(|it| it.expect_err("no answer").is_lost())
                .collect();
            assert!(says.contains(&lost), "{count}: {says:?}");
            assert!(lost || says == [false], "{says:?}");
            app.abort();
        }
    });
}

/// What the kernel was told about a connection's silence, in ms.
fn limit_of(upstream: &Upstream) -> u32 {
    let idle = upstream.idle.borrow();
    idle[0].silence().expect("an option of TCP")
}

fn limited() -> UpstreamOptions {
    UpstreamOptions {
        max_silence: Some(Duration::from_millis(700)),
        ..UpstreamOptions::default()
    }
}

/// The kernel would take an app that lets a large body wait for a silent one.
#[test]
fn silence_is_limited_where_the_app_has_room() {
    local(async {
        let (app, upstream) = app_and_upstream(limited()).await;
        let mut stream = warm(&app, &upstream).await;
        assert_eq!(limit_of(&upstream), 700);
        for (length, limit) in [(SMALL + 1, 0), (SMALL, 700)] {
            let play = async {
                let head = read_head(&mut stream).await;
                assert!(head.contains(&length.to_string()), "{head}");
                let mut body = vec![0; length];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body)
                    .await
                    .expect("the body");
                write(&mut stream, OK).await;
            };
            let body = Body::full("x".repeat(length), ());
            let sent = upstream.send(request("POST", body), Protocol::Http1);
            let (sent, ()) = tokio::join!(sent, play);
            drop(sent.expect("an answer"));
            assert_eq!(limit_of(&upstream), limit, "{length}");
        }
        let play = async {
            read_head(&mut stream).await;
            let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\n\r\n";
            write(&mut stream, switch).await;
        };
        let sent = upstream.send(request("GET", Body::empty(())), Protocol::Http1);
        let (sent, ()) = tokio::join!(sent, play);
        let (switched, _) = sent
            .expect("an answer")
            .into_body()
            .into_switched()
            .expect("a tunnel");
        let left = sockopt::tcp_user_timeout(switched.socket());
        assert_eq!(left.expect("an option of TCP"), 0);
    });
}

const SMALL: usize = 16 << 10;

/// An app whose kernel takes no more of a request's head stands for one that is silent: the request
/// fails in time, and is not tried on the other connections, which would be as silent.
#[test]
fn a_silent_app_is_lost() {
    local(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1).expect("an option");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("a port");
        let app = socket.listen(8).expect("it listens");
        let upstream = Upstream::new(app.local_addr().expect("bound"), limited());
        let streams = warm_three(&app, &upstream).await;
        let mut large = request("GET", Body::empty(()));
        let value = HeaderValue::try_from("x".repeat(256 << 10)).expect("letters");
        large.headers_mut().insert("x-large", value);
        let failed = upstream.send(large, Protocol::Http1).await;
        let error = failed.expect_err("nobody reads");
        assert!(error.is_lost());
        assert!(
            error.to_string().ends_with("connection timed out"),
            "{error}"
        );
        assert_eq!(upstream.idle(), 0);
        drop(streams);
    });
}
