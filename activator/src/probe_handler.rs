//! Requests that ask about the activator itself, by headers alone; path and method never matter.
//!
//! Pure. Upstream: `pkg/activator/handler/{healthz_handler,probe_handler}.go` and
//! `knative.dev/networking/pkg/http/probe/handler.go`, in their order.

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header as http_header,
};
use serving::{go, header, names};

static CAPABILITY: HeaderName = HeaderName::from_static(names::CAPABILITY_HEADER);

/// Answers a probe; `None` for any other request. `health` is asked only by a kubelet.
pub fn answer<B>(
    request: &Request<B>,
    health: impl FnOnce() -> Result<(), &'static str>,
) -> Option<Response<String>> {
    let headers = request.headers();
    if header::is_kubelet_probe(headers) {
        return Some(match health() {
            Ok(()) => Response::new(String::new()),
            Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, why),
        });
    }
    match header::probe_value(headers) {
        b"" => None,
        value if value == header::PROBE_VALUE.as_bytes() => Some(network_probe(headers)),
        value if value == header::ACTIVATOR_NAME.as_bytes() => {
            let mut answer = Response::new(header::ACTIVATOR_NAME.to_owned());
            // Another activator of ours wants to know.
            if headers.contains_key(&CAPABILITY) {
                let capable = HeaderValue::from_static(names::CAPABLE);
                answer.headers_mut().insert(&CAPABILITY, capable);
            }
            Some(answer)
        }
        value => {
            let value = go::escape_html(&String::from_utf8_lossy(value));
            let text = format!("unexpected probe header value: {}", go::quote(&value));
            Some(error(StatusCode::BAD_REQUEST, &text))
        }
    }
}

fn network_probe(headers: &HeaderMap) -> Response<String> {
    match headers.get(&header::HASH) {
        Some(hash) if !hash.is_empty() => {
            let mut response = Response::new(String::new());
            response
                .headers_mut()
                .insert(HeaderName::clone(&header::HASH), hash.clone());
            response
        }
        _ => error(
            StatusCode::BAD_REQUEST,
            "a probe request must contain a non-empty \"K-Network-Hash\" header",
        ),
    }
}

/// Go's `http.Error`.
fn error(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        http_header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        http_header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(headers: &[(&str, &str)], health: Result<(), &'static str>) -> Option<(u16, String)> {
        let mut request = Request::get("//healthz");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(&request.body(()).unwrap(), || health)
            .map(|response| (response.status().as_u16(), response.into_body()))
    }

    fn says(status: u16, text: &str) -> Option<(u16, String)> {
        Some((status, text.to_owned()))
    }

    /// Edge cases 1, 3, 4 and 5.
    #[test]
    fn edge_cases_1_3_4_and_5() {
        let activator = ("K-Network-Probe", "activator");
        assert_eq!(ask(&[activator], Ok(())), says(200, "activator"));
        assert_eq!(
            ask(&[("K-Network-Probe", "queue")], Ok(())),
            says(400, "unexpected probe header value: \"queue\"\n")
        );
        let kubelet = ("User-Agent", "kube-probe/1.34");
        let down = Err("connection has not yet been established");
        assert_eq!(
            ask(&[activator, kubelet], down),
            says(500, "connection has not yet been established\n")
        );
        assert_eq!(ask(&[kubelet], Ok(())), says(200, ""));
        assert_eq!(ask(&[("K-Kubelet-Probe", "yes")], Ok(())), says(200, ""));
        assert_eq!(ask(&[("K-Network-Probe", "")], Ok(())), None);
        assert_eq!(ask(&[("K-Network-Hash", "abc")], Ok(())), None);
    }

    #[test]
    fn network_probes_echo_the_hash() {
        let request = Request::get("/")
            .header("K-Network-Probe", "probe")
            .header("K-Network-Hash", "abc");
        let response = answer(&request.body(()).unwrap(), || Ok(())).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["k-network-hash"], "abc");
        assert_eq!(
            ask(&[("K-Network-Probe", "probe")], Ok(())),
            says(
                400,
                "a probe request must contain a non-empty \"K-Network-Hash\" header\n"
            )
        );
        assert_eq!(
            ask(&[("K-Network-Probe", "<a>")], Ok(())),
            says(400, "unexpected probe header value: \"&lt;a&gt;\"\n")
        );
    }
}
