//! The front port: finds the revision of a request and sends it on its way.
//!
//! What an ingress does in a cluster. Requests for a revision whose ServerlessService is in Proxy
//! mode are dispatched to the activator in this process; in Serve mode they go straight to a ready
//! replica's queue-proxy. Counts what it holds and refuses the rest; never buffers a body.

use std::rc::Rc;

use activator::Activator;
use http::{HeaderValue, Request, Response, StatusCode, header as http_header};
use hyper::body::Incoming;
use serving::body::Body;
use serving::forward;
use serving::header;
use serving::server::{Connection, Handler};
use serving::upgrade::{Lifetime, Tunnels};

use crate::cluster::Cluster;
use crate::cluster::replica::Replica;
use crate::cluster::revision::Revision;
use crate::router::{RouteBy, RoutingTable, UnknownHost};

pub mod listen;
mod passing;
mod refusal;

pub use passing::{Limits, Passing};

use passing::Counters;
use refusal::Refusal;

/// Lives as long as a response that the gateway passes on.
pub type Guard = (Passing, Option<activator::exchange::Exchange>);

/// The body of every response of the gateway.
pub type GatewayBody = Body<Guard>;

/// Replicas that are tried before a connection error is passed on.
const MAX_TRIES: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Gateway {
    cluster: Rc<Cluster>,
    activator: Activator,
    counters: Rc<Counters>,
    tunnels: Tunnels,
}

// === impl Gateway ===

impl Gateway {
    /// A gateway to the cluster's revisions.
    pub fn new(cluster: Rc<Cluster>, activator: Activator, limits: Limits) -> Self {
        Self {
            cluster,
            activator,
            counters: Rc::new(Counters::new(limits)),
            tunnels: Tunnels::new(),
        }
    }

    /// Requests in progress and the bytes of their heads.
    pub fn in_progress(&self) -> (usize, usize) {
        self.counters.now()
    }

    /// Upgraded connections that pass no activator.
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    async fn pass(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<GatewayBody> {
        let passing = match self.counters.enter(&request) {
            Ok(passing) => passing,
            Err(refusal) => return refusal.response(Passing::default()),
        };
        let routes = self.cluster.routes();
        let revision = match self.choose(&routes, &mut request) {
            Ok(revision) => revision,
            Err(UnknownHost) => return unknown_host(&routes, &request, passing),
        };
        // What a client says here is not for it to say.
        request.headers_mut().remove(&header::PROXY);
        if let Some(trouble) = revision.refusal() {
            return Refusal::from(trouble).response(passing);
        }
        if !revision.proxied.get()
            && revision.affinity.is_none()
            && let Some(replica) = least_loaded(&revision, &[])
        {
            return self
                .direct(&revision, replica, request, connection, passing)
                .await;
        }
        self.through_activator(&revision, request, connection, passing)
            .await
    }

    /// Finds the revision, and leaves the headers that a tag brings with it.
    fn choose(
        &self,
        routes: &RoutingTable,
        request: &mut Request<Incoming>,
    ) -> Result<Rc<Revision>, UnknownHost> {
        let route = {
            let host = forward::host(request);
            let tag = request
                .headers()
                .get(&header::ROUTE_TAG)
                .and_then(|value| value.to_str().ok());
            routes.route(host, tag, fastrand::u32(..))?
        };
        if routes.tag_header() {
            // As the ingress of a Route with the feature on does (makeIngressSpec).
            let (name, value) = match route.by {
                RouteBy::Split => (&header::DEFAULT_ROUTE, "true"),
                RouteBy::TagHost(tag) | RouteBy::TagHeader(tag) => (&header::ROUTE_TAG, tag),
            };
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(name, value);
            }
        }
        self.cluster.revision(route.revision).ok_or(UnknownHost)
    }

    async fn through_activator(
        &self,
        revision: &Rc<Revision>,
        mut request: Request<Incoming>,
        connection: &Connection,
        passing: Passing,
    ) -> Response<GatewayBody> {
        let (namespace, name) = revision.headers.clone();
        let headers = request.headers_mut();
        headers.insert(&header::REVISION_NAMESPACE, namespace);
        headers.insert(&header::REVISION_NAME, name);
        let mut dispatched = std::pin::pin!(self.activator.dispatch(request, connection));
        let response = loop {
            let mut changed = std::pin::pin!(revision.trouble_changed.notified());
            changed.as_mut().enable();
            if let Some(trouble) = revision.refusal() {
                // Dropping the exchange takes the request out of the activator's queue.
                return Refusal::from(trouble).response(passing);
            }
            tokio::select! {
                biased;
                response = &mut dispatched => break response,
                () = changed => {}
            }
        };
        let mut response =
            response.map(|body| body.map_guard(|exchange| (passing, exchange.flatten())));
        if response.status() == StatusCode::GATEWAY_TIMEOUT
            && let Some(trouble) = &*revision.trouble.borrow()
        {
            refusal::add_reason(response.headers_mut(), &trouble.reason);
        }
        response
    }

    async fn direct(
        &self,
        revision: &Rc<Revision>,
        replica: Rc<Replica>,
        request: Request<Incoming>,
        connection: &Connection,
        mut passing: Passing,
    ) -> Response<GatewayBody> {
        let mut request = forward::prepare_request(request, connection);
        let mut tried = vec![replica];
        loop {
            let replica = Rc::clone(&tried[tried.len() - 1]);
            passing.sent_to(Rc::clone(&replica));
            let error = match forward::exchange(&replica.upstream, request).await {
                Ok(forwarded) => {
                    return match forwarded.upgrade {
                        Some(upgrade) => {
                            // The queue-proxy knows how long it may last.
                            self.tunnels.spawn(upgrade, Lifetime::default(), passing);
                            forwarded
                                .response
                                .map(|body| Body::upstream(body, (Passing::default(), None)))
                        }
                        None => forwarded
                            .response
                            .map(|body| Body::upstream(body, (passing, None))),
                    };
                }
                Err(error) => error,
            };
            let next = least_loaded(revision, &tried);
            if !error.nothing_written() || tried.len() >= MAX_TRIES || next.is_none() {
                return error.response((passing, None));
            }
            match (error.into_request(), next) {
                (Some(unsent), Some(other)) => {
                    request = unsent;
                    tried.push(other);
                }
                _ => unreachable!("nothing was written, and there is another replica"),
            }
        }
    }
}

impl Handler for Gateway {
    type Guard = Guard;

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<GatewayBody> {
        self.pass(request, connection).await
    }
}

/// The ready replica with the fewest of the gateway's requests; of equals any one.
fn least_loaded(revision: &Revision, except: &[Rc<Replica>]) -> Option<Rc<Replica>> {
    let ready = revision.ready.borrow();
    let start = fastrand::usize(..ready.len().max(1));
    let (before, from) = ready.split_at(start.min(ready.len()));
    from.iter()
        .chain(before)
        .filter(|replica| !except.iter().any(|tried| Rc::ptr_eq(tried, replica)))
        .min_by_key(|replica| replica.direct.get())
        .map(Rc::clone)
}

fn unknown_host(
    routes: &RoutingTable,
    request: &Request<Incoming>,
    passing: Passing,
) -> Response<GatewayBody> {
    let host = forward::host(request).unwrap_or_default();
    let text = format!(
        "no Service has the host {host:?}; known hosts: {}",
        routes.known_hosts().join(", ")
    );
    let mut response = forward::error_response(StatusCode::NOT_FOUND, &text, (passing, None));
    refusal::add_reason(response.headers_mut(), "unknown host");
    response.headers_mut().insert(
        http_header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    );
    response
}
