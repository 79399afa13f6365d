use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::server::testing::*;

mod lost;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn app_and_upstream(options: UpstreamOptions) -> (TcpListener, Rc<Upstream>) {
    let app = listen().await;
    let upstream = Upstream::new(app.local_addr().expect("bound"), options);
    (app, upstream)
}

fn request(method: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a")
        .body(body)
        .expect("a request")
}

/// Sends a request and lets it be answered on a new connection.
async fn warm(app: &TcpListener, upstream: &Rc<Upstream>) -> tokio::net::TcpStream {
    let play = async {
        let mut stream = accept(app).await;
        read_head(&mut stream).await;
        write(&mut stream, OK).await;
        stream
    };
    let sent = upstream.send(request("GET", Body::empty(())), Protocol::Http1);
    let (response, stream) = tokio::join!(sent, play);
    drop(response.expect("a response"));
    stream
}

/// A connection is back before the body has been read.
#[test]
fn a_small_response_frees_its_connection_at_once() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let play = async {
            let mut stream = accept(&app).await;
            for _ in 0..10 {
                read_head(&mut stream).await;
                write(&mut stream, OK).await;
            }
            stream
        };
        let send = async {
            for _ in 0..10 {
                let sent = upstream.send(request("GET", Body::empty(())), Protocol::Http1);
                let _response = sent.await.expect("a response");
                assert_eq!(upstream.idle(), 1);
            }
        };
        tokio::join!(play, send);
    });
}

/// Section 12 row 28: the app closes as the connection is used again.
#[test]
fn a_request_is_sent_again_where_that_is_safe() {
    local(async {
        for (method, again) in [("GET", true), ("DELETE", false)] {
            let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
            let mut first = warm(&app, &upstream).await;
            let play = async {
                // Read the request, then close without a word.
                read_head(&mut first).await;
                drop(first);
                if again {
                    let mut second = accept(&app).await;
                    read_head(&mut second).await;
                    write(&mut second, OK).await;
                }
            };
            let sent = upstream.send(request(method, Body::empty(())), Protocol::Http1);
            let (response, ()) = tokio::join!(sent, play);
            match response {
                Ok(response) => assert!(again && response.status() == 200),
                Err(error) => assert_eq!((again, error.to_string().as_str()), (false, "EOF")),
            }
        }
    });
}

/// A connection that was closed while idle is never used, whatever the method and body.
#[test]
fn closed_connections_are_not_used() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        drop(warm(&app, &upstream).await);
        while upstream.idle.borrow()[0].is_alive() {
            tokio::task::yield_now().await;
        }
        let play = async {
            let mut stream = accept(&app).await;
            read_until(&mut stream, "body").await;
            write(&mut stream, OK).await;
        };
        let sent = upstream.send(request("POST", Body::full("body", ())), Protocol::Http1);
        let (response, ()) = tokio::join!(sent, play);
        assert_eq!(response.expect("a response").status(), 200);
    });
}

/// A response that began and broke is not asked for again.
#[test]
fn a_partial_response_is_final() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let mut first = warm(&app, &upstream).await;
        let play = async {
            read_head(&mut first).await;
            write(&mut first, "HTTP/1.1 20").await;
            drop(first);
        };
        let sent = upstream.send(request("GET", Body::empty(())), Protocol::Http1);
        let (response, ()) = tokio::join!(sent, play);
        let error = response.expect_err("the response broke");
        assert_eq!(error.to_string(), "unexpected EOF");
        assert!(!error.nothing_written());
    });
}

/// When nobody listens the request comes back, body and all.
#[test]
fn an_unsent_request_is_handed_back() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        drop(app);
        let sent = upstream.send(request("POST", Body::full("body", ())), Protocol::Http1);
        let error = sent.await.expect_err("nobody listens");
        assert!(error.nothing_written());
        let request = error.into_request().expect("unsent");
        assert_eq!(
            (
                request.method().as_str(),
                request.headers()["host"].as_bytes()
            ),
            ("POST", &b"a"[..])
        );
        assert_eq!(http_body::Body::size_hint(request.body()).exact(), Some(4));
    });
}

/// Three exchanges at a time; what the app has of the connections.
async fn warm_three(app: &TcpListener, upstream: &Rc<Upstream>) -> [tokio::net::TcpStream; 3] {
    let sends = (0..3).map(|_| upstream.send(request("GET", Body::empty(())), Protocol::Http1));
    let play = async {
        let mut streams = [accept(app).await, accept(app).await, accept(app).await];
        for stream in &mut streams {
            read_head(stream).await;
            write(stream, OK).await;
        }
        streams
    };
    let (responses, streams) = tokio::join!(futures_util::future::join_all(sends), play);
    drop(responses);
    streams
}

