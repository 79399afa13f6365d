//! Whatever the bytes, nothing that is parsed here panics, and what holds of good input holds.

use http::{HeaderName, HeaderValue, Uri, header};
use proptest::prelude::*;

use super::*;
use crate::affinity::{Affinity, Signer, Ticket};
use crate::config::parse_version;
use crate::ingress::spec::{Ingress, IngressSpec};
use crate::ingress::table::{Draw, RouteTables};
use crate::revision_lookup::Named;

fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::try_from(*name).unwrap(), value);
        }
    }
    headers
}

fn ingress(spec: IngressSpec) -> Ingress {
    Ingress {
        namespace: "ns".to_owned(),
        name: "ing".to_owned(),
        generation: 1,
        affinity: None,
        spec,
    }
}

proptest! {
    /// Nobody makes a cookie without the secret, and ours is found among whatever else there is.
    #[test]
    fn cookies(noise in "[ -~]{0,200}", id: u128, part: u64, flip in 0usize..130, bit in 0u8..7) {
        let signer = Signer::new(b"secret");
        let ticket = Ticket::new(id).at(part);
        prop_assert_eq!(signer.ticket(&headers(&[("cookie", noise.as_bytes())])), None);
        let pair = signer.pair(ticket);
        let with = [("cookie", noise.as_bytes()), ("cookie", pair.as_bytes())];
        prop_assert_eq!(signer.ticket(&headers(&with)), Some(ticket));
        let mut forged = pair.as_bytes().to_vec();
        let at = flip % forged.len();
        forged[at] ^= 1 << bit;
        let found = signer.ticket(&headers(&[("cookie", &forged)]));
        // Of hexadecimal digits either case is as good, in the signature alone.
        prop_assert!(found.is_none() || found == Some(ticket) && forged.eq_ignore_ascii_case(pair.as_bytes()));
    }

    #[test]
    fn annotations(text in "\\PC{0,64}") {
        let _ = crate::annotations::max_wait(&text);
        if let Ok(affinity) = Affinity::parse(&text) {
            prop_assert!(text == "cookie" || text == "mcp" || text.starts_with("header:"), "{affinity:?}");
        }
        let _ = parse_version(&text);
    }

    /// A revision is named by both headers, or by a Host of four parts.
    #[test]
    fn names(host in "[ -~]{0,80}", name in "[ -~]{0,20}", namespace in "[ -~]{0,20}") {
        let headers = headers(&[
            (header::HOST.as_str(), host.as_bytes()),
            ("knative-serving-revision", name.as_bytes()),
            ("knative-serving-namespace", namespace.as_bytes()),
        ]);
        let uri = Uri::from_static("/");
        let named = Named::of(&uri, &headers, "cluster.local");
        if !name.is_empty() && !namespace.is_empty() {
            prop_assert_eq!(named.name, name.as_bytes());
            prop_assert_eq!(named.namespace, namespace.as_bytes());
        } else if named.name != name.as_bytes() {
            prop_assert!(host.contains(".svc.cluster.local"));
        }
        let _ = named.not_found();
    }

    /// Any Ingress that can be read can be served, and an answer is one of its backends.
    #[test]
    fn routes(
        hosts in proptest::collection::vec("[a-z.*:]{0,12}", 0..3),
        path in "[/a-z%?#]{0,8}",
        percents in proptest::collection::vec(0u32..300, 0..4),
        asked in "[a-z.:\\[\\]]{0,16}",
        number: u32,
        part: Option<u64>,
    ) {
        let splits: Vec<_> = percents.iter().enumerate().map(|(at, percent)| serde_json::json!({
            "serviceNamespace": "ns", "serviceName": format!("s{at}"), "servicePort": 80,
            "percent": percent
        })).collect();
        let spec = serde_json::json!({"rules": [{
            "hosts": hosts, "visibility": "ExternalIP",
            "http": {"paths": [{"path": path, "splits": splits}]}
        }]});
        let mut spec: IngressSpec = serde_json::from_value(spec).unwrap();
        spec.set_defaults();
        let ingress = ingress(spec);
        let (tables, _) = RouteTables::build([&ingress]);
        let headers = headers(&[("host", asked.as_bytes())]);
        let uri = Uri::from_static("/a");
        let draw = |_: Option<&Affinity>| Draw { number, part };
        if let crate::ingress::table::Matched::Picked(picked) = tables.external.find(&uri, &headers, false, draw) {
            prop_assert!(picked.split.backend.name.starts_with('s'));
        }
    }
}
