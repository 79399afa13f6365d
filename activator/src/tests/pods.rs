//! Small pods: an HTTP/1 and h2c server that answers probes as a queue-proxy does.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use serving::body::Body;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use serving::{header, names};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

static CAPABILITY: HeaderName = HeaderName::from_static(names::CAPABILITY_HEADER);

/// One pod. Requests to `/held` wait for [`Pod::release`].
pub(super) struct Pod {
    pub(super) address: SocketAddr,
    pub(super) state: Rc<State>,
    shutdown: Shutdown,
}

pub(super) struct State {
    pub(super) ready: Cell<bool>,
    /// Says "full, not started" to everything.
    pub(super) full: Cell<bool>,
    pub(super) probes: Cell<usize>,
    /// Requests that were refused because it was full.
    pub(super) refused: Cell<usize>,
    /// Places, when it behaves as a queue-proxy of ours: it says how busy it is, and refuses who
    /// must not wait.
    pub(super) places: Cell<Option<usize>>,
    pub(super) served: Cell<usize>,
    pub(super) running: Cell<usize>,
    pub(super) most_running: Cell<usize>,
    pub(super) last: RefCell<Option<Seen>>,
    gate: Semaphore,
}

/// What the pod saw of the last request that was no probe.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) headers: HeaderMap,
    pub(super) version: Version,
    pub(super) uri: http::Uri,
    pub(super) tls: bool,
}

struct Running<'a>(&'a State);

// === impl Pod ===

impl Pod {
    pub(super) async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(socket)
    }

    pub(super) fn on(socket: TcpListener) -> Self {
        Self::with_listeners(socket, None)
    }

    /// Listens at `plain` and, with TLS, at `secure`.
    pub(super) fn secured(plain: TcpListener, secure: TcpListener, tls: TlsAcceptor) -> Self {
        Self::with_listeners(plain, Some(Listener::tls(secure, tls)))
    }

    fn with_listeners(socket: TcpListener, secure: Option<Listener>) -> Self {
        let address = socket.local_addr().unwrap();
        let mut listeners = vec![Listener::plain(socket)];
        listeners.extend(secure);
        let state = Rc::new(State {
            ready: Cell::new(true),
            full: Cell::new(false),
            probes: Cell::new(0),
            refused: Cell::new(0),
            places: Cell::new(None),
            served: Cell::new(0),
            running: Cell::new(0),
            most_running: Cell::new(0),
            last: RefCell::new(None),
            gate: Semaphore::new(0),
        });
        let shutdown = Shutdown::new();
        tokio::task::spawn_local(server::serve(
            listeners,
            Rc::new(PodHandler(Rc::clone(&state))),
            ServerOptions::default(),
            shutdown.clone(),
        ));
        Self {
            address,
            state,
            shutdown,
        }
    }

    pub(super) async fn unready() -> Self {
        let pod = Self::start().await;
        pod.state.ready.set(false);
        pod
    }

    /// Lets so many held requests go on.
    pub(super) fn release(&self, count: usize) {
        self.state.gate.add_permits(count);
    }

    /// Closes the socket and all connections.
    pub(super) fn die(&self) {
        self.shutdown.drain();
        self.shutdown.stop();
    }

    pub(super) fn seen(&self) -> Seen {
        self.state.last.borrow().clone().expect("a request came")
    }

    pub(super) fn running(&self) -> usize {
        self.state.running.get()
    }
}

struct PodHandler(Rc<State>);

impl Handler for PodHandler {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, connection: &Connection) -> Response<Body> {
        let state = &self.0;
        if !header::probe_value(request.headers()).is_empty() {
            assert!(!connection.is_tls(), "probes are in the clear");
            return state.probe(&request);
        }
        let no_wait = header::value(request.headers(), &CAPABILITY) == b"no-wait";
        let is_busy = state
            .places
            .get()
            .is_some_and(|it| state.running.get() >= it);
        if state.full.get() || no_wait && is_busy {
            state.refused.set(state.refused.get() + 1);
            let mut response = plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "pending request queue full",
            );
            let value = HeaderValue::from_static("1");
            let headers = response.headers_mut();
            headers.insert(names::NOT_STARTED_HEADER, value.clone());
            headers.insert(names::LOAD_HEADER, value);
            return response;
        }
        let _running = Running::new(state);
        state.served.set(state.served.get() + 1);
        *state.last.borrow_mut() = Some(Seen {
            headers: request.headers().clone(),
            version: request.version(),
            uri: request.uri().clone(),
            tls: connection.is_tls(),
        });
        let mut response = match request.uri().path() {
            "/held" => {
                let permit = state.gate.acquire().await.unwrap();
                permit.forget();
                plain(StatusCode::OK, "released")
            }
            "/echo" => Response::new(Body::incoming(request.into_body(), ())),
            // Begins a session, as a server of the Model Context Protocol does.
            "/initialize" => {
                let mut response = plain(StatusCode::OK, "hello");
                let session = format!("{}{}", state.served.get(), state.mark());
                let session = HeaderValue::try_from(session).unwrap();
                response.headers_mut().insert("mcp-session-id", session);
                response
            }
            // A session that began elsewhere is none, as in that protocol.
            "/mcp" if !state.has_session(request.headers()) => plain(StatusCode::NOT_FOUND, ""),
            "/teapot" => plain(StatusCode::IM_A_TEAPOT, "short and stout\n"),
            _ => plain(StatusCode::OK, "hello"),
        };
        if state.places.get().is_some() {
            let load = format!("{}/0", state.running.get());
            let load = HeaderValue::try_from(load).unwrap();
            response.headers_mut().insert(names::LOAD_HEADER, load);
        }
        response
    }
}

// === impl State ===

impl State {
    /// The end of the names of its sessions.
    fn mark(&self) -> String {
        format!("-{:p}", std::ptr::from_ref(self))
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let session = headers.get("mcp-session-id");
        session.is_some_and(|it| it.as_bytes().ends_with(self.mark().as_bytes()))
    }

    fn probe(&self, request: &Request<Incoming>) -> Response<Body> {
        self.probes.set(self.probes.get() + 1);
        assert_eq!(request.uri().path(), "/healthz");
        assert_eq!(request.version(), Version::HTTP_11);
        let agent = header::value(request.headers(), &http::header::USER_AGENT);
        assert_eq!(agent, header::ACTIVATOR_USER_AGENT.as_bytes());
        if self.ready.get() {
            plain(StatusCode::OK, "queue")
        } else {
            plain(StatusCode::SERVICE_UNAVAILABLE, "")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(text, ()));
    *response.status_mut() = status;
    response
}

// === impl Running ===

impl<'a> Running<'a> {
    fn new(state: &'a State) -> Self {
        let now = state.running.get() + 1;
        state.running.set(now);
        state.most_running.set(state.most_running.get().max(now));
        Self(state)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}
