//! One scrape of one pod: an HTTP/1.1 GET of its statistics, bounded in time, head and body.
//!
//! The connection is polled by the request that uses it and by nobody while it is idle, so ten
//! thousand kept connections are ten thousand sockets and no tasks. That a pod closed one is noticed
//! at its next use, and such a request is repeated once on a new connection: nothing of its answer
//! had arrived. Upstream: `pkg/autoscaler/metrics/http_scrape_client.go`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serving::stat::{MAX_SCRAPE_BYTES, Stat};
use tokio::net::TcpStream;

/// The whole of one request, from dialling to the last byte.
pub const SCRAPE_TIMEOUT: Duration = Duration::from_secs(3);
/// The only accepted content type, compared exactly.
const PROTOBUF: &str = "application/protobuf";
/// Path of the statistics on the pod's statistics port.
const METRICS_PATH: &str = "/metrics";
/// Bound on the head of an answer, and what an idle connection keeps allocated. A queue-proxy's head
/// has 150 bytes; a mesh adds some hundreds.
const READ_BUFFER_BYTES: usize = 4096;

/// Why a scrape of one pod gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PodScrapeError {
    /// No connection.
    #[error("failed to connect to {address}")]
    Connect {
        /// The pod's statistics port.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The connection broke, or what arrived is not HTTP.
    #[error("failed to exchange a request")]
    Exchange(#[source] hyper::Error),
    /// An answer with another status than 2xx.
    #[error("GET request returned HTTP status code {0}")]
    Status(StatusCode),
    /// An answer of another type than protobuf.
    #[error("unexpected content type")]
    ContentType,
    /// A body that is not a `Stat` after cutting.
    #[error("failed to decode the stat")]
    Decode(#[source] prost::DecodeError),
    /// [`SCRAPE_TIMEOUT`] passed.
    #[error("no complete answer in time")]
    Timeout,
}

/// Headers that a scrape carries besides its own.
#[derive(Clone, Debug, Default)]
pub struct Heading {
    /// Replaces the address in `Host`.
    pub host: Option<HeaderValue>,
    /// Adds `Knative-Direct-Lb: true`, which asks a mesh to pass the request to this very pod.
    pub direct: bool,
    /// Asks for the connection to be closed after the answer.
    pub close: bool,
}

/// A kept connection to one pod.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
}

/// Scrapes `address`, on `kept` when there is one. Hands back the connection when it may be used
/// again. Dropping the future closes the connection.
pub async fn scrape(
    kept: Option<Box<Connection>>,
    address: SocketAddr,
    heading: &Heading,
) -> (Result<Stat, PodScrapeError>, Option<Box<Connection>>) {
    match tokio::time::timeout(SCRAPE_TIMEOUT, attempt(kept, address, heading)).await {
        Ok((result, connection)) => (result, connection),
        Err(_elapsed) => (Err(PodScrapeError::Timeout), None),
    }
}

async fn attempt(
    kept: Option<Box<Connection>>,
    address: SocketAddr,
    heading: &Heading,
) -> (Result<Stat, PodScrapeError>, Option<Box<Connection>>) {
    if let Some(mut connection) = kept {
        match connection.exchange(address, heading).await {
            // The pod had closed it; nothing is lost by asking again.
            Err(PodScrapeError::Exchange(_)) => {}
            result => return keep(result, connection),
        }
    }
    match Connection::open(address).await {
        Ok(mut connection) => keep(connection.exchange(address, heading).await, connection),
        Err(error) => (Err(error), None),
    }
}

fn keep(
    result: Result<(Stat, Reuse), PodScrapeError>,
    connection: Box<Connection>,
) -> (Result<Stat, PodScrapeError>, Option<Box<Connection>>) {
    match result {
        Ok((stat, Reuse::Yes)) => (Ok(stat), Some(connection)),
        Ok((stat, Reuse::No)) => (Ok(stat), None),
        Err(error) => (Err(error), None),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reuse {
    Yes,
    No,
}

// === impl Connection ===

impl Connection {
    async fn open(address: SocketAddr) -> Result<Box<Self>, PodScrapeError> {
        let connect = |source| PodScrapeError::Connect { address, source };
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let (sender, driver) = http1::Builder::new()
            .read_buf_exact_size(Some(READ_BUFFER_BYTES))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(PodScrapeError::Exchange)?;
        Ok(Box::new(Self { sender, driver }))
    }

    async fn exchange(
        &mut self,
        address: SocketAddr,
        heading: &Heading,
    ) -> Result<(Stat, Reuse), PodScrapeError> {
        let request = request(address, heading);
        let Self { sender, driver } = self;
        let exchange = async {
            sender.ready().await.map_err(PodScrapeError::Exchange)?;
            let response = sender
                .send_request(request)
                .await
                .map_err(PodScrapeError::Exchange)?;
            let (stat, whole) = read(response).await?;
            // Ready again only if the connection stays open after this answer.
            let reusable = whole && sender.ready().await.is_ok();
            Ok((stat, if reusable { Reuse::Yes } else { Reuse::No }))
        };
        drive(exchange, driver).await
    }
}

/// Polls `exchange` and, whenever it has to wait, the connection below it.
async fn drive<T>(
    exchange: impl Future<Output = T>,
    driver: &mut http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
) -> T {
    let mut exchange = pin!(exchange);
    let mut open = true;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = exchange.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        if open && Pin::new(&mut *driver).poll(cx).is_ready() {
            // Its end reaches the exchange through the sender.
            open = false;
        }
        let output = ready!(exchange.as_mut().poll(cx));
        Poll::Ready(output)
    })
    .await
}

fn request(address: SocketAddr, heading: &Heading) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = http::Uri::from_static(METRICS_PATH);
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

/// Reads and checks an answer; the flag tells whether its body was read to the end.
async fn read(response: Response<Incoming>) -> Result<(Stat, bool), PodScrapeError> {
    if !response.status().is_success() {
        return Err(PodScrapeError::Status(response.status()));
    }
    if response
        .headers()
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        != Some(PROTOBUF.as_bytes())
    {
        return Err(PodScrapeError::ContentType);
    }
    let mut body = response.into_body();
    let mut bytes = Bytes::new();
    let mut whole = false;
    while bytes.len() <= MAX_SCRAPE_BYTES {
        match next_data(&mut body)
            .await
            .map_err(PodScrapeError::Exchange)?
        {
            // One piece is the rule, and costs no copy.
            Some(data) if bytes.is_empty() => bytes = data,
            Some(data) => bytes = [bytes, data].concat().into(),
            None => {
                whole = true;
                break;
            }
        }
    }
    let stat = Stat::from_scrape(&bytes).map_err(PodScrapeError::Decode)?;
    Ok((stat, whole))
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(error),
            None => return Ok(None),
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