#[test]
fn idle_connections_expire() {
    local(async {
        let options = UpstreamOptions {
            idle_timeout: Duration::from_millis(90),
            ..UpstreamOptions::default()
        };
        let (app, upstream) = app_and_upstream(options).await;
        let streams = warm_three(&app, &upstream).await;
        assert_eq!(upstream.idle(), 3);
        for mut stream in streams {
            assert_eq!(read_rest(&mut stream).await, "");
        }
        assert_eq!(upstream.idle(), 0);
    });
}

/// More idle than may for long only for a moment, in which a burst finds them.
#[test]
fn idle_connections_are_bounded() {
    local(async {
        let options = UpstreamOptions {
            max_idle: 2,
            ..UpstreamOptions::default()
        };
        let (app, upstream) = app_and_upstream(options).await;
        let streams = warm_three(&app, &upstream).await;
        assert_eq!(upstream.idle(), 3);
        let closed =
            streams.map(|mut stream| Box::pin(async move { read_rest(&mut stream).await }));
        let (rest, ..) = futures_util::future::select_all(closed).await;
        assert_eq!((rest.as_str(), upstream.idle()), ("", 2));
    });
}

#[test]
fn a_closed_destination_keeps_nothing() {
    local(async {
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let mut first = warm(&app, &upstream).await;
        upstream.close();
        assert_eq!(read_rest(&mut first).await, "");
        warm(&app, &upstream).await;
        assert_eq!(upstream.idle(), 0);
    });
}

/// As many streams as the peer allows share a connection; the next one gets another.
#[test]
fn streams_share_a_connection_up_to_the_peers_limit() {
    local(async {
        const LIMIT: u32 = 2;
        let (app, upstream) = app_and_upstream(UpstreamOptions::default()).await;
        let (accepted, arrived) = (Rc::new(Cell::new(0)), Rc::new(Semaphore::new(0)));
        let go = Rc::new(Semaphore::new(0));
        let (count, arrivals, gate) = (accepted.clone(), arrived.clone(), go.clone());
        tokio::task::spawn_local(async move {
            loop {
                let stream = accept(&app).await;
                count.set(count.get() + 1);
                let (arrivals, gate) = (arrivals.clone(), gate.clone());
                let answer = service_fn(move |_| {
                    arrivals.add_permits(1);
                    let gate = gate.clone();
                    async move {
                        gate.acquire().await.expect("never closed").forget();
                        Ok::<_, Infallible>(Response::new(Body::full("ok", ())))
                    }
                });
                let mut server = hyper::server::conn::http2::Builder::new(Local);
                server.max_concurrent_streams(LIMIT);
                let served = server.serve_connection(TokioIo::new(stream), answer);
                tokio::task::spawn_local(served);
            }
        });
        let send = || upstream.send(request("GET", Body::empty(())), Protocol::Http2);
        // The first exchange brings the peer's limit.
        go.add_permits(1);
        drop(send().await.expect("a response"));
        arrived.acquire().await.expect("never closed").forget();
        let release = async {
            // All three are with the app before any is answered.
            arrived
                .acquire_many(3)
                .await
                .expect("never closed")
                .forget();
            go.add_permits(3);
        };
        let (first, second, third, ()) = tokio::join!(send(), send(), send(), release);
        for response in [first, second, third] {
            assert_eq!(response.expect("a response").status(), 200);
        }
        assert_eq!(accepted.get(), 2);
    });
}

/// A dial waits while as many are under way as may be.
#[test]
fn dials_are_bounded() {
    local(async {
        let options = UpstreamOptions {
            max_dials: 2,
            ..UpstreamOptions::default()
        };
        let (app, upstream) = app_and_upstream(options).await;
        let others = upstream.dials.acquire_many(2).await.expect("never closed");
        let mut warmed = std::pin::pin!(warm(&app, &upstream));
        let early = tokio::time::timeout(Duration::from_millis(50), warmed.as_mut());
        assert!(early.await.is_err(), "a third dial");
        drop(others);
        warmed.await;
    });
}

/// A listener whose queue is full: the handshake of any further connection is never answered.
async fn unanswering() -> (TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let listener = socket.listen(0).expect("it listens");
    let address = listener.local_addr().expect("bound");
    let filling = tokio::net::TcpStream::connect(address)
        .await
        .expect("the queue holds one");
    (listener, vec![filling])
}

/// Upstream's patience with a destination that does not answer ends after 20 s, a caller's when the
/// caller's does.
#[tokio::test(start_paused = true)]
async fn who_decides_when_a_dial_ends() {
    let (listener, _filling) = unanswering().await;
    let upstream = Upstream::new(
        listener.local_addr().expect("bound"),
        UpstreamOptions::default(),
    );
    let minute = Duration::from_secs(60);
    let sent = upstream.send(request("GET", Body::empty(())), Protocol::Http1);
    let failed = tokio::time::timeout(minute, sent).await.expect("it ends");
    let error = failed.expect_err("nobody answers").to_string();
    assert!(error.starts_with("timed out dialing"), "{error}");
    let sent = upstream.send_dialling_once(request("GET", Body::empty(())));
    assert!(tokio::time::timeout(minute, sent).await.is_err());
}
