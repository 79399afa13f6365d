//! One scrape of one pod: a GET of its statistics, bounded in time, head and body. Upstream:
//! `pkg/autoscaler/metrics/http_scrape_client.go`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serving::stat::{MAX_SCRAPE_BYTES, Stat};
use smallvec::SmallVec;

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
    Exchange(#[from] ExchangeError),
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
    pub(super) host: Option<String>,
    /// Adds `Knative-Direct-Lb: true`, which asks a mesh to pass the request to this very pod.
    pub(super) direct: bool,
    /// Asks for the connection to be closed after the answer.
    pub(super) close: bool,
}

/// Scrapes `address`, on `kept` when there is one. Hands back the connection when it may be used
/// again. Dropping the future closes the connection.
pub(super) async fn scrape(
    kept: Option<Connection>,
    address: SocketAddr,
    heading: &Heading,
) -> (Result<Stat, PodScrapeError>, Option<Connection>) {
    match tokio::time::timeout(SCRAPE_TIMEOUT, attempt(kept, address, heading)).await {
        Ok(Ok((result, connection))) => (result, connection),
        Ok(Err(error)) => (Err(error), None),
        Err(_elapsed) => (Err(PodScrapeError::Timeout), None),
    }
}

type Read = (Result<Stat, PodScrapeError>, Option<Connection>);

async fn attempt(
    kept: Option<Connection>,
    address: SocketAddr,
    heading: &Heading,
) -> Result<Read, PodScrapeError> {
    let request = heading
        .request(address)
        .map_err(|error| PodScrapeError::Exchange(error.into()))?;
    // A kept connection that the pod has closed in the meantime costs nothing but another dial.
    if let Some(mut connection) = kept
        && let Ok(answer) = connection.exchange(&request, MAX_SCRAPE_BYTES).await
    {
        return Ok(read(&answer, connection));
    }
    let stream = http_client::connect(address)
        .await
        .map_err(|source| PodScrapeError::Connect { address, source })?;
    let mut connection = Connection::over(stream);
    let answer = connection.exchange(&request, MAX_SCRAPE_BYTES).await?;
    Ok(read(&answer, connection))
}

fn read(answer: &Answer, connection: Connection) -> Read {
    let kept = answer.reusable.then_some(connection);
    (parse(answer), kept)
}

fn parse(answer: &Answer) -> Result<Stat, PodScrapeError> {
    if !answer.status.is_success() {
        return Err(PodScrapeError::Status(answer.status));
    }
    if answer.content_type.as_deref() != Some(PROTOBUF.as_bytes()) {
        return Err(PodScrapeError::ContentType);
    }
    Stat::from_scrape(&answer.body).map_err(PodScrapeError::Decode)
}

// === impl Heading ===

impl Heading {
    fn request(&self, address: SocketAddr) -> io::Result<Vec<u8>> {
        let mut headers: SmallVec<[(&str, &str); 3]> = SmallVec::new();
        headers.push(("Accept", PROTOBUF));
        if self.close {
            headers.push(("Connection", "close"));
        }
        if self.direct {
            headers.push(("Knative-Direct-Lb", "true"));
        }
        match &self.host {
            Some(host) => http_client::get(METRICS_PATH, host, &headers),
            None => http_client::get(METRICS_PATH, &address.to_string(), &headers),
        }
    }
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
