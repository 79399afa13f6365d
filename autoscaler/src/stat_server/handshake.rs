//! What a request to the stat server is answered with. Pure.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Uri};
use http_body_util::Full;
use serving::hash::is_bucket_host;
use serving::header::{host, is_kubelet_probe};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The length of the Base64 text of the sixteen bytes that a client chooses.
const KEY_LENGTH: usize = 24;

/// The answer to one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200 without a body: the kubelet's probe, and also a bucket that is another replica's, whose
    /// clients then see a failed handshake and try elsewhere.
    Ok,
    /// Not a WebSocket handshake, or one that is not allowed.
    Refuse(StatusCode),
    /// 101.
    Upgrade { accept: String },
}

/// Chooses the answer. `owns` is `None` where there are no buckets.
pub(super) fn answer(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    owns: Option<&(dyn Fn(&str) -> bool + Send + Sync)>,
) -> Answer {
    if is_kubelet_probe(headers) {
        return Answer::Ok;
    }
    let host = String::from_utf8_lossy(host(uri, headers));
    if let Some(owns) = owns
        && is_bucket_host(&host)
    {
        let bucket = host.split('.').next().unwrap_or_default();
        if !owns(bucket) {
            tracing::warn!(
                bucket,
                "refusing a WebSocket for a bucket of another replica"
            );
            return Answer::Ok;
        }
    }
    upgrade(method, headers, &host)
}

/// The checks of gorilla's `Upgrader.Upgrade`, in its order.
fn upgrade(method: &Method, headers: &HeaderMap, host: &str) -> Answer {
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Answer::Refuse(StatusCode::BAD_REQUEST);
    }
    if !has_token(headers, &UPGRADE, "websocket") {
        return Answer::Refuse(StatusCode::UPGRADE_REQUIRED);
    }
    if method != Method::GET {
        return Answer::Refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !has_token(headers, &SEC_WEBSOCKET_VERSION, "13") {
        return Answer::Refuse(StatusCode::BAD_REQUEST);
    }
    if !is_same_origin(headers, host) {
        return Answer::Refuse(StatusCode::FORBIDDEN);
    }
    match headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes) {
        Some(key) if is_challenge_key(key) => Answer::Upgrade {
            accept: derive_accept_key(key),
        },
        _ => Answer::Refuse(StatusCode::BAD_REQUEST),
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn is_same_origin(headers: &HeaderMap, host: &str) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let authority: Cow<'_, str> = match origin.parse::<Uri>() {
        Ok(uri) => uri
            .authority()
            .map_or("", |authority| authority.as_str())
            .to_owned()
            .into(),
        Err(_) => return false,
    };
    authority.eq_ignore_ascii_case(host)
}

/// Base64 of sixteen bytes: 22 digits and two equals signs.
fn is_challenge_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == KEY_LENGTH && key.ends_with(b"==") && key[..KEY_LENGTH - 2].iter().all(is_digit)
}

// === impl Answer ===

impl Answer {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        match self {
            Self::Ok => {}
            Self::Refuse(status) => {
                *response.status_mut() = status;
                let reason = status.canonical_reason().unwrap_or_default();
                *response.body_mut() = Full::from(format!("{reason}\n"));
                let headers = response.headers_mut();
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("text/plain; charset=utf-8"),
                );
                headers.insert(
                    http::header::X_CONTENT_TYPE_OPTIONS,
                    HeaderValue::from_static("nosniff"),
                );
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                if status == StatusCode::UPGRADE_REQUIRED {
                    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                }
            }
            Self::Upgrade { accept } => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(
                    SEC_WEBSOCKET_ACCEPT,
                    HeaderValue::from_str(&accept).expect("Base64 is a valid header value"),
                );
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn handshake(changes: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let pairs = [
            ("host", "autoscaler.knative-serving.svc:8080"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        for (name, value) in pairs.iter().chain(changes) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn check(changes: &[(&'static str, &'static str)], expected: &Answer) {
        let owns = |bucket: &str| bucket == "autoscaler-bucket-00-of-02";
        let headers = handshake(changes);
        let got = answer(&Method::GET, &Uri::from_static("/"), &headers, Some(&owns));
        assert_eq!(&got, expected, "{changes:?}");
    }

    fn upgraded() -> Answer {
        // The example of RFC 6455, section 1.3.
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        Answer::Upgrade { accept }
    }

    #[test]
    fn a_handshake_is_accepted() {
        check(&[], &upgraded());
        check(
            &[("origin", "http://AUTOSCALER.knative-serving.svc:8080")],
            &upgraded(),
        );
        check(&[("host", "10.0.0.1:8080")], &upgraded());
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let refuse = Answer::Refuse;
        check(&[("connection", "close")], &refuse(StatusCode::BAD_REQUEST));
        check(&[("upgrade", "h2c")], &refuse(StatusCode::UPGRADE_REQUIRED));
        check(
            &[("sec-websocket-version", "12")],
            &refuse(StatusCode::BAD_REQUEST),
        );
        check(
            &[("sec-websocket-key", "short")],
            &refuse(StatusCode::BAD_REQUEST),
        );
        check(
            &[("origin", "http://elsewhere")],
            &refuse(StatusCode::FORBIDDEN),
        );
    }

    #[test]
    fn the_kubelet_is_answered_before_all_rules() {
        check(
            &[("user-agent", "kube-probe/1.34"), ("connection", "close")],
            &Answer::Ok,
        );
        check(
            &[("k-kubelet-probe", "queue"), ("upgrade", "x")],
            &Answer::Ok,
        );
    }

    /// Covers upstream's `TestServerNotBucketHost` and `TestServerNotOwnForBucketHost`.
    #[test]
    fn buckets_of_others_are_not_upgraded() {
        let own = "autoscaler-bucket-00-of-02.knative-serving.svc.cluster.local:8080";
        check(&[("host", own)], &upgraded());
        check(
            &[("host", "autoscaler-bucket-01-of-02.knative-serving.svc")],
            &Answer::Ok,
        );
        check(&[("host", "autoscaler-bucket-00-of-02:8080")], &Answer::Ok);
        check(&[("host", "autoscaler-bucket")], &Answer::Ok);
    }
}
