//! The ports for operators: `/metrics` where Prometheus asks for it, and the profiling port, which
//! always listens and knows no page.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serving::telemetry::{PROMETHEUS_TEXT, prometheus_text};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Connections at a time, of scrapers and curious people.
const MAX_CONNECTIONS: usize = 64;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves for ever: `/metrics` with a registry, nothing without one.
pub(super) async fn serve(listener: TcpListener, registry: Option<Arc<Registry>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let registry = registry.clone();
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = answer(request.uri().path(), registry.as_deref());
                        std::future::ready(Ok::<_, Infallible>(answer))
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_READ_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "connection to an admin port broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn answer(path: &str, registry: Option<&Registry>) -> Response<Full<Bytes>> {
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
    let mut response = Response::new(Full::from(body));
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
