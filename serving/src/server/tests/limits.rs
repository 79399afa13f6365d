//! Answers of the server, limits, and what one connection may do to others.

use super::*;

/// Row 26: no retry, the text of Go's dialler.
#[test]
fn nobody_listens() {
    local(async {
        let free = listen().await;
        let address = free.local_addr().expect("bound");
        drop(free);
        let proxy = start(Rc::new(Hop::to(address)), ServerOptions::default()).await;
        let mut client = send(proxy.address, GET).await;
        let text = format!("dial tcp {address}: connect: connection refused\n");
        let answer = read_until(&mut client, &text).await;
        assert!(
            answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("X-Content-Type-Options: nosniff\r\n"),
            "{answer}"
        );
    });
}

/// Rows 13 and 16: a client that leaves frees its place, executing or waiting.
#[test]
fn a_client_that_leaves_is_forgotten() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_limit(1)).await;
        let executing = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        let waiting = send(proxy.address, GET).await;
        let breaker = hop.breaker.clone().expect("a limit is set");
        while breaker.queued() < 1 {
            tokio::task::yield_now().await;
        }
        drop(waiting);
        hop.left.notified().await;
        assert_eq!((breaker.active(), breaker.queued()), (1, 0));
        drop(executing);
        hop.left.notified().await;
        assert_eq!(breaker.in_flight(), 0);
        // The exchange was aborted as well.
        assert_eq!(read_rest(&mut app).await, "");
    });
}

/// Section 3.1 and 2.2: answers that need no handler.
#[test]
fn some_requests_are_answered_by_the_server() {
    local(async {
        let (_app, _hop, proxy) = app_and_hop(|hop| hop).await;
        for (request, status) in [
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                "400 Bad Request",
            ),
            ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                "501 Not Implemented",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "400 Bad Request",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nbad header: 1\r\n\r\n",
                "400 Bad Request",
            ),
        ] {
            let mut client = send(proxy.address, request).await;
            let head = read_head(&mut client).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{request}: {head}"
            );
            // A 5xx that is nobody's but the proxy's says why.
            let reason = "pilotlight-reason: unsupported transfer encoding\r\n";
            let has_reason = head.to_ascii_lowercase().contains(reason);
            assert_eq!(has_reason, status.starts_with('5'), "{head}");
        }
    });
}

/// A length beside chunks is dropped, and the connection not reused: nothing to smuggle with.
#[test]
fn chunks_win_over_a_length() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\
            Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        let head = read_head(&mut app).await;
        assert!(!head.contains("Content-Length"), "{head}");
        read_until(&mut app, "0\r\n\r\n").await;
        write(&mut app, OK).await;
        let answer = read_rest(&mut client).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    });
}

/// Section 2.2: 1 MiB of head passes, 8 KiB more do not.
#[test]
fn the_head_is_limited() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = |size: usize| {
            let filler = "x".repeat(size);
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Big: {filler}\r\n\r\n")
        };
        let mut client = send(proxy.address, &request((1 << 20) - 100)).await;
        let mut app = accept(&app).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            app.read_buf(&mut head).await.expect("more of the head");
        }
        write(&mut app, OK).await;
        assert!(
            read_until(&mut client, "ok")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let mut client = TcpStream::connect(proxy.address).await.expect("connected");
        let _ = client
            .write_all(request((1 << 20) + (8 << 10)).as_bytes())
            .await;
        let answer = read_rest(&mut client).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    });
}

#[test]
fn many_header_lines_are_limited() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = |count: usize| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "X-A: 1\r\n".repeat(count)
            )
        };
        let _client = send(proxy.address, &request(90)).await;
        assert_eq!(
            read_head(&mut accept(&app).await)
                .await
                .matches("X-A: 1")
                .count(),
            90
        );
        let mut client = send(proxy.address, &request(110)).await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 431 "));
    });
}

/// A head that does not end is cut off; a connection without one is not.
#[test]
fn slow_heads_are_cut_off() {
    local(async {
        let app = listen().await;
        let hop = Rc::new(Hop::to(app.local_addr().expect("bound")));
        let options = ServerOptions {
            header_read_timeout: Duration::from_millis(100),
            ..ServerOptions::default()
        };
        let proxy = start(hop, options).await;
        // Before the first byte, in a preface, and within a head.
        for start in ["", "PR", "GET / HT"] {
            let mut client = send(proxy.address, start).await;
            assert_eq!(read_rest(&mut client).await, "");
        }
        // Between two requests, idle for longer than that.
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, OK).await;
        read_until(&mut client, "ok").await;
        let idle = tokio::time::timeout(Duration::from_millis(300), client.read_u8()).await;
        assert!(idle.is_err(), "an idle connection was closed");
        write(&mut client, "GET / HTTP/1.1\r\nHo").await;
        assert_eq!(read_rest(&mut client).await, "");
    });
}

/// A panic in one request ends its connection only.
#[test]
fn a_panic_stays_in_its_connection() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_limit(1)).await;
        let mut broken = send(proxy.address, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(read_rest(&mut broken).await, "");
        assert_eq!(hop.breaker.as_ref().map(Breaker::in_flight), Some(0));
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, OK).await;
        read_until(&mut client, "ok").await;
    });
}

#[test]
fn connections_are_bounded() {
    local(async {
        let app = listen().await;
        let hop = Rc::new(Hop::to(app.local_addr().expect("bound")));
        let options = ServerOptions {
            max_connections: 1,
            ..ServerOptions::default()
        };
        let proxy = start(Rc::clone(&hop), options).await;
        let first = send(proxy.address, GET).await;
        let mut at_app = accept(&app).await;
        read_head(&mut at_app).await;
        let mut second = send(proxy.address, GET).await;
        let early = tokio::time::timeout(Duration::from_millis(100), app.accept()).await;
        assert!(early.is_err(), "a second connection was served");
        drop(first);
        let mut at_app = accept(&app).await;
        read_head(&mut at_app).await;
        write(&mut at_app, OK).await;
        read_until(&mut second, "ok").await;
    });
}
