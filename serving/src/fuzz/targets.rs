//! One function per format. Each takes any bytes and panics only when something is wrong here.

use http::{HeaderMap, HeaderValue, Version};

use crate::config::observability::Observability;
use crate::environment::Reader;
use crate::header::{
    ROUTE_TAG, RequestClass, TRACEPARENT, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO,
    restore_host, route_tag, shim_forwarded, trace_id, value,
};
pub use crate::pool::fuzz::response;
use crate::probe_spec::{decode, encode, encode_list};
use crate::request_log::{LogInput, LogRevision, MAX_LINE_BYTES, RequestLog};
pub use crate::server::fuzz::{gate, http1, http2};
use crate::stat::{Stat, WireStatMessages, count_messages};
pub use crate::upgrade::fuzz::websocket;

/// Panics when its statement does not hold for these bytes.
pub type Target = fn(&[u8]);

/// Every target with the name of its corpus.
pub const ALL: [(&str, Target); 11] = [
    ("environment", environment),
    ("gate", gate),
    ("headers", headers),
    ("http1", http1),
    ("http2", http2),
    ("observability", observability),
    ("probe", probe),
    ("response", response),
    ("stat", stat),
    ("template", template),
    ("websocket", websocket),
];

/// Header values between vertical bars, for the names that the data plane looks into: nothing
/// panics, and a `Forwarded` made of them is a legal header.
pub fn headers(data: &[u8]) {
    let mut map = HeaderMap::new();
    let names = [
        &X_FORWARDED_FOR,
        &X_FORWARDED_HOST,
        &X_FORWARDED_PROTO,
        &http::header::FORWARDED,
        &TRACEPARENT,
        &ROUTE_TAG,
    ];
    for (index, piece) in data.split(|&byte| byte == b'|').enumerate() {
        if let Ok(piece) = HeaderValue::from_bytes(piece) {
            map.append(names[index % names.len()].clone(), piece);
        }
    }
    let class = RequestClass::of(&map);
    assert_eq!(class.is_probe(), crate::header::is_probe(&map));
    assert!(trace_id(&map).len() <= value(&map, &TRACEPARENT).len());
    let _ = route_tag(&map);
    let _ = restore_host(&mut map);
    let before = value(&map, &http::header::FORWARDED).to_vec();
    shim_forwarded(&mut map);
    let after = value(&map, &http::header::FORWARDED);
    if before.is_empty() {
        assert!(after.len() <= crate::header::MAX_FORWARDED_BYTES);
    } else {
        assert_eq!(after, before);
    }
}

/// A scraped Stat, or a frame of them, is refused or decoded, and what was decoded survives
/// another round trip.
pub fn stat(data: &[u8]) {
    let _ = Stat::from_scrape(data);
    let counted = count_messages(data);
    if let Ok(decoded) = WireStatMessages::from_frame(data) {
        assert_eq!(counted.ok(), Some(decoded.messages.len()));
        let again = prost::Message::encode_to_vec(&decoded);
        let once_more = WireStatMessages::from_frame(&again).expect("own bytes");
        // Not compared as values: what arrives may hold a NaN.
        assert_eq!(prost::Message::encode_to_vec(&once_more), again);
    }
}

/// A template is rejected, or makes exactly one piece of output within the limit.
pub fn template(data: &[u8]) {
    let Ok(Some(log)) = RequestLog::compile(&String::from_utf8_lossy(data)) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-custom", HeaderValue::from_static("one"));
    headers.insert("user-agent", HeaderValue::from_static("curl/8 \"x\""));
    let input = LogInput {
        method: "GET",
        uri: "/a%20b?c=d",
        headers: &headers,
        host: b"h.example",
        version: Version::HTTP_11,
        content_length: -1,
        remote_addr: "10.0.0.1:4711",
        tls: false,
        code: 200,
        size: 5,
        latency: std::time::Duration::from_nanos(6198),
        revision: LogRevision {
            name: "hello-00001",
            namespace: "default",
            ..LogRevision::default()
        },
        trace_id: b"4bf9",
    };
    let mut out = Vec::new();
    log.write(&input, &mut out);
    assert!(out.len() <= MAX_LINE_BYTES);
}

/// Probe JSON is refused or read, and what was read is read again from what it writes.
pub fn probe(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(probes) = decode(&text, true) {
        let again = decode(&encode_list(&probes), true).expect("own JSON");
        assert_eq!(again, probes);
    }
    if let Ok(probes) = decode(&text, false)
        && let [Some(probe)] = probes.as_slice()
    {
        assert_eq!(decode(&encode(probe), false).expect("own JSON"), probes);
    }
}

/// `OBSERVABILITY_CONFIG`: what was read is read again from what it writes.
pub fn observability(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(config) = Observability::from_json(&text) {
        let written = config.to_json();
        let again = Observability::from_json(&written).expect("own JSON");
        assert_eq!(Observability::from_json(&again.to_json()).ok(), Some(again));
    }
}

/// One variable of every type with the same text: a problem each, or a value.
pub fn environment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let variables: &[(&str, &str)] = &[("NUMBER", &text), ("SWITCH", &text), ("TEXT", &text)];
    let mut reader = Reader::new(&variables);
    let number = reader.required_integer("NUMBER", "Number");
    reader.integer("NUMBER", "Number");
    reader.boolean("SWITCH", "Switch");
    let read = reader.required_string("TEXT");
    assert_eq!(read, text);
    reader.required_string("ABSENT");
    let problems = reader.finish(()).expect_err("one variable is absent");
    let found = problems.iter().count();
    assert!((1..=4).contains(&found), "{problems}");
    assert!(number == 0 || found < 4, "{problems}");
}
