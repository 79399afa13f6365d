//! The hop over real sockets. Rows are those of the edge-case table, section 12 of the reference.

mod deadlines;
mod drain;
mod http2;
mod limits;
mod onward;
mod translation;

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::testing::*;
use super::*;
use crate::body::Outcome;
use crate::breaker::Breaker;
use crate::deadline::{Expired, Timeouts};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const SHORT: Timeouts = Timeouts {
    total: Duration::from_millis(100),
    response_start: None,
    idle: None,
};
