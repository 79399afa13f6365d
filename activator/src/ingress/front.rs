//! An entry of the cluster: matches requests to routes and sends them where those lead.
//!
//! Requests for revisions go through this activator's own queue, are counted and say so
//! (`K-Proxy-Request`); all others go straight to the Service's addresses and do not. Nothing is
//! retried and nothing times out here: a revision's timeouts belong to its queue. The watches
//! replace the routes as a whole, for all threads at once; a request that was matched before keeps
//! its way.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header as http_header,
};
use hyper::body::Incoming;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serving::body::Body;
use serving::forward::{self, Forwarded, error_response};
use serving::pool::{Upstream, UpstreamOptions};
use serving::server::{Connection, Handler};
use serving::upgrade::Lifetime;
use serving::{header, names as header_names};
use tokio::sync::watch;

use super::names::{self, Lookup, Names};
use super::rewrite::{add_cookie, name_revision, say_scheme, set_host, set_protocol};
use super::services::Destination;
use super::table::{BackendRef, Draw, Matched, RouteTables, without_port};
use crate::activator::{Activator, ActivatorBody, Whose};
use crate::affinity::{Affinity, Ticket, mark_mcp, mcp_part, unmark_mcp};
use crate::error::{self, Failure};
use crate::exchange::Exchange;

/// Addresses of Services to which connections are kept.
const MAX_UPSTREAMS: usize = 16_384;

static REASON: HeaderName = HeaderName::from_static(header_names::REASON_HEADER);
static INGRESS: HeaderName = HeaderName::from_static(header_names::INGRESS_HEADER);

/// What is served at the moment.
#[derive(Debug, Default)]
pub struct Routing {
    /// The ways.
    pub tables: RouteTables,
    /// Where each backend leads.
    pub destinations: HashMap<BackendRef, Destination>,
    /// The hash of each Ingress, by `namespace/name`: the answer to the question of replicas.
    pub hashes: BTreeMap<String, String>,
}

/// Certificates by the names they are served for; a name may begin with `*.`.
#[derive(Debug, Default)]
pub struct Certificates {
    by_name: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

/// Routes that can be replaced, and what keeps connections. Clones share; one per thread, those of
/// other threads are its siblings.
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Rc<Shared>,
}

/// A [`Gateway`] on its way to another thread.
#[derive(Clone, Debug)]
pub struct Sibling {
    common: Arc<Common>,
}

/// What all threads share.
#[derive(Debug)]
struct Common {
    routing: ArcSwap<Routing>,
    /// Says to the other threads that the routing was replaced.
    replaced: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    activator: Activator,
    common: Arc<Common>,
    upstreams: RefCell<HashMap<SocketAddr, Rc<Upstream>>>,
    names: Rc<Names>,
    random: RefCell<fastrand::Rng>,
    next: Cell<usize>,
}

/// A request's session, as far as splits are concerned.
#[derive(Debug)]
struct Session {
    key: u64,
    /// The part it was given before.
    part: Option<u64>,
    /// What its cookie says, or will say; sessions of MCP say it in their names.
    ticket: Option<Ticket>,
    is_mcp: bool,
    /// The part it is given now.
    chosen: u64,
}

/// The handler of one entry.
#[derive(Clone, Debug)]
pub struct Front {
    gateway: Gateway,
    local: bool,
}

// === impl Certificates ===

impl Certificates {
    /// Serves these from now on.
    pub fn replace(&self, by_name: HashMap<String, Arc<CertifiedKey>>) {
        self.by_name.store(Arc::new(by_name));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        let all = self.by_name.load();
        all.get(&name)
            .or_else(|| all.get(&format!("*.{}", name.split_once('.')?.1)))
            .cloned()
    }
}

// === impl Gateway ===

impl Gateway {
    /// Nothing is served yet.
    pub fn new(activator: Activator, seed: u64) -> Self {
        Self::with_lookup(activator, seed, names::system())
    }

    /// As [`Self::new`], with another way to find the addresses of names.
    pub(crate) fn with_lookup(activator: Activator, seed: u64, lookup: Lookup) -> Self {
        let common = Common {
            routing: ArcSwap::default(),
            replaced: watch::Sender::default(),
        };
        Self::of(activator, Arc::new(common), seed, lookup)
    }

