//! One connection to a collector, made when something is to be sent and kept while it lasts.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::grpc;
use super::settings::{OtlpSettings, Protocol};
use super::tls::Connector;

/// Bytes of an answer that are read; it is a few at most.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The longest time that a collector may ask to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!(
    "Pilotlight OTLP exporter/",
    env!("CARGO_PKG_VERSION")
));

/// Why something was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No connection.
    #[error("failed to connect to {endpoint}")]
    Connect {
        /// Host and port.
        endpoint: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The exchange broke.
    #[error("failed to send to the collector")]
    Exchange(#[from] hyper::Error),
    /// No answer in time.
    #[error("the collector did not answer within {0:?}")]
    TimedOut(Duration),
    /// The collector said no.
    #[error("the collector refused the export: {message}")]
    Refused {
        /// What it said.
        message: String,
        /// Whether it may take the same later.
        is_retryable: bool,
        /// When, if it said.
        after: Option<Duration>,
    },
}

/// Sends to one endpoint.
pub(super) struct Client {
    settings: OtlpSettings,
    connector: Option<Connector>,
    connection: Option<Connection>,
}

struct Connection {
    sender: Sender,
    _driver: Driver,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Ends the task that drives a connection.
struct Driver(AbortHandle);

// === impl ExportError ===

impl ExportError {
    pub(super) fn refused(message: String, is_retryable: bool, after: Option<Duration>) -> Self {
        Self::Refused {
            message,
            is_retryable,
            after,
        }
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { is_retryable, .. } => *is_retryable,
            // A certificate that is not trusted now will not be trusted in a moment.
            Self::Connect { source, .. } => source.kind() != io::ErrorKind::InvalidData,
            Self::Exchange(_) | Self::TimedOut(_) => true,
        }
    }

    /// How long the collector asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { after, .. } => *after,
            _ => None,
        }
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(settings: OtlpSettings) -> io::Result<Self> {
        let alpn: &[u8] = match settings.protocol {
            Protocol::HttpProtobuf => b"http/1.1",
            Protocol::Grpc => b"h2",
        };
        let connector = if settings.is_tls() {
            Some(Connector::new(&settings.certificate, alpn)?)
        } else {
            None
        };
        Ok(Self {
            settings,
            connector,
            connection: None,
        })
    }

    pub(super) fn settings(&self) -> &OtlpSettings {
        &self.settings
    }

    /// Sends one message and returns the collector's, which may be empty. One attempt, within the
    /// configured time.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<Bytes, ExportError> {
        let limit = self.settings.timeout;
        match tokio::time::timeout(limit, self.exchange(message)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.connection = None;
                Err(ExportError::TimedOut(limit))
            }
        }
    }

    async fn exchange(&mut self, message: &[u8]) -> Result<Bytes, ExportError> {
        let mut kept = self.connection.take();
        let is_usable = match &mut kept {
            Some(kept) => kept.sender.ready().await,
            None => false,
        };
        let mut connection = match kept.filter(|_| is_usable) {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let response = connection.sender.send(self.request(message)).await?;
        let answer = match self.settings.protocol {
            Protocol::HttpProtobuf => read_http(response).await,
            Protocol::Grpc => read_grpc(response).await,
        }?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn request(&self, message: &[u8]) -> Request<Full<Bytes>> {
        let settings = &self.settings;
        let (body, content_type) = match settings.protocol {
            Protocol::HttpProtobuf => (message.to_vec(), "application/x-protobuf"),
            Protocol::Grpc => (grpc::frame(message), "application/grpc"),
        };
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.clone_from(&settings.headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::USER_AGENT, USER_AGENT);
        match settings.protocol {
            Protocol::HttpProtobuf => {
                let authority = settings.endpoint.authority().map_or("", |it| it.as_str());
                if let Ok(host) = HeaderValue::try_from(authority) {
                    headers.insert(header::HOST, host);
                }
                let path = settings.endpoint.path_and_query().cloned();
                *request.uri_mut() = path.map(http::Uri::from).unwrap_or_default();
            }
            Protocol::Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                *request.uri_mut() = settings.endpoint.clone();
                *request.version_mut() = Version::HTTP_2;
            }
        }
        request
    }

    async fn connect(&self) -> Result<Connection, ExportError> {
        let uri = &self.settings.endpoint;
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let failed = |source| ExportError::Connect {
            endpoint: uri.authority().map(ToString::to_string).unwrap_or_default(),
            source,
        };
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
            .await
            .map_err(failed)?;
        // A message is written as one; nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        match &self.connector {
            None => self.handshake(stream).await,
            Some(connector) => {
                let stream = connector.connect(stream, host).await.map_err(failed)?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<Connection, ExportError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let stream = TokioIo::new(stream);
        let (sender, task) = match self.settings.protocol {
            Protocol::HttpProtobuf => {
                let (sender, connection) = http1::handshake(stream).await?;
                let task = tokio::task::spawn_local(async move {
                    // Whoever sends learns of a failure.
                    let _ = connection.await;
                });
                (Sender::Http1(sender), task)
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::Builder::new(LocalExecutor)
                    .timer(TokioTimer::new())
                    .handshake(stream)
                    .await?;
                let task = tokio::task::spawn_local(async move {
                    let _ = connection.await;
                });
                (Sender::Http2(sender), task)
            }
        };
        Ok(Connection {
            sender,
            _driver: Driver(task.abort_handle()),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Sender ===

impl Sender {
    /// Waits until a request can be sent; false if the connection is gone.
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// Runs hyper's HTTP/2 tasks on the current thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

async fn read_http(response: Response<Incoming>) -> Result<Bytes, ExportError> {
    let (head, body) = response.into_parts();
    let body = read(body).await;
    if head.status.is_success() {
        return Ok(body.unwrap_or_default().0);
    }
    let is_retryable = matches!(
        head.status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let after = head
        .headers
        .get(header::RETRY_AFTER)
        .and_then(|seconds| seconds.to_str().ok()?.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    Err(ExportError::refused(
        head.status.to_string(),
        is_retryable,
        after,
    ))
}

async fn read_grpc(response: Response<Incoming>) -> Result<Bytes, ExportError> {
    let (head, body) = response.into_parts();
    // A call that fails at once has its status in the headers and no trailers.
    if let Some(Err(error)) = grpc::status(&head.headers) {
        return Err(error);
    }
    if !head.status.is_success() {
        let is_retryable = head.status.is_server_error();
        return Err(ExportError::refused(
            head.status.to_string(),
            is_retryable,
            None,
        ));
    }
    let (body, trailers) = read(body).await?;
    match trailers.as_ref().and_then(grpc::status) {
        Some(Ok(())) => Ok(grpc::unframe(body)),
        Some(Err(error)) => Err(error),
        None if grpc::status(&head.headers).is_some() => Ok(Bytes::new()),
        None => Err(ExportError::refused(
            "the answer has no gRPC status".to_owned(),
            true,
            None,
        )),
    }
}

async fn read(body: Incoming) -> Result<(Bytes, Option<HeaderMap>), ExportError> {
    let collected = Limited::new(body, MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => ExportError::Exchange(*error),
            Err(error) => ExportError::refused(error.to_string(), false, None),
        })?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}
