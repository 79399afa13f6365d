use super::*;

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    list.iter()
        .map(|(name, text)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(text).unwrap(),
            )
        })
        .collect()
}

#[track_caller]
fn class(list: &[(&str, &str)], expected: RequestClass<'_>) {
    let headers = headers(list);
    let class = RequestClass::of(&headers);
    assert_eq!(class, expected);
    assert_eq!(class.is_probe(), is_probe(&headers));
}

/// The rows of the queue-proxy's classification table.
#[test]
fn classifies_requests() {
    use RequestClass::*;
    let probe = "K-Network-Probe";
    class(&[], Ordinary);
    class(&[("User-Agent", "curl/8")], Ordinary);
    class(&[("User-Agent", "kube-probe")], Ordinary);
    class(&[(probe, "")], Ordinary);
    for (agent, kubelet) in [
        ("kube-probe/1.30", true),
        ("Knative-Activator-Probe", false),
        ("Knative-Autoscaling-Probe/2", false),
    ] {
        let agent = ("User-Agent", agent);
        let hash = ("K-Network-Hash", "h");
        for value in ["queue", "", "probe"] {
            let probe_bytes = value.as_bytes();
            let expected = HealthCheck {
                probe: probe_bytes,
                kubelet,
            };
            class(&[agent, (probe, value), hash], expected);
        }
    }
    let ingress = ("User-Agent", "Knative-Ingress-Probe");
    class(
        &[ingress, (probe, "probe"), ("K-Network-Hash", "h")],
        NetworkProbe(b"h"),
    );
    class(&[ingress, (probe, "probe")], NetworkProbe(b""));
    class(
        &[(probe, "probe"), ("K-Kubelet-Probe", "x")],
        NetworkProbe(b""),
    );
    class(&[ingress, (probe, "queue")], ForwardedProbe);
    class(&[(probe, "Probe")], ForwardedProbe);
    class(&[("K-Kubelet-Probe", "x")], KubeletStyle);
    class(&[("K-Kubelet-Probe", "x"), (probe, "queue")], KubeletStyle);
    class(&[("K-Kubelet-Probe", "")], Ordinary);
}

#[test]
fn a_user_agent_alone_is_a_probe_only_for_the_kubelet() {
    let activator = headers(&[("User-Agent", ACTIVATOR_USER_AGENT)]);
    assert!(!is_probe(&activator));
    let kubelet = headers(&[("User-Agent", "kube-probe/1.30")]);
    assert!(is_probe(&kubelet) && is_kubelet_probe(&kubelet));
}

#[test]
fn only_the_exact_value_marks_a_proxied_request() {
    assert!(is_proxied(&headers(&[("K-Proxy-Request", "activator")])));
    for other in ["", "Activator", "activator ", "queue"] {
        assert!(!is_proxied(&headers(&[("K-Proxy-Request", other)])));
    }
}

/// Scenarios of upstream's `TestRewriteHostIn` and `TestRewriteHostOut`.
#[test]
fn the_host_survives_the_hop_from_activator_to_queue_proxy() {
    let mut map = headers(&[("Host", "love.is")]);
    hide_host(&mut map, HeaderValue::from_static("love.is"));
    assert!(!map.contains_key("host"));
    // A second proxy on the way does not overwrite what the first one noted.
    hide_host(&mut map, HeaderValue::from_static("hate.is"));
    assert_eq!(
        restore_host(&mut map),
        Some(HeaderValue::from_static("love.is"))
    );
    assert!(map.is_empty());
    assert_eq!(restore_host(&mut map), None);
}

#[test]
fn the_target_names_the_host_before_the_header_does() {
    let map = headers(&[("Host", "header.example")]);
    let absolute: Uri = "http://target.example:81/x".parse().unwrap();
    let origin: Uri = "/x".parse().unwrap();
    assert_eq!(host(&absolute, &map), b"target.example:81");
    assert_eq!(host(&origin, &map), b"header.example");
    assert_eq!(host(&origin, &HeaderMap::new()), b"");
}

#[test]
fn a_tag_that_is_not_text_is_made_text() {
    let mut map = HeaderMap::new();
    map.insert(
        ROUTE_TAG.clone(),
        HeaderValue::from_bytes(b"v\xff1").unwrap(),
    );
    assert_eq!(route_tag(&map), "v\u{fffd}1");
}
