//! Deadlines, and streams that are cut.

use super::*;

/// Row 17: the text has no newline.
#[test]
fn a_late_app_is_answered_with_504() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        let answer = read_until(&mut client, "request timeout").await;
        assert!(
            answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("Content-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n")
        );
        // The app's connection is gone, the client's is not.
        read_rest(&mut app).await;
        write(&mut client, GET).await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 504"));
    });
}

/// Rows 18 and 51: a stream that has begun is cut, never ended cleanly.
#[test]
fn a_deadline_cuts_a_stream() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        )
        .await;
        let answer = read_rest(&mut client).await;
        assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n"), "{answer}");
        let end = hop.ends.wait(1).await[0];
        assert_eq!(
            (end.outcome, end.bytes),
            (Outcome::Expired(Expired::Total), 3)
        );
    });
}

/// Row 18: where nothing of the body has come, nothing is damaged by a text in its place.
#[test]
fn a_deadline_before_the_body_gives_a_text() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await;
        let answer = read_until(&mut client, "0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nF\r\nrequest timeout\r\n0\r\n\r\n"),
            "{answer}"
        );
        let end = hop.ends.wait(1).await[0];
        assert_eq!(
            (end.outcome, end.bytes),
            (Outcome::Expired(Expired::Total), 15)
        );
        // The app's connection is gone, the client's is not.
        read_rest(&mut app).await;
        write(&mut client, GET).await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 504"));
    });
}

/// A text in the place of a body whose length was told would be another lie.
#[test]
fn a_deadline_cuts_a_body_of_known_length_before_it_begins() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(SHORT)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n").await;
        let answer = read_rest(&mut client).await;
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let end = hop.ends.wait(1).await[0];
        assert_eq!(
            (end.outcome, end.bytes),
            (Outcome::Expired(Expired::Total), 0)
        );
    });
}

/// The idle deadline between two writes, while the client waits.
#[test]
fn an_idle_stream_is_cut() {
    local(async {
        let timeouts = Timeouts {
            idle: Some(Duration::from_millis(100)),
            ..LONG
        };
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(timeouts)).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        assert!(read_rest(&mut client).await.ends_with("\r\n\r\nabc"));
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::Idle));
    });
}

/// A client that stops reading does not keep its slot beyond the deadline.
#[test]
fn a_deadline_cuts_a_client_that_does_not_read() {
    local(async {
        let timeouts = Timeouts {
            total: Duration::from_millis(300),
            ..LONG
        };
        let (app, hop, proxy) = app_and_hop(|hop| hop.with_timeouts(timeouts).with_limit(1)).await;
        let _client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        )
        .await;
        let flood = vec![b'x'; 1 << 20];
        while app.write_all(&flood).await.is_ok() {}
        let end = hop.ends.wait(1).await[0];
        assert_eq!(end.outcome, Outcome::Expired(Expired::Total));
        assert_eq!(hop.breaker.as_ref().map(Breaker::in_flight), Some(0));
    });
}

/// Row 51: an app that dies takes the client's stream with it.
#[test]
fn a_broken_stream_breaks() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop).await;
        for framing in [
            "Transfer-Encoding: chunked\r\n\r\n3\r\n",
            "Content-Length: 9\r\n\r\n",
        ] {
            let mut client = send(proxy.address, GET).await;
            let mut app = accept(&app).await;
            read_head(&mut app).await;
            write(&mut app, &format!("HTTP/1.1 200 OK\r\n{framing}abc")).await;
            read_until(&mut client, "abc").await;
            drop(app);
            assert!(!read_rest(&mut client).await.contains("0\r\n"));
        }
        let ends = hop.ends.wait(2).await;
        assert!(
            ends.iter().all(|end| end.outcome == Outcome::Failed),
            "{ends:?}"
        );
    });
}
