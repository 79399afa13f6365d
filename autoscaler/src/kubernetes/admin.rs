//! The ports for operators: `/metrics` where Prometheus asks for it, and the profiling port, which
//! always listens and knows no page.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use serving::body::Body;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use serving::telemetry::{PROMETHEUS_TEXT, prometheus_text};

const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What a port shows.
struct Pages(Option<Arc<Registry>>);

/// Serves for ever: `/metrics` with a registry, nothing without one.
pub(super) async fn serve(listener: Listener, registry: Option<Arc<Registry>>) {
    let options = ServerOptions {
        http2: false,
        header_read_timeout: HEADER_READ_TIMEOUT,
        ..ServerOptions::default()
    };
    let pages = Rc::new(Pages(registry));
    server::serve(vec![listener], pages, options, Shutdown::new()).await;
}

impl Handler for Pages {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        answer(request.uri().path(), self.0.as_deref())
    }
}

fn answer(path: &str, registry: Option<&Registry>) -> Response<Body> {
    let (status, kind, body) = match registry {
        Some(registry) if path == "/metrics" => {
            (StatusCode::OK, PROMETHEUS_TEXT, prometheus_text(registry))
        }
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "404 page not found\n".to_owned(),
        ),
    };
    let mut response = Response::new(Body::full(body, ()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metrics_are_served_and_only_where_asked_for() {
        let registry = Registry::default();
        assert_eq!(answer("/metrics", Some(&registry)).status(), 200);
        assert_eq!(answer("/other", Some(&registry)).status(), 404);
        assert_eq!(answer("/debug/pprof/", None).status(), 404);
    }
}
