use super::*;

#[test]
fn set_host_replaces_whatever_was_there() {
    let mut request = Request::get("http://a.example/p?q")
        .header("host", "b")
        .body(())
        .expect("a request");
    assert_eq!(host(&request), Some("a.example"));
    set_host(&mut request, HeaderValue::from_static("c.example"));
    assert_eq!(host(&request), Some("c.example"));
    assert_eq!(request.uri(), "/p?q");

    *request.version_mut() = Version::HTTP_2;
    set_host(&mut request, HeaderValue::from_static("d.example"));
    assert_eq!(request.uri(), "http://d.example/p?q");
    assert!(request.headers().is_empty());

    // No authority at all rather than a bad one.
    set_host(&mut request, HeaderValue::from_static("b c/d"));
    assert_eq!((host(&request), request.uri().path()), (None, "/p"));
}

#[test]
fn a_short_text_has_no_newline() {
    let response = text_response(StatusCode::GATEWAY_TIMEOUT, "request timeout", ());
    assert_eq!(
        http_body::Body::size_hint(response.body()).exact(),
        Some(15)
    );
    assert!(!response.headers().contains_key("x-content-type-options"));
}
