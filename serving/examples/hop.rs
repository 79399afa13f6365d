//! The bare hop, for measuring what it costs: every request goes to one destination, with all
//! three deadlines set and, if asked for, a concurrency limit.
//!
//! ```text
//! cargo run --profile quick -p serving --example hop -- 8012 8080 [LIMIT]
//! ```
//!
//! Handlers that are measured against this one: hyper moves the whole future of a request once, so
//! its size counts (`std::mem::size_of_val`), and `Response::map` moves head and body twice.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serving::body::Body;
use serving::breaker::{Breaker, BreakerParams, Permit};
use serving::deadline::{Deadline, Timeouts};
use serving::forward::{self, ForwardError, error_response, text_response};
use serving::pool::{Upstream, UpstreamOptions};
use serving::server::{Connection, Handler, Listener, ServerOptions, Shutdown, serve};
use serving::upgrade::Tunnels;
use tokio::net::TcpListener;

const TIMEOUTS: Timeouts = Timeouts {
    total: Duration::from_secs(300),
    response_start: Some(Duration::from_secs(200)),
    idle: Some(Duration::from_secs(100)),
};

struct Hop {
    upstream: Rc<Upstream>,
    breaker: Option<Breaker>,
    tunnels: Tunnels,
    answered: Cell<u64>,
}

type Guard = Option<Permit>;

impl Handler for Hop {
    type Guard = Guard;

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Body<Guard>> {
        let deadline = connection.deadline(&TIMEOUTS);
        let answer = deadline
            .limit(self.answer(request, connection, &deadline))
            .await;
        self.answered.set(self.answered.get() + 1);
        match answer {
            Ok(Ok(mut response)) => {
                response
                    .body_mut()
                    .set_deadline(deadline, "request timeout");
                response
            }
            Ok(Err(error)) => error.response(None),
            Err(_) => text_response(StatusCode::GATEWAY_TIMEOUT, "request timeout", None),
        }
    }
}

impl Hop {
    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        deadline: &Deadline,
    ) -> Result<Response<Body<Guard>>, ForwardError> {
        let permit = match &self.breaker {
            None => None,
            Some(breaker) => match breaker.enter().await {
                Ok(permit) => Some(permit),
                Err(full) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(error_response(status, &full.to_string(), None));
                }
            },
        };
        let forwarded = forward::forward(&self.upstream, request, connection).await?;
        let guard = match forwarded.upgrade {
            None => permit,
            Some(upgrade) => {
                self.tunnels.spawn(upgrade, deadline.lifetime(), permit);
                None
            }
        };
        Ok(forwarded.response.map(|body| Body::upstream(body, guard)))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().map(|text| text.parse::<u16>()).transpose();
    let listen = number()?.unwrap_or(8012);
    let target = number()?.unwrap_or(8080);
    let limit = number()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())?;
    runtime.block_on(async move {
        let address = SocketAddr::from(([127, 0, 0, 1], target));
        let hop = Hop {
            upstream: Upstream::new(address, UpstreamOptions::default()),
            breaker: limit.map(i64::from).map(breaker).transpose()?,
            tunnels: Tunnels::new(),
            answered: Cell::new(0),
        };
        let socket = TcpListener::bind(("127.0.0.1", listen)).await?;
        let shutdown = Shutdown::new();
        let signalled = shutdown.clone();
        tokio::task::spawn_local(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                signalled.drain();
            }
        });
        let listeners = vec![Listener::plain(socket)];
        serve(listeners, Rc::new(hop), ServerOptions::default(), shutdown).await;
        Ok(())
    })
}

fn breaker(limit: i64) -> Result<Breaker, serving::breaker::ParamsError> {
    Breaker::new(BreakerParams {
        queue_depth: limit * 10,
        max_concurrency: limit,
        initial_capacity: limit,
    })
}
