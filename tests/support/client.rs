//! One request on a connection of its own, as `curl` makes it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as text; invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, empty when absent.
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

/// The protocol of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 over cleartext with prior knowledge.
    H2c,
}

/// A request still to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    address: SocketAddr,
    host: String,
    target: String,
    method: Method,
    headers: Vec<(String, String)>,
    body: Bytes,
    protocol: Protocol,
    timeout: Duration,
}

impl Call {
    /// `GET target` with `Host: host`, sent to `address`.
    pub fn get(address: SocketAddr, host: &str, target: &str) -> Self {
        Self {
            address,
            host: host.to_owned(),
            target: target.to_owned(),
            method: Method::GET,
            headers: Vec::new(),
            body: Bytes::new(),
            protocol: Protocol::Http1,
            timeout: crate::PATIENCE,
        }
    }

    #[must_use]
    pub fn post(mut self, body: impl Into<Bytes>) -> Self {
        self.method = Method::POST;
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// When no connection can be made, it breaks before the answer is complete, or the time is up.
    pub async fn send(self) -> anyhow::Result<Answer> {
        let bound = self.timeout;
        match tokio::time::timeout(bound, self.exchange()).await {
            Ok(result) => result,
            Err(_) => anyhow::bail!("no complete answer within {bound:?}"),
        }
    }

    async fn exchange(self) -> anyhow::Result<Answer> {
        let io = TokioIo::new(TcpStream::connect(self.address).await?);
        let response = match self.protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                sender.send_request(self.request(&self.target)?).await?
            }
            Protocol::H2c => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                let uri = format!("http://{}{}", self.host, self.target);
                sender.send_request(self.request(&uri)?).await?
            }
        };
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    fn request(&self, uri: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut builder = Request::builder().method(self.method.clone()).uri(uri);
        if self.protocol == Protocol::Http1 {
            builder = builder.header("Host", &self.host);
        }
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        Ok(builder.body(Full::new(self.body.clone()))?)
    }
}
