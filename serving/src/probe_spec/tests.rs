use super::*;

fn http() -> Probe {
    Probe {
        http_get: Some(HttpGetAction {
            path: "/health?x=1&y=<2>\u{2028}".to_owned(),
            port: Port::Name("web".to_owned()),
            http_headers: vec![HttpHeader {
                name: "Custom".to_owned(),
                value: "\"v\"".to_owned(),
            }],
            ..HttpGetAction::default()
        }),
        period_seconds: 1,
        termination_grace_period_seconds: Some(0),
        ..Probe::default()
    }
}

/// Scenarios of upstream's `TestEncodeSingleProbe` and `TestEncodeMultipleProbes`.
#[test]
fn writes_what_a_controller_writes() {
    assert_eq!(
        encode(&http()),
        r#"{"httpGet":{"path":"/health?x=1\u0026y=\u003c2\u003e\u2028","port":"web","httpHeaders":[{"name":"Custom","value":"\"v\""}]},"periodSeconds":1,"terminationGracePeriodSeconds":0}"#
    );
    let grpc = Probe {
        grpc: Some(GrpcAction::default()),
        ..Probe::default()
    };
    assert_eq!(
        encode_list(&[None, Some(grpc), Some(Probe::default())]),
        r#"[null,{"grpc":{"port":0,"service":null}},{}]"#
    );
}

#[test]
fn reads_what_it_writes() {
    let probes = vec![Some(http()), None, Some(Probe::default())];
    assert_eq!(decode(&encode_list(&probes), true).unwrap(), probes);
    assert_eq!(decode(&encode(&http()), false).unwrap(), vec![Some(http())]);
}

#[test]
fn reports_every_problem() {
    let text = r#"{"httpGet":{"port":1.5,"httpHeaders":[{"name":7}]},"periodSeconds":"3"}"#;
    let error = decode(text, false).unwrap_err();
    assert_eq!(
        error.problems(),
        [
            "httpGet.port: expected an integer of 32 bits, found a number",
            "httpGet.httpHeaders.[0].name: expected a string, found a number",
            "periodSeconds: expected an integer of 32 bits, found a string",
        ]
    );
}

#[test]
fn the_later_of_two_spellings_wins_and_objects_are_merged() {
    let text = r#"{"PeriodSeconds":1,"periodseconds":2,"tcpSocket":{"port":1},"TCPSOCKET":{"ho\u017ft":"h"}}"#;
    let probes = decode(text, false).unwrap();
    let probe = probes[0].as_ref().unwrap();
    assert_eq!(probe.period_seconds, 2);
    let tcp = probe.tcp_socket.as_ref().unwrap();
    assert_eq!((&tcp.port, tcp.host.as_str()), (&Port::Number(1), "h"));
}

#[test]
fn null_unsets_and_keeps_as_go_does() {
    let text = r#"{"httpGet":null,"tcpSocket":{"port":null,"host":null},"periodSeconds":null}"#;
    let probe = decode(text, false).unwrap().remove(0).unwrap();
    assert_eq!(probe.http_get, None);
    assert_eq!(probe.tcp_socket, Some(TcpSocketAction::default()));
    assert_eq!(decode("null", true).unwrap(), vec![]);
    assert_eq!(decode("null", false).unwrap(), vec![None]);
}

#[test]
fn a_port_in_quotes_has_a_value_but_is_no_number() {
    let port = Port::Name("8099".to_owned());
    assert_eq!((port.value(), port.number()), (8099, 0));
    let port = Port::Name("web".to_owned());
    assert_eq!((port.value(), port.number()), (0, 0));
}
