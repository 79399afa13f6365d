//! Statements that hold whatever the bytes. A property test makes bytes up, and the fuzzers in
//! `serving/fuzz` include this file.

use std::collections::BTreeMap;

use activator::affinity::{Affinity, Signer, Ticket, mcp_key};
use activator::annotations;
use activator::endpoints::Endpoints;
use activator::ingress::spec::{Ingress, IngressSpec};
use activator::ingress::table::{Draw, Matched, RouteTables};
use activator::revision_lookup::Named;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// Lines of `name: value`, as a request has them; others are left out.
fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whatever headers say: a revision's name is a part of them, the answer for one that is not known
/// is one line, and a session's cookie counts only if it was signed here.
pub(crate) fn request(data: &[u8]) {
    let headers = headers(data);
    let uri = Uri::from_static("/");
    let named = Named::of(&uri, &headers, "cluster.local");
    let is_in = |part: &[u8]| {
        let mut values = headers.values();
        part.is_empty() || values.any(|it| it.as_bytes().windows(part.len()).any(|it| it == part))
    };
    assert!(is_in(named.namespace) && is_in(named.name));
    let text = named.not_found();
    assert!(text.ends_with(" not found") && !text.contains('\n'));

    let signer = Signer::new(b"a secret that no input knows");
    assert_eq!(signer.ticket(&headers), None);
    let mut signed = headers.clone();
    let ticket = Ticket::new(data.len() as u128).at(7);
    signed.append(http::header::COOKIE, signer.pair(ticket));
    assert_eq!(signer.ticket(&signed), Some(ticket));
    assert_eq!(Affinity::Mcp.key(&headers, &signer), mcp_key(&headers));
}

/// Whatever annotations (lines of `key=value`) say, there is a problem exactly where nothing can be
/// made of them.
pub(crate) fn annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let all: BTreeMap<String, String> = pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let problems = annotations::validate(&all);
    for (key, value) in &all {
        let bad = match key.as_str() {
            serving::names::MAX_WAIT_ANNOTATION => annotations::max_wait(value).is_err(),
            serving::names::SESSION_AFFINITY_ANNOTATION => Affinity::parse(value).is_err(),
            _ => false,
        };
        assert_eq!(problems.iter().any(|(of, _)| of == key), bad);
        if key == serving::names::MAX_WAIT_ANNOTATION && !bad {
            assert!(annotations::max_wait(value).is_ok_and(|it| !it.is_zero()));
        }
    }
}

/// Whatever an Ingress says that can be read: its hash survives being written and read again, and a
/// request goes to a backend that has a share, or nowhere.
pub(crate) fn ingress(data: &[u8]) {
    let Ok(mut spec) = serde_json::from_slice::<IngressSpec>(data) else {
        return;
    };
    spec.set_defaults();
    let again = spec.clone();
    spec.set_defaults();
    assert_eq!(spec, again);
    let ingress = |spec| Ingress {
        namespace: "default".to_owned(),
        name: "hello".to_owned(),
        generation: 1,
        affinity: None,
        spec,
    };
    let written = serde_json::to_vec(&spec).expect("it was read from JSON");
    let read = serde_json::from_slice(&written).expect("our own JSON");
    let ingress_of_spec = ingress(spec);
    assert_eq!(ingress_of_spec.hash(), ingress(read).hash());

    let (tables, conflicts) = RouteTables::build([&ingress_of_spec]);
    assert!(conflicts.is_empty(), "an Ingress is in its own way");
    let rules = ingress_of_spec.spec.rules.iter();
    let hosts = rules.flat_map(|rule| rule.hosts.iter().map(String::as_str));
    for host in hosts.chain(["example.com"]).take(10) {
        let mut headers = HeaderMap::new();
        if let Ok(host) = HeaderValue::try_from(host) {
            headers.insert(http::header::HOST, host);
        }
        for (local, number) in [(false, 0), (true, 0), (false, 99), (true, u32::MAX)] {
            let table = tables.entry(local);
            let draw = |_: Option<&Affinity>| Draw { number, part: None };
            let uri = Uri::from_static("/");
            if let Matched::Picked(picked) = table.find(&uri, &headers, true, draw) {
                let backend = &picked.split.backend;
                assert!(table.backends().any(|it| it == backend));
                picked.apply(&mut headers.clone(), local);
            }
        }
    }
}

/// Whatever addresses are listed, those of destinations are some of them, in order.
pub(crate) fn endpoints(data: &[u8]) {
    let Ok(endpoints) = serde_json::from_slice::<Endpoints>(data) else {
        return;
    };
    let listed = |ip: &str| {
        let mut all = endpoints.subsets.iter().flat_map(|it| &it.addresses);
        all.any(|address| address.ip == ip)
    };
    for port in ["http", "http2", ""] {
        let healthy = endpoints.healthy_addresses(port);
        assert!(healthy.iter().all(|ip| listed(ip)));
        assert!(endpoints.destinations(port).ready.len() >= usize::from(!healthy.is_empty()));
    }
}
