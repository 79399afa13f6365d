//! Connections to one destination: an idle stack for HTTP/1, shared ones for h2c.
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::body::Body;
use crate::forward::ForwardError;

/// Protocol towards the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// h2c with prior knowledge.
    Http2,
}

#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Idle HTTP/1 connections kept; default 1000.
    pub max_idle: usize,
    /// Default 90 s.
    pub idle_timeout: Duration,
    /// Dials at once; default 1024.
    pub max_dials: usize,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            max_idle: 1000,
            idle_timeout: Duration::from_secs(90),
            max_dials: 1024,
        }
    }
}

/// One destination; cheap to keep, `!Send`. Dropping the last handle closes idle connections.
#[derive(Debug)]
pub struct Upstream {}

impl Upstream {
    pub fn new(_address: SocketAddr, _options: UpstreamOptions) -> Rc<Self> {
        todo!()
    }
    pub fn address(&self) -> SocketAddr {
        todo!()
    }
    /// Sends one request as it is (no rewriting), resending it when that is safe. Cancel-safe:
    /// dropping the future aborts the exchange.
    pub async fn send(
        self: &Rc<Self>,
        _request: Request<Body>,
        _protocol: Protocol,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        todo!()
    }
    /// Closes idle connections and keeps no more of them (the destination is gone).
    pub fn close(&self) {
        todo!()
    }
}

/// An app's response body; returns its connection to the pool at its end.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
}

impl UpstreamBody {
    pub fn into_incoming(self) -> Incoming {
        self.incoming
    }
}