    fn of(activator: Activator, common: Arc<Common>, seed: u64, lookup: Lookup) -> Self {
        let shared = Shared {
            activator,
            common,
            upstreams: RefCell::default(),
            names: Names::new(lookup),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            next: Cell::new(0),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// Serves this from now on, on all threads; connections to addresses that are gone are closed.
    pub fn replace(&self, routing: Routing) {
        let common = &self.shared.common;
        common.routing.store(Arc::new(routing));
        self.close_unrouted();
        common.replaced.send_replace(());
    }

    /// One for another thread that serves the same.
    pub fn sibling(&self) -> Sibling {
        Sibling {
            common: Arc::clone(&self.shared.common),
        }
    }

    /// Closes this thread's connections to addresses to which nothing leads any more.
    fn close_unrouted(&self) {
        let routing = self.routing();
        let mut routed = HashSet::new();
        let mut listed: HashSet<SocketAddr> = routing
            .destinations
            .values()
            .flat_map(|destination| match destination {
                Destination::Addresses { all, .. } => &all[..],
                Destination::Name { name, .. } => {
                    routed.insert(&**name);
                    &[]
                }
                Destination::Revision { .. } => &[],
            })
            .copied()
            .collect();
        self.shared.names.retain(|name| routed.contains(name));
        listed.extend(self.shared.names.addresses());
        self.shared.upstreams.borrow_mut().retain(|dest, upstream| {
            let stays = listed.contains(dest);
            if !stays {
                upstream.close();
            }
            stays
        });
    }

    /// What is served.
    pub fn routing(&self) -> Arc<Routing> {
        self.shared.common.routing.load_full()
    }

    /// The handler of an entry: that for the cluster, or that for the world.
    pub fn front(&self, local: bool) -> Front {
        Front {
            gateway: self.clone(),
            local,
        }
    }
}

// === impl Sibling ===

impl Sibling {
    /// The gateway of this thread, before its activator. Must be called on a `LocalRuntime` or in a
    /// `LocalSet`, where a task of it closes connections to addresses that are gone.
    pub fn gateway(self, activator: Activator, seed: u64) -> Gateway {
        let mut replaced = self.common.replaced.subscribe();
        let gateway = Gateway::of(activator, self.common, seed, names::system());
        // It must not keep alive what it waits for the end of.
        let weak = Rc::downgrade(&gateway.shared);
        tokio::task::spawn_local(async move {
            while replaced.changed().await.is_ok()
                && let Some(shared) = weak.upgrade()
            {
                Gateway { shared }.close_unrouted();
            }
        });
        gateway
    }
}

// === impl Shared ===

impl Shared {
    fn upstream(&self, dest: SocketAddr) -> Rc<Upstream> {
        let mut all = self.upstreams.borrow_mut();
        if all.len() >= MAX_UPSTREAMS && !all.contains_key(&dest) {
            return Upstream::new(dest, UpstreamOptions::default());
        }
        let new = || Upstream::new(dest, UpstreamOptions::default());
        Rc::clone(all.entry(dest).or_insert_with(new))
    }

    /// Where a request goes that belongs to nothing.
    fn any(&self) -> Draw {
        Draw {
            number: self.random.borrow_mut().u32(..100),
            part: None,
        }
    }

    /// The session of a request; a new one for a request that names none.
    fn session(&self, affinity: &Affinity, headers: &HeaderMap) -> Session {
        let mut random = self.random.borrow_mut();
        let (key, part, ticket) = match affinity {
            Affinity::Cookie => {
                let known = self.activator.signer().ticket(headers);
                let ticket = known.unwrap_or_else(|| Ticket::new(random.u128(..)));
                (ticket.key(), known.map(|it| it.part), Some(ticket))
            }
            Affinity::Header(_) | Affinity::Mcp => {
                let known = affinity.key(headers, self.activator.signer());
                let is_mcp = *affinity == Affinity::Mcp;
                let part = is_mcp.then(|| mcp_part(headers)).flatten();
                (known.unwrap_or_else(|| random.u64(..)), part, None)
            }
        };
        Session {
            key,
            part,
            ticket,
            is_mcp: *affinity == Affinity::Mcp,
            chosen: 0,
        }
    }

    /// One after the other, whichever request asks.
    fn one_of(&self, all: &[SocketAddr]) -> Option<SocketAddr> {
        let at = self.next.get();
        self.next.set(at.wrapping_add(1));
        all.get(at % all.len().max(1)).copied()
    }
}

// === impl Session ===

impl Session {
    fn draw(&self) -> Draw {
        Draw {
            number: u32::try_from(self.key % 100).expect("below 100"),
            part: self.part,
        }
    }

    /// What the client has to be told, if that is news.
    fn cookie(&self) -> Option<Ticket> {
        let ticket = self.ticket?;
        (self.part != Some(self.chosen)).then(|| ticket.at(self.chosen))
    }
}

// === impl Front ===

impl Front {
    /// What it is an entry of.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Whether it is the entry for the cluster.
    pub fn is_local(&self) -> bool {
        self.local
    }
}

impl Handler for Front {
    type Guard = Option<Exchange>;

    async fn handle(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<ActivatorBody> {
        let shared = &self.gateway.shared;
        if header::is_kubelet_probe(request.headers()) {
            return shared.activator.handle(request, connection).await;
        }
        let routing = self.gateway.routing();
        if self.local
            && let Some(asked) = request.headers().get(&INGRESS)
        {
            return installed(&routing, asked);
        }
        let tls = connection.is_tls();
        let table = routing.tables.entry(self.local);
        let mut session = None;
        let draw = |affinity: Option<&Affinity>| {
            let Some(affinity) = affinity else {
                return shared.any();
            };
            let known = shared.session(affinity, request.headers());
            let draw = known.draw();
            session = Some(known);
            draw
        };
        let backend = match table.find(request.uri(), request.headers(), tls, draw) {
            Matched::Nothing => return failed(StatusCode::NOT_FOUND, "no route", "not found"),
            Matched::Redirect => return redirect(&request),
            Matched::Picked(picked) => {
                if let Some(host) = picked.apply(request.headers_mut(), self.local) {
                    set_host(&mut request, host);
                }
                if !self.local {
                    say_scheme(&mut request, tls);
                }
                if let Some(session) = &mut session {
                    session.chosen = picked.split.part;
                    if session.is_mcp {
                        unmark_mcp(request.headers_mut());
                    }
                }
                &picked.split.backend
            }
        };
        let Some(session) = session else {
            return self.send(request, connection, &routing, backend).await;
        };
        let cookie = session.cookie();
        if let Some(ticket) = cookie {
            // The session is that of the revision, too.
            let pair = shared.activator.signer().pair(ticket);
            add_cookie(&mut request, pair);
        }
        let mut response = self.send(request, connection, &routing, backend).await;
        if session.is_mcp {
            mark_mcp(response.headers_mut(), session.chosen);
        }
        if let Some(ticket) = cookie {
            let cookie = shared.activator.signer().cookie(ticket);
            let headers = response.headers_mut();
            headers.append(http_header::SET_COOKIE, cookie);
        }
        response
    }
}

impl Front {
    async fn send(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
        routing: &Routing,
        backend: &BackendRef,
    ) -> Response<ActivatorBody> {
        let shared = &self.gateway.shared;
        match routing.destinations.get(backend) {
            None => self.unavailable(backend, "no service", "no service"),
            Some(Destination::Revision { id, http2 }) => {
                // The annotation may be gone while sessions go on.
                unmark_mcp(request.headers_mut());
                name_revision(&mut request, id);
                set_protocol(&mut request, *http2);
                shared.activator.handle(request, connection).await
            }
            Some(Destination::Addresses { all, http2 }) => match shared.one_of(all) {
                Some(dest) => {
                    set_protocol(&mut request, *http2);
                    self.forward(request, connection, backend, dest).await
                }
                None => self.unavailable(backend, "no endpoint", "no endpoint"),
            },
            Some(Destination::Name { name, http2 }) => {
                let found = shared.names.resolve(name).await;
                match shared.one_of(&found) {
                    Some(dest) => {
                        set_protocol(&mut request, *http2);
                        self.forward(request, connection, backend, dest).await
                    }
                    None => self.unavailable(backend, "name not resolved", "no endpoint"),
                }
            }
        }
    }

    /// 503: there is nowhere to send a request of this backend.
    fn unavailable(
        &self,
        backend: &BackendRef,
        reason: &'static str,
        text: &str,
    ) -> Response<ActivatorBody> {
        self.note_error(backend, reason);
        failed(StatusCode::SERVICE_UNAVAILABLE, reason, text)
    }

    fn note_error(&self, backend: &BackendRef, reason: &'static str) {
        let whose = Whose::Service {
            namespace: &backend.namespace,
            name: &backend.name,
        };
        self.gateway.shared.activator.note_error(whose, reason);
    }

    /// Straight to an address of a backend.
    async fn forward(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
        backend: &BackendRef,
        dest: SocketAddr,
    ) -> Response<ActivatorBody> {
        let shared = &self.gateway.shared;
        request.headers_mut().remove(&header::PROXY);
        let prepared = forward::prepare_request(request, connection);
        let upstream = shared.upstream(dest);
        let forwarded = Box::pin(forward::exchange(&upstream, prepared)).await;
        match forwarded {
            Ok(Forwarded { response, upgrade }) => {
                if let Some(upgrade) = upgrade {
                    shared
                        .activator
                        .tunnels()
                        .spawn(upgrade, Lifetime::default(), ());
                }
                response.map(|body| Body::upstream(body, None))
            }
            Err(failed) => {
                let failure = Failure::Forward(failed);
                self.note_error(backend, failure.reason());
                error::response(&failure, None)
            }
        }
    }
}

/// Whether this replica serves an Ingress as the asker knows it: its hash.
fn installed(routing: &Routing, asked: &HeaderValue) -> Response<ActivatorBody> {
    let hash = asked.to_str().ok().and_then(|it| routing.hashes.get(it));
    match hash {
        Some(hash) => {
            let mut response = Response::new(Body::empty(None));
            let hash = HeaderValue::try_from(hash).expect("hexadecimal digits");
            response.headers_mut().insert(&header::HASH, hash);
            response
        }
        None => failed(StatusCode::NOT_FOUND, "no such ingress", "not found"),
    }
}

fn failed(status: StatusCode, reason: &'static str, text: &str) -> Response<ActivatorBody> {
    let mut response = error_response(status, text, None);
    let reason = HeaderValue::from_static(reason);
    response.headers_mut().insert(&REASON, reason);
    response
}

/// 301 to the same with HTTPS.
fn redirect(request: &Request<Incoming>) -> Response<ActivatorBody> {
    let host = header::host(request.uri(), request.headers());
    let host = String::from_utf8_lossy(host);
    let host = without_port(&host);
    let target = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let mut response = Response::new(Body::empty(None));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::try_from(format!("https://{host}{target}")) {
        response
            .headers_mut()
            .insert(http_header::LOCATION, location);
    }
    response
}
