//! Section 8: header fields, pseudo-header fields and lengths of messages.

use super::*;

#[test]
fn header_fields() {
    run(vec![
        case(
            "8.2 a name in capitals",
            get_with("X-Upper", "1"),
            Malformed,
        ),
        case("8.2.1 a name with a blank", get_with("x y", "1"), Malformed),
        case("8.2.1 a name with a colon", get_with("x:y", "1"), Malformed),
        case("8.2.1 no name", get_with("", "1"), Malformed),
        case(
            "8.2.1 a line feed in a value",
            get_with("x", "a\nb: c"),
            Malformed,
        ),
        case(
            "8.2.1 a carriage return in a value",
            get_with("x", "a\rb"),
            Malformed,
        ),
        case("8.2.1 a NUL in a value", get_with("x", "a\0b"), Malformed),
        case(
            "8.2.2 Connection",
            get_with("connection", "keep-alive"),
            Malformed,
        ),
        case("8.2.2 Keep-Alive", get_with("keep-alive", "5"), Malformed),
        case(
            "8.2.2 Proxy-Connection",
            get_with("proxy-connection", "close"),
            Malformed,
        ),
        case(
            "8.2.2 Transfer-Encoding",
            get_with("transfer-encoding", "chunked"),
            Malformed,
        ),
        case("8.2.2 Upgrade", get_with("upgrade", "websocket"), Malformed),
        case(
            "8.2.2 TE with anything but trailers",
            get_with("te", "gzip"),
            Malformed,
        ),
        case(
            "8.2.2 TE with more than trailers",
            get_with("te", "trailers, deflate;q=0.5"),
            Malformed,
        ),
        case("8.2.2 TE with trailers", get_with("te", "trailers"), Served),
        case(
            "8.2.3 Cookie in crumbs",
            {
                let mut fields = GET.to_vec();
                fields.extend([("cookie", "a=b"), ("cookie", "c=d")]);
                request(&fields)
            },
            Served,
        ),
    ]);
}

#[test]
fn pseudo_header_fields() {
    let without = |name: &str| {
        let kept: Vec<_> = GET.into_iter().filter(|field| field.0 != name).collect();
        request(&kept)
    };
    let with = |name: &str, value| {
        let changed = GET.map(|field| {
            if field.0 == name {
                (field.0, value)
            } else {
                field
            }
        });
        request(&changed)
    };
    let late = {
        let mut fields = GET.to_vec();
        fields.insert(3, ("x", "1"));
        request(&fields)
    };
    run(vec![
        case(
            "8.3 one that is unknown",
            get_with(":unknown", "1"),
            Malformed,
        ),
        case(
            "8.3 one of responses",
            get_with(":status", "200"),
            Malformed,
        ),
        case("8.3 one after a field", late, Malformed),
        case("8.3 one twice", get_with(":path", "/other"), Malformed),
        case("8.3.1 :method twice", get_with(":method", "GET"), Malformed),
        case(
            "8.3.1 :scheme twice",
            get_with(":scheme", "http"),
            Malformed,
        ),
        case(
            "8.3.1 :authority twice",
            get_with(":authority", "b"),
            Malformed,
        ),
        case("8.3.1 no :method", without(":method"), Malformed),
        case("8.3.1 no :scheme", without(":scheme"), Malformed),
        case("8.3.1 no :path", without(":path"), Malformed),
        case("8.3.1 an empty :path", with(":path", ""), Malformed),
        case(
            "8.3.1 a :path without a slash",
            with(":path", "path"),
            Malformed,
        ),
        case("8.3.1 a blank in :path", with(":path", "/a b"), Malformed),
        case(
            "8.3.1 a line feed in :path",
            with(":path", "/a\nb"),
            Malformed,
        ),
        case(
            "8.3.1 a :method that is no token",
            with(":method", "GE T"),
            Malformed,
        ),
        case(
            "8.3.1 an :authority with a user",
            with(":authority", "user@a"),
            Malformed,
        ),
        case(
            "8.3.1 an :authority with a path",
            with(":authority", "a/b"),
            Malformed,
        ),
        case(
            "8.3.1 an :authority with a blank",
            with(":authority", "a b"),
            Malformed,
        ),
        case(
            "8.3.1 a Host that is no :authority",
            get_with("host", "b.example"),
            Malformed,
        ),
        case(
            "8.3.1 a Host that is the :authority",
            get_with("host", "a.example"),
            Served,
        ),
        case(
            "8.5 CONNECT with a path",
            with(":method", "CONNECT"),
            Malformed,
        ),
        case(
            "RFC 8441 extended CONNECT, which was not offered",
            {
                let mut fields = GET.to_vec();
                fields[0] = (":method", "CONNECT");
                fields.insert(1, (":protocol", "websocket"));
                request(&fields)
            },
            Malformed,
        ),
        case(
            "8.1 a pseudo-header in trailers, which goes no further",
            concat(&[
                &post(1),
                &frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &block(&[(":method", "GET")]),
                ),
            ]),
            Served,
        ),
        case(
            "8.1 trailers that do not end the stream",
            concat(&[
                &post(1),
                &frame(HEADERS, END_HEADERS, 1, &block(&[("x", "1")])),
            ]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "8.1 trailers",
            concat(&[
                &post(1),
                &frame(DATA, 0, 1, b"hello"),
                &frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x", "1")])),
            ]),
            Served,
        ),
    ]);
}

/// 8.1.1: the length has to be that of all DATA.
#[test]
fn lengths() {
    run(vec![
        case("the right one", sized("5", &[b"he", b"llo"]), Served),
        case(
            "padding does not count",
            {
                let mut fields = POST.to_vec();
                fields.push(("content-length", "5"));
                let data = frame(DATA, END_STREAM | PADDED, 1, b"\x02hello\0\0");
                concat(&[&frame(HEADERS, END_HEADERS, 1, &block(&fields)), &data])
            },
            Served,
        ),
        case(
            "too small",
            sized("4", &[b"hello"]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "too small for several",
            sized("4", &[b"he", b"llo"]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "too large",
            sized("6", &[b"hello"]),
            Error(&[PROTOCOL_ERROR]),
        ),
        case(
            "without a body",
            get_with("content-length", "5"),
            Error(&[PROTOCOL_ERROR]),
        ),
        case("no number", sized("+5", &[b"hello"]), Malformed),
        case(
            "two that differ",
            {
                let mut fields = POST.to_vec();
                fields.extend([("content-length", "5"), ("content-length", "6")]);
                concat(&[
                    &frame(HEADERS, END_HEADERS, 1, &block(&fields)),
                    &frame(DATA, END_STREAM, 1, b"hello"),
                ])
            },
            Malformed,
        ),
    ]);
}
