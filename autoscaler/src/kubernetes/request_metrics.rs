//! Times every request to the API server: a layer around kube's client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, Uri};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::metrics::requests::{ApiRequests, RequestLabels};

/// Puts a [`RequestMetrics`] around a service.
#[derive(Clone, Debug)]
pub(super) struct RequestMetricsLayer(pub(super) ApiRequests);

/// A service whose requests are timed, up to the head of the answer.
#[derive(Clone, Debug)]
pub(super) struct RequestMetrics<S> {
    inner: S,
    requests: ApiRequests,
}

impl<S> Layer<S> for RequestMetricsLayer {
    type Service = RequestMetrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestMetrics {
            inner,
            requests: self.0.clone(),
        }
    }
}

impl<S, A, B> Service<Request<A>> for RequestMetrics<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let labels = labels(request.method().as_str(), request.uri());
        let requests = self.requests.clone();
        let began = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            requests.observe(labels, status, Instant::now() - began);
            answer
        })
    }
}

fn labels(method: &str, uri: &Uri) -> RequestLabels {
    let scheme = uri.scheme_str().unwrap_or("http");
    RequestLabels {
        http_request_method: method.to_owned(),
        server_address: uri.host().unwrap_or_default().to_owned(),
        server_port: if scheme == "https" { 443 } else { 80 },
        url_scheme: scheme.to_owned(),
        url_template: template(uri.path()),
    }
}

/// The path with `{namespace}` and `{name}` for what they are (client-go's `finalURLTemplate`).
fn template(path: &str) -> String {
    let mut template = String::with_capacity(path.len());
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let root = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        _ => parts.len(),
    };
    let namespaced = parts.get(root) == Some(&"namespaces") && parts.len() > root + 2;
    let name = if namespaced { root + 3 } else { root + 1 };
    for (at, part) in parts.into_iter().enumerate() {
        template.push('/');
        template.push_str(match at {
            at if namespaced && at == root + 1 => "{namespace}",
            at if at == name => "{name}",
            _ => part,
        });
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_left_out_of_paths() {
        for (path, expected) in [
            ("/version", "/version"),
            ("/api/v1/pods", "/api/v1/pods"),
            (
                "/apis/apps/v1/namespaces/default/deployments/hello/scale",
                "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale",
            ),
            (
                "/api/v1/namespaces/knative-serving/configmaps",
                "/api/v1/namespaces/{namespace}/configmaps",
            ),
            ("/api/v1/namespaces/default", "/api/v1/namespaces/{name}"),
        ] {
            assert_eq!(template(path), expected);
        }
    }
}
