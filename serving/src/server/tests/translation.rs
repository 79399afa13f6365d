//! What is changed on the way to the app and back.

use super::*;

/// Rows 32 to 35: canonical names, `Te`, names listed in `Connection`, the peer.
#[test]
fn rewrites_a_request() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "GET //a/../b?x=%zz;y HTTP/1.1\r\nhost: a.example\r\nconnection: close, x-drop\r\n\
            x-drop: 1\r\nzz-lower: v\r\nte: trailers, gzip\r\nkeep-alive: 5\r\nx-forwarded-for: 1.1.1.1\r\n\
            X-Forwarded-For: 2.2.2.2\r\nproxy-authorization: secret\r\nproxy-connection: close\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        let head = read_head(&mut app).await;
        assert!(
            head.starts_with("GET //a/../b?x=%zz;y HTTP/1.1\r\n"),
            "{head}"
        );
        for line in [
            "Host: a.example\r\n",
            "Zz-Lower: v\r\n",
            "Te: trailers\r\n",
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 127.0.0.1\r\n",
        ] {
            assert!(head.contains(line), "{line:?} missing in {head}");
        }
        for name in [
            "X-Drop",
            "Connection",
            "Keep-Alive",
            "Proxy-",
            "User-Agent",
            "gzip",
        ] {
            assert!(!head.contains(name), "{name} in {head}");
        }
        write(
            &mut app,
            "HTTP/1.1 299 Odd\r\nconnection: x-gone\r\nx-gone: 1\r\nkeep-alive: 3\r\nx-low: v\r\n\
             content-length: 2\r\n\r\nhi",
        )
        .await;
        let answer = read_rest(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 299 status code 299\r\n"),
            "{answer}"
        );
        assert!(answer.contains("X-Low: v\r\n") && answer.contains("Content-Length: 2\r\n"));
        assert!(
            answer.contains("\r\nDate: ") && answer.ends_with("\r\n\r\nhi"),
            "{answer}"
        );
        assert!(
            !answer.contains("X-Gone") && !answer.contains("Keep-Alive"),
            "{answer}"
        );
    });
}

/// Section 7.2: HTTP/1.0 becomes 1.1; without a host, or with an empty one, the app sees its own
/// address.
#[test]
fn a_missing_host_is_the_destination() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop).await;
        for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n"] {
            let _client = send(proxy.address, request).await;
            let head = read_head(&mut accept(&app).await).await;
            let host = format!("\r\nHost: {}\r\n", hop.upstream.address());
            assert!(
                head.starts_with("GET / HTTP/1.1\r\n") && head.contains(&host),
                "{head}"
            );
        }
    });
}

/// Section 7.2: absolute form gives way to origin form, odd characters of the path are escaped.
#[test]
fn targets_are_made_plain() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "GET http://b.example:81/p%2F{x}|?q={y} HTTP/1.1\r\nHost: a\r\n\r\n";
        let _client = send(proxy.address, request).await;
        let head = read_head(&mut accept(&app).await).await;
        assert!(
            head.starts_with("GET /p%2F%7Bx%7D%7C?q={y} HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nHost: b.example:81\r\n"), "{head}");
        assert_eq!(head.matches("Host: ").count(), 1, "{head}");
    });
}

/// Section 7.2: agents are never invented, empty ones dropped, of two the first is sent.
#[test]
fn the_first_agent_counts() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        for (agents, expected) in [
            (
                "User-Agent: a\r\nUser-Agent: b\r\n",
                Some("\r\nUser-Agent: a\r\n"),
            ),
            ("User-Agent:\r\n", None),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{agents}\r\n");
            let _client = send(proxy.address, &request).await;
            let head = read_head(&mut accept(&app).await).await;
            assert_eq!(
                head.matches("User-Agent").count(),
                usize::from(expected.is_some())
            );
            assert!(expected.is_none_or(|line| head.contains(line)), "{head}");
        }
    });
}

/// Row 31, improved: request trailers arrive; response trailers are relayed.
#[test]
fn trailers_pass_in_both_directions() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
            Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
        let mut client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        let head = read_head(&mut app).await;
        assert!(head.contains("Trailer: X-Sum\r\n"), "{head}");
        let body = read_until(&mut app, "0\r\nX-Sum: 7\r\n\r\n").await;
        assert_eq!(body, "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n");
        write(
            &mut app,
            "HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\na\r\n0\r\nX-End: 9\r\n\r\n",
        )
        .await;
        let answer = read_until(&mut client, "X-End: 9\r\n\r\n").await;
        assert!(answer.contains("\r\n\r\n1\r\na\r\n0\r\n"), "{answer}");
    });
}

/// A GET with a body, in chunks, keeps it.
#[test]
fn a_get_keeps_its_chunked_body() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let request =
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let _client = send(proxy.address, request).await;
        let mut app = accept(&app).await;
        assert!(
            read_head(&mut app)
                .await
                .contains("Transfer-Encoding: chunked\r\n")
        );
        assert_eq!(
            read_until(&mut app, "0\r\n\r\n").await,
            "3\r\nabc\r\n0\r\n\r\n"
        );
    });
}
