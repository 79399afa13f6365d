//! One scrape of one pod: a GET of its statistics, bounded in time, head and body. Upstream:
//! `pkg/autoscaler/metrics/http_scrape_client.go`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use serving::stat::{MAX_SCRAPE_BYTES, Stat};

pub(crate) use crate::http_client::Connection;
pub use crate::http_client::ExchangeError;
use crate::http_client::{self, Answer};

/// The whole of one request, from dialling to the last byte.
pub const SCRAPE_TIMEOUT: Duration = Duration::from_secs(3);
/// The only accepted content type, compared exactly.
const PROTOBUF: &str = "application/protobuf";
/// Path of the statistics on the pod's statistics port.
const METRICS_PATH: &str = "/metrics";

/// Why a scrape of one pod gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PodScrapeError {
    /// No connection.
    #[error("failed to connect to {address}: {source}")]
    Connect {
        /// The pod's statistics port.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The connection broke, or what arrived is not HTTP.
    #[error("failed to exchange a request: {0}")]
    Exchange(#[source] ExchangeError),
    /// An answer with another status than 2xx.
    #[error("GET request returned HTTP status code {0}")]
    Status(StatusCode),
    /// An answer of another type than protobuf.
    #[error("unexpected content type")]
    ContentType,
    /// A body that is not a `Stat` after cutting.
    #[error("failed to decode the stat: {0}")]
    Decode(#[source] prost::DecodeError),
    /// [`SCRAPE_TIMEOUT`] passed.
    #[error("no complete answer in time")]
    Timeout,
}

/// Headers that a scrape carries besides its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Heading {
    /// Replaces the address in `Host`.
    pub(super) host: Option<HeaderValue>,
    /// Adds `Knative-Direct-Lb: true`, which asks a mesh to pass the request to this very pod.
    pub(super) direct: bool,
    /// Asks for the connection to be closed after the answer.
    pub(super) close: bool,
}

/// Scrapes `address`, on `kept` when there is one. Hands back the connection when it may be used
/// again. Dropping the future closes the connection.
pub(super) async fn scrape(
    kept: Option<Box<Connection>>,
    address: SocketAddr,
    heading: &Heading,
) -> (Result<Stat, PodScrapeError>, Option<Box<Connection>>) {
    match tokio::time::timeout(SCRAPE_TIMEOUT, attempt(kept, address, heading)).await {
        Ok(Ok((result, connection))) => (result, connection),
        Ok(Err(error)) => (Err(error), None),
        Err(_elapsed) => (Err(PodScrapeError::Timeout), None),
    }
}

type Read = (Result<Stat, PodScrapeError>, Option<Box<Connection>>);

async fn attempt(
    kept: Option<Box<Connection>>,
    address: SocketAddr,
    heading: &Heading,
) -> Result<Read, PodScrapeError> {
    // A kept connection that the pod has closed in the meantime costs nothing but another dial.
    if let Some(mut connection) = kept
        && let Ok(answer) = exchange(&mut connection, address, heading).await
    {
        return Ok(read(answer, connection));
    }
    let stream = http_client::connect(address)
        .await
        .map_err(|source| PodScrapeError::Connect { address, source })?;
    let mut connection = Connection::over(stream)
        .await
        .map_err(|error| PodScrapeError::Exchange(error.into()))?;
    let answer = exchange(&mut connection, address, heading)
        .await
        .map_err(PodScrapeError::Exchange)?;
    Ok(read(answer, connection))
}

async fn exchange(
    connection: &mut Connection,
    address: SocketAddr,
    heading: &Heading,
) -> Result<Answer, ExchangeError> {
    connection
        .exchange(request(address, heading), MAX_SCRAPE_BYTES)
        .await
}

fn request(address: SocketAddr, heading: &Heading) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static(METRICS_PATH);
    let headers = request.headers_mut();
    let host = heading.host.clone().unwrap_or_else(|| {
        HeaderValue::from_str(&address.to_string())
            .expect("a socket address consists of digits and punctuation")
    });
    headers.insert(HOST, host);
    headers.insert(ACCEPT, HeaderValue::from_static(PROTOBUF));
    if heading.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if heading.direct {
        headers.insert(
            HeaderName::from_static("knative-direct-lb"),
            HeaderValue::from_static("true"),
        );
    }
    request
}

fn read(answer: Answer, connection: Box<Connection>) -> Read {
    let kept = answer.reusable.then_some(connection);
    (parse(&answer), kept)
}

fn parse(answer: &Answer) -> Result<Stat, PodScrapeError> {
    if !answer.status.is_success() {
        return Err(PodScrapeError::Status(answer.status));
    }
    let content_type = answer.headers.get(CONTENT_TYPE);
    if content_type.map(HeaderValue::as_bytes) != Some(PROTOBUF.as_bytes()) {
        return Err(PodScrapeError::ContentType);
    }
    Stat::from_scrape(&answer.body).map_err(PodScrapeError::Decode)
}

// === impl PodScrapeError ===

impl PodScrapeError {
    /// Whether a mesh that does not let this pod be addressed directly could have answered so.
    pub const fn is_potential_mesh_error(&self) -> bool {
        matches!(
            self,
            Self::Status(StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY)
        )
    }
}
