//! A collector of OTLP that decodes with the official messages.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::app::{App, AppBody, text};
use crate::client::LocalExecutor;

/// A running collector.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    pub(crate) traces: Rc<RefCell<Vec<ExportTraceServiceRequest>>>,
    pub(crate) metrics: Rc<RefCell<Vec<ExportMetricsServiceRequest>>>,
    pub(crate) headers: Rc<RefCell<Vec<HeaderMap>>>,
    /// Requests that are refused, and with what.
    refusals: Rc<Cell<(usize, StatusCode)>>,
}

impl Collector {
    /// Takes everything.
    pub(crate) async fn start() -> Self {
        Self::refusing(0, StatusCode::OK).await
    }

    /// Refuses the first `count` requests with `status`.
    pub(crate) async fn refusing(count: usize, status: StatusCode) -> Self {
        let traces = Rc::default();
        let metrics = Rc::default();
        let headers = Rc::default();
        let mut collector = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            traces,
            metrics,
            headers,
            refusals: Rc::new(Cell::new((count, status))),
        };
        let serving = collector.clone();
        let server = App::start(move |request| {
            let collector = serving.clone();
            async move { collector.answer(request).await }
        })
        .await;
        collector.address = server.address;
        collector
    }

    /// Takes everything over TLS.
    pub(crate) async fn encrypted() -> Self {
        let certificate = include_bytes!("../certificates/collector.crt");
        let key = include_bytes!("../certificates/collector.key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("supported")
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate).expect("valid")],
                PrivateKeyDer::from_pem_slice(key).expect("valid"),
            )
            .expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut collector = Self::start().await;
        let socket = crate::instance::bind().await;
        collector.address = socket.local_addr().expect("bound");
        let serving = collector.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                // A client that does not trust the certificate leaves.
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let collector = serving.clone();
                let service = service_fn(move |request| {
                    let collector = collector.clone();
                    async move { Ok::<_, Infallible>(collector.answer(request).await) }
                });
                tokio::task::spawn_local(async move {
                    let builder = auto::Builder::new(LocalExecutor);
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        collector
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AppBody> {
        let (left, status) = self.refusals.get();
        if left > 0 {
            self.refusals.set((left - 1, status));
            let mut response = text("no");
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert("retry-after", HeaderValue::from_static("0"));
            return response;
        }
        let (head, body) = request.into_parts();
        let mut body = body.collect().await.expect("a request").to_bytes();
        self.headers.borrow_mut().push(head.headers.clone());
        let path = head.uri.path();
        let is_grpc = head.headers["content-type"] == "application/grpc";
        if is_grpc {
            assert_eq!(head.headers["te"], "trailers");
            let prefix = body.split_to(5);
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
            assert_eq!((prefix[0], length as usize), (0, body.len()));
        }
        match path {
            "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                let request = ExportTraceServiceRequest::decode(body).expect("spans");
                self.traces.borrow_mut().push(request);
            }
            "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                let request = ExportMetricsServiceRequest::decode(body).expect("metrics");
                self.metrics.borrow_mut().push(request);
            }
            other => panic!("{other} is no path of a collector"),
        }
        if is_grpc { grpc_ok() } else { text("") }
    }

    /// Every span received, with the name of its scope.
    pub(crate) fn spans(&self) -> Vec<(String, Span)> {
        let requests = self.traces.borrow();
        let scopes = requests
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans);
        scopes
            .flat_map(|scope| {
                let name = scope.scope.clone().expect("a scope").name;
                scope
                    .spans
                    .iter()
                    .map(move |span| (name.clone(), span.clone()))
            })
            .collect()
    }

    /// The only span called `name`.
    pub(crate) fn span(&self, name: &str) -> Span {
        let mut spans = self.spans();
        spans.retain(|(_, span)| span.name == name);
        let [(_, span)] = &spans[..] else {
            panic!("{} spans called {name}", spans.len());
        };
        span.clone()
    }

    /// The latest state of the metric called `name`.
    pub(crate) fn metric(&self, name: &str) -> Option<Metric> {
        let requests = self.metrics.borrow();
        let metrics = requests
            .last()?
            .resource_metrics
            .iter()
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| &scope.metrics);
        metrics.clone().find(|metric| metric.name == name).cloned()
    }

    /// The attributes and the count of each series of a histogram.
    pub(crate) fn histogram(&self, name: &str) -> Vec<(Vec<String>, u64)> {
        let metric = self.metric(name).unwrap_or_else(|| panic!("no {name}"));
        let Some(Data::Histogram(histogram)) = metric.data else {
            panic!("{name} is no histogram");
        };
        assert_eq!(histogram.aggregation_temporality, 2, "cumulative");
        histogram
            .data_points
            .iter()
            .map(|point| {
                assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                assert!(point.start_time_unix_nano <= point.time_unix_nano);
                (attributes(&point.attributes), point.count)
            })
            .collect()
    }
}

fn grpc_ok() -> Response<AppBody> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Ok(Frame::data(Bytes::from_static(&[0; 5]))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut response = Response::new(body.boxed_unsync());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

/// `key=value`, sorted.
pub(crate) fn attributes(attributes: &[KeyValue]) -> Vec<String> {
    let mut texts: Vec<String> = attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.clone().and_then(|value| value.value);
            match value {
                Some(Value::StringValue(text)) => format!("{}={text}", attribute.key),
                Some(Value::IntValue(number)) => format!("{}={number}", attribute.key),
                other => panic!("{}: {other:?}", attribute.key),
            }
        })
        .collect();
    texts.sort();
    texts
}
